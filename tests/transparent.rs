//! Connections to the backend from the device's address, in network namespaces that the page's commands route.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::client::say_and_hear;
use crate::support::command::{has, skipped};
use crate::support::file;
use crate::support::network::{Link, Network};
use crate::support::page::{How, blocks};
use crate::support::process::by_shell;
use crate::support::wait::{eventually, within};
use crate::support::{Authority, Device, Sidecar};

const PAGE: &str = "docs/transparent-source.md";

const FROM_CLIENTS: &str = "balance.source = \"client\"\n";

/// A server that sends its client's address in a line, and then what it receives.
const SERVER: &str = "
import socket, sys, threading
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
server = socket.create_server((sys.argv[1], 1883), family=family)
print('listening', flush=True)
def serve(client, address):
    client.sendall((address[0] + '\\n').encode())
    while data := client.recv(4096):
        client.sendall(data)
    client.close()
while True:
    threading.Thread(target=serve, args=server.accept(), daemon=True).start()
";

/// A server in a namespace. It is killed on drop.
struct Server(Child);

impl Server {
    fn start(namespace: &str, address: &str) -> Self {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, "python3", "-c", SERVER, address]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "listening\n");
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It fails if it has ended already.
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

fn network() -> Option<Network> {
    if has("python3") { Network::new() } else { None }
}

/// Runs the commands of a section of the page in the network's namespace.
fn route(network: &Network, section: &str) {
    let blocks = blocks(PAGE).into_iter();
    let run: Vec<_> =
        blocks.filter(|block| block.section == section && block.how == How::Succeeds).collect();
    assert!(!run.is_empty(), "{PAGE} has no commands in {section:?}");
    for block in run {
        let script = format!("set -e; SERVER_LINK={}\n{}", network.server_link(), block.commands);
        assert!(network.run(&script), "{}", block.commands);
    }
}

/// Connects a device over `tcp`, exchanges bytes with the server, and returns the device's address as the server sees it.
async fn seen(authority: &Authority, tcp: TcpStream) -> String {
    let session = within("TLS", Device::new(authority).connect_over(tcp)).await.unwrap();
    let mut session = tokio::io::BufReader::new(session);
    let mut line = String::new();
    within("the address", session.read_line(&mut line)).await.unwrap();
    within("the echo", say_and_hear(&mut session, b"both ways")).await.unwrap();
    line.trim_end().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_on_the_same_host_sees_the_address_of_the_device() {
    let Some(network) = network() else { return };
    let authority = Authority::new("ca");
    route(&network, "Route the answers of a server on this host");
    let _server = Server::start(network.name(), "127.0.0.1");
    let server = SocketAddr::from(([127, 0, 0, 1], 1883));
    let sidecar = network.sidecar_to(&authority, server, FROM_CLIENTS);
    let tcp = TcpStream::connect(sidecar.address).await.unwrap();
    let own = tcp.local_addr().unwrap().ip().to_string();
    assert_eq!(seen(&authority, tcp).await, own);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_sees_the_address_of_ipv6_that_a_load_balancer_states() {
    let Some(network) = network() else { return };
    let authority = Authority::new("ca");
    route(&network, "Route the answers of a server on this host");
    let _server = Server::start(network.name(), "::1");
    let server = "[::1]:1883".parse().unwrap();
    let more = format!("{FROM_CLIENTS}proxy_protocol.accept_from = [\"198.18.0.0/15\"]\n");
    let sidecar = network.sidecar_to(&authority, server, &more);
    let mut tcp = TcpStream::connect(sidecar.address).await.unwrap();
    tcp.write_all(b"PROXY TCP6 2001:db8::7 2001:db8::1 4000 8883\r\n").await.unwrap();
    assert_eq!(seen(&authority, tcp).await, "2001:db8::7");
    // This device has an address of IPv4, and the server has none.
    let mut tcp = TcpStream::connect(sidecar.address).await.unwrap();
    tcp.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 4000 8883\r\n").await.unwrap();
    let mut session = Device::new(&authority).connect_over(tcp).await.unwrap();
    assert_eq!(within("its end", session.read(&mut [0; 1])).await.unwrap(), 0);
    let mut sidecar = sidecar;
    sidecar.until("the reason", |log| log.contains("reason=\"backend_unreachable\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_on_another_machine_sees_the_address_of_the_device() {
    let Some(network) = network() else { return };
    let authority = Authority::new("ca");
    let machine = network.separate_backends();
    route(&network, "Route the answers of a server on another machine");
    let server = network.near(Link::Backends);
    let _server = Server::start(machine.name(), &server.to_string());
    let sidecar = network.sidecar_to(&authority, (server, 1883).into(), FROM_CLIENTS);
    let tcp = TcpStream::connect(sidecar.address).await.unwrap();
    let own = tcp.local_addr().unwrap().ip().to_string();
    assert_eq!(seen(&authority, tcp).await, own);
}

/// Returns a command that runs the binary without capabilities. Reports the test as skipped if there are none to lose.
fn without_capabilities() -> Option<Command> {
    if !has("setpriv") {
        return None;
    }
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    if own.lines().any(|line| line.starts_with("CapEff:") && line.ends_with("0000")) {
        skipped("the tests have no capabilities: not root");
        return None;
    }
    Some(by_shell("exec setpriv --bounding-set -all --inh-caps -all \"$@\""))
}

#[test]
fn a_missing_capability_prevents_the_start_and_is_a_warning_of_check() {
    let (Some(mut start), Some(mut check)) = (without_capabilities(), without_capabilities())
    else {
        return;
    };
    let authority = Authority::new("ca");
    let backend = SocketAddr::from(([127, 0, 0, 1], 1883));
    let text = file::text(backend, &authority.server(), FROM_CLIENTS);
    let path = file::write(authority.dir(), &text);
    let started = start.arg("--config").arg(&path).stderr(Stdio::piped()).output().unwrap();
    let log = String::from_utf8(started.stderr).unwrap();
    assert_eq!(started.status.code(), Some(1), "{log}");
    assert!(log.contains("\"test\"") && log.contains("CAP_NET_ADMIN"), "{log}");
    let checked = check.args(["check", "--config"]).arg(&path).output().unwrap();
    let output = String::from_utf8(checked.stderr).unwrap();
    assert_eq!(checked.status.code(), Some(0), "{output}");
    assert!(output.contains("warning: ") && output.contains("CAP_NET_ADMIN"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_without_the_capability_fails_and_applies_the_rest() {
    let Some(mut command) = without_capabilities() else { return };
    let authority = Authority::new("ca");
    let text = |more: &str| {
        let backend = SocketAddr::from(([127, 0, 0, 1], 1883));
        file::text(backend, &authority.server(), more)
    };
    command.arg("--config").arg(file::write(authority.dir(), &text("")));
    let sidecar = Sidecar::run(command);
    let more = format!("{FROM_CLIENTS}limits.max_connections = 17\n");
    file::write(authority.dir(), &text(&more));
    let (status, answer) = sidecar.ask("POST", "/reload").unwrap();
    assert!(status >= 400 && answer.contains("CAP_NET_ADMIN"), "{status} {answer}");
    let limit = || sidecar.count("tlsidecar_connections_limit{listener=\"test\"}");
    eventually("the rest is applied", || limit() == 17).await;
    file::write(authority.dir(), &text("limits.max_connections = 18\n"));
    assert_eq!(sidecar.ask("POST", "/reload").unwrap().0, 200);
}
