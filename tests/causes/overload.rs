//! More devices connect than the proxy can serve: at its limit of connections, and in a storm of handshakes.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::Scene;
use crate::support::access_log::has_fields;
use crate::support::{eventually, raw};

/// A listener that begins one full handshake per second.
const SLOW: &str = "limits.max_handshakes_per_second = 1\n";

impl Scene {
    /// Returns the seconds of a part of the handshakes.
    fn part(&self, part: &str, what: &str) -> f64 {
        let (_, text) = self.sidecar.ask("GET", "/metrics").unwrap();
        let series = format!(
            "tlsidecar_handshake_part_seconds_{what}{{listener=\"test\",part=\"{part}\"}} "
        );
        let line = text.lines().find_map(|line| line.strip_prefix(&series));
        line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
    }

    fn gauge(&self, name: &str) -> u64 {
        self.sidecar.count(&format!("tlsidecar_{name}{{listener=\"test\"}}"))
    }

    /// Connects a device that sends its ClientHello and is queued.
    async fn queued(&self) -> TcpStream {
        let before = self.gauge("handshakes_waiting");
        let mut tcp = self.connect().await;
        tcp.write_all(&raw::client_hello()).await.unwrap();
        eventually("it waits", || self.gauge("handshakes_waiting") > before).await;
        tcp
    }
}

#[tokio::test]
async fn a_device_that_gives_up_in_a_storm_is_unanswered_and_its_wait_is_ours() {
    let mut scene = Scene::new(SLOW).await;
    let _session = scene.device().echo(scene.address()).await.unwrap();
    let (wait, waits) = (scene.part("wait", "sum"), scene.part("wait", "count"));
    let device = scene.queued().await;
    device.set_zero_linger().unwrap();
    drop(device);
    has_fields(&scene.line("client_abandoned"), &["stage=\"unanswered\"", "phase=\"handshake\""]);
    assert_eq!(scene.unfinished("reset", "unanswered"), 1);
    assert!(scene.part("wait", "sum") > wait);
    assert_eq!(scene.part("wait", "count"), waits + 1.0);
    assert_eq!(scene.part("client", "count"), 1.0, "only the completed handshake");
}

#[tokio::test]
async fn the_wait_of_a_device_for_its_turn_is_not_the_devices_part() {
    let scene = Scene::new(SLOW).await;
    let _first = scene.device().echo(scene.address()).await.unwrap();
    let (client, wait) = (scene.part("client", "sum"), scene.part("wait", "sum"));
    let _second = scene.device().echo(scene.address()).await.unwrap();
    let (client, wait) = (scene.part("client", "sum") - client, scene.part("wait", "sum") - wait);
    assert!(wait > 0.5 && client < wait, "wait {wait}, client {client}");
}

#[tokio::test]
async fn devices_that_give_up_at_the_limit_of_connections_are_no_failures_of_theirs() {
    let mut scene = Scene::new("limits.max_connections = 1\n").await;
    let session = scene.device().echo(scene.address()).await.unwrap();
    let mut leaving = Vec::new();
    for _ in 0..3 {
        let mut tcp = scene.connect().await;
        tcp.write_all(&raw::client_hello()).await.unwrap();
        leaving.push(tcp);
    }
    // The proxy accepts one of them, which waits for a permit.
    eventually("two are in the queue", || scene.gauge("accept_queue") == 2).await;
    assert_eq!(scene.gauge("connections_at_limit"), 1);
    for tcp in &mut leaving {
        tcp.shutdown().await.unwrap();
    }
    drop(session);
    eventually("all have ended", || scene.unfinished("eof", "unanswered") == 3).await;
    has_fields(&scene.line("client_abandoned"), &["stage=\"unanswered\""]);
    assert!(!scene.sidecar.log().contains("client_tls_eof"), "{}", scene.sidecar.log());
    assert!(scene.sidecar.log().contains("the limit of connections is reached"));
    assert_eq!(scene.gauge("accept_queue"), 0);
}
