//! The memory that this process may use.
//!
//! **Not here.** What it is used for (`config.rs`).

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the memory limit in bytes: the lowest of the process's cgroups, else the memory of the machine. None if
/// neither can be read. Blocks on /proc and /sys.
#[must_use]
pub fn limit() -> Option<u64> {
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = limit_files(&cgroups).into_iter().filter_map(|file| in_file(&file));
    limits.chain(of_machine()).min()
}

/// Returns the files with the limits of these cgroups and of those above them: cgroups(7), the kernel's
/// admin-guide/cgroup-v2.
fn limit_files(cgroups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (root, name) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|one| one == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let path = Path::new(path.trim_start_matches('/'));
        files.extend(path.ancestors().map(|group| Path::new(root).join(group).join(name)));
    }
    files
}

/// Returns the number in a file. `max` is no limit.
fn in_file(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn of_machine() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_a_cgroup_or_of_one_above_it_counts() {
        let files = limit_files("12:cpu,cpuacct:/x\n9:memory:/kubepods/pod1\n0::/a/b\nnonsense\n");
        let files: Vec<_> = files.iter().filter_map(|file| file.to_str()).collect();
        let expected = [
            "/sys/fs/cgroup/memory/kubepods/pod1/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/kubepods/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/a/b/memory.max",
            "/sys/fs/cgroup/a/memory.max",
            "/sys/fs/cgroup/memory.max",
        ];
        assert_eq!(files, expected);
    }

    #[test]
    fn this_machine_has_a_limit() {
        assert!(limit().is_some_and(|bytes| bytes > 1 << 24));
    }
}
