//! Watches files for changes at every step of their paths.
//!
//! A path leads through directories and links, and can change at each: the file is rewritten in
//! place, or replaced by a rename (editors, certbot); a link is swapped (Kubernetes'
//! `..data`); a directory is renamed, or deleted and created again. Therefore the *directories* that
//! contain the file, each link and each directory of the path are watched for those names: a watch on the
//! file itself is lost when the file is replaced.
//!
//! **Promises.** Reading the files causes no event. An event states that something changed, not what changed.
//! Writes to other files in those directories cause no event; if they are continuous, they cost
//! a check [every few milliseconds](JOIN_INTERVAL). A warning about a directory that cannot be watched is logged
//! once, and for all directories together if the limit of watches is reached.
//!
//! **Not here.** Waiting for the end of the changes, and reading (`reload.rs`).

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::lock::Lock;
use crate::text::Shown;
use notify::event::{AccessKind, AccessMode};
use notify::{
    Config, ErrorKind, Event, EventKind, EventKindMask, RecommendedWatcher, RecursiveMode,
};

/// Links in a path before it is treated as a loop, as in path_resolution(7).
const MAX_LINKS: usize = 40;

/// The events that the kernel reports: changes of names and attributes, and the end of writing. Opens, reads and
/// single writes are excluded: a directory of the path may be `/etc`, `/tmp` or that of a busy database.
const REPORTED: EventKindMask = EventKindMask::CREATE
    .union(EventKindMask::REMOVE)
    .union(EventKindMask::MODIFY_NAME)
    .union(EventKindMask::MODIFY_META)
    .union(EventKindMask::ACCESS_CLOSE);

/// Time in which the kernel can merge the events of other files: equal events in the queue become one (inotify(7)).
const JOIN_INTERVAL: Duration = Duration::from_millis(20);

/// Watches a set of files.
pub(super) struct Watcher {
    notify: RecommendedWatcher,
    directories: BTreeSet<PathBuf>,
    /// The directories among them that cannot be watched, about which a warning was logged.
    unwatched: BTreeSet<PathBuf>,
    /// The paths whose events count; shared with the thread that receives events.
    points: Arc<Lock<BTreeSet<PathBuf>>>,
}

impl Watcher {
    /// Makes a watcher without files, which calls `changed` when something changes.
    ///
    /// # Errors
    /// If the limit of watchers is reached (`fs.inotify.max_user_instances`).
    pub(super) fn new(changed: impl Fn() + Send + 'static) -> notify::Result<Self> {
        let points = Arc::new(Lock::new(BTreeSet::new()));
        let watched = Arc::clone(&points);
        let mut joined = Instant::now();
        let on_event = move |event: notify::Result<Event>| {
            let matters = match event {
                Ok(event) => is_change(&event, &watched.lock()),
                // The queue overflowed: anything may have changed.
                Err(_) => true,
            };
            if matters {
                changed();
            } else if joined.elapsed() >= JOIN_INTERVAL {
                wait_for_more();
                joined = Instant::now();
            }
        };
        let config = Config::default().with_event_kinds(REPORTED);
        let notify = <RecommendedWatcher as notify::Watcher>::new(on_event, config)?;
        let (directories, unwatched) = (BTreeSet::new(), BTreeSet::new());
        Ok(Self { notify, directories, unwatched, points })
    }

