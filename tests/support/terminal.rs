//! A shell in separate namespaces, in which the commands of a page are typed.
//!
//! The network and process namespaces have free ports, whatever else runs on the machine, and everything that was
//! started in them ends with them.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::command::{has, skipped};
use super::page::{Block, How, missing};

/// Deadline for a block.
const PATIENCE: Duration = Duration::from_secs(60);

/// Deadline for a block whose output still changes: a page waits for work that takes longer on a busy machine.
const PATIENCE_WITH_PROGRESS: Duration = Duration::from_secs(300);

/// Arguments of unshare(1), which makes the namespaces; everything in them is killed with it.
const UNSHARE: [&str; 5] = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc"];

/// A shell. Everything that it has started is killed on drop.
pub(crate) struct Terminal {
    shell: Child,
    input: ChildStdin,
    scene: TempDir,
    /// The directory in which each terminal begins.
    here: PathBuf,
    typed: usize,
    /// The outputs of the separate terminals.
    beside: Vec<PathBuf>,
}

/// The output of a block, and whether commands failed.
struct Ended {
    output: String,
    failed: bool,
    last_failed: bool,
}

impl Terminal {
    /// Starts a shell that has the binary under test in its path, and copies of these directories of the repository in its
    /// home. Returns none if the system does not allow namespaces or a program is missing.
    pub(crate) fn open(programs: &[&str], directories: &[&str]) -> Option<Self> {
        if !programs.iter().chain(&["unshare", "ip", "bash"]).all(|program| has(program)) {
            return None;
        }
        let allowed = Command::new("unshare").args(UNSHARE).arg("true").output().unwrap();
        if !allowed.status.success() {
            skipped("pages are run in namespaces, which need root");
            return None;
        }
        let scene = tempfile::tempdir().unwrap();
        let (home, bin) = (scene.path().join("home"), scene.path().join("bin"));
        for dir in [&home, &bin, &scene.path().join("typed")] {
            fs::create_dir(dir).unwrap();
        }
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        for directory in directories {
            let mut copy = Command::new("cp");
            copy.arg("-r").arg(repository.join(directory)).arg(home.join(directory));
            assert!(copy.status().unwrap().success());
        }
        let binary = env!("CARGO_BIN_EXE_tlsidecar");
        std::os::unix::fs::symlink(binary, bin.join("tlsidecar")).unwrap();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("unshare");
        command.args(UNSHARE).args(["bash", "--norc"]).current_dir(&home);
        command.env_clear().env("PATH", path).env("HOME", &home).env("LANG", "C.UTF-8");
        command.env("REPOSITORY", &home);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut shell = command.spawn().unwrap();
        let mut input = shell.stdin.take().unwrap();
        // A command that fails in the middle of a block counts like one at its end.
        writeln!(input, "ip link set lo up; trap '__failed=1' ERR").unwrap();
        Some(Self { shell, input, here: home, scene, typed: 0, beside: Vec::new() })
    }

    /// Returns the directory in which the shell begins.
    pub(crate) fn home(&self) -> PathBuf {
        self.scene.path().join("home")
    }

    /// Changes the directory of this terminal, and of those that begin later.
    pub(crate) fn enter(&mut self, directory: &Path) {
        writeln!(self.input, "cd {}", directory.display()).unwrap();
        directory.clone_into(&mut self.here);
    }

