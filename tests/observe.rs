//! Metrics, probes and the log report the state.

use std::io::{Read, Write};
use std::net::TcpStream;

use tlsidecar::terms::reason::Reason;
use tokio::io::AsyncWriteExt;

use crate::support::client::say_and_hear;
use crate::support::file;
use crate::support::process::ask;
use crate::support::proxy::{balances, closed_series, metric};
use crate::support::raw::{answer_to, old_hello};
use crate::support::{Authority, Backend, Device, Proxy, Sidecar, eventually};

async fn scene() -> (Authority, Backend, Proxy) {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let proxy = Proxy::start(backend.config(), &authority.server());
    (authority, backend, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_child_is_there_from_the_first_scrape() {
    let (_authority, _backend, proxy) = scene().await;
    let (status, text) = ask(proxy.app.admin.unwrap(), "GET", "/metrics", "").unwrap();
    assert_eq!(status, 200);
    for &reason in Reason::ALL {
        assert_eq!(metric(&text, &closed_series(reason)), Some(0), "{reason}");
    }
    for series in [
        "tlsidecar_connections_accepted_total{listener=\"test\"}",
        "tlsidecar_connections_active{listener=\"test\"}",
        "tlsidecar_connections_at_limit{listener=\"test\"}",
        "tlsidecar_bytes_total{direction=\"to_backend\",listener=\"test\"}",
        "tlsidecar_bytes_total{direction=\"to_client\",listener=\"test\"}",
        "tlsidecar_accept_errors_total{kind=\"fd_limit\",listener=\"test\"}",
        "tlsidecar_handshake_duration_seconds_count{kind=\"full\",listener=\"test\"}",
        "tlsidecar_handshake_duration_seconds_count{kind=\"resumed\",listener=\"test\"}",
        "tlsidecar_backend_connect_duration_seconds_count{listener=\"test\"}",
        "tlsidecar_reloads_total{outcome=\"swapped\"}",
        "tlsidecar_reloads_total{outcome=\"failed\"}",
        "tlsidecar_reload_failing",
        "tlsidecar_log_lines_dropped_total",
    ] {
        assert_eq!(metric(&text, series), Some(0), "{series}");
    }
    assert_eq!(text.matches("tlsidecar_handshakes_total{").count(), 9 * 3);
    let success = "tlsidecar_reload_last_success_timestamp_seconds";
    assert!(metric::<f64>(&text, success).unwrap() > 1.7e9);
    assert!(text.contains("tlsidecar_build_info{version="));
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_follow_a_connection_while_it_lives() {
    let (authority, _backend, proxy) = scene().await;
    let mut session = Device::new(&authority).connect(proxy.address).await.unwrap();
    say_and_hear(&mut session, &[1; 1000]).await.unwrap();
    // A connection can live for weeks: its bytes are counted at once.
    let bytes = |direction: &str| {
        proxy.count(&format!("tlsidecar_bytes_total{{direction={direction:?},listener=\"test\"}}"))
    };
    let both = || (bytes("to_backend"), bytes("to_client"));
    // The device can receive the answer a moment before it is counted.
    eventually("its bytes are counted", || both() == (1000, 1000)).await;
    assert_eq!(proxy.active(), 1);
    let took = "tlsidecar_handshake_duration_seconds_sum{kind=\"full\",listener=\"test\"}";
    assert!(proxy.seconds(took) > 0.0 && proxy.seconds(took) < 20.0);
    let connects = "tlsidecar_backend_connect_duration_seconds_count{listener=\"test\"}";
    assert_eq!(proxy.count(connects), 1);
    assert!(balances(&proxy.text()));
    session.shutdown().await.unwrap();
    proxy.ends_with(Reason::Ok).await;
    assert_eq!(proxy.active(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_answer_and_an_unknown_path_returns_the_routes() {
    let (_authority, backend, proxy) = scene().await;
    let ask = |method: &str, path: &str| ask(proxy.app.admin.unwrap(), method, path, "").unwrap();
    for path in ["/livez", "/startupz", "/readyz", "/metrics"] {
        assert_eq!(ask("GET", path).0, 200, "{path}");
        assert_eq!(ask("HEAD", path), (200, String::new()), "{path}");
        assert_eq!(ask("POST", path).0, 405, "{path}");
    }
    for path in ["/reload", "/drain"] {
        assert_eq!(ask("GET", path).0, 405, "{path}");
    }
    let (status, text) = ask("GET", "/elsewhere");
    assert!(status == 404 && text.contains("/metrics"), "{status} {text}");
    assert_eq!(ask("POST", "/reload"), (200, "unchanged\n".to_owned()));
    assert_eq!(backend.connections(), 0, "a probe never dials the backend");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_can_neither_drain_nor_reload() {
    let (_authority, _backend, proxy) = scene().await;
    for path in ["/drain", "/reload"] {
        let header = "Origin: https://evil.example\r\n";
        assert_eq!(ask(proxy.app.admin.unwrap(), "POST", path, header).unwrap().0, 403, "{path}");
    }
    assert_eq!(ask(proxy.app.admin.unwrap(), "GET", "/readyz", "").unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_whose_name_resolves_to_this_machine_reads_nothing() {
    let (_authority, _backend, proxy) = scene().await;
    for path in ["/", "/status", "/sessions", "/top", "/metrics"] {
        for (host, expected) in [("evil.example:9901", "403"), ("localhost:9901", "200")] {
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            let answer = answer_to(proxy.app.admin.unwrap(), request.as_bytes()).await;
            let status = String::from_utf8_lossy(&answer[9..12]).into_owned();
            assert_eq!(status, expected, "{path} of {host}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_of_the_admin_port_do_not_block_others() {
    let (_authority, _backend, proxy) = scene().await;
    let slow: Vec<_> = (0..40)
        .map(|_| {
            let mut tcp = TcpStream::connect(proxy.app.admin.unwrap()).unwrap();
            tcp.write_all(b"GET /metrics HT").unwrap();
            tcp
        })
        .collect();
    assert_eq!(ask(proxy.app.admin.unwrap(), "GET", "/livez", "").unwrap().0, 200);
    // They time out.
    for mut tcp in slow {
        tcp.set_read_timeout(Some(crate::support::wait::PATIENCE)).unwrap();
        let mut rest = Vec::new();
        tcp.read_to_end(&mut rest).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_keep_their_connections_do_not_block_probes() {
    let (_authority, _backend, proxy) = scene().await;
    let asked = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let answered = |tcp: &mut TcpStream| {
        tcp.set_read_timeout(Some(crate::support::wait::PATIENCE)).unwrap();
        tcp.write_all(asked).unwrap();
        let mut answer = [0; 1024];
        let read = tcp.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..read]).into_owned()
    };
    let mut kept = Vec::new();
    for _ in 0..100 {
        let mut tcp = TcpStream::connect(proxy.app.admin.unwrap()).unwrap();
        let answer = answered(&mut tcp);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        if !answer.contains("connection: close") {
            kept.push(tcp);
        }
    }
    assert!((16..=32).contains(&kept.len()), "{} are kept", kept.len());
    assert!(answered(&mut kept[0]).starts_with("HTTP/1.1 200"), "and are answered again");
}

/// Starts a sidecar that logs JSON.
async fn logging_json(filter: &str) -> (Authority, Backend, Sidecar) {
    let authority = Authority::new("ca");
    let backend = Backend::echo().await;
    let more = format!("tls.alpn = [\"mqtt\"]\n[log]\nformat = \"json\"\nfilter = {filter:?}\n");
    let text = file::text(backend.address, &authority.server(), &more);
    let sidecar = Sidecar::start(authority.dir(), &text);
    (authority, backend, sidecar)
}

/// Returns the value of a key in a line of JSON; strings without quotes.
fn field<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let rest = line.split_once(&format!("\"{key}\":"))?.1;
    Some(match rest.strip_prefix('"') {
        Some(text) => text.split('"').next()?,
        None => rest.split([',', '}']).next()?,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_has_one_line_with_all_fields_for_a_connection() {
    let (authority, backend, mut sidecar) = logging_json("info").await;
    let device = Device::new(&authority).offering(&["mqtt"]);
    let mut session = device.connect(sidecar.address).await.unwrap();
    let peer = session.get_ref().0.local_addr().unwrap().to_string();
    say_and_hear(&mut session, b"four").await.unwrap();
    session.shutdown().await.unwrap();
    drop(session);
    sidecar.until("the line is there", |log| log.contains("\"target\":\"access\""));
    let log = sidecar.log();
    let lines: Vec<_> = log.lines().filter(|l| l.contains("\"target\":\"access\"")).collect();
    assert_eq!(lines.len(), 1);
    let backend = backend.address.to_string();
    for (key, value) in [
        ("level", "INFO"),
        ("listener", "test"),
        ("peer", &peer),
        ("reason", "ok"),
        ("phase", "relay"),
        ("sni", "localhost"),
        ("alpn", "mqtt"),
        ("tls", "1.3"),
        ("cipher", "TLS_AES_128_GCM_SHA256"),
        ("handshake", "full"),
        ("backend", &backend),
        ("bytes_to_backend", "4"),
        ("bytes_to_client", "4"),
    ] {
        assert_eq!(field(lines[0], key), Some(value), "{key} in {}", lines[0]);
    }
    for key in [
        "connection",
        "handshake_ms",
        "connect_ms",
        "last_to_backend_ms",
        "last_to_client_ms",
        "duration_ms",
    ] {
        assert!(field(lines[0], key).unwrap().parse::<f64>().unwrap() > 0.0, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_handshake_is_logged_with_its_cause_and_a_probe_is_not_logged() {
    let (_authority, _backend, mut sidecar) = logging_json("info").await;
    drop(TcpStream::connect(sidecar.address).unwrap());
    answer_to(sidecar.address, b"GET / HTTP/1.1\r\n\r\n").await;
    sidecar.until("the line is there", |log| log.contains("client_tls_not_tls"));
    let probes = "tlsidecar_connections_closed_total{listener=\"test\",reason=\"client_probe\"}";
    eventually("the probe is counted", || sidecar.count(probes) > 0).await;
    let log = sidecar.log();
    assert!(!log.contains("client_probe"), "{log}");
    let line = log.lines().find(|line| line.contains("client_tls_not_tls")).unwrap();
    assert_eq!(field(line, "phase"), Some("handshake"));
    assert_eq!(field(line, "level"), Some("INFO"), "a peer's fault is no error of ours");
    assert!(field(line, "error").is_some());
    assert_eq!(field(line, "looks_like"), Some("http"));
    assert_eq!((field(line, "what"), field(line, "alert")), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_handshake_is_logged_with_the_name_in_the_hello() {
    let (_authority, _backend, mut sidecar) = logging_json("info").await;
    // The device does not know our CA.
    let stranger = Device::new(&Authority::new("other"));
    assert!(stranger.connect(sidecar.address).await.is_err());
    sidecar.until("the line is there", |log| log.contains("client_tls_alert"));
    let log = sidecar.log();
    let line = log.lines().find(|line| line.contains("client_tls_alert")).unwrap();
    assert_eq!((field(line, "sni"), field(line, "phase")), (Some("localhost"), Some("handshake")));
    assert_eq!(field(line, "error"), Some("the client sent the fatal alert unknown_ca"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incompatible_parameter_is_logged_in_words() {
    let (_authority, _backend, mut sidecar) = logging_json("info").await;
    // TLS 1.1; and TLS 1.2 without an extension.
    answer_to(sidecar.address, &old_hello([3, 2], &[[0xc0, 0x2f]])).await;
    answer_to(sidecar.address, &old_hello([3, 3], &[[0xc0, 0x2f]])).await;
    sidecar.until("both are told", |log| log.matches("client_tls_incompatible").count() == 2);
    let log = sidecar.log();
    let lines = log.lines().filter(|line| line.contains("client_tls_incompatible"));
    let mut errors: Vec<_> = lines.map(|line| field(line, "error").unwrap()).collect();
    errors.sort_unstable();
    let expected =
        ["the client offers no TLS 1.2 or newer", "the client offers no signature scheme"];
    assert_eq!(errors, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn levels_can_be_set_by_target() {
    let (authority, _backend, mut sidecar) =
        logging_json("warn,tlsidecar::app=info,access=debug").await;
    drop(Device::new(&authority).echo(sidecar.address).await.unwrap());
    sidecar.until("the line is there", |log| log.contains("\"target\":\"access\""));
    assert!(!sidecar.log().contains("certificate in force"));
}
