//! The group of the key exchange: a second ClientHello only where the first one has no share that is accepted.

use std::net::SocketAddr;
use std::sync::Arc;

use tlsidecar::terms::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption};
use tokio_rustls::rustls::crypto::aws_lc_rs::{self, kx_group};
use tokio_rustls::rustls::crypto::{ActiveKeyExchange, CryptoProvider, SupportedKxGroup};
use tokio_rustls::rustls::ffdhe_groups::FfdheGroup;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, Error, HandshakeKind, NamedGroup, SupportedProtocolVersion,
};

use crate::support::certs::Wish;
use crate::support::proxy::listener;
use crate::support::raw::{alert, extended_hello, vector16};
use crate::support::wait::within;
use crate::support::{Authority, Backend, Pair, Proxy, eventually};

/// A group that the proxy does not accept.
const FOREIGN: &dyn SupportedKxGroup = kx_group::MLKEM1024;

/// A group that nobody has, for long lists.
#[derive(Debug)]
struct Undefined(u16);

impl SupportedKxGroup for Undefined {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        Err(Error::General("it is only listed".to_owned()))
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        self.0.into()
    }
}

/// The handshake of a device, as it was on the wire.
#[derive(Debug)]
struct Seen {
    kind: HandshakeKind,
    group: NamedGroup,
    /// Flights of the device.
    flights: usize,
    /// Bytes to the proxy and from it.
    bytes: [usize; 2],
}