    /// Adds a command to the shell's path: a script for `sh`.
    pub(crate) fn command(&self, name: &str, script: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.scene.path().join("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Types the blocks of a page in order, compares their output with the page, and returns their number.
    pub(crate) fn follow(&mut self, page: &str, blocks: &[Block]) -> usize {
        let mut run = 0;
        for block in blocks {
            let at = format!("{page}:{}", block.line);
            match block.how {
                How::NotRun => continue,
                How::Beside => self.beside(&at, block),
                How::AfterAMoment => self.after_a_moment(&at, block),
                How::Succeeds | How::Fails => {
                    let ended = self.type_in(&at, &block.commands);
                    if let Some(wrong) = wrong(block, &ended) {
                        panic!("{at}: {wrong}:\n{}\n{}", block.commands, ended.output);
                    }
                }
            }
            self.elsewhere(&at, block);
            run += 1;
        }
        run
    }

    /// Types a block in a separate terminal, where it keeps running, and waits for its output.
    fn beside(&mut self, at: &str, block: &Block) {
        let file = self.file(&block.commands);
        let output = file.with_extension("out");
        let (script, out, here) = (file.display(), output.display(), self.here.display());
        // In a process group, which can be ended as a whole.
        writeln!(self.input, "(cd {here}; exec setsid bash {script}) </dev/null >{out} 2>&1 &")
            .unwrap();
        self.beside.push(output.clone());
        self.until(at, || {
            let printed = fs::read_to_string(&output).unwrap_or_default();
            missing(&block.expected, &printed).map_or(Ok(()), |line| {
                Err(format!("{at}: it does not print {line:?}:\n{}\n{printed}", block.commands))
            })
        });
    }

    /// Ends the programs in the separate terminals, and waits for them.
    pub(crate) fn end_beside(&mut self) {
        let ended =
            self.type_in("its end", "for job in $(jobs -p); do kill -- -$job; done; wait\n");
        assert!(!ended.failed, "{}", ended.output);
        self.beside.clear();
    }

    /// Waits until one of the separate terminals has printed the expected lines.
    fn elsewhere(&mut self, at: &str, block: &Block) {
        let beside = self.beside.clone();
        self.until(at, || {
            let printed: Vec<_> =
                beside.iter().map(|file| fs::read_to_string(file).unwrap_or_default()).collect();
            let fine = printed.iter().any(|text| missing(&block.elsewhere, text).is_none());
            if block.elsewhere.is_empty() || fine {
                Ok(())
            } else {
                Err(format!(
                    "{at}: no terminal prints {:?}:\n{}",
                    block.elsewhere,
                    printed.join("\n")
                ))
            }
        });
    }

    fn after_a_moment(&mut self, at: &str, block: &Block) {
        let end = Instant::now() + PATIENCE_WITH_PROGRESS;
        let (mut before, mut deadline) = (String::new(), Instant::now() + PATIENCE);
        loop {
            let ended = self.type_in(at, &block.commands);
            let Some(line) = missing(&block.expected, &ended.output) else { return };
            let late = Instant::now() > deadline;
            assert!(!late, "{at}: no {line:?}:\n{}\n{}", block.commands, ended.output);
            if ended.output != before {
                before = ended.output;
                deadline = end.min(Instant::now() + PATIENCE);
            }
            pause();
        }
    }

    /// Types commands and waits until the shell has run them.
    fn type_in(&mut self, at: &str, commands: &str) -> Ended {
        let file = self.file(commands);
        let (output, end) = (file.with_extension("out"), file.with_extension("end"));
        let (script, out, done) = (file.display(), output.display(), end.display());
        // Sourced, so that directories and variables persist, as in an interactive shell.
        writeln!(
            self.input,
            "__failed=0; . {script} </dev/null >{out} 2>&1; __last=$?; \
             echo $__failed $__last >{out}.end; mv {out}.end {done}"
        )
        .unwrap();
        self.until(at, || {
            let printed = || fs::read_to_string(&output).unwrap_or_default();
            if end.exists() {
                Ok(())
            } else {
                Err(format!("{at}: no end:\n{commands}\n{}", printed()))
            }
        });
        let end = fs::read_to_string(end).unwrap();
        let output = String::from_utf8_lossy(&fs::read(output).unwrap()).into_owned();
        let (failed, last) = end.trim().split_once(' ').unwrap();
        Ended { output, failed: failed != "0", last_failed: last != "0" }
    }

    /// Writes a script of these commands.
    fn file(&mut self, commands: &str) -> PathBuf {
        self.typed += 1;
        let file = self.scene.path().join(format!("typed/{}.sh", self.typed));
        fs::write(&file, commands).unwrap();
        file
    }

    fn until(&mut self, at: &str, mut done: impl FnMut() -> Result<(), String>) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(why) = done() {
            let ended = self.shell.try_wait().unwrap();
            assert!(ended.is_none(), "{at}: the shell has ended: {why}");
            assert!(Instant::now() < deadline, "{why}");
            pause();
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It fails if the shell has ended already.
        let _ended = self.shell.kill();
        let _ended = self.shell.wait();
    }
}

/// Returns the difference between the outcome of a block and the page, if there is one.
fn wrong(block: &Block, ended: &Ended) -> Option<String> {
    if block.how == How::Fails {
        if !ended.last_failed {
            return Some("it does not fail".to_owned());
        }
    } else if ended.failed || ended.last_failed {
        return Some("it fails".to_owned());
    }
    missing(&block.expected, &ended.output).map(|line| format!("it does not print {line:?}"))
}

/// Pauses a loop that has a deadline.
#[expect(clippy::disallowed_methods, reason = "the waits for a shell are not in a runtime")]
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}
