//! Confinement of the process: no new privileges, and no access to files that it does not need.
//!
//! An attacker who executes code in the process can then neither write a file, nor start a program, nor read outside of
//! the directories of the configured files and of those that the C library needs.
//!
//! **Promises.** Best effort: a kernel without Landlock confines nothing, and the start continues. A confinement cannot be
//! widened: a configuration that later names a file elsewhere needs a restart, which the error of that file says
//! (`regular_file.rs`). Sockets are not confined, and neither are the threads of jemalloc, which start before `main`
//! and run only its code.
//!
//! **Not here.** The key that turns the confinement of files off: `process.landlock` (`config.rs`). Core dumps
//! (`core_dumps.rs`).

use std::collections::BTreeSet;
use std::io;
use std::path::{Component, Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, path_beneath_rules,
};

use crate::config::file::ConfigSource;
use crate::config::{Config, ListenerConfig};
use crate::regular_file;
use crate::text::Shown;
use crate::trust::material;

/// The rights that are denied elsewhere: those of Linux 6.10. Later rights would need a look at what uses them.
const RIGHTS: ABI = ABI::V5;

/// Directories that the C library, the allocator, and the metrics of the process read: names of hosts, modules for their
/// look-up, the cores and the memory of the machine.
const OF_THE_SYSTEM: &[&str] =
    &["/etc", "/proc", "/sys", "/usr", "/lib", "/lib64", "/nix/store", "/gnu/store"];

/// Files of name look-ups that are often links to other directories.
const OF_NAME_LOOKUPS: &[&str] = &["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf"];

/// Most components of a directory that is readable with all that is below it. Directories are identified by their
/// inodes: one that is replaced, by a package or a rename, would become unreadable. A file's own directory is often
/// replaced, `/etc/letsencrypt` is not.
const DEEPEST: usize = 2;

/// The result of a confinement of files.
#[derive(Debug)]
pub(crate) enum Confinement {
    /// `process.landlock` is off.
    Off,
    /// The kernel enforces all of it, or what it supports of it.
    Enforced { whole: bool, directories: Vec<PathBuf> },
    /// The kernel has no Landlock.
    Unsupported,
    /// The kernel has refused it.
    Failed(RulesetError),
}

/// Keeps the process, and programs that it would start, from getting privileges by execve(2): set-user-ID bits and file
/// capabilities have no effect (`PR_SET_NO_NEW_PRIVS` in prctl(2)). Call it before the second thread.
///
/// # Errors
/// If the kernel does not support it.
pub fn no_new_privileges() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}

/// Confines the process to the files of a configuration, with Landlock. Call it before the second thread: it applies to
/// the calling thread and those that it starts (landlock(7)).
pub(crate) fn files_of(config: &Config, source: Option<&ConfigSource>) -> Confinement {
    if !config.process.landlock {
        return Confinement::Off;
    }
    let directories: Vec<_> = readable(config, source).into_iter().collect();
    match restrict(&directories, config.admin.socket.as_deref().and_then(Path::parent)) {
        Ok(RulesetStatus::NotEnforced) => Confinement::Unsupported,
        Ok(status) => {
            regular_file::confine(directories.clone());
            let whole = status == RulesetStatus::FullyEnforced;
            Confinement::Enforced { whole, directories }
        }
        Err(error) => Confinement::Failed(error),
    }
}

impl Confinement {
    /// Logs the result.
    pub(crate) fn log(&self) {
        match self {
            Self::Off => tracing::info!("process.landlock is off: access to files is not confined"),
            Self::Unsupported => {
                tracing::info!("the kernel has no Landlock: access to files is not confined");
            }
            Self::Failed(error) => {
                tracing::warn!(%error, "cannot confine access to files with Landlock");
            }
            Self::Enforced { whole, directories } => {
                let shown: Vec<_> = directories.iter().map(|one| Shown(one).to_string()).collect();
                let directories = shown.join(" ");
                tracing::info!(whole, directories, "access to files is confined");
            }
        }
    }
}

