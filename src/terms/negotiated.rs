//! The result of a TLS handshake.
//!
//! **Promises.** Logs, metrics and the list of sessions read the same value.
//!
//! **Not here.** The names of the values (`labels.rs`), the handshake (`proxy/handshake.rs`).

use super::labels::{Cipher, ClientCertificate, Group, HandshakeKind, KeyKind, ResumptionOutcome};
use super::offer_class::OfferClass;

/// The offer of a complete TLS handshake, and the parameters that it agreed on.
#[derive(Clone, Debug)]
pub(crate) struct Negotiated {
    /// The class of the ClientHello.
    pub(crate) offer: OfferClass,
    pub(crate) cipher: Cipher,
    pub(crate) kind: HandshakeKind,
    pub(crate) group: Group,
    /// The key type of the server certificate.
    pub(crate) key: KeyKind,
    pub(crate) client: ClientCertificate,
    /// The outcome of the resumption; none if the client offered none, or resumption is off.
    pub(crate) resumption: Option<ResumptionOutcome>,
    /// One of the listener's own protocols.
    pub(crate) alpn: Option<Box<str>>,
}
