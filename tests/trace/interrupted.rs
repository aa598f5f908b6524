//! `tlsidecar trace --pcap` that ends before the handshake of a device.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::pcap::{Read, sidecar};
use crate::support::process::binary;
use crate::support::raw::{answer_to, client_hello};
use crate::support::wait::within;
use crate::support::{Authority, Backend, Sidecar};

/// A running `tlsidecar trace` of all devices, with secrets in the capture. It is killed on drop.
struct Tracing {
    child: Child,
    /// Its output, until the test closes it.
    lines: Option<BufReader<ChildStdout>>,
    path: PathBuf,
}

impl Tracing {
    /// Starts it, and waits until the trace has begun.
    fn start(dir: &Path) -> Self {
        let path = dir.join("capture.pcapng");
        let mut command = trace(dir);
        command.args(["--output", "json", "--pcap-secrets", "--pcap"]).arg(&path);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = child.stdout.take().map(BufReader::new);
        let mut tracing = Self { child, lines, path };
        tracing.until("started");
        tracing
    }

    /// Waits for a step of this kind.
    fn until(&mut self, kind: &str) {
        let (lines, mut line) = (self.lines.as_mut().unwrap(), String::new());
        while !line.contains(&format!("\"step\":\"{kind}\"")) {
            line.clear();
            assert!(lines.read_line(&mut line).unwrap() > 0, "no step {kind}");
        }
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        // It fails if it has ended already.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// Returns a command that traces all devices.
fn trace(dir: &Path) -> Command {
    let mut command = binary();
    let admin = format!("unix:{}", dir.join("admin.sock").display());
    command.args(["trace", "--peer", "127.0.0.1", "--for", "60s", "--admin", &admin]);
    command
}

/// Traces a device that waits in its handshake, ends the trace, and returns the exit code and the content of the file.
async fn ended_by(end: impl AsyncFnOnce(&mut Tracing, &mut Option<Sidecar>)) -> (i32, Read) {
    let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
    let mut sidecar = Some(sidecar(&authority, &backend, ""));
    let mut tracing = Tracing::start(authority.dir());
    let mut device = TcpStream::connect(sidecar.as_ref().unwrap().address).await.unwrap();
    device.write_all(&client_hello()).await.unwrap();
    tracing.until("hello");
    end(&mut tracing, &mut sidecar).await;
    let waited = tokio::task::spawn_blocking(move || {
        let status = tracing.child.wait().unwrap();
        (status.code().unwrap(), Read::of(&tracing.path))
    });
    let ended = within("its end", waited).await.unwrap();
    drop(device);
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_that_ends_early_writes_the_packets_of_devices_in_their_handshake() {
    for (name, expected) in [("INT", 0), ("TERM", 0), ("closed output", 0), ("no sidecar", 1)] {
        let (code, read) = ended_by(async |tracing, sidecar| match name {
            "closed output" => {
                tracing.lines = None;
                answer_to(sidecar.as_ref().unwrap().address, b"GET / HTTP/1.1\r\n\r\n").await;
            }
            "no sidecar" => *sidecar = None,
            signal => tracing.signal(signal),
        })
        .await;
        assert_eq!(code, expected, "{name}");
        assert!(read.streams.values().any(|bytes| bytes.starts_with(&[22, 3])), "{name}");
    }
}