fn restrict(
    readable: &[PathBuf],
    socket_directory: Option<&Path>,
) -> Result<RulesetStatus, RulesetError> {
    let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    // The socket of an earlier process is removed before it is bound, and the directory is opened to be locked meanwhile.
    let bind: BitFlags<AccessFs> = AccessFs::MakeSock | AccessFs::RemoveFile | AccessFs::ReadDir;
    let restricted = Ruleset::default()
        .handle_access(AccessFs::from_all(RIGHTS))?
        .create()?
        .add_rules(path_beneath_rules(readable, read))?
        .add_rules(path_beneath_rules(socket_directory, bind))?
        .restrict_self()?;
    Ok(restricted.ruleset)
}

/// Returns the directories that stay readable, with all that is below them.
fn readable(config: &Config, source: Option<&ConfigSource>) -> BTreeSet<PathBuf> {
    let policies = config.listeners.iter().flat_map(ListenerConfig::policies);
    let material = policies.flat_map(|(_, tls)| material::named(tls)).map(|(_, path)| path);
    let token = config.admin.token_file.as_deref();
    let file = source.map(|source| source.path.as_path());
    let lookups = OF_NAME_LOOKUPS.iter().map(Path::new);
    let named = material.chain(token).chain(file).chain(lookups);
    let system = OF_THE_SYSTEM.iter().map(PathBuf::from);
    named.flat_map(directories).chain(system).collect()
}

/// Returns the directories of a file: of its path, and of the file that its links lead to.
fn directories(file: &Path) -> impl Iterator<Item = PathBuf> {
    let path = std::path::absolute(file).ok();
    let target = file.canonicalize().ok();
    path.into_iter().chain(target).filter_map(|file| Some(above(file.parent()?)))
}

/// Returns the directory above one that contains files, with at most [`DEEPEST`] components, and at least one.
fn above(directory: &Path) -> PathBuf {
    let names = || directory.components().filter(|one| matches!(one, Component::Normal(_)));
    let depth = names().count().saturating_sub(1).clamp(1, DEEPEST);
    Path::new("/").join(names().take(depth).collect::<PathBuf>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_makes_readable_a_directory_that_is_not_replaced_with_the_file() {
        for (file, directory) in [
            ("/tls.crt", "/"),
            ("/data/tls.crt", "/data"),
            ("/etc/tlsidecar/tls.crt", "/etc"),
            ("/etc/tlsidecar/tls/tls.crt", "/etc/tlsidecar"),
            ("/etc/letsencrypt/live/plant.example/fullchain.pem", "/etc/letsencrypt"),
            ("/home/plant/certs/tls.crt", "/home/plant"),
        ] {
            assert_eq!(above(Path::new(file).parent().unwrap()), Path::new(directory), "{file}");
        }
    }

    #[test]
    fn a_confined_thread_reads_in_its_directories_and_can_neither_write_nor_start_a_program() {
        let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (here, there) = (own.path().join("tls.crt"), other.path().join("tls.crt"));
        std::fs::write(&here, "own").unwrap();
        std::fs::write(&there, "other").unwrap();
        // The rest of the process is not confined.
        let confined = std::thread::scope(|scope| {
            let confined = scope.spawn(|| {
                let directory = own.path().to_owned();
                let status = restrict(&[directory], Some(other.path())).unwrap();
                let denied = |done: io::Result<()>| {
                    done.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
                };
                assert_eq!(std::fs::read(&here).unwrap(), b"own");
                // A second bind: the socket of an earlier process is removed.
                for _ in 0..2 {
                    let socket = other.path().join("admin.sock");
                    std::os::unix::net::UnixListener::bind(&socket).unwrap();
                    std::fs::remove_file(&socket).unwrap();
                }
                let refused = [
                    denied(std::fs::write(&here, "new")),
                    denied(std::fs::remove_file(&here)),
                    denied(std::fs::read(&there).map(drop)),
                    denied(std::process::Command::new("/bin/true").status().map(drop)),
                ];
                (status, refused)
            });
            confined.join().unwrap()
        });
        if confined.0 != RulesetStatus::NotEnforced {
            assert_eq!(confined.1, [true; 4]);
        }
        assert_eq!(std::fs::read(&there).unwrap(), b"other");
    }

    #[test]
    fn the_target_of_a_link_is_readable_too() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("archive"), "").unwrap();
        let link = Path::new("/etc/a/b/live");
        assert_eq!(directories(link).collect::<Vec<_>>(), [Path::new("/etc/a")]);
        let link = dir.path().join("live");
        std::os::unix::fs::symlink(dir.path().join("archive"), &link).unwrap();
        assert_eq!(directories(&link).count(), 2);
    }
}
