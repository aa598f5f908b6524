//! The PROXY protocol: headers from load balancers, and headers for backends.
//!
//! nginx and HAProxy send and receive them in `proxy_protocol/servers.rs`.

mod servers;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tlsidecar::config::{
    Cidr, ClientAuth, ClientTrust, HeaderTlv, ListenerConfig, ProxyProtocol, SendHeader,
};
use tlsidecar::terms::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::version::{TLS12, TLS13};

use crate::support::certs::Wish;
use crate::support::client::say_and_hear;
use crate::support::process::ask;
use crate::support::proxy::{config, listener};
use crate::support::raw::{alert, answer_to, client_hello};
use crate::support::wait::within;
use crate::support::{Authority, Backend, Device, Proxy, Sidecar, eventually};

/// A header of version 1 for a device at 203.0.113.7.
const LINE: &[u8] = b"PROXY TCP4 203.0.113.7 198.51.100.9 4711 8883\r\n";

/// Returns the network of the tests, which must send a header.
fn balancers() -> Vec<Cidr> {
    vec!["127.0.0.0/8".parse::<Cidr>().unwrap()]
}

/// Returns a header of version 2.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = (block.len() as u16).to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length, block].concat()
}

/// The addresses of [`LINE`] in version 2.
const BLOCK: &[u8] = b"\xcb\x00\x71\x07\xc6\x33\x64\x09\x12\x67\x22\xb3";

/// A device and an echo, with a proxy behind a load balancer between them.
struct Scene {
    device: Device,
    proxy: Proxy,
    _backend: Backend,
}

impl Scene {
    async fn new(change: impl FnOnce(&mut ListenerConfig)) -> Self {
        let authority = Authority::new("ca");
        let backend = Backend::echo().await;
        let mut listener = listener(backend.config(), &authority.server());
        listener.proxy_protocol.accept_from = balancers();
        change(&mut listener);
        let proxy = Proxy::with(listener);
        Self { device: Device::new(&authority), proxy, _backend: backend }
    }

    /// Connects with these first bytes, and echoes a message.
    async fn echo_behind(&self, header: &[u8]) -> std::io::Result<crate::support::client::Session> {
        let mut tcp = TcpStream::connect(self.proxy.address).await?;
        tcp.write_all(header).await?;
        let mut session = self.device.connect_over(tcp).await?;
        say_and_hear(&mut session, b"ping").await?;
        Ok(session)
    }

