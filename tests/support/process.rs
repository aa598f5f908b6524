//! The real binary as a separate process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::command::Running;
use super::wait::PATIENCE;

/// A running tlsidecar.
pub(crate) struct Sidecar {
    child: Running,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Sidecar {
    /// Starts it with a configuration, which is written to `dir`.
    pub(crate) fn start(dir: &Path, text: &str) -> Self {
        let mut command = binary();
        command.arg("--config").arg(super::file::write(dir, text));
        Self::run(command)
    }

    /// Runs a command that starts it, and waits until it accepts.
    pub(crate) fn run(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().unwrap();
        let lines = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                let Ok(line) = line else { return };
                let mut log = lines.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let mut sidecar = Self {
            child: Running(child),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            admin: SocketAddr::from(([127, 0, 0, 1], 0)),
            log,
            reader: Some(reader),
        };
        sidecar.until("it is up", |log| address(log, "admin port").is_some());
        sidecar.address = address(&sidecar.log(), "listening").unwrap();
        sidecar.admin = address(&sidecar.log(), "admin port").unwrap();
        sidecar
    }

    /// Returns its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// Returns its log.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until its log meets a condition.
    pub(crate) fn until(&mut self, what: &str, wanted: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !wanted(&self.log()) {
            let ended = self.child.0.try_wait().unwrap();
            assert!(ended.is_none(), "{what}: it ended with {ended:?}:\n{}", self.log());
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}\n{}", self.log());
            pause();
        }
    }

    /// Sends a signal, by its name.
    pub(crate) fn signal(&self, name: &str) {
        self.child.signal(name);
    }

    /// Waits until it ends, and returns its exit status.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.0.try_wait().unwrap() {
                if let Some(reader) = self.reader.take() {
                    reader.join().unwrap();
                }
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end:\n{}", self.log());
            pause();
        }
    }

    /// Sends a request to its admin port, and returns the status code and the body.
    pub(crate) fn ask(&self, method: &str, path: &str) -> Option<(u16, String)> {
        ask(self.admin, method, path, "")
    }

    /// Returns the value of a counter or gauge of whole numbers.
    pub(crate) fn count(&self, series: &str) -> u64 {
        let (_, text) = self.ask("GET", "/metrics").unwrap();
        super::proxy::metric(&text, series).unwrap_or_else(|| panic!("no {series} in\n{text}"))
    }
}

/// Returns a command that runs the binary under test.
pub(crate) fn binary() -> Command {
    clean(Command::new(env!("CARGO_BIN_EXE_tlsidecar")))
}

/// Returns a shell that runs `script`, in which `"$@"` is the binary under test with the further arguments.
pub(crate) fn by_shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_tlsidecar")]);
    clean(command)
}

fn clean(mut command: Command) -> Command {
    // No variables of the machine's configuration or of the service that runs the tests.
    let foreign = ["TLSIDECAR_", "NOTIFY_", "WATCHDOG_", "LISTEN_"];
    let ours = |name: &str| !foreign.iter().any(|foreign| name.starts_with(foreign));
    command.env_clear().envs(std::env::vars().filter(|(name, _)| ours(name)));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).stdout(Stdio::piped());
    command
}

/// Sends one HTTP request to an admin port, with optional header lines.
pub(crate) fn ask(
    admin: SocketAddr,
    method: &str,
    path: &str,
    header: &str,
) -> Option<(u16, String)> {
    let mut tcp = TcpStream::connect(admin).ok()?;
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: {admin}\r\n{header}Connection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
}

fn address(log: &str, what: &str) -> Option<SocketAddr> {
    let line = log.lines().find(|line| line.contains(what) && line.contains("address"))?;
    let at = line.split("address").nth(1)?.trim_start_matches(['=', '"', ':']);
    at.split(['"', ' ', ',', '}']).next()?.parse().ok()
}

/// Pauses a loop that has a deadline.
#[expect(clippy::disallowed_methods, reason = "the waits for a process are not in a runtime")]
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}
