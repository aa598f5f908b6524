//! TLS stacks of devices: one program for each, with the same steps and the same command line (`device.c`).

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::support::command::{has, skipped};

/// Versions of TLS that a stack has.
pub(super) const TLS12: &[&str] = &["1.2"];
pub(super) const BOTH: &[&str] = &["1.2", "1.3"];

/// A TLS stack.
pub(super) struct Stack {
    pub(super) build: Build,
    pub(super) versions: &'static [&'static str],
    /// Its rows of the matrix.
    pub(super) rows: &'static [Row],
    /// Scenarios that the stack has no calls for.
    pub(super) lacks: &'static [&'static str],
}

/// The way to build its device.
pub(super) enum Build {
    /// A source in C, and a library of Debian.
    Library { source: &'static str, package: &'static str, flags: &'static [&'static str] },
    /// mbedTLS from the sources in a crate, of which only the name is used: `cargo info NAME@VERSION` fetches it.
    Mbedtls { package: &'static str, directory: &'static str },
    /// A JDK, which is too large for CI.
    Java,
    /// Go, which is too large for CI.
    Go,
}

/// A row of the matrix: a stack with one size of the input buffer.
pub(super) struct Row {
    pub(super) name: &'static str,
    /// Bytes of plaintext that a record may hold; 0 is the stack's default.
    pub(super) buffer: usize,
}

/// A device's program. It is deleted with its directory on drop.
pub(super) struct Program {
    command: Vec<OsString>,
    _directory: TempDir,
}

impl Program {
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]);
        command
    }
}

impl Stack {
    /// Compiles the device for a row, or reports the test as skipped where the stack is not installed.
    pub(super) fn compile(&self, row: &Row) -> Option<Program> {
        let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let out = directory.path().join("device");
        let mut command = vec![out.clone().into_os_string()];
        match &self.build {
            Build::Library { source, package, flags } => {
                let source = sources().join(source).with_extension("c");
                if !has("cc") || !compiles(cc().arg("-fsyntax-only").arg(&source).args(*flags)) {
                    skipped(&format!("{package} is not installed on this machine"));
                    return None;
                }
                succeeds(
                    cc().arg("-o")
                        .arg(&out)
                        .arg(sources().join("device.c"))
                        .arg(source)
                        .args(*flags),
                );
            }
            Build::Mbedtls { package, directory } => {
                let library = mbedtls(package, directory, self.rows)?;
                library.device(row, &out);
            }
            Build::Java => {
                if !is_installed("javac") {
                    return None;
                }
                succeeds(
                    Command::new("javac").arg("-d").arg(&out).arg(sources().join("Device.java")),
                );
                command = vec!["java".into(), "-XX:TieredStopAtLevel=1".into(), "-cp".into()];
                command.extend([out.into_os_string(), "Device".into()]);
            }
            Build::Go => {
                if !is_installed("go") {
                    return None;
                }
                let mut go = Command::new("go");
                go.args(["build", "-o"]).arg(&out).arg(sources().join("device.go"));
                succeeds(go.env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go")));
            }
        }
        Some(Program { command, _directory: directory })
    }
}

/// mbedTLS, built from its sources.
struct Mbedtls {
    sources: PathBuf,
    built: PathBuf,
}

impl Mbedtls {
    /// Compiles a device with the input buffer of a row.
    fn device(&self, row: &Row, out: &Path) {
        let size = size(row);
        let mut cc = cc();
        cc.arg(format!("-DMBEDTLS_SSL_IN_CONTENT_LEN={size}"))
            .arg("-DMBEDTLS_SSL_RECORD_SIZE_LIMIT");
        cc.arg("-I").arg(self.sources.join("include")).arg("-o").arg(out);
        cc.args(["device.c", "mbedtls.c"].map(|source| sources().join(source)));
        succeeds(
            cc.args([size.as_str(), "rest"].map(|name| self.built.join(name).with_extension("a"))),
        );
    }
}

/// Returns the size of a row's input buffer, as the setting of the library.
fn size(row: &Row) -> String {
    if row.buffer == 0 { 16384 } else { row.buffer }.to_string()
}

/// Builds the library for these rows, unless an earlier run has.
fn mbedtls(package: &str, directory: &str, rows: &[Row]) -> Option<Mbedtls> {
    let name = package.replace('@', "-");
    let Some(sources_of_crate) = crate_sources(&name) else {
        skipped(&format!("`cargo info {package}` has not fetched its sources"));
        return None;
    };
    let library = sources_of_crate.join(directory);
    let sizes: Vec<_> = rows.iter().map(size).collect();
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", sizes.join("-")));
    let script = sources().join("mbedtls.sh");
    let made_by = built.join("made-by");
    if fs::read(&made_by).ok() != fs::read(&script).ok() {
        let fresh = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        succeeds(Command::new(&script).args([library.as_path(), fresh.path()]).args(sizes));
        fs::copy(&script, fresh.path().join("made-by")).unwrap();
        let _none = fs::remove_dir_all(&built);
        fs::rename(fresh.keep(), &built).unwrap();
    }
    Some(Mbedtls { sources: library, built })
}

/// Returns the directory of a crate that cargo has unpacked.
fn crate_sources(name: &str) -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))?;
    let registries = fs::read_dir(home.join("registry/src")).ok()?.filter_map(Result::ok);
    registries.map(|registry| registry.path().join(name)).find(|path| path.is_dir())
}

/// Returns whether a program that CI does not have is installed, and prints it if not.
fn is_installed(program: &str) -> bool {
    let mut version = Command::new(program);
    let found = version.arg(if program == "go" { "version" } else { "-version" });
    let found = found.stdout(Stdio::null()).stderr(Stdio::null()).status();
    let found = found.is_ok_and(|status| status.success());
    if !found {
        std::io::stderr()
            .write_all(format!("NOT RUN: {program} is not installed\n").as_bytes())
            .unwrap();
    }
    found
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/devices")
}

fn cc() -> Command {
    let mut cc = Command::new("cc");
    cc.args(["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror"]);
    cc
}

fn compiles(cc: &mut Command) -> bool {
    cc.stderr(Stdio::null()).status().unwrap().success()
}

fn succeeds(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
