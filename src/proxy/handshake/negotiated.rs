//! What a handshake has agreed on, in the terms of logs and metrics.
//!
//! **Not here.** What ends a handshake (`faults.rs`, `words.rs`).

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::rustls::{self, CipherSuite, NamedGroup};

use crate::proxy::record::Negotiated;
use crate::proxy::tls::Negotiation;
use crate::terms::labels::{Cipher, Group, HandshakeKind, KeyKind};
use crate::trust::identity;

/// What a handshake that is over has agreed on; `key` tells what our certificate's is with a suite.
pub(super) fn negotiated<Io: AsyncRead + AsyncWrite + Unpin>(
    negotiation: &Negotiation<Io>,
    key: impl FnOnce(Cipher) -> KeyKind,
) -> Option<Negotiated> {
    let kind = match negotiation.kind()? {
        rustls::HandshakeKind::Full => HandshakeKind::Full,
        rustls::HandshakeKind::FullWithHelloRetryRequest => HandshakeKind::FullRetry,
        rustls::HandshakeKind::Resumed => HandshakeKind::Resumed,
    };
    let cipher = cipher(negotiation.suite()?)?;
    Some(Negotiated {
        cipher,
        kind,
        group: negotiation.group().map_or(Group::None, group),
        key: if kind == HandshakeKind::Resumed { KeyKind::None } else { key(cipher) },
        alpn: negotiation.alpn().map(|alpn| String::from_utf8_lossy(alpn).into()),
        identity: negotiation.peer_certificates().map(|(leaf, _)| identity::of(leaf).into()),
        crypto: negotiation.crypto(),
    })
}

/// A group of the provider that `trust/provider.rs` sets up.
const fn group(group: NamedGroup) -> Group {
    match group {
        NamedGroup::X25519MLKEM768 => Group::X25519MlKem768,
        NamedGroup::X25519 => Group::X25519,
        NamedGroup::secp256r1 => Group::Secp256r1,
        NamedGroup::secp384r1 => Group::Secp384r1,
        _ => Group::Other,
    }
}

/// A suite of the provider that `trust/provider.rs` sets up.
fn cipher(suite: CipherSuite) -> Option<Cipher> {
    Some(match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => Cipher::Tls13Aes128,
        CipherSuite::TLS13_AES_256_GCM_SHA384 => Cipher::Tls13Aes256,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => Cipher::Tls13Chacha20,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => Cipher::EcdsaAes128,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => Cipher::EcdsaAes256,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => Cipher::EcdsaChacha20,
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => Cipher::RsaAes128,
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => Cipher::RsaAes256,
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => Cipher::RsaChacha20,
        _ => return None,
    })
}
