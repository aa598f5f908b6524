//! The requirements of a load: certificates, and what its devices offer.

use super::material::Key;

/// Requirements of a load.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub key: Key,
    /// Devices must send a certificate.
    pub client_auth: bool,
    /// The certificates are checked with a CRL, which is empty at first.
    pub crl: bool,
    pub groups: Groups,
}

/// The groups of a device's key exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Groups {
    /// X25519, then P-256.
    Classic,
    /// X25519MLKEM768 alone, which some proxies do not have.
    PostQuantum,
}
