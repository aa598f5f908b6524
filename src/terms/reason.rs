//! The closed set of reasons for which a connection ends.
//!
//! **Promises.** Labels are public, as metric labels and in the access log: added to, never renamed. Their
//! grammar is `<who>_<what>`. docs/reasons.md explains every label, and a test compares it with
//! [`Reason::ALL`].
//!
//! **Not here.** The mapping from errors: each phase's error has an exhaustive `match` beside it.

use super::closed_set::closed_set;

closed_set! {
    /// The reason for the end of a connection.
    pub enum Reason {
        /// Both sides ended their streams in order, and every byte was delivered.
        Ok => "ok",

        /// The client closed without sending a byte: a load balancer's health check, a port scan.
        ClientProbe => "client_probe",
        /// A peer that must send a PROXY protocol header sent none in time, or an invalid one.
        ProxyHeaderInvalid => "proxy_header_invalid",
        /// The connection begins with a PROXY protocol header, and its peer is none that may send one.
        ProxyHeaderUnexpected => "proxy_header_unexpected",
        /// The deadline of the handshake or of its ClientHello passed.
        ClientTlsTimeout => "client_tls_timeout",
        /// The connection limit was reached, and this connection was evicted during its handshake.
        ClientEvicted => "client_evicted",
        /// The client left before its ClientHello was answered, in a queue of ours or of the kernel; no cryptography was
        /// done for it.
        ClientAbandoned => "client_abandoned",
        /// Handshakes in progress reached their memory limit, and this one held most.
        ClientTlsMemory => "client_tls_memory",
        /// The client closed the connection during the handshake.
        ClientTlsEof => "client_tls_eof",
        /// The first bytes are not a TLS record: plain HTTP, plain MQTT, a scanner.
        ClientTlsNotTls => "client_tls_not_tls",
        /// The client ended TLS with a fatal alert: it does not accept our parameters or our certificate.
        ClientTlsAlert => "client_tls_alert",
        /// Client and listener have no version, suite, group, signature scheme or ALPN in common.
        ClientTlsIncompatible => "client_tls_incompatible",
        /// The client sent a server name that no route and no certificate has, and such names are refused.
        ClientNameUnknown => "client_name_unknown",
        /// Any other fault of the client's TLS.
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
        /// The client's chain exceeded the listener's limit on certificates or on bytes.
        ClientCertChainTooLarge => "client_cert_chain_too_large",
        /// A signature of the client's chain, or the client's own in the handshake, is invalid.
        ClientCertBadSignature => "client_cert_bad_signature",
        /// The client's certificate is not for TLS clients, or is that of a CA.
        ClientCertWrongUsage => "client_cert_wrong_usage",
        /// An RSA key of the client's chain is too short.
        ClientCertWeakKey => "client_cert_weak_key",
        /// No CRL states the status of a certificate of the client's chain.
        ClientCertRevocationUnknown => "client_cert_revocation_unknown",
        /// The client's certificate was refused for any other cause.
        ClientCertRejected => "client_cert_rejected",
        /// The client's certificate is valid, and no allow rule admits it; or a live session's CA was removed.
        ClientNotAllowed => "client_not_allowed",

        /// No route matched, and the listener has no default backend.
        NoRoute => "no_route",

        /// The backend refused the connection.
        BackendRefused => "backend_refused",
        /// The backend did not answer within the connect timeout.
        BackendTimeout => "backend_timeout",
        /// There is no route to the backend, or its name does not resolve.
        BackendUnreachable => "backend_unreachable",
        /// Any other failure to connect to the backend.
        BackendError => "backend_error",

        /// The client waited for its turn until the deadline of the handshake: more handshakes arrive than can be done.
        ProxyOverloaded => "proxy_overloaded",
        /// Peers that do not read hold all memory for relayed bytes; closed before its ClientHello was read.
        ProxyBuffersFull => "proxy_buffers_full",
        /// No file descriptor was left for the socket to the backend.
        ProxyFdLimit => "proxy_fd_limit",
        /// No thread was left to look up the backend's name, which had not been resolved yet.
        ProxyThreadLimit => "proxy_thread_limit",
        /// The kernel had no memory for the socket to the backend.
        ProxyMemoryLimit => "proxy_memory_limit",

        /// The client reset the connection.
        ClientReset => "client_reset",
        /// The client stopped answering: TCP keepalive or `TCP_USER_TIMEOUT` expired.
        ClientLost => "client_lost",
        /// The client closed TCP without a TLS close_notify; earlier bytes were delivered.
        ClientTruncated => "client_truncated",
        /// The client closed TCP in the middle of a TLS record: the backend was reset.
        ClientRecordTruncated => "client_record_truncated",
        /// The backend reset the connection.
        BackendReset => "backend_reset",
        /// The backend stopped answering.
        BackendLost => "backend_lost",

        /// No byte moved in either direction for the idle timeout.
        IdleTimeout => "idle_timeout",
        /// One side had ended its stream, and the other moved no byte for the half-close timeout.
        HalfCloseTimeout => "half_close_timeout",
        /// The connection reached its maximum age.
        MaxAge => "max_age",
        /// A new CRL lists a certificate of the client's chain; the live session was stopped.
        Revoked => "revoked",
        /// A certificate in the client's chain expired while the session was live.
        Expired => "expired",
        /// TLS 1.2 reached the limit of records under one key.
        KeysExhausted => "keys_exhausted",
        /// The drain closed the connection at a pause.
        Drain => "drain",
        /// The connection was still open at the deadline of the drain.
        DrainDeadline => "drain_deadline",
        /// An operator ended the session through the admin port.
        Killed => "killed",
        /// The client's identity had more connections than the listener allows.
        OverLimit => "over_limit",
        /// The client's source had more connections than the listener allows; closed before its ClientHello was read.
        OverSourceLimit => "over_source_limit",

        /// An internal fault: a panic, or a record that was not closed. Always a bug.
        Internal => "internal",
    }
}

