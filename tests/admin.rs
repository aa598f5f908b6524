//! The admin port answers, whatever its other clients do.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::process::binary;
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, Proxy, Sidecar, eventually, file};

/// Longest time to a response on a busy machine that builds and tests at the same time.
const AT_ONCE: Duration = Duration::from_secs(2);

async fn proxy() -> (Authority, Backend, Proxy) {
    let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
    let proxy = Proxy::start(backend.config(), &authority.server());
    (authority, backend, proxy)
}

fn request(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n")
}

/// Returns the whole response to a request. If `ends`, the client shuts down its side after the request.
async fn answer(admin: SocketAddr, method: &str, path: &str, ends: bool) -> String {
    let mut tcp = TcpStream::connect(admin).await.unwrap();
    let request = request(method, path) + "Connection: close\r\n\r\n";
    tcp.write_all(request.as_bytes()).await.unwrap();
    if ends {
        tcp.shutdown().await.unwrap();
    }
    let mut answer = String::new();
    within("an answer", tcp.read_to_string(&mut answer)).await.unwrap();
    answer
}

/// Opens `count` connections that send `begin` and then nothing, and checks that probes, metrics and a drain are
/// answered.
async fn answers_beside(count: usize, begin: &str) {
    let (_authority, _backend, proxy) = proxy().await;
    let admin = proxy.app.admin.unwrap();
    let mut held = Vec::new();
    for _ in 0..count {
        let mut tcp = TcpStream::connect(admin).await.unwrap();
        // The first ones have been evicted by now.
        let _gone = tcp.write_all(begin.as_bytes()).await;
        held.push(tcp);
    }
    for (method, path, status) in [
        ("GET", "/livez", "200"),
        ("GET", "/metrics", "200"),
        ("GET", "/readyz", "200"),
        ("POST", "/drain", "202"),
        ("GET", "/livez", "200"),
    ] {
        let start = Instant::now();
        let answer = answer(admin, method, path, false).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
        assert!(start.elapsed() < AT_ONCE, "{path} after {:?}", start.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_do_not_block_a_probe() {
    answers_beside(1000, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn incomplete_requests_do_not_block_a_probe() {
    answers_beside(500, "GET /livez HTTP/1.1\r\nHost: localhost\r\nX: ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_do_not_block_a_probe() {
    answers_beside(500, &(request("GET", "/livez") + "\r\n")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_do_not_read_do_not_block_a_probe() {
    answers_beside(200, &(request("GET", "/metrics") + "\r\n").repeat(50)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_shuts_down_its_side_gets_the_whole_response() {
    let (_authority, _backend, proxy) = proxy().await;
    for (method, path) in [
        ("GET", "/livez"),
        ("GET", "/"),
        ("GET", "/metrics"),
        ("GET", "/status"),
        ("GET", "/sessions"),
        ("GET", "/top"),
        ("POST", "/reload"),
        ("POST", "/drain"),
    ] {
        let answer = answer(proxy.app.admin.unwrap(), method, path, true).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        assert!(head.starts_with("HTTP/1.1 20"), "{path}: {head}");
        assert_eq!(length.unwrap().parse::<usize>().unwrap(), body.len(), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_few_file_descriptors_the_admin_port_has_what_it_needs() {
    let (authority, backend) = (Authority::new("ca"), Backend::echo().await);
    let text = file::text(backend.address, &authority.server(), "");
    let path = file::write(authority.dir(), &text);
    for limit in [64, 128] {
        let run = format!("ulimit -n {limit}; exec {:?} --config {path:?}", binary().get_program());
        let mut command = Command::new("sh");
        command.args(["-c", &run]);
        let sidecar = Sidecar::run(command);
        let device = Device::new(&authority);
        let limit_of_connections = sidecar.count("tlsidecar_connections_limit{listener=\"test\"}");
        let mut sessions = Vec::new();
        for _ in 0..limit_of_connections {
            sessions.push(device.echo(sidecar.address).await.unwrap());
        }
        // Devices wait in the backlog, and each client of the admin port keeps its connection.
        let mut waiting = Vec::new();
        for _ in 0..limit {
            waiting.push(TcpStream::connect(sidecar.address).await.unwrap());
            let mut kept = TcpStream::connect(sidecar.admin).await.unwrap();
            let _gone = kept.write_all((request("GET", "/livez") + "\r\n").as_bytes()).await;
            waiting.push(kept);
        }
        for (method, path) in [("GET", "/livez"), ("GET", "/metrics"), ("POST", "/reload")] {
            let start = Instant::now();
            let answer = answer(sidecar.admin, method, path, false).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{limit}: {path}: {answer}");
            assert!(start.elapsed() < AT_ONCE, "{path} after {:?}", start.elapsed());
        }
        let errors = "tlsidecar_accept_errors_total{kind=\"fd_limit\",listener=\"test\"}";
        assert_eq!(sidecar.count(errors), 0);
        assert!(!sidecar.log().contains("cannot accept"), "{}", sidecar.log());
        drop(waiting);
        let active = "tlsidecar_connections_active{listener=\"test\"}";
        eventually("only sessions are left", || sidecar.count(active) == limit_of_connections)
            .await;
    }
}
