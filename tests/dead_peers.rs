//! Peers that vanish without a packet: a NAT that forgot the connection, an empty battery, a host without power.
//!
//! **Not here.** Peers that are there and do not read: `deadlines.rs`.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::support::client::{Session, say_and_hear};
use crate::support::network::{Link, Network};
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, Sidecar, bytes, eventually};

/// Settings with which a peer is lost within three seconds.
const SHORT: &str = "tcp.keepalive = \"1s\"\ntcp.user_timeout = \"3s\"\n";

/// A proxy in a namespace of its own, and a backend that reports the end of each connection.
struct Scene {
    // Before the network, which it runs in.
    sidecar: Sidecar,
    authority: Authority,
    backend_ends: UnboundedReceiver<()>,
    _backend: Backend,
    network: Network,
}

impl Scene {
    async fn new(tcp: &str) -> Option<Self> {
        let network = Network::new()?;
        let authority = Authority::new("ca");
        let (ended, backend_ends) = unbounded_channel();
        let address = SocketAddr::from((network.near(Link::Backends), 0));
        let listener = TcpListener::bind(address).await.unwrap();
        let backend = Backend::on(listener, move |mut tcp| {
            let ended = ended.clone();
            async move {
                let mut wish = [0];
                if tcp.read_exact(&mut wish).await.is_ok() {
                    // The echo shows that the connection is complete.
                    let _gone = tcp.write_all(&wish).await;
                    match &wish {
                        b"p" => while tcp.write_all(&[7; 10_000]).await.is_ok() {},
                        _ => while tcp.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {},
                    }
                }
                let _test_ended = ended.send(());
            }
        });
        let sidecar = network.sidecar(&authority, backend.address.port(), tcp);
        Some(Self { sidecar, authority, backend_ends, _backend: backend, network })
    }

    /// Connects a device whose backend pushes bytes (`p`) or only reads (`q`).
    async fn device(&self, wish: &[u8; 1]) -> Session {
        let device = Device::new(&self.authority);
        let mut session = device.connect(self.sidecar.address).await.unwrap();
        say_and_hear(&mut session, wish).await.unwrap();
        session
    }

    fn lost(&self, reason: &str) -> usize {
        self.sidecar.log().matches(&format!("reason=\"{reason}\"")).count()
    }

    /// Waits until two connections have ended for this reason. Returns the time since `start`.
    async fn two_are_lost(&self, reason: &str, start: Instant, limit: Duration) -> Duration {
        while self.lost(reason) < 2 {
            assert!(start.elapsed() < limit, "not within {limit:?}:\n{}", self.sidecar.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        start.elapsed()
    }
}

/// Reads from a session until the test ends.
fn read_on(mut session: Session) {
    tokio::spawn(async move { while session.read(&mut [0; 4096]).await.is_ok() {} });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_vanishes_is_lost_with_its_backend_connection_silent_or_not() {
    let Some(mut scene) = Scene::new(SHORT).await else { return };
    let silent = scene.device(b"q").await;
    read_on(scene.device(b"p").await);
    scene.network.lose(Link::Devices, 100);
    let took = scene.two_are_lost("client_lost", Instant::now(), Duration::from_secs(15)).await;
    assert!(took >= Duration::from_secs(2), "{took:?}");
    for _ in 0..2 {
        within("the end of a backend connection", scene.backend_ends.recv()).await.unwrap();
    }
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_vanishes_is_lost_with_its_devices_silent_or_not() {
    let Some(scene) = Scene::new(SHORT).await else { return };
    let mut silent = scene.device(b"q").await;
    let mut sending = scene.device(b"q").await;
    scene.network.lose(Link::Backends, 100);
    let sent = tokio::spawn(async move { while sending.write_all(&[1; 10_000]).await.is_ok() {} });
    let took = scene.two_are_lost("backend_lost", Instant::now(), Duration::from_secs(15)).await;
    assert!(took >= Duration::from_secs(2), "{took:?}");
    // The end of the backend's stream is missing, so the device gets a reset and no close_notify.
    assert!(within("its end", silent.read(&mut [0; 1])).await.is_err());
    within("its end", sent).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_loses_packets_delivers_every_byte_until_it_loses_all() {
    const TOTAL: usize = 200_000;
    let Some(network) = Network::new() else { return };
    let authority = Authority::new("ca");
    let address = SocketAddr::from((network.near(Link::Backends), 0));
    let listener = TcpListener::bind(address).await.unwrap();
    let backend = Backend::on(listener, crate::support::backend::echo);
    let sidecar = network.sidecar(&authority, backend.address.port(), SHORT);
    network.lose(Link::Devices, 5);
    let device = Device::new(&authority);
    let session = within("a handshake", device.connect(sidecar.address)).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(session);
    let (sent, got) = tokio::join!(
        bytes::send(&mut writer, 1, TOTAL, 10_000),
        within("the echo", bytes::receive_some(&mut reader, TOTAL))
    );
    assert_eq!(got, sent);
    network.lose(Link::Devices, 100);
    eventually("it is lost", || sidecar.log().contains("reason=\"client_lost\"")).await;
}

/// The kernel's timers with the default settings, on both links.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes two minutes"]
async fn by_default_a_peer_that_vanishes_is_lost_within_two_minutes() {
    let limit = Duration::from_secs(120);
    let Some(devices) = Scene::new("").await else { return };
    let Some(backends) = Scene::new("").await else { return };
    let kept = (devices.device(b"q").await, backends.device(b"q").await);
    read_on(devices.device(b"p").await);
    let mut sending = backends.device(b"q").await;
    devices.network.lose(Link::Devices, 100);
    backends.network.lose(Link::Backends, 100);
    let start = Instant::now();
    let sent = tokio::spawn(async move { while sending.write_all(&[1; 10_000]).await.is_ok() {} });
    let took = tokio::join!(
        devices.two_are_lost("client_lost", start, limit),
        backends.two_are_lost("backend_lost", start, limit)
    );
    println!("lost after {took:?}");
    sent.await.unwrap();
    drop(kept);
}
