//! The label values of the metrics: closed sets, each value with its meaning.
//!
//! **Promises.** Labels are public: added to, never renamed.
//!
//! **Not here.** The metrics themselves (`metrics.rs`), the reasons (`proxy/reason.rs`).

use crate::proxy::reason::closed_set;

closed_set! {
    /// Which way bytes go.
    pub enum Direction {
        /// From the client to the backend.
        ToBackend => "to_backend",
        /// From the backend to the client.
        ToClient => "to_client",
    }
}

closed_set! {
    /// What a TLS handshake consisted of.
    pub enum HandshakeKind {
        /// Everything, in the usual number of round trips.
        Full => "full",
        /// Everything, and one round trip more: the client's key share was of no use.
        FullRetry => "full_retry",
        /// A session taken up again.
        Resumed => "resumed",
    }
}

closed_set! {
    /// How a reload ended.
    pub enum ReloadOutcome {
        /// Something new is in force.
        Swapped => "swapped",
        /// Everything was as before.
        Unchanged => "unchanged",
        /// Something could not be loaded; what was in force stays.
        Failed => "failed",
    }
}

closed_set! {
    /// Why a connection could not be accepted.
    pub enum AcceptError {
        /// The process or the system is out of file descriptors.
        FdLimit => "fd_limit",
        /// The kernel is out of memory for sockets.
        Memory => "memory",
        /// The connection was gone before it could be accepted.
        Aborted => "aborted",
        /// Anything else.
        Other => "other",
    }
}

closed_set! {
    /// The cipher suites that rustls negotiates with aws-lc-rs, under their IANA names.
    pub enum Cipher {
        /// RFC 8446.
        Tls13Aes128 => "TLS_AES_128_GCM_SHA256",
        /// RFC 8446.
        Tls13Aes256 => "TLS_AES_256_GCM_SHA384",
        /// RFC 8446.
        Tls13Chacha20 => "TLS_CHACHA20_POLY1305_SHA256",
        /// RFC 5289.
        EcdsaAes128 => "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        /// RFC 5289.
        EcdsaAes256 => "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        /// RFC 7905.
        EcdsaChacha20 => "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        /// RFC 5289.
        RsaAes128 => "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        /// RFC 5289.
        RsaAes256 => "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        /// RFC 7905.
        RsaChacha20 => "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    }
}

impl Cipher {
    /// The TLS version that the suite belongs to; each belongs to one.
    #[must_use]
    pub const fn version(self) -> &'static str {
        match self {
            Self::Tls13Aes128 | Self::Tls13Aes256 | Self::Tls13Chacha20 => "1.3",
            Self::EcdsaAes128
            | Self::EcdsaAes256
            | Self::EcdsaChacha20
            | Self::RsaAes128
            | Self::RsaAes256
            | Self::RsaChacha20 => "1.2",
        }
    }
}
