//! Backends: routes, names, and backends that do not answer.

use std::process::Command;
use std::time::{Duration, Instant};

use tlsidecar::config::{BackendAddress, Route, Timeouts};
use tlsidecar::terms::name_pattern::NamePattern;
use tlsidecar::terms::reason::Reason;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use crate::support::admin::Client;
use crate::support::backend::{FullBacklog, echo, nobody};
use crate::support::certs::Wish;
use crate::support::file;
use crate::support::process::ask;
use crate::support::proxy::{closed_series, listener};
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, Proxy, Sidecar};

fn address(text: &str) -> BackendAddress {
    text.parse::<BackendAddress>().unwrap()
}

/// Asserts that a device whose backend is unavailable gets an orderly end, counted with this reason.
async fn fails(backend: BackendAddress, reason: Reason) {
    let authority = Authority::new("ca");
    let mut listener = listener(backend, &authority.server());
    listener.timeouts = Timeouts { connect: Duration::from_millis(400), ..Timeouts::default() };
    let proxy = Proxy::with(listener);
    let mut session = Device::new(&authority).connect(proxy.address).await.unwrap();
    assert_eq!(within("the end", session.read(&mut [0; 1])).await.unwrap(), 0);
    proxy.ends_with(reason).await;
}

#[tokio::test]
async fn a_backend_that_refuses_is_counted_as_refused() {
    fails(address(&nobody().to_string()), Reason::BackendRefused).await;
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_counted_as_unreachable() {
    // RFC 6761 section 6.4: this name never exists.
    fails(address("broker.invalid:1883"), Reason::BackendUnreachable).await;
}

#[tokio::test]
async fn a_unix_socket_that_is_not_there_is_counted_as_unreachable() {
    fails(address("unix:/nonexistent/server.sock"), Reason::BackendUnreachable).await;
}

#[tokio::test]
async fn a_backend_that_does_not_answer_is_counted_after_the_connect_timeout() {
    let full = FullBacklog::new().await;
    let start = Instant::now();
    fails(address(&full.address.to_string()), Reason::BackendTimeout).await;
    assert!(start.elapsed() >= Duration::from_millis(400));
}

#[tokio::test]
async fn a_backend_that_comes_back_is_found_by_the_next_connection() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let place = backend.address;
    let proxy = Proxy::start(backend.config(), &authority.server());
    let device = Device::new(&authority);
    device.echo(proxy.address).await.unwrap();
    backend.end().await;
    proxy.ends_with(Reason::ClientTruncated).await;
    for gone in 1..4 {
        let mut session = device.connect(proxy.address).await.unwrap();
        assert_eq!(within("the end", session.read(&mut [0; 1])).await.unwrap(), 0);
        let refused = || proxy.closed(Reason::BackendRefused) == gone;
        crate::support::eventually("it is counted", refused).await;
    }
    let _back = Backend::on(TcpListener::bind(place).await.unwrap(), echo);
    device.echo(proxy.address).await.unwrap();
}

