//! The result of a handshake, in the terms of logs and metrics.
//!
//! **Not here.** Failures (`labels.rs`, `describe.rs`).

use tokio_rustls::rustls::{self, NamedGroup};

use crate::proxy::tls::RustlsHandshake;
use crate::terms::labels::{Cipher, ClientCertificate, Group, HandshakeKind, KeyKind};
use crate::terms::negotiated::Negotiated;
use crate::terms::offer_class::OfferClass;
use crate::trust::provider;

/// Returns the parameters of a complete handshake, after an offer of this class. `key` returns the key type of our certificate for a
/// cipher suite.
pub(super) fn negotiated(
    handshake: &RustlsHandshake,
    offer: OfferClass,
    key: impl FnOnce(Cipher) -> KeyKind,
) -> Option<Negotiated> {
    let kind = match handshake.kind()? {
        rustls::HandshakeKind::Full => HandshakeKind::Full,
        rustls::HandshakeKind::FullWithHelloRetryRequest => HandshakeKind::FullRetry,
        rustls::HandshakeKind::Resumed => HandshakeKind::Resumed,
    };
    let cipher = cipher(handshake)?;
    let client = match handshake.peer_certificates() {
        [] => ClientCertificate::None,
        _ => ClientCertificate::Verified,
    };
    Some(Negotiated {
        offer,
        cipher,
        kind,
        group: handshake.group().map_or(Group::None, group),
        key: if kind == HandshakeKind::Resumed { KeyKind::None } else { key(cipher) },
        client,
        resumption: handshake.resumption(),
        alpn: handshake.alpn().map(|alpn| String::from_utf8_lossy(alpn).into()),
    })
}

/// Returns the label of the cipher suite, as soon as it is negotiated.
pub(super) fn cipher(handshake: &RustlsHandshake) -> Option<Cipher> {
    provider::label(handshake.cipher_suite()?)
}

/// Returns the label of a group of the provider (`trust/provider.rs`).
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "rustls's enum has groups that the provider does not have"
)]
const fn group(group: NamedGroup) -> Group {
    match group {
        NamedGroup::X25519MLKEM768 => Group::X25519MlKem768,
        NamedGroup::X25519 => Group::X25519,
        NamedGroup::secp256r1 => Group::Secp256r1,
        NamedGroup::secp384r1 => Group::Secp384r1,
        _ => Group::Other,
    }
}