/// The cause of the end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The device.
    Client,
    /// The backend.
    Backend,
    /// A limit or a stop of tlsidecar, or an end in order.
    Proxy,
    /// A resource limit of this machine or of the process.
    Machine,
    /// A bug.
    Internal,
}

impl Reason {
    /// Returns whether the device, the network, the backend or this machine has a fault. An end in order, a
    /// limit or a stop of tlsidecar, a health check, and an end without close_notify are no failures.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        match self.origin() {
            Origin::Client => !matches!(self, Self::ClientProbe | Self::ClientTruncated),
            Origin::Backend | Origin::Machine | Origin::Internal => true,
            Origin::Proxy => false,
        }
    }

    /// Returns the cause, which decides the level of the access-log line.
    #[must_use]
    pub const fn origin(self) -> Origin {
        match self {
            Self::ClientProbe
            | Self::ProxyHeaderInvalid
            | Self::ProxyHeaderUnexpected
            | Self::ClientTlsTimeout
            | Self::ClientEvicted
            | Self::ClientAbandoned
            | Self::ClientTlsMemory
            | Self::ClientTlsEof
            | Self::ClientTlsNotTls
            | Self::ClientTlsAlert
            | Self::ClientTlsIncompatible
            | Self::ClientNameUnknown
            | Self::ClientTlsError
            | Self::ClientCertMissing
            | Self::ClientCertExpired
            | Self::ClientCertNotYetValid
            | Self::ClientCertUnknownCa
            | Self::ClientCertRevoked
            | Self::ClientCertChainTooLarge
            | Self::ClientCertBadSignature
            | Self::ClientCertWrongUsage
            | Self::ClientCertWeakKey
            | Self::ClientCertRevocationUnknown
            | Self::ClientCertRejected
            | Self::ClientNotAllowed
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
            | Self::Revoked
            | Self::Expired
            | Self::KeysExhausted
            | Self::Drain
            | Self::DrainDeadline
            | Self::Killed
            | Self::OverLimit
            | Self::OverSourceLimit => Origin::Proxy,
            Self::ProxyFdLimit
            | Self::ProxyThreadLimit
            | Self::ProxyMemoryLimit
            | Self::ProxyOverloaded
            | Self::ProxyBuffersFull => Origin::Machine,
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
                // Of the PROXY protocol: the proxy before us is the client of the socket.
                l if l.starts_with("client_") || l.starts_with("proxy_header_") => Origin::Client,
                l if l.starts_with("backend_") => Origin::Backend,
                l if l.starts_with("proxy_") => Origin::Machine,
                _ => continue,
            };
            assert_eq!(reason.origin(), by_name, "{reason}");
        }
    }
}