#[tokio::test]
async fn the_name_of_a_backend_is_reported_with_its_addresses_and_age() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let named = format!("localhost:{}", backend.address.port());
    let proxy = Proxy::start(address(&named), &authority.server());
    Device::new(&authority).echo(proxy.address).await.unwrap();
    assert_eq!(proxy.count("tlsidecar_backend_name_failing{name=\"localhost\"}"), 0);
    let age = proxy.seconds("tlsidecar_backend_name_age_seconds{name=\"localhost\"}");
    assert!((0.0..60.0).contains(&age), "{age}");
    let admin = proxy.app.admin.unwrap();
    let asking = tokio::task::spawn_blocking(move || ask(admin, "GET", "/status", "").unwrap());
    let (_, status) = within("the status", asking).await.unwrap();
    let name = &status[status.find("\"names\":").unwrap()..];
    assert!(name.contains("\"name\":\"localhost\"") && name.contains("127.0.0.1"), "{status}");
    assert!(name.contains("\"error\":null"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_descriptor_is_not_counted_for_the_backend() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let text = file::text(backend.address, &authority.server(), "");
    let sidecar = Sidecar::start(authority.dir(), &text);
    let device = Device::new(&authority);
    let _kept = device.echo(sidecar.address).await.unwrap();
    // Over an open connection: a new one would need a descriptor.
    let mut admin = Client::connect(sidecar.admin).await;
    // One descriptor for the device, the lowest that is free, and none for the backend.
    let is_free =
        |fd: &usize| !std::path::Path::new(&format!("/proc/{}/fd/{fd}", sidecar.pid())).exists();
    let free = (0..).find(is_free).unwrap();
    let (pid, nofile) = (sidecar.pid().to_string(), format!("--nofile={}:20000", free + 1));
    let limited = Command::new("prlimit").args(["--pid", &pid, &nofile]).status().unwrap();
    assert!(limited.success());
    let mut session = device.connect(sidecar.address).await.unwrap();
    assert_eq!(within("the end", session.read(&mut [0; 1])).await.unwrap(), 0);
    admin.until(&closed_series(Reason::ProxyFdLimit), |count| count == 1).await;
    let backend = backend.address;
    let up = format!("tlsidecar_backend_up{{backend=\"{backend}\",listener=\"test\"}}");
    assert_eq!(admin.count(&up).await, 1);
    for result in ["refused", "timeout", "unreachable", "error"] {
        let labels = format!("backend=\"{backend}\",listener=\"test\",result=\"{result}\"");
        let connects = format!("tlsidecar_backend_connects_total{{{labels}}}");
        assert_eq!(admin.count(&connects).await, 0, "{result}");
    }
}

#[tokio::test]
async fn the_name_and_the_protocol_decide_the_backend() {
    let authority = Authority::new("ca");
    let (own, named, spoken) =
        (Backend::echo().await, Backend::echo().await, Backend::echo().await);
    let mut listener = listener(own.config(), &authority.server());
    listener.tls.alpn = vec![b"modbus".to_vec()];
    listener.routes = vec![
        Route {
            sni: vec!["*.local.host".parse::<NamePattern>().unwrap()],
            alpn: Vec::new(),
            backend: named.config().into(),
            tls: None,
        },
        Route {
            sni: Vec::new(),
            alpn: vec![b"modbus".to_vec()],
            backend: spoken.config().into(),
            tls: None,
        },
    ];
    let pair = authority
        .issue("server", &Wish { names: &["localhost", "a.local.host"], ..Wish::default() });
    listener.tls.certificates = vec![pair.files];
    let proxy = Proxy::with(listener);
    let device = Device::new(&authority);
    device.clone().asking_for("a.local.host").echo(proxy.address).await.unwrap();
    device.clone().offering(&["modbus"]).echo(proxy.address).await.unwrap();
    device.echo(proxy.address).await.unwrap();
    assert_eq!((own.connections(), named.connections(), spoken.connections()), (1, 1, 1));
}

#[tokio::test]
async fn a_device_without_a_route_gets_an_orderly_end_counted_by_its_cause() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let wish = Wish { names: &["localhost", "127.0.0.1", "a.local.host"], ..Wish::default() };
    let mut listener = listener(backend.config(), &authority.issue("server", &wish));
    listener.tls.alpn = vec![b"mqtt".to_vec(), b"modbus".to_vec()];
    listener.routes = vec![Route {
        sni: vec!["localhost".parse::<NamePattern>().unwrap()],
        alpn: vec![b"modbus".to_vec()],
        backend: backend.config().into(),
        tls: None,
    }];
    listener.backend = None;
    let proxy = Proxy::with(listener);
    let count =
        |what| proxy.count(&format!("tlsidecar_no_route_total{{listener=\"test\",what={what:?}}}"));
    let counts = || ["no_sni", "unknown_name", "alpn"].map(count);
    assert_eq!(counts(), [0; 3], "exported before the first one");
    let device = Device::new(&authority).offering(&["mqtt"]);
    for (number, name, expected) in
        [(1, "localhost", [0, 0, 1]), (2, "127.0.0.1", [1, 0, 1]), (3, "a.local.host", [1, 1, 1])]
    {
        let mut session = device.clone().asking_for(name).connect(proxy.address).await.unwrap();
        assert_eq!(within("the end", session.read(&mut [0; 1])).await.unwrap(), 0);
        proxy.end_with(Reason::NoRoute, number).await;
        assert_eq!(counts(), expected, "{name}");
    }
}

#[tokio::test]
async fn a_listener_with_a_backend_has_no_counters_of_missing_routes() {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    assert!(!proxy.text().contains("tlsidecar_no_route_total"), "{}", proxy.text());
}
