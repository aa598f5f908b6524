//! Watches for changes of files, wherever on their way a change happens.
//!
//! A file is reached through directories and links, and may change at each: it is rewritten in
//! place, or replaced by a rename (editors, certbot); a link on the way is swapped (Kubernetes'
//! `..data`); its directory is deleted and made again. So the *directories* that hold the file and
//! each link are watched, for those names: a watch on a file itself is lost when it is replaced.
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

/// Adds every path whose change would lead `file` to other content: each link on the way, the
/// file, its directory, and the first thing on the way that is missing.
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
            Ok(_) => at = next,
            Err(_) => {
                points.insert(next);
                return;
            }
        }
    }
    points.extend(at.parent().map(Path::to_owned));
    points.insert(at);
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

    use super::*;

    fn traced(file: &Path) -> BTreeSet<PathBuf> {
        let mut points = BTreeSet::new();
        trace(file, &mut points);
        points
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
        assert_eq!(traced(&dir.join("tls.crt")), expected.into_iter().collect());
    }

    #[test]
    fn for_a_missing_file_its_appearance_is_watched() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        assert_eq!(traced(&dir.join("a/b.crt")), [dir.join("a")].into_iter().collect());
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
