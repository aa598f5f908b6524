//! Builds the header of a connection, and sends it to the backend.
//!
//! **Promises.** A header has at most [`MAX_HEADER_BYTES`]: a client's certificate that has no room is left out. Names
//! from a client's certificate or ClientHello are sent only if they are bounded and have no control characters.
//!
//! **Not here.** The formats (`v1.rs`, `v2.rs`).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::header::MAX_HEADER_BYTES;
use super::tlv::{self, Tlvs};
use super::{v1, v2};
use crate::config::{HeaderTlv, ProxyProtocol, SendHeader};
use crate::proxy::socket;
use crate::sessions::{CompletedHandshake, ForwardedAddresses, Session};
use crate::terms::labels::{ClientCertificate, Direction, Group, HandshakeKind};
use crate::terms::name_pattern::is_dns_name;
use crate::terms::reason::Reason;

/// Bits of the client field of [`tlv::SSL`].
const CLIENT_SSL: u8 = 1;
const CLIENT_CERT_CONN: u8 = 2;
const CLIENT_CERT_SESS: u8 = 4;

/// Room for a checksum and for the headers of two TLVs behind the rest.
const RESERVED_BYTES: usize = 64;

/// The time at which the first header was built, in microseconds: it distinguishes processes.
static PROCESS: LazyLock<u128> =
    LazyLock::new(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros());

/// The header could not be sent.
#[derive(Debug, thiserror::Error)]
#[error("the backend's connection failed before it took the PROXY protocol header: {0}")]
pub(crate) struct SendHeaderError(io::Error);

impl SendHeaderError {
    /// Returns the reason for this error.
    pub(crate) fn reason(&self) -> Reason {
        if socket::is_lost(&self.0) { Reason::BackendLost } else { Reason::BackendReset }
    }
}

/// Returns the header for the backend of a session whose client is connected by `client` and has sent `certificate`.
/// It is empty if none is to be sent.
pub(crate) fn header(
    config: &ProxyProtocol,
    session: &Session,
    client: &TcpStream,
    certificate: Option<&[u8]>,
) -> Vec<u8> {
    match config.send {
        SendHeader::None => Vec::new(),
        SendHeader::V1 => v1::header(addresses(session, client)),
        SendHeader::V2 => {
            let tlvs = tlvs(config, session, certificate);
            v2::header(addresses(session, client), tlvs, config.sends(HeaderTlv::Crc32c))
        }
    }
}

/// Writes the header to the backend, and as much of `early` as the backend takes with it. The rest stays in `early`.
///
/// # Errors
/// If the backend's socket has failed.
pub(crate) async fn send<Io: AsyncWrite + Unpin>(
    header: Vec<u8>,
    early: &mut Vec<u8>,
    backend: &mut Io,
    session: &Session,
) -> Result<(), SendHeaderError> {
    if header.is_empty() {
        return Ok(());
    }
    let (length, mut sent) = (header.len(), 0);
    let bytes = [header, std::mem::take(early)].concat();
    while sent < length {
        let written = backend.write(&bytes[sent..]).await.map_err(SendHeaderError)?;
        sent += written;
        if written == 0 {
            return Err(SendHeaderError(io::ErrorKind::WriteZero.into()));
        }
    }
    session.relayed(Direction::ToBackend, (sent - length) as u64);
    *early = bytes[sent..].to_vec();
    Ok(())
}

/// Returns the addresses of a connection, both of one family.
fn addresses(session: &Session, client: &TcpStream) -> ForwardedAddresses {
    let forwarded = session.forwarded().copied().unwrap_or_else(|| {
        let source = session.peer();
        // It fails only for a socket that is no longer connected.
        let destination = client.local_addr().unwrap_or(source);
        ForwardedAddresses { source, destination }
    });
    let canonical = |socket: SocketAddr| SocketAddr::new(socket.ip().to_canonical(), socket.port());
    let (source, destination) = (canonical(forwarded.source), canonical(forwarded.destination));
    if source.is_ipv4() == destination.is_ipv4() {
        return ForwardedAddresses { source, destination };
    }
    ForwardedAddresses { source: as_v6(source), destination: as_v6(destination) }
}

fn as_v6(socket: SocketAddr) -> SocketAddr {
    let ip = match socket.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    SocketAddr::new(ip.into(), socket.port())
}

fn tlvs(config: &ProxyProtocol, session: &Session, certificate: Option<&[u8]>) -> Tlvs {
    let mut tlvs = Tlvs::default();
    let handshake = session.handshake.get();
    let alpn = handshake.and_then(|handshake| handshake.negotiated.alpn.as_deref());
    if let Some(alpn) = alpn.filter(|_| config.sends(HeaderTlv::Alpn)) {
        tlvs.add(tlv::ALPN, alpn.as_bytes());
    }
    let name = session.server_name.get().filter(|name| is_dns_name(name));
    if let Some(name) = name.filter(|_| config.sends(HeaderTlv::Authority)) {
        tlvs.add(tlv::AUTHORITY, name.as_bytes());
    }
    if config.sends(HeaderTlv::UniqueId) {
        tlvs.add(tlv::UNIQUE_ID, format!("{:x}-{}", *PROCESS, session.id).as_bytes());
    }
    if let Some(handshake) = handshake.filter(|_| config.sends(HeaderTlv::Ssl)) {
        let certificate = certificate.filter(|_| config.sends(HeaderTlv::ClientCert));
        let room = MAX_HEADER_BYTES - RESERVED_BYTES - tlvs.len();
        tlvs.add(tlv::SSL, &ssl(handshake, session, certificate, room));
    }
    tlvs
}

/// Returns the value of [`tlv::SSL`], of at most `room` bytes: section 2.2.6.
fn ssl(
    handshake: &CompletedHandshake,
    session: &Session,
    certificate: Option<&[u8]>,
    room: usize,
) -> Vec<u8> {
    let tls = &handshake.negotiated;
    let (client, verify) = match (tls.client, tls.kind) {
        (ClientCertificate::None, _) => (CLIENT_SSL, 1_u32),
        (ClientCertificate::Verified, HandshakeKind::Resumed) => (CLIENT_SSL | CLIENT_CERT_SESS, 0),
        (ClientCertificate::Verified, HandshakeKind::Full | HandshakeKind::FullRetry) => {
            (CLIENT_SSL | CLIENT_CERT_CONN | CLIENT_CERT_SESS, 0)
        }
    };
    let mut parts = Tlvs::default();
    parts.add(tlv::SSL_VERSION, format!("TLSv{}", tls.cipher.version()).as_bytes());
    parts.add(tlv::SSL_CIPHER, tls.cipher.openssl_name().as_bytes());
    match tls.group {
        Group::X25519MlKem768 | Group::X25519 | Group::Secp256r1 | Group::Secp384r1 => {
            parts.add(tlv::SSL_GROUP, tls.group.as_str().as_bytes());
        }
        Group::Other | Group::None => {}
    }
    if let Some(name) = session.identity.get().and_then(|identity| identity.common_name()) {
        parts.add(tlv::SSL_CN, name.as_bytes());
    }
    let fixed = 5 + parts.len() + tlv::HEADER_BYTES;
    if let Some(certificate) = certificate.filter(|der| fixed + der.len() <= room) {
        parts.add(tlv::SSL_CLIENT_CERT, certificate);
    }
    [&[client][..], &verify.to_be_bytes(), &parts.into_bytes()].concat()
}
