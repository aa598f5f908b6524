//! Watches for changes of files, wherever on their way a change happens.
//!
//! A file is reached through directories and links, and may change at each: it is rewritten in
//! place, or replaced by a rename (editors, certbot); a link on the way is swapped (Kubernetes'
//! `..data`); one of its directories is renamed, or deleted and made again. So the *directories* that
//! hold the file, each link and each directory on the way are watched, for those names: a watch on a
//! file itself is lost when it is replaced.
//!
//! **Promises.** Reading the files raises no event. An event says that something changed, not what.
//!
//! **Not here.** Waiting until the changes are over, and reading (`reload.rs`).

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode};

/// Links on the way to a file before it is taken for a loop, as in path_resolution(7).
const MAX_LINKS: usize = 40;

/// Watches a set of files.
pub(super) struct Watcher {
    notify: RecommendedWatcher,
    directories: BTreeSet<PathBuf>,
    /// What events are about; shared with the thread that gets them.
    points: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Watcher {
    /// A watcher of nothing yet, which calls `changed` when something changes.
    ///
    /// # Errors
    /// If the system has no more watchers to give (`fs.inotify.max_user_instances`).
    pub(super) fn new(changed: impl Fn() + Send + 'static) -> notify::Result<Self> {
        let points = Arc::new(Mutex::new(BTreeSet::new()));
        let watched = Arc::clone(&points);
        let notify = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let matters = match event {
                Ok(event) => {
                    is_change(&event, &watched.lock().unwrap_or_else(PoisonError::into_inner))
                }
                // The queue overflowed: anything may have changed.
                Err(_) => true,
            };
            if matters {
                changed();
            }
        })?;
        Ok(Self { notify, directories: BTreeSet::new(), points })
    }

    /// Watches just these files, by the way on which they are reached now. Whether that is another
    /// than before.
    pub(super) fn watch(&mut self, files: &[PathBuf]) -> bool {
        use notify::Watcher as _;
        let mut points = BTreeSet::new();
        for file in files {
            trace(file, &mut points);
        }
        let directories: BTreeSet<_> =
            points.iter().filter_map(|point| point.parent()).map(Path::to_owned).collect();
        for gone in self.directories.difference(&directories) {
            // It fails for a directory that was deleted: its watch went with it.
            let _gone_already = self.notify.unwatch(gone);
        }
        for directory in &directories {
            // Again for those that are watched already: one may have been made anew.
            if let Err(error) = self.notify.watch(directory, RecursiveMode::NonRecursive) {
                let directory = directory.display();
                tracing::debug!(%directory, %error, "cannot watch; the poll has to do");
            }
        }
        self.directories = directories;
        let mut watched = self.points.lock().unwrap_or_else(PoisonError::into_inner);
        let moved = *watched != points;
        *watched = points;
        moved
    }
}

fn is_change(event: &Event, points: &BTreeSet<PathBuf>) -> bool {
    let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
    if event.kind.is_access() && event.kind != written {
        return false;
    }
    event.need_rescan() || event.paths.iter().any(|path| points.contains(path))
}

/// Adds every path whose change would lead `file` to other content: each link and directory on the
/// way, the file, and the first thing on the way that is missing.
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
                let mut by_way_of = components(&target);
                by_way_of.append(&mut ahead);
                ahead = by_way_of;
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

    /// A path and every directory above it but the root, which nobody can replace.
    fn way_to(path: &Path) -> impl Iterator<Item = PathBuf> {
        path.ancestors().filter(|above| above.parent().is_some()).map(Path::to_owned)
    }

    #[test]
    fn a_directory_far_above_that_is_renamed_raises_an_event_and_reading_raises_none() {
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
    fn every_link_on_the_way_is_watched_as_kubelet_lays_it() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        fs::create_dir(dir.join("..v1")).unwrap();
        fs::write(dir.join("..v1/tls.crt"), "").unwrap();
        symlink("..v1", dir.join("..data")).unwrap();
        symlink("..data/tls.crt", dir.join("tls.crt")).unwrap();
        let expected = ["tls.crt", "..data", "..v1", "..v1/tls.crt"].map(|name| dir.join(name));
        let expected: BTreeSet<_> = expected.into_iter().chain(way_to(&dir)).collect();
        assert_eq!(traced(&dir.join("tls.crt")), expected);
    }

    #[test]
    fn for_a_missing_file_its_appearance_is_watched() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let expected: BTreeSet<_> = way_to(&dir.join("a")).collect();
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
