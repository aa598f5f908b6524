//! `GET /events`: what happens, to readers that come, go and return.

mod command;

use std::net::SocketAddr;

use serde_json::Value;
use tlsidecar::config::ClientAuth;
use tlsidecar::terms::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::process::ask;
use crate::support::raw::answer_to;
use crate::support::wait::within;
use crate::support::{Authority, Device, Fleet, eventually};

/// Starts a proxy that requires client certificates.
async fn fleet() -> Fleet {
    Fleet::new(ClientAuth::Required, |_, _| ()).await
}

async fn read(fleet: &Fleet, query: &str, header: &str) -> EventReader {
    EventReader::connect(fleet.admin(), query, header).await
}

/// Connects a device, and ends its session after `count` have ended before.
async fn visit(fleet: &Fleet, name: &str, count: u64) {
    drop(fleet.device(name).echo(fleet.proxy.address).await.unwrap());
    let ended = || fleet.proxy.closed(Reason::Ok) + fleet.proxy.closed(Reason::ClientTruncated);
    eventually("it has ended", || ended() > count).await;
}

/// A reader of events.
struct EventReader {
    tcp: TcpStream,
    text: String,
}

impl EventReader {
    async fn connect(admin: SocketAddr, query: &str, header: &str) -> Self {
        let mut tcp = TcpStream::connect(admin).await.unwrap();
        let request = format!("GET /events{query} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n");
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut reader = Self { tcp, text: String::new() };
        while !reader.text.contains(": events\n\n") {
            assert!(reader.more().await, "{}", reader.text);
        }
        assert!(reader.text.starts_with("HTTP/1.1 200"), "{}", reader.text);
        assert!(reader.text.contains("text/event-stream"), "{}", reader.text);
        reader
    }

    /// Reads more. Returns false at the end.
    async fn more(&mut self) -> bool {
        let mut chunk = [0; 8192];
        let read = within("events", self.tcp.read(&mut chunk)).await.unwrap();
        self.text.push_str(&String::from_utf8_lossy(&chunk[..read]));
        read > 0
    }

