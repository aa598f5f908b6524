//! The closed set of reasons for which a connection ends.
//!
//! **Promises.** A reason's label is public: it is a metric label and an access-log value, so it
//! is added to, never renamed. The grammar is `<who>_<what>`. Every label is explained in
//! docs/reasons.md, which a test compares with [`Reason::ALL`].
//!
//! **Not here.** How an error becomes a reason: each phase's error has its own exhaustive `match`
//! next to it.

use super::closed_set::closed_set;

closed_set! {
    /// Why a connection ended.
    pub enum Reason {
        /// Both sides ended their stream in order, and every byte was delivered.
        Ok => "ok",

        /// The client left without a byte: a load balancer's health check, a port scan.
        ClientProbe => "client_probe",
        /// A handshake deadline passed: the whole handshake's, or the ClientHello's.
        ClientTlsTimeout => "client_tls_timeout",
        /// The limit of connections was reached, and it made room for another before its handshake was
        /// over.
        ClientEvicted => "client_evicted",
        /// Handshakes in progress held as much memory as they may, and this one most of all.
        ClientTlsMemory => "client_tls_memory",
        /// The client closed its connection before the handshake was over.
        ClientTlsEof => "client_tls_eof",
        /// The first bytes are not a TLS record: plain HTTP, plain MQTT, a scanner.
        ClientTlsNotTls => "client_tls_not_tls",
        /// The client ended TLS with a fatal alert: it does not accept what we offer.
        ClientTlsAlert => "client_tls_alert",
        /// Client and listener have no version, suite, group, signature scheme or ALPN in common.
        ClientTlsIncompatible => "client_tls_incompatible",
        /// Anything else that is wrong with the client's TLS.
        ClientTlsError => "client_tls_error",

        /// The listener requires a client certificate and the client sent none.
        ClientCertMissing => "client_cert_missing",
        /// A certificate in the client's chain is past its notAfter.
        ClientCertExpired => "client_cert_expired",
        /// A certificate in the client's chain is before its notBefore.
        ClientCertNotYetValid => "client_cert_not_yet_valid",
        /// The client's chain does not lead to a CA of the listener's bundle.
        ClientCertUnknownCa => "client_cert_unknown_ca",
        /// A CRL lists a certificate of the client's chain.
        ClientCertRevoked => "client_cert_revoked",
        /// The client sent more certificates, or more bytes of them, than the listener takes.
        ClientCertChainTooLarge => "client_cert_chain_too_large",
        /// The client's certificate was refused for any other cause.
        ClientCertRejected => "client_cert_rejected",

        /// No route matched and the listener has no backend of its own.
        NoRoute => "no_route",

        /// The backend refused the connection.
        BackendRefused => "backend_refused",
        /// The backend did not answer within the connect timeout.
        BackendTimeout => "backend_timeout",
        /// There is no way to the backend, or its name does not resolve.
        BackendUnreachable => "backend_unreachable",
        /// Any other failure to connect to the backend.
        BackendError => "backend_error",

        /// No file descriptor was left for the socket towards the backend.
        ProxyFdLimit => "proxy_fd_limit",
        /// No thread was left to look up the backend's name, which was not known yet.
        ProxyThreadLimit => "proxy_thread_limit",
        /// The kernel had no memory for the socket towards the backend.
        ProxyMemoryLimit => "proxy_memory_limit",

        /// The client reset the connection.
        ClientReset => "client_reset",
        /// The client stopped answering: keepalive or `TCP_USER_TIMEOUT` gave up on it.
        ClientLost => "client_lost",
        /// The client closed TCP without a TLS close_notify; what came before was delivered.
        ClientTruncated => "client_truncated",
        /// The client closed TCP in the middle of a TLS record: the backend was reset.
        ClientRecordTruncated => "client_record_truncated",
        /// The backend reset the connection.
        BackendReset => "backend_reset",
        /// The backend stopped answering.
        BackendLost => "backend_lost",

        /// No byte moved in either direction for the idle timeout.
        IdleTimeout => "idle_timeout",
        /// One side had ended its stream and the other moved no byte for the half-close timeout.
        HalfCloseTimeout => "half_close_timeout",
        /// The connection reached its maximum age.
        MaxAge => "max_age",
        /// TLS 1.2 has used up what may be sealed under one key.
        KeysExhausted => "keys_exhausted",
        /// The drain's deadline passed with the connection still open.
        DrainDeadline => "drain_deadline",

        /// A fault of ours: a panic, or a record that nobody closed. Always a bug.
        Internal => "internal",
    }
}

/// Who caused a connection's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The device.
    Client,
    /// The legacy server.
    Backend,
    /// A limit or a stop of ours, or an end in order.
    Proxy,
    /// This machine, or what it lets the process have.
    Machine,
    /// A bug of ours.
    Internal,
}

impl Reason {
    /// Whether something is wrong with the device, the network, the backend or this machine: what is not an end in
    /// order, a limit or a stop of ours, a health check, or a device that ends without a goodbye.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        match self.origin() {
            Origin::Client => !matches!(self, Self::ClientProbe | Self::ClientTruncated),
            Origin::Backend | Origin::Machine | Origin::Internal => true,
            Origin::Proxy => false,
        }
    }

    /// Who caused this end; it decides the level of the access-log line.
    #[must_use]
    pub const fn origin(self) -> Origin {
        match self {
            Self::ClientProbe
            | Self::ClientTlsTimeout
            | Self::ClientEvicted
            | Self::ClientTlsMemory
            | Self::ClientTlsEof
            | Self::ClientTlsNotTls
            | Self::ClientTlsAlert
            | Self::ClientTlsIncompatible
            | Self::ClientTlsError
            | Self::ClientCertMissing
            | Self::ClientCertExpired
            | Self::ClientCertNotYetValid
            | Self::ClientCertUnknownCa
            | Self::ClientCertRevoked
            | Self::ClientCertChainTooLarge
            | Self::ClientCertRejected
            | Self::NoRoute
            | Self::ClientReset
            | Self::ClientLost
            | Self::ClientTruncated
            | Self::ClientRecordTruncated => Origin::Client,
            Self::BackendRefused
            | Self::BackendTimeout
            | Self::BackendUnreachable
            | Self::BackendError
            | Self::BackendReset
            | Self::BackendLost => Origin::Backend,
            Self::Ok
            | Self::IdleTimeout
            | Self::HalfCloseTimeout
            | Self::MaxAge
            | Self::KeysExhausted
            | Self::DrainDeadline => Origin::Proxy,
            Self::ProxyFdLimit | Self::ProxyThreadLimit | Self::ProxyMemoryLimit => Origin::Machine,
            Self::Internal => Origin::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_distinct_and_follow_the_grammar() {
        let mut labels: Vec<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
        assert!(labels.iter().all(|l| l.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Reason::ALL.len());
    }

    #[test]
    fn a_label_that_names_an_origin_is_counted_for_that_origin() {
        for reason in Reason::ALL {
            let by_name = match reason.as_str() {
                l if l.starts_with("client_") => Origin::Client,
                l if l.starts_with("backend_") => Origin::Backend,
                l if l.starts_with("proxy_") => Origin::Machine,
                _ => continue,
            };
            assert_eq!(reason.origin(), by_name, "{reason}");
        }
    }
}
