//! The handshake of a listener with a ClientHello of a class, up to its answer: would such a client be served?
//!
//! **Promises.** The code that answers devices decides. No socket is used, and nothing is counted.
//!
//! **Not here.** Client certificates, which come after the answer (`app/live.rs`), the classes (`terms/offer_class.rs`).

use tokio::io;

use super::handshake::{self, FailedHandshake, HandshakeError, Kernel};
use super::handshake_memory::Share;
use super::hello::kind;
use super::hello::version::{TLS_1_1, TLS_1_3};
use crate::terms::offer_class::{OfferClass, OfferList};
use crate::terms::reason::Reason;
use crate::trust::snapshot::Snapshot;

/// A code that no implementation may give a meaning: RFC 8701.
const RESERVED: u16 = 0x0a0a;

/// The longest server name that is sent.
const MAX_NAME: usize = 255;

/// A client that is imagined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ImaginedClient<'a> {
    pub(crate) class: OfferClass,
    pub(crate) server_name: Option<&'a str>,
    /// The only ALPN protocol that it offers.
    pub(crate) alpn: Option<&'a str>,
}

/// The refusal of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RefusedOffer {
    pub(crate) reason: Reason,
    /// The cause, as in the log.
    pub(crate) cause: String,
}

/// Answers a client with the policies of a snapshot.
///
/// # Errors
/// The client would be refused before it sends a certificate.
pub(crate) async fn rehearse(
    snapshot: &Snapshot,
    client: ImaginedClient<'_>,
) -> Result<(), RefusedOffer> {
    let hello = record(&client_hello(client));
    // The client ends its side after the ClientHello, and reads everything.
    let io = io::join(&hello[..], io::sink());
    let started =
        handshake::read_client_hello(io, &snapshot.listener, Share::default(), Kernel::NONE, None)
            .await;
    let answered = match started {
        Ok(started) => started.accept(snapshot, &0_u8, None).await.0.err(),
        Err(failed) => Some(failed),
    };
    answered.map_or(Ok(()), |failed| judged(&failed))?;
    // rustls compares the protocols after the exchange of keys, to which a HelloRetryRequest does not come.
    let protocols = &snapshot.listener.tls.alpn;
    let is_offered = |offered: &str| protocols.iter().any(|own| own == offered.as_bytes());
    if client.alpn.is_some_and(|offered| !protocols.is_empty() && !is_offered(offered)) {
        return judged(&Box::from(HandshakeError::NoCommonAlpn));
    }
    Ok(())
}

/// Returns the refusal, unless the client only has not gone on after the answer: a flight, or a HelloRetryRequest.
fn judged(failed: &FailedHandshake) -> Result<(), RefusedOffer> {
    let reason = failed.reason();
    if reason == Reason::ClientTlsEof {
        return Ok(());
    }
    Err(RefusedOffer { reason, cause: failed.to_string() })
}

/// Returns a ClientHello of a class: RFC 8446 section 4.1.2.
fn client_hello(client: ImaginedClient<'_>) -> Vec<u8> {
    let ImaginedClient { class, server_name, alpn } = client;
    let offers_tls13 = class.offered(OfferList::Versions).any(|(code, _)| code == TLS_1_3);
    let mut body = [&[3, 3][..], &[7; 32], &[0]].concat();
    body.extend(vector16(&list(class, OfferList::Suites, RESERVED)));
    body.extend([1, 0]);
    let mut extensions = Vec::new();
    let mut add = |kind: u16, body: &[u8]| {
        extensions.extend(kind.to_be_bytes());
        extensions.extend(vector16(body));
    };
    if let Some(name) = server_name {
        // The facts have an odd name escaped, which can be longer than the name was. It is odd also when it is cut.
        let name = vector16(&name.as_bytes()[..name.len().min(MAX_NAME)]);
        add(kind::SERVER_NAME, &vector16(&[&[0][..], &name].concat()));
    }
    // Without this extension, the field before could offer TLS 1.2.
    add(kind::SUPPORTED_VERSIONS, &vector8(&list(class, OfferList::Versions, TLS_1_1)));
    if class.has(OfferList::Groups) {
        add(kind::SUPPORTED_GROUPS, &vector16(&list(class, OfferList::Groups, RESERVED)));
    }
    if class.has(OfferList::Schemes) {
        add(kind::SIGNATURE_ALGORITHMS, &vector16(&list(class, OfferList::Schemes, RESERVED)));
    }
    if let Some(protocol) = alpn {
        add(kind::ALPN, &vector16(&vector8(protocol.as_bytes())));
    }
    add(kind::EXTENDED_MASTER_SECRET, &[]);
    if offers_tls13 {
        // No share: the answer is a HelloRetryRequest, after everything has been selected.
        add(kind::KEY_SHARE, &vector16(&[]));
    }
    body.extend(vector16(&extensions));
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[1][..], &length[1..], &body].concat()
}

/// Returns the codes of a list of a class, or the code `other` if there is none.
fn list(class: OfferClass, list: OfferList, other: u16) -> Vec<u8> {
    let mut codes: Vec<_> = class.offered(list).map(|(code, _)| code).collect();
    if codes.is_empty() {
        codes.push(other);
    }
    codes.iter().flat_map(|code| code.to_be_bytes()).collect()
}

/// Returns a record of a handshake message: RFC 8446 section 5.1.
fn record(message: &[u8]) -> Vec<u8> {
    [&[22, 3, 1][..], &vector16(message)].concat()
}

/// Returns a vector with its length in two bytes. All of them here are shorter than 64 KiB.
fn vector16(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&length[..], bytes].concat()
}

/// Returns a vector with its length in one byte. All of them here are shorter than 256 bytes.
fn vector8(bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    [&[length][..], bytes].concat()
}

#[cfg(test)]
mod tests;