    /// Waits for the first event, and returns its data.
    async fn first(&mut self) -> Value {
        loop {
            let complete = self
                .text
                .lines()
                .find_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok());
            if let Some(event) = complete {
                return event;
            }
            assert!(self.more().await, "no event");
        }
    }

    /// Waits for so many events, and returns their data.
    async fn events(&mut self, count: usize) -> Vec<Value> {
        loop {
            let lines = self.text.lines().filter_map(|line| line.strip_prefix("data: "));
            let found: Vec<_> = lines.filter_map(|data| serde_json::from_str(data).ok()).collect();
            if found.len() >= count {
                assert_eq!(found.len(), count, "{found:?}");
                return found;
            }
            assert!(self.more().await, "only {found:?}");
        }
    }
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["kind"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_an_event_when_it_opens_and_when_it_closes_and_a_refused_one_names_the_claim()
{
    let fleet = fleet().await;
    let mut reader = read(&fleet, "?kind=opened,closed,refused", "").await;
    visit(&fleet, "pump-7", 0).await;
    let opened = reader.events(2).await;
    assert_eq!(kinds(&opened), ["opened", "closed"]);
    for event in &opened {
        assert_eq!((&event["identity"], &event["listener"]), (&"pump-7".into(), &"test".into()));
        assert_eq!(event["sni"], "localhost");
    }
    assert_eq!(opened[1]["bytes_to_backend"], 4, "{}", opened[1]);
    let strangers = Authority::new("strangers");
    let stranger = Device::showing(&fleet.servers, &strangers.device("pump-8"));
    stranger.refused_with(fleet.proxy.address).await;
    let refused = reader.events(3).await.remove(2);
    assert_eq!(
        (&refused["kind"], &refused["reason"]),
        (&"refused".into(), &"client_cert_unknown_ca".into())
    );
    assert_eq!(
        (&refused["identity"], &refused["cert_subject"]),
        (&Value::Null, &"CN=pump-8".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_rejects_our_certificate_is_an_event_with_the_likely_cause() {
    let fleet = fleet().await;
    visit(&fleet, "pump-7", 0).await;
    let mut reader = read(&fleet, "?kind=refused", "").await;
    let distrusting = Authority::new("others");
    let distrusting = Device::showing(&distrusting, &fleet.devices.device("pump-7"));
    distrusting.connect(fleet.proxy.address).await.unwrap_err();
    let refused = reader.first().await;
    assert_eq!(
        (&refused["reason"], &refused["likely_cause"]),
        (&"client_tls_alert".into(), &"unknown_ca".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_selects_devices_by_name_also_those_that_are_refused() {
    let fleet = fleet().await;
    let mut reader = read(&fleet, "?identity=pump-*", "").await;
    answer_to(fleet.proxy.address, b"GET / HTTP/1.1\r\n\r\n").await;
    visit(&fleet, "sensor-1", 0).await;
    visit(&fleet, "pump-7", 1).await;
    let strangers = Authority::new("strangers");
    let stranger = strangers.device("pump-8");
    Device::showing(&fleet.servers, &stranger).refused_with(fleet.proxy.address).await;
    let found = reader.events(3).await;
    assert_eq!(kinds(&found), ["opened", "closed", "refused"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_returns_continues_after_its_last_event() {
    let fleet = fleet().await;
    let mut reader = read(&fleet, "?kind=opened,closed", "").await;
    visit(&fleet, "one", 0).await;
    let last = reader.events(2).await[1]["number"].clone();
    drop(reader);
    visit(&fleet, "two", 1).await;
    let header = format!("Last-Event-ID: {last}\r\n");
    let mut by_header = read(&fleet, "?kind=opened,closed&since=0", &header).await;
    let mut by_query = read(&fleet, &format!("?kind=opened,closed&since={last}"), "").await;
    for reader in [&mut by_header, &mut by_query] {
        let found = reader.events(2).await;
        assert!(found.iter().all(|event| event["identity"] == "two"), "{found:?}");
    }
    assert_eq!(ask(fleet.admin(), "GET", "/events?since=x", "").unwrap().0, 400);
    assert_eq!(ask(fleet.admin(), "GET", "/events", "Last-Event-ID: x\r\n").unwrap().0, 400);
    assert_eq!(ask(fleet.admin(), "GET", "/events?kind=open", "").unwrap().0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_has_seen_no_event_continues_after_the_number_of_the_start() {
    let fleet = fleet().await;
    let reader = read(&fleet, "", "").await;
    let start = reader.text.lines().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();
    drop(reader);
    visit(&fleet, "one", 0).await;
    let mut again = read(&fleet, "?kind=opened", &format!("Last-Event-ID: {start}\r\n")).await;
    assert_eq!(kinds(&again.events(1).await), ["opened"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_and_the_state_of_a_backend_are_events_that_are_kept_for_later_readers() {
    let fleet = fleet().await;
    fleet.servers.server();
    fleet.proxy.app.reload.reload().await.unwrap();
    let mut reader = read(&fleet, "?since=0&kind=certificate", "").await;
    let found = reader.events(2).await;
    assert_eq!(kinds(&found), ["certificate", "lost"], "no session was recorded before");
    assert_eq!(found[0]["listener"], "test");
    let mut reader = read(&fleet, "?kind=backend,refused", "").await;
    visit(&fleet, "one", 0).await;
    let up = reader.events(1).await.remove(0);
    assert_eq!(
        (&up["up"], &up["backend"]),
        (&true.into(), &fleet.backend.address.to_string().into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_shows_the_steps_of_a_drain_and_ends_with_it() {
    let fleet = fleet().await;
    let mut reader = read(&fleet, "", "").await;
    fleet.proxy.app.shutdown.drain();
    let found = reader.events(3).await;
    let phases: Vec<_> = found.iter().map(|event| event["phase"].as_str().unwrap()).collect();
    assert_eq!(phases, ["draining", "closing", "drained"]);
    while reader.more().await {}
    let mut late = read(&fleet, "?since=0&kind=drain", "").await;
    assert_eq!(kinds(&late.events(4).await), ["lost", "drain", "drain", "drain"]);
    while late.more().await {}
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_readers_is_bounded_and_a_reader_that_leaves_makes_room() {
    let fleet = fleet().await;
    let mut readers = Vec::new();
    for _ in 0..8 {
        readers.push(read(&fleet, "", "").await);
    }
    assert_eq!(ask(fleet.admin(), "GET", "/events", "").unwrap().0, 503);
    assert_eq!(ask(fleet.admin(), "HEAD", "/events", "").unwrap().0, 200, "it reads no events");
    assert_eq!(ask(fleet.admin(), "GET", "/events?listener=nosuch", "").unwrap().0, 400);
    drop(readers);
    let status = || {
        use std::io::{Read as _, Write as _};
        let mut tcp = std::net::TcpStream::connect(fleet.admin()).unwrap();
        tcp.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut line = [0; 12];
        tcp.read_exact(&mut line).unwrap();
        line
    };
    eventually("there is room", || status() == *b"HTTP/1.1 200").await;
}
