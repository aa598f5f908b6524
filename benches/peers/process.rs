//! A running proxy, and the cost of its process tree.
//!
//! **Promises.** CPU time is the user and system time of all processes of the tree, with ended threads and
//! reaped children, in steps of 10 ms. Memory is PSS, which counts pages shared by processes once. Dropping a
//! proxy ends all of its processes.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// A running proxy.
pub struct Proxy {
    child: Child,
}

impl Proxy {
    /// Starts a proxy. Its output is discarded, or written to the file `$TLSIDECAR_BENCH_LOG`.
    pub fn spawn(mut command: Command) -> std::io::Result<Self> {
        let sink = || match std::env::var_os("TLSIDECAR_BENCH_LOG") {
            Some(path) => {
                fs::OpenOptions::new().append(true).create(true).open(path).map(Into::into)
            }
            None => Ok(Stdio::null()),
        };
        let child = command.stdin(Stdio::null()).stdout(sink()?).stderr(sink()?).spawn()?;
        Ok(Self { child })
    }

    /// Returns whether the process still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal to the first process.
    pub fn signal(&self, signal: Signal) {
        signal_to(self.child.id(), signal);
    }

    /// Returns the CPU seconds of the tree since its start.
    pub fn cpu_seconds(&self) -> f64 {
        self.tree().values().map(|stat| stat.cpu_seconds).sum()
    }

    /// Returns the CPU seconds of live threads, by the scheduler's count in nanoseconds.
    pub fn precise_cpu_seconds(&self) -> f64 {
        let tree = self.tree();
        let threads = tree.keys().filter_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).ok());
        let nanoseconds = threads.flatten().filter_map(|thread| {
            let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<f64>().ok()
        });
        nanoseconds.sum::<f64>() / 1e9
    }

    /// Returns the PSS of the tree in bytes: proc_pid_smaps(5).
    pub fn memory_bytes(&self) -> f64 {
        self.tree().keys().filter_map(|pid| pss(*pid)).sum()
    }

    /// Returns the process and all its descendants.
    fn tree(&self) -> BTreeMap<u32, Stat> {
        let all = processes();
        let mut tree = BTreeMap::new();
        let mut next = vec![self.child.id()];
        while let Some(pid) = next.pop() {
            if let Some(stat) = all.get(&pid) {
                tree.insert(pid, *stat);
                next.extend(all.iter().filter(|(_, s)| s.parent == pid).map(|(pid, _)| pid));
            }
        }
        tree
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The tree is listed before any process is ended: a master process would replace ended children.
        let tree = self.tree();
        let _ended = self.child.kill();
        let _ended = self.child.wait();
        for pid in tree.keys().filter(|pid| **pid != self.child.id()) {
            signal_to(*pid, Signal::KILL);
        }
    }
}

fn signal_to(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // Fails if the process has already ended.
        let _ended = kill_process(pid, signal);
    }
}

/// Fields of proc_pid_stat(5).
#[derive(Clone, Copy)]
struct Stat {
    parent: u32,
    cpu_seconds: f64,
}

fn processes() -> BTreeMap<u32, Stat> {
    let entries = fs::read_dir("/proc").expect("Linux has /proc").filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| Some((pid, stat(pid)?))).collect()
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses can contain any characters.
    let fields: Vec<_> = text.rsplit_once(')')?.1.split_whitespace().collect();
    // utime, stime, cutime, cstime, in ticks of 10 ms (USER_HZ is 100 since Linux 2.6).
    let ticks: f64 = fields[11..15].iter().filter_map(|field| field.parse::<f64>().ok()).sum();
    Some(Stat { parent: fields[1].parse().ok()?, cpu_seconds: ticks / 100.0 })
}

fn pss(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find(|line| line.starts_with("Pss:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? * 1024.0)
}