    /// Watches exactly these files, through the current targets of the links in their paths. Returns whether the
    /// watched paths changed.
    pub(super) fn watch(&mut self, files: &[PathBuf]) -> bool {
        use notify::Watcher as _;
        let mut points = BTreeSet::new();
        for file in files {
            trace(file, &mut points);
        }
        let directories: BTreeSet<_> =
            points.iter().filter_map(|point| point.parent()).map(Path::to_owned).collect();
        for gone in self.directories.difference(&directories) {
            // It fails for a deleted directory, whose watch was deleted with it.
            let _gone_already = self.notify.unwatch(gone);
        }
        for directory in &directories {
            // Also for those that are watched already: a directory may have been created again.
            match self.notify.watch(directory, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.unwatched.remove(directory);
                }
                Err(error) => self.cannot_watch(directory, &error),
            }
        }
        self.unwatched.retain(|directory| directories.contains(directory));
        self.directories = directories;
        let mut watched = self.points.lock();
        let moved = *watched != points;
        *watched = points;
        moved
    }

    /// Logs a warning about a directory that cannot be watched, once. The limit of watches concerns all directories of a
    /// path, and would be logged for each.
    fn cannot_watch(&mut self, directory: &Path, error: &notify::Error) {
        let name = Shown(directory);
        // It was deleted just now. The directory above it is watched and reports its return.
        if is_missing(error) {
            tracing::debug!(directory = %name, %error, "cannot watch a directory");
            return;
        }
        let is_limit = matches!(error.kind, ErrorKind::MaxFilesWatch);
        let is_first = self.unwatched.is_empty();
        if self.unwatched.insert(directory.to_owned()) && (is_first || !is_limit) {
            let advice = if is_limit { " (raise fs.inotify.max_user_watches)" } else { "" };
            tracing::warn!(
                directory = %name, %error,
                "cannot watch a directory, reading its files once a minute instead{advice}"
            );
        }
    }
}

fn is_missing(error: &notify::Error) -> bool {
    match &error.kind {
        ErrorKind::PathNotFound => true,
        ErrorKind::Io(error) => error.kind() == std::io::ErrorKind::NotFound,
        ErrorKind::Generic(_)
        | ErrorKind::WatchNotFound
        | ErrorKind::InvalidConfig(_)
        | ErrorKind::MaxFilesWatch => false,
    }
}

#[expect(clippy::disallowed_methods, reason = "notify's thread does nothing but call this")]
fn wait_for_more() {
    thread::sleep(JOIN_INTERVAL);
}

fn is_change(event: &Event, points: &BTreeSet<PathBuf>) -> bool {
    let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
    if event.kind.is_access() && event.kind != written {
        return false;
    }
    event.need_rescan() || event.paths.iter().any(|path| points.contains(path))
}

/// Adds every path whose change can change the content of `file`: each link and directory of its path, the file,
/// and the first missing component.
fn trace(file: &Path, points: &mut BTreeSet<PathBuf>) {
    let Ok(absolute) = std::path::absolute(file) else {
        return;
    };
    let mut ahead = components(&absolute);
    let mut at = PathBuf::from("/");
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        match fs::symlink_metadata(&next) {
            Ok(metadata) if metadata.is_symlink() && links < MAX_LINKS => {
                links += 1;
                points.insert(next.clone());
                let Ok(target) = fs::read_link(&next) else {
                    return;
                };
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                let mut through = components(&target);
                through.append(&mut ahead);
                ahead = through;
            }
            Ok(_) => {
                points.insert(next.clone());
                at = next;
            }
            Err(_) => {
                points.insert(next);
                return;
            }
        }
    }
}