/// Returns the handshake of a TLS 1.3 device that lists these groups and sends a share of one of them.
async fn handshake(
    address: SocketAddr,
    authority: &Authority,
    listed: &[&'static dyn SupportedKxGroup],
    shared: NamedGroup,
    pair: Option<&Pair>,
) -> Seen {
    handshake_in(&TLS13, address, authority, listed, shared, pair).await
}

async fn handshake_in(
    version: &'static SupportedProtocolVersion,
    address: SocketAddr,
    authority: &Authority,
    listed: &[&'static dyn SupportedKxGroup],
    shared: NamedGroup,
    pair: Option<&Pair>,
) -> Seen {
    let provider = CryptoProvider { kx_groups: listed.to_vec(), ..aws_lc_rs::default_provider() };
    let config = ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(authority.roots());
    let mut config = match pair.map(Pair::load) {
        Some((chain, key)) => config.with_client_auth_cert(chain, key).unwrap(),
        None => config.with_no_client_auth(),
    };
    // rustls sends the share that the server took before.
    let before = ClientSessionMemoryCache::new(1);
    before.set_kx_hint("localhost".try_into().unwrap(), shared);
    config.resumption = Resumption::store(Arc::new(before));
    let name = "localhost".try_into().unwrap();
    let device = ClientConnection::new(Arc::new(config), name).unwrap();
    within("a handshake", complete(device, address)).await
}

async fn complete(mut device: ClientConnection, address: SocketAddr) -> Seen {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let (mut flights, mut bytes) = (0, [0; 2]);
    loop {
        let mut flight = Vec::new();
        while device.wants_write() {
            device.write_tls(&mut flight).unwrap();
        }
        tcp.write_all(&flight).await.unwrap();
        flights += usize::from(!flight.is_empty());
        bytes[0] += flight.len();
        if !device.is_handshaking() {
            break;
        }
        let mut answer = vec![0; 1 << 14];
        let read = tcp.read(&mut answer).await.unwrap();
        assert!(read > 0, "it was closed");
        bytes[1] += read;
        device.read_tls(&mut &answer[..read]).unwrap();
        device.process_new_packets().unwrap();
    }
    let kind = device.handshake_kind().unwrap();
    Seen { kind, group: device.negotiated_key_exchange_group().unwrap().name(), flights, bytes }
}

/// Returns a TLS 1.3 ClientHello with these groups and key shares.
fn hello(groups: &[u16], shares: &[u8]) -> Vec<u8> {
    let groups: Vec<_> = groups.iter().copied().flat_map(u16::to_be_bytes).collect();
    let (groups, schemes, shares) = (vector16(&groups), vector16(&[4, 3]), vector16(shares));
    let extensions = [(10, &groups[..]), (13, &schemes), (43, &[2, 3, 4]), (51, &shares)];
    extended_hello([3, 3], &[[0x13, 1]], &extensions)
}

/// Returns a share of P-256 that has the right form.
fn share_of_p256() -> Vec<u8> {
    [&[0, 23][..], &vector16(&[&[4][..], &[9; 64]].concat())].concat()
}

/// Sends a ClientHello without a share, and reads the request for one.
async fn requested(address: SocketAddr, groups: &[u16]) -> TcpStream {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(&hello(groups, &[])).await.unwrap();
    assert!(within("the request", tcp.read(&mut [0; 1 << 12])).await.unwrap() > 0);
    tcp
}

/// Asserts that the proxy closes a connection with this alert.
async fn ends_with(mut tcp: TcpStream, description: u8) {
    let mut answer = Vec::new();
    within("it is closed", tcp.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.ends_with(&alert(description)), "{answer:?}");
}

#[tokio::test]
async fn a_share_of_a_later_group_costs_no_round_trip() {
    let authority = Authority::new("ca");
    let proxy = Proxy::start(Backend::echo().await.config(), &authority.server());
    let p256 = NamedGroup::secp256r1;
    let usual = handshake(proxy.address, &authority, &[kx_group::SECP256R1], p256, None).await;
    let listed = [kx_group::SECP384R1, kx_group::SECP256R1];
    let seen = handshake(proxy.address, &authority, &listed, p256, None).await;
    assert_eq!((seen.kind, seen.group, seen.flights), (HandshakeKind::Full, p256, 2));
    assert_eq!(seen.bytes[0], usual.bytes[0] + 2, "one group more is listed");
    // The length of an ECDSA signature varies.
    assert!(seen.bytes[1].abs_diff(usual.bytes[1]) <= 6, "{seen:?} {usual:?}");
}

#[tokio::test]
async fn the_hybrid_is_taken_only_if_its_share_is_there() {
    let authority = Authority::new("ca");
    let proxy = Proxy::start(Backend::echo().await.config(), &authority.server());
    let listed = [kx_group::X25519MLKEM768, kx_group::X25519];
    for shared in [NamedGroup::X25519, NamedGroup::X25519MLKEM768] {
        let seen = handshake(proxy.address, &authority, &listed, shared, None).await;
        assert_eq!((seen.kind, seen.group), (HandshakeKind::Full, shared));
    }
}

#[tokio::test]
async fn without_an_accepted_share_the_device_is_asked_for_another() {
    let authority = Authority::new("ca");
    let proxy = Proxy::start(Backend::echo().await.config(), &authority.server());
    let listed = [FOREIGN, kx_group::SECP384R1, kx_group::X25519];
    let seen = handshake(proxy.address, &authority, &listed, FOREIGN.name(), None).await;
    let kind = HandshakeKind::FullWithHelloRetryRequest;
    assert_eq!((seen.kind, seen.group, seen.flights), (kind, NamedGroup::secp384r1, 3));
}

#[tokio::test]
async fn both_sides_sign_the_list_of_groups_that_the_device_sent() {
    let authority = Authority::new("ca");
    let mut listener = listener(Backend::echo().await.config(), &authority.server());
    let trust = tlsidecar::config::ClientTrust::new(authority.ca());
    listener.tls.client_auth = tlsidecar::config::ClientAuth::Required(trust);
    let proxy = Proxy::with(listener);
    let purpose = rcgen::ExtendedKeyUsagePurpose::ClientAuth;
    let pair = authority.issue("device", &Wish { purpose, ..Wish::default() });
    let listed = [kx_group::SECP384R1, kx_group::X25519, kx_group::SECP256R1];
    let shared = NamedGroup::secp256r1;
    let seen = handshake(proxy.address, &authority, &listed, shared, Some(&pair)).await;
    assert_eq!((seen.kind, seen.group), (HandshakeKind::Full, shared));
    let verified = || proxy.of_label("handshake_clients_total", "certificate", "verified");
    eventually("its certificate is verified", || verified() == 1).await;
}

#[tokio::test]
async fn a_group_at_the_end_of_a_long_list_is_taken_and_both_sides_sign_the_whole_list() {
    let authority = Authority::new("ca");
    let proxy = Proxy::start(Backend::echo().await.config(), &authority.server());
    let undefined = (0x6000..0x7000).map(|code| Box::leak(Box::new(Undefined(code))) as _);
    let listed: Vec<&'static dyn SupportedKxGroup> = undefined.collect();
    for last in [&[kx_group::SECP256R1][..], &[kx_group::SECP384R1, kx_group::SECP256R1]] {
        let listed = [&listed, last].concat();
        let shared = NamedGroup::secp256r1;
        let seen = handshake_in(&TLS13, proxy.address, &authority, &listed, shared, None).await;
        assert_eq!((seen.kind, seen.group, seen.flights), (HandshakeKind::Full, shared, 2));
        assert!(seen.bytes[0] > 8000, "the list was sent: {seen:?}");
        let seen = handshake_in(&TLS12, proxy.address, &authority, &listed, shared, None).await;
        assert_eq!((seen.kind, seen.group), (HandshakeKind::Full, last[0].name()));
    }
    let listed = [&listed, &[FOREIGN, kx_group::SECP384R1, kx_group::X25519][..]].concat();
    let seen = handshake(proxy.address, &authority, &listed, FOREIGN.name(), None).await;
    let kind = HandshakeKind::FullWithHelloRetryRequest;
    assert_eq!((seen.kind, seen.group, seen.flights), (kind, NamedGroup::secp384r1, 3));
}

#[tokio::test]
async fn a_long_list_without_an_accepted_group_is_refused_like_a_short_one() {
    let authority = Authority::new("ca");
    let proxy = Proxy::start(Backend::echo().await.config(), &authority.server());
    for (count, refused) in [(1, 1), (5000, 2)] {
        let groups: Vec<_> = (0x6000..0x6000 + count).collect();
        let mut tcp = TcpStream::connect(proxy.address).await.unwrap();
        tcp.write_all(&hello(&groups, &[])).await.unwrap();
        ends_with(tcp, 40).await;
        proxy.end_with(Reason::ClientTlsIncompatible, refused).await;
    }
}

#[tokio::test]
async fn a_second_hello_cannot_list_other_groups_than_the_first_one() {
    let authority = Authority::new("ca");
    let proxy = Proxy::start(Backend::echo().await.config(), &authority.server());
    let mut tcp = requested(proxy.address, &[29]).await;
    tcp.write_all(&hello(&[23], &share_of_p256())).await.unwrap();
    ends_with(tcp, 47).await;
}

#[tokio::test]
async fn a_device_that_leaves_after_a_request_for_another_share_is_no_health_check() {
    let authority = Authority::new("ca");
    let proxy = Proxy::start(Backend::echo().await.config(), &authority.server());
    drop(requested(proxy.address, &[29, 23]).await);
    proxy.end_with(Reason::ClientTlsEof, 1).await;
}

#[tokio::test]
async fn a_second_hello_cannot_share_another_group_than_the_requested_one() {
    let authority = Authority::new("ca");
    let proxy = Proxy::start(Backend::echo().await.config(), &authority.server());
    let mut tcp = requested(proxy.address, &[29, 23]).await;
    tcp.write_all(&hello(&[29, 23], &share_of_p256())).await.unwrap();
    ends_with(tcp, 47).await;
}
