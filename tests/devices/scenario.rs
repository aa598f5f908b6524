//! Scenarios that each device goes through, the legacy server that they need, and one run of a device.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tlsidecar::terms::reason::Reason;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::stack::Program;
use crate::support::{Backend, Pair, Proxy};

/// A scenario: a column of the matrix.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    /// The device has a certificate, which the sidecar requires.
    pub(super) certificate: bool,
    pub(super) steps: &'static [&'static str],
    /// The device's reports of its handshakes.
    pub(super) reports: &'static [&'static str],
}

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "echo",
        certificate: false,
        steps: &["connect", "echo", "close"],
        reports: &["full"],
    },
    Scenario {
        name: "client certificate",
        certificate: true,
        steps: &["connect", "echo", "close"],
        reports: &["full"],
    },
    Scenario {
        name: "resumption",
        certificate: true,
        steps: &["connect", "echo", "close", "connect", "echo", "close"],
        reports: &["full", "resumed"],
    },
    // The session that was connected before the reload goes on, and its ticket is valid after it.
    Scenario {
        name: "reload",
        certificate: false,
        steps: &["connect", "echo", "pause", "echo", "close", "connect", "echo", "close"],
        reports: &["full", "paused", "full", "resumed"],
    },
    Scenario {
        name: "burst of 64 KiB",
        certificate: false,
        steps: &["connect", "burst", "echo", "close"],
        reports: &["full"],
    },
    Scenario {
        name: HALF_CLOSE,
        certificate: false,
        steps: &["connect", "half-close", "close"],
        reports: &[],
    },
    Scenario {
        name: "1 MiB each way",
        certificate: false,
        steps: &["connect", "bulk", "close"],
        reports: &[],
    },
];

pub(super) const HALF_CLOSE: &str = "half-close";

/// Deadline of a device, which is longer than its own: a JVM needs seconds to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const BURST: u32 = 64 * 1024;
const BULK: u32 = 1024 * 1024;

/// A device's command line.
pub(super) struct Device<'a> {
    pub(super) program: &'a Program,
    pub(super) ca: &'a Path,
    pub(super) own: &'a Pair,
    pub(super) version: &'a str,
    pub(super) buffer: usize,
}

impl Scenario {
    /// Runs a device. `on_pause` is called while the device waits between two steps.
    ///
    /// # Errors
    /// The output of the device, and the reasons of the proxy for connections that have ended otherwise than well.
    pub(super) async fn run(
        &self,
        device: &Device<'_>,
        proxy: &Proxy,
        on_pause: impl AsyncFnOnce(),
    ) -> Result<(), String> {
        let mut command = self.command(device, proxy.address);
        let mut running = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = running.stdin.take().unwrap();
        let mut output = BufReader::new(running.stdout.take().unwrap());
        let mut printed = String::new();
        if self.steps.contains(&"pause") {
            (output, printed) = until_paused(output).await;
            if printed.contains("paused") {
                on_pause().await;
                stdin.write_all(b"\n").unwrap();
            }
        }
        let rest = tokio::task::spawn_blocking(move || {
            let mut rest = String::new();
            output.read_to_string(&mut rest).unwrap();
            (rest, running.wait().unwrap().success())
        });
        let (rest, good) = timeout(PATIENCE, rest).await.expect("a device ends").unwrap();
        printed.push_str(&rest);
        if good && printed.lines().eq(self.reports.iter().copied()) {
            return Ok(());
        }
        Err(format!(
            "{} {}: {}{}",
            self.name,
            device.version,
            printed.replace('\n', "; "),
            reasons(proxy)
        ))
    }

    fn command(&self, device: &Device<'_>, proxy: SocketAddr) -> Command {
        let mut command = device.program.command();
        command.arg(proxy.port().to_string()).arg(device.ca);
        if self.certificate {
            command.arg(&device.own.files.cert).arg(&device.own.files.key);
        } else {
            command.args(["-", "-"]);
        }
        command.arg(device.version).arg(device.buffer.to_string()).args(self.steps);
        command
    }
}

/// Reads a device's output until it pauses or ends.
async fn until_paused<R: Read + Send + 'static>(
    mut output: BufReader<R>,
) -> (BufReader<R>, String) {
    let reading = tokio::task::spawn_blocking(move || {
        let mut printed = String::new();
        while output.read_line(&mut printed).unwrap() > 0 && !printed.ends_with("paused\n") {}
        (output, printed)
    });
    timeout(PATIENCE, reading).await.expect("a device pauses").unwrap()
}

fn reasons(proxy: &Proxy) -> String {
    let mut text = String::new();
    for &reason in Reason::ALL.iter().filter(|&&reason| reason != Reason::Ok) {
        let count = proxy.closed(reason);
        if count > 0 {
            let _infallible = write!(text, "{reason} {count}; ");
        }
    }
    text
}

/// Starts the legacy server, which answers requests of one line.
pub(super) async fn legacy_server() -> Backend {
    Backend::serving(|tcp| async {
        // The device may have closed the connection.
        let _gone = answer(BufStream::new(tcp)).await;
    })
    .await
}

async fn answer(mut device: BufStream<TcpStream>) -> std::io::Result<()> {
    let mut request = String::new();
    while device.read_line(&mut request).await? > 0 {
        match request.trim_end() {
            "echo" => device.write_all(b"echo\n").await?,
            "burst" => device.write_all(&transfer(BURST)).await?,
            "download" => device.write_all(&transfer(BULK)).await?,
            "upload" => {
                let mut received = vec![0; BULK as usize];
                device.read_exact(&mut received).await?;
                let good = received == transfer(BULK);
                device.write_all(if good { b"ok\n" } else { b"no\n" }).await?;
            }
            "collect" => {
                let mut rest = Vec::new();
                device.read_to_end(&mut rest).await?;
                device.write_all(format!("{}\n", rest.len()).as_bytes()).await?;
            }
            other => panic!("an unknown request: {other:?}"),
        }
        device.flush().await?;
        request.clear();
    }
    Ok(())
}

/// Returns the bytes of a transfer, as in `device.c`.
fn transfer(length: u32) -> Vec<u8> {
    (0..length).map(|place| (place.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}