    fn ask(&self, path: &str) -> Value {
        let (_, text) = ask(self.proxy.app.admin.unwrap(), "GET", path, "").unwrap();
        serde_json::from_str(&text).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_in_a_header_is_that_of_the_device_everywhere() {
    let scene = Scene::new(|_| {}).await;
    let with_tlv = [BLOCK, b"\xea\0\x03\x01ab"].concat();
    let checked = [BLOCK, b"\x03\0\x04\x2f\x8e\xf4\xad"].concat();
    for header in
        [LINE, &v2(0x21, 0x11, BLOCK), &v2(0x21, 0x11, &with_tlv), &v2(0x21, 0x11, &checked)]
    {
        let session = scene.echo_behind(header).await.unwrap();
        let socket = session.get_ref().0.local_addr().unwrap();
        let listed = scene.ask("/sessions?peer=203.0.113.7")["sessions"].clone();
        assert_eq!(listed[0]["peer"], "203.0.113.7:4711", "{listed}");
        assert_eq!(listed[0]["via"], socket.to_string(), "{listed}");
        drop(session);
        eventually("it ends", || scene.proxy.active() == 0).await;
    }
    let top = scene.ask("/top?by=peer&what=connections")["entries"].clone();
    assert_eq!(top.as_array().unwrap().len(), 1, "{top}");
    assert_eq!((&top[0]["name"], &top[0]["count"]), (&"203.0.113.7".into(), &4.into()), "{top}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_names_the_device_and_the_load_balancer() {
    let authority = Authority::new("ca");
    let (backend, _server) = (Backend::echo().await, authority.server());
    let text = format!(
        "[[listener]]\nname = \"test\"\nlisten = \"127.0.0.1:0\"\nbackend = \"{}\"\n\
         tls.certificates = [{{ cert = \"server.crt\", key = \"server.key\" }}]\n\
         proxy_protocol.accept_from = [\"127.0.0.1\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n",
        backend.address
    );
    let mut sidecar = Sidecar::start(authority.dir(), &text);
    let mut tcp = TcpStream::connect(sidecar.address).await.unwrap();
    let from = tcp.local_addr().unwrap();
    tcp.write_all(LINE).await.unwrap();
    drop(Device::new(&authority).connect_over(tcp).await.unwrap());
    let line = format!("peer=203.0.113.7:4711 via={from} ");
    sidecar.until("the line is written", |log| log.contains(&line));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_of_the_load_balancer_itself_has_the_address_of_its_socket() {
    let scene = Scene::new(|_| {}).await;
    for header in [&v2(0x20, 0, b"")[..], &v2(0x20, 0x11, BLOCK), b"PROXY UNKNOWN\r\n"] {
        let session = scene.echo_behind(header).await.unwrap();
        let socket = session.get_ref().0.local_addr().unwrap();
        let listed = scene.ask("/sessions")["sessions"].clone();
        assert_eq!(listed[0]["peer"], socket.to_string(), "{listed}");
        assert_eq!(listed[0]["via"], Value::Null, "{listed}");
        drop(session);
        eventually("it ends", || scene.proxy.active() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_checks_of_a_load_balancer_are_probes() {
    let scene = Scene::new(|_| {}).await;
    let mut count = 0;
    for header in [&b""[..], &v2(0x20, 0, b""), LINE] {
        let mut tcp = TcpStream::connect(scene.proxy.address).await.unwrap();
        tcp.write_all(header).await.unwrap();
        tcp.shutdown().await.unwrap();
        count += 1;
        scene.proxy.end_with(Reason::ClientProbe, count).await;
        // HAProxy ends its checks by a reset.
        let mut tcp = TcpStream::connect(scene.proxy.address).await.unwrap();
        tcp.write_all(header).await.unwrap();
        tcp.set_zero_linger().unwrap();
        drop(tcp);
        count += 1;
        scene.proxy.end_with(Reason::ClientProbe, count).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_valid_header_a_load_balancer_gets_no_answer() {
    let scene = Scene::new(|_| {}).await;
    let bad_sum = [BLOCK, b"\x03\0\x04\0\0\0\0"].concat();
    let sent = [
        client_hello(),
        b"PROXY TCP4 203.0.113.7 198.51.100.9 4711 08883\r\n".to_vec(),
        [&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat(),
        v2(0x21, 0x11, &bad_sum),
        v2(0x2f, 0x11, BLOCK),
        v2(0x21, 0x11, &[0; 5000])[..16].to_vec(),
    ];
    for (count, bytes) in (1..).zip(sent) {
        assert_eq!(answer_to(scene.proxy.address, &bytes).await, b"", "{bytes:?}");
        scene.proxy.end_with(Reason::ProxyHeaderInvalid, count).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_is_cut_or_late_is_invalid() {
    let scene = Scene::new(|listener| listener.timeouts.hello = Duration::from_millis(200)).await;
    let mut tcp = TcpStream::connect(scene.proxy.address).await.unwrap();
    tcp.write_all(&LINE[..20]).await.unwrap();
    tcp.shutdown().await.unwrap();
    scene.proxy.end_with(Reason::ProxyHeaderInvalid, 1).await;
    // The first one sends nothing.
    for (count, header) in [(2, &b""[..]), (3, &LINE[..20])] {
        assert_eq!(answer_to(scene.proxy.address, header).await, b"");
        scene.proxy.end_with(Reason::ProxyHeaderInvalid, count).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_from_another_peer_is_refused_by_its_name() {
    let other = |listener: &mut ListenerConfig| {
        listener.proxy_protocol.accept_from = vec!["192.0.2.0/24".parse::<Cidr>().unwrap()];
    };
    for (count, header) in (1..).zip([LINE, &v2(0x21, 0x11, BLOCK)]) {
        let scene = Scene::new(other).await;
        let sent = [header, &client_hello()].concat();
        // unexpected_message, as for other bytes that are not TLS.
        assert_eq!(answer_to(scene.proxy.address, &sent).await, alert(10), "{count}");
        scene.proxy.ends_with(Reason::ProxyHeaderUnexpected).await;
    }
    let scene = Scene::new(other).await;
    scene.echo_behind(b"").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_load_balancer_the_device_with_most_connections_is_evicted_first() {
    const LIMIT: usize = 4;
    let scene = Scene::new(|listener| listener.limits.max_connections = Some(LIMIT)).await;
    let half = &client_hello()[..100];
    let connect = async |device: u8| {
        let mut tcp = TcpStream::connect(scene.proxy.address).await.unwrap();
        let header = format!("PROXY TCP4 203.0.113.{device} 198.51.100.9 1 2\r\n");
        tcp.write_all(header.as_bytes()).await.unwrap();
        tcp.write_all(half).await.unwrap();
        tcp
    };
    let connections = || {
        let top = scene.ask("/top?by=peer&what=connections")["entries"].clone();
        top.as_array().unwrap().iter().filter_map(|entry| entry["count"].as_u64()).sum::<u64>()
    };
    // The oldest connection of all is the only one of its device.
    let mut quiet = connect(1).await;
    eventually("it is counted", || connections() == 1).await;
    let mut flood = Vec::new();
    for _ in 1..LIMIT {
        flood.push(connect(2).await);
    }
    eventually("all are counted", || connections() == LIMIT as u64).await;
    scene.echo_behind(LINE).await.unwrap();
    assert!(scene.proxy.closed(Reason::ClientEvicted) > 0);
    let still_open = tokio::time::timeout(Duration::from_millis(50), quiet.read(&mut [0; 1])).await;
    assert!(still_open.is_err(), "{still_open:?}");
}

/// A backend that keeps what it receives, and the proxy before it.
struct Recorded {
    servers: Authority,
    devices: Authority,
    proxy: Proxy,
    _backend: Backend,
    received: Arc<Mutex<Vec<u8>>>,
}

/// Every TLV.
const ALL: [HeaderTlv; 6] = [
    HeaderTlv::Ssl,
    HeaderTlv::Alpn,
    HeaderTlv::Authority,
    HeaderTlv::UniqueId,
    HeaderTlv::Crc32c,
    HeaderTlv::ClientCert,
];

impl Recorded {
    async fn new(send: SendHeader, tlvs: &[HeaderTlv], accept_from: Vec<Cidr>) -> Self {
        let (servers, devices) = (Authority::new("servers"), Authority::new("devices"));
        let received = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&received);
        let backend = Backend::serving(move |mut tcp| {
            let sink = Arc::clone(&sink);
            async move {
                let mut chunk = [0; 16_384];
                while let Ok(read @ 1..) = tcp.read(&mut chunk).await {
                    sink.lock().unwrap().extend_from_slice(&chunk[..read]);
                }
            }
        })
        .await;
        let mut listener = listener(backend.config(), &servers.server());
        listener.tls.client_auth = ClientAuth::Optional(ClientTrust::new(devices.ca()));
        listener.tls.alpn = vec![b"mqtt".to_vec()];
        listener.proxy_protocol = ProxyProtocol { send, tlvs: tlvs.to_vec(), accept_from };
        let proxy = Proxy::on(config(listener), None);
        Self { servers, devices, proxy, _backend: backend, received }
    }

    /// Waits for these last bytes, and takes everything that has been received before them.
    async fn before(&self, last: &[u8]) -> Vec<u8> {
        eventually("it arrives", || self.received.lock().unwrap().ends_with(last)).await;
        let mut all = std::mem::take(&mut *self.received.lock().unwrap());
        all.truncate(all.len() - last.len());
        all
    }
}

/// Returns the line of version 1 for these addresses.
fn line(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    format!("PROXY TCP4 {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port()).into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_comes_before_the_first_byte_of_the_device_and_is_not_counted() {
    let scene = Recorded::new(SendHeader::V1, &[], Vec::new()).await;
    let mut session = Device::new(&scene.servers).connect(scene.proxy.address).await.unwrap();
    // TLS 1.3: it arrives with the end of the handshake.
    session.write_all(b"hello").await.unwrap();
    let from = session.get_ref().0.local_addr().unwrap();
    assert_eq!(scene.before(b"hello").await, line(from, scene.proxy.address));
    let bytes = "tlsidecar_bytes_total{direction=\"to_backend\",listener=\"test\"}";
    eventually("the bytes are counted", || scene.proxy.count(bytes) == 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_speaks_first_gets_the_header_at_once() {
    let scene = Recorded::new(SendHeader::V1, &[], Vec::new()).await;
    let session = Device::new(&scene.servers).connect(scene.proxy.address).await.unwrap();
    let from = session.get_ref().0.local_addr().unwrap();
    let header = line(from, scene.proxy.address);
    assert_eq!(scene.before(b"\r\n").await, header[..header.len() - 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_addresses_of_a_received_header_are_sent_on() {
    let v6 = b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n";
    let cases: [(&[u8], &[u8]); 3] = [(LINE, LINE), (&v2(0x21, 0x11, BLOCK), LINE), (v6, v6)];
    for (received, sent) in cases {
        let scene = Recorded::new(SendHeader::V1, &[], balancers()).await;
        let mut tcp = TcpStream::connect(scene.proxy.address).await.unwrap();
        tcp.write_all(received).await.unwrap();
        let mut session = Device::new(&scene.servers).connect_over(tcp).await.unwrap();
        session.write_all(b"hello").await.unwrap();
        assert_eq!(scene.before(b"hello").await, sent);
    }
}

/// A header of version 2 as a receiver reads it.
struct Read {
    /// Command, family and addresses.
    start: Vec<u8>,
    tlvs: BTreeMap<u8, Vec<u8>>,
    /// The client's bits, the result of the verification, and the TLVs of the TLS session.
    ssl: Option<(u8, u32, BTreeMap<u8, Vec<u8>>)>,
}

fn read(header: &[u8]) -> Read {
    let rest = header.strip_prefix(b"\r\n\r\n\0\r\nQUIT\n").unwrap();
    let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
    assert_eq!(rest.len(), 4 + length);
    let mut tlvs = split(&rest[16..]);
    let ssl = tlvs.remove(&0x20).map(|ssl| {
        let verify = u32::from_be_bytes(*ssl[1..].first_chunk().unwrap());
        (ssl[0], verify, split(&ssl[5..]))
    });
    Read { start: [&rest[..2], &rest[4..16]].concat(), tlvs, ssl }
}

fn split(mut bytes: &[u8]) -> BTreeMap<u8, Vec<u8>> {
    let mut tlvs = BTreeMap::new();
    while let [kind, high, low, rest @ ..] = bytes {
        let (value, behind) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        assert_eq!(tlvs.insert(*kind, value.to_vec()), None, "each TLV comes once");
        bytes = behind;
    }
    assert_eq!(bytes, b"");
    tlvs
}

/// Connects, sends a message, and returns the header that came before it.
async fn header_of(scene: &Recorded, device: &Device) -> Read {
    let mut session = device.connect(scene.proxy.address).await.unwrap();
    session.write_all(b"hello").await.unwrap();
    let from = session.get_ref().0.local_addr().unwrap();
    let header = read(&scene.before(b"hello").await);
    let ports = [from.port().to_be_bytes(), scene.proxy.address.port().to_be_bytes()].concat();
    assert_eq!(header.start, [&[0x21, 0x11, 127, 0, 0, 1, 127, 0, 0, 1], &ports[..]].concat());
    // A ticket arrives with the first answer.
    let _closed = session.shutdown().await;
    let _tickets = within("the end", session.read(&mut [0; 1])).await;
    header
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tlvs_describe_the_tls_session() {
    let scene = Recorded::new(SendHeader::V2, &ALL, Vec::new()).await;
    let pair = scene.devices.issue("pump", &Wish::of_device(&["pump-7"]));
    let text = |text: &str| Some(text.as_bytes().to_vec());
    for (version, name, cipher) in [
        (&TLS13, "TLSv1.3", "TLS_AES_128_GCM_SHA256"),
        (&TLS12, "TLSv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256"),
    ] {
        let provider = tokio_rustls::rustls::crypto::aws_lc_rs::default_provider();
        let device = Device::with(scene.servers.roots(), &[version], provider, Some(&pair));
        let device = device.offering(&["mqtt"]).resuming();
        let mut ids = Vec::new();
        // The second session is a resumed one: its client has sent a certificate in the first.
        for client in [7, 5] {
            let Read { tlvs, ssl, .. } = header_of(&scene, &device).await;
            assert_eq!(tlvs.get(&0x01).cloned(), text("mqtt"));
            assert_eq!(tlvs.get(&0x02).cloned(), text("localhost"));
            assert_eq!(tlvs[&0x03].len(), 4);
            ids.push(tlvs[&0x05].clone());
            assert_eq!(tlvs.len(), 4, "and SSL");
            let (bits, verify, ssl) = ssl.unwrap();
            assert_eq!((bits, verify), (client, 0), "{name}");
            assert_eq!(ssl.get(&0x21).cloned(), text(name));
            assert_eq!(ssl.get(&0x22).cloned(), text("pump-7"));
            assert_eq!(ssl.get(&0x23).cloned(), text(cipher));
            assert_eq!(ssl.get(&0x28).cloned(), Some(pair.load().0[0].to_vec()));
        }
        assert!(ids[0] != ids[1] && ids.iter().all(|id| (1..=128).contains(&id.len())));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_and_a_name_their_tlvs_are_missing() {
    let scene = Recorded::new(SendHeader::V2, &ALL, Vec::new()).await;
    let device = Device::new(&scene.servers).asking_for("127.0.0.1");
    let Read { tlvs, ssl, .. } = header_of(&scene, &device).await;
    assert_eq!(tlvs.keys().copied().collect::<Vec<_>>(), [0x03, 0x05]);
    let (bits, verify, ssl) = ssl.unwrap();
    assert_eq!(bits, 1);
    assert_ne!(verify, 0);
    assert!(!ssl.contains_key(&0x22) && !ssl.contains_key(&0x28));
    let scene = Recorded::new(SendHeader::V2, &[HeaderTlv::Alpn], Vec::new()).await;
    let device = Device::new(&scene.servers).offering(&["mqtt"]);
    let Read { tlvs, ssl, .. } = header_of(&scene, &device).await;
    assert!(tlvs.keys().eq(&[0x01]) && ssl.is_none(), "only those that are configured");
}