fn components(path: &Path) -> VecDeque<OsString> {
    let named = |component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(named).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use super::*;

    fn traced(file: &Path) -> BTreeSet<PathBuf> {
        let mut points = BTreeSet::new();
        trace(file, &mut points);
        points
    }

    /// Returns a path and every directory above it except the root, which cannot be replaced.
    fn with_parents(path: &Path) -> impl Iterator<Item = PathBuf> {
        path.ancestors().filter(|above| above.parent().is_some()).map(Path::to_owned)
    }

    #[test]
    fn renaming_a_directory_far_above_raises_an_event_and_reading_raises_none() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        for version in ["live", "next"] {
            fs::create_dir_all(dir.join(version).join("a/b")).unwrap();
            fs::write(dir.join(version).join("a/b/tls.crt"), "").unwrap();
        }
        let (changed, changes) = std::sync::mpsc::channel();
        let mut watcher = Watcher::new(move || changed.send(()).unwrap()).unwrap();
        let file = dir.join("live/a/b/tls.crt");
        watcher.watch(std::slice::from_ref(&file));
        fs::read(&file).unwrap();
        fs::read_dir(dir.join("live/a")).unwrap().for_each(drop);
        assert!(changes.recv_timeout(Duration::from_millis(200)).is_err());
        fs::rename(dir.join("live"), dir.join("old")).unwrap();
        fs::rename(dir.join("next"), dir.join("live")).unwrap();
        changes.recv_timeout(Duration::from_secs(20)).unwrap();
    }

    #[test]
    fn neighbours_of_a_file_raise_nothing_when_they_are_read_or_written() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let file = dir.join("tls.crt");
        fs::write(&file, "").unwrap();
        let (raised, events) = std::sync::mpsc::channel();
        let on_event = move |event: notify::Result<Event>| raised.send(event.unwrap()).unwrap();
        let config = Config::default().with_event_kinds(REPORTED);
        let notify = <RecommendedWatcher as notify::Watcher>::new(on_event, config);
        let mut notify = notify.unwrap();
        notify::Watcher::watch(&mut notify, &dir, RecursiveMode::NonRecursive).unwrap();
        let neighbour = dir.join("neighbour");
        let mut written = fs::File::create(&neighbour).unwrap();
        for _ in 0..100 {
            fs::read(&neighbour).unwrap();
            std::io::Write::write_all(&mut written, b"x").unwrap();
        }
        fs::write(&file, "new").unwrap();
        // One earlier event: the neighbour was created, and is not closed yet.
        let of_ours = |event: &Event| event.paths == [file.clone()];
        let until = std::iter::from_fn(|| events.recv_timeout(Duration::from_secs(20)).ok());
        let before: Vec<_> = until.take_while(|event| !of_ours(event)).collect();
        assert!(before.len() <= 1, "{before:?}");
    }

    #[test]
    fn a_directory_that_cannot_be_watched_is_remembered_until_it_can() {
        let dir = tempfile::tempdir().unwrap();
        let mut watcher = Watcher::new(|| {}).unwrap();
        let full = notify::Error::new(ErrorKind::MaxFilesWatch);
        watcher.cannot_watch(dir.path(), &full);
        assert!(watcher.unwatched.contains(dir.path()));
        watcher.cannot_watch(Path::new("/gone"), &notify::Error::path_not_found());
        assert_eq!(watcher.unwatched.len(), 1, "a missing directory is not a shortage of watches");
        watcher.watch(&[dir.path().join("tls.crt")]);
        assert!(watcher.unwatched.is_empty());
    }

    #[test]
    fn every_link_of_a_path_as_the_kubelet_makes_it_is_watched() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        fs::create_dir(dir.join("..v1")).unwrap();
        fs::write(dir.join("..v1/tls.crt"), "").unwrap();
        symlink("..v1", dir.join("..data")).unwrap();
        symlink("..data/tls.crt", dir.join("tls.crt")).unwrap();
        let expected = ["tls.crt", "..data", "..v1", "..v1/tls.crt"].map(|name| dir.join(name));
        let expected: BTreeSet<_> = expected.into_iter().chain(with_parents(&dir)).collect();
        assert_eq!(traced(&dir.join("tls.crt")), expected);
    }

    #[test]
    fn the_creation_of_a_missing_file_is_watched() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let expected: BTreeSet<_> = with_parents(&dir.join("a")).collect();
        assert_eq!(traced(&dir.join("a/b.crt")), expected);
    }

    #[test]
    fn a_loop_of_links_ends() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        symlink("b", dir.join("a")).unwrap();
        symlink("a", dir.join("b")).unwrap();
        assert!(traced(&dir.join("a")).contains(&dir.join("b")));
    }
}
