//! An unchanged broker behind the sidecar.
//!
//! mosquitto has a plaintext listener only; its clients speak TLS to the sidecar. If it is not installed, the test is
//! reported as skipped; in CI it is installed.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use tlsidecar::config::BackendAddress;
use tlsidecar::terms::labels::ReloadOutcome;

use crate::support::backend::free;
use crate::support::certs::Wish;
use crate::support::command::{Running, has, run};
use crate::support::{Authority, Proxy, eventually};

/// Starts a broker with a plaintext listener.
async fn broker(dir: &Path) -> (Running, SocketAddr) {
    let address = free();
    let config = dir.join("mosquitto.conf");
    let text = format!("listener {} 127.0.0.1\nallow_anonymous true\n", address.port());
    std::fs::write(&config, text + "max_queued_messages 0\npersistence false\n").unwrap();
    let mut command = Command::new("mosquitto");
    command.arg("-c").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
    let running = Running(command.spawn().unwrap());
    eventually("the broker listens", || TcpStream::connect(address).is_ok()).await;
    (running, address)
}

/// Returns a command that runs one of mosquitto's clients through the sidecar.
fn client(program: &str, proxy: &Proxy, authority: &Authority) -> Command {
    let mut command = Command::new(program);
    let port = proxy.address.port().to_string();
    command.args(["-h", "localhost", "-p", &port, "-V", "5", "-q", "1", "--cafile"]);
    command.arg(authority.ca());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_clients_lose_nothing_over_a_certificate_swap() {
    const CLIENTS: usize = 100;
    if !has("mosquitto") || !has("mosquitto_pub") {
        return;
    }
    let authority = Authority::new("ca");
    let (_broker, backend) = broker(authority.dir()).await;
    let pair = authority.server();
    let backend = backend.to_string().parse::<BackendAddress>().unwrap();
    let proxy = Proxy::start(backend, &pair);
    let active = || usize::try_from(proxy.active()).unwrap();

    // One subscribes to all of them, with QoS 1 and a persistent session.
    let received = authority.dir().join("received.txt");
    let mut subscriber = client("mosquitto_sub", &proxy, &authority);
    subscriber.args(["-t", "plant/#", "-F", "%t %p", "-i", "listener", "-c", "-x", "3600"]);
    subscriber.stdout(std::fs::File::create(&received).unwrap());
    let _subscriber = Running(subscriber.spawn().unwrap());
    eventually("the subscriber is connected", || active() == 1).await;

    // A hundred publish their standard input line by line, retained and with QoS 1.
    let mut publishers: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let mut command = client("mosquitto_pub", &proxy, &authority);
            command.args(["-t", &format!("plant/{n}"), "-l", "-r"]).stdin(Stdio::piped());
            Running(command.spawn().unwrap())
        })
        .collect();
    eventually("all are connected", || active() == CLIENTS + 1).await;
    let mut say = |round: &str| {
        for publisher in &mut publishers {
            let line = format!("{round}\n");
            publisher.0.stdin.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
        }
    };
    let got = |round: &str| {
        let text = std::fs::read_to_string(&received).unwrap();
        text.lines().filter(|line| line.ends_with(round)).count()
    };
    say("before");
    say("swap");
    authority.issue("server", &Wish { serial: 2, ..Wish::default() });
    let swapped = || proxy.reloads(ReloadOutcome::Swapped) > 0;
    eventually("the certificate is swapped", swapped).await;
    say("after");
    for round in ["before", "swap", "after"] {
        eventually(&format!("{round} has arrived"), || got(round) == CLIENTS).await;
    }
    // At the end of their input, the publishers send DISCONNECT and close_notify.
    for publisher in &mut publishers {
        drop(publisher.0.stdin.take());
    }
    for publisher in &mut publishers {
        let ended = || publisher.0.try_wait().unwrap().is_some_and(|status| status.success());
        eventually("a publisher ends", ended).await;
    }
    // A new client, with the new certificate, receives the retained messages.
    let mut late = client("mosquitto_sub", &proxy, &authority);
    late.args(["-t", "plant/#", "-C", &CLIENTS.to_string(), "-W", "20", "-F", "%p"]);
    let (good, text) = run(late).await;
    assert!(good && text.lines().filter(|line| *line == "after").count() == CLIENTS, "{text}");
}
