//! The label values of the metrics: closed sets, each value with its meaning.
//!
//! **Promises.** Labels are public: added to, never renamed.
//!
//! **Not here.** The metrics themselves (`metrics.rs`), the reasons (`terms/reason.rs`).

use super::closed_set::closed_set;

closed_set! {
    /// The direction of relayed bytes.
    pub enum Direction {
        /// From the client to the backend.
        ToBackend => "to_backend",
        /// From the backend to the client.
        ToClient => "to_client",
    }
}

closed_set! {
    /// The likely cause for which a client rejects the server certificate.
    pub(crate) enum RejectionCause {
        /// The client's clock is before the certificate's validity.
        ClockBehind => "clock_behind",
        /// The client's clock is after the certificate's validity.
        ClockAhead => "clock_ahead",
        /// The client's clock is before or after the certificate's validity.
        Clock => "clock",
        /// The certificate has expired.
        Expired => "expired",
        /// The certificate does not have the name that the client has sent.
        Name => "name",
        /// The client does not have the CA.
        UnknownCa => "unknown_ca",
        /// The client does not have the CA, or needs an intermediate certificate that is not sent.
        IssuerNotSent => "issuer_not_sent",
        /// The client does not support the key or the usage of the certificate.
        Unsupported => "unsupported",
        /// The certificate is revoked.
        Revoked => "revoked",
        /// Several causes have the same alert.
        Unclear => "unclear",
    }
}

closed_set! {
    /// The kind of a completed TLS handshake.
    pub enum HandshakeKind {
        /// A full handshake in the usual number of round trips.
        Full => "full",
        /// A full handshake with one more round trip: the client's key share had an unsupported group.
        FullRetry => "full_retry",
        /// A resumed session.
        Resumed => "resumed",
    }
}

closed_set! {
    /// The outcome of a reload.
    pub enum ReloadOutcome {
        /// Something new is active.
        Swapped => "swapped",
        /// Nothing had changed.
        Unchanged => "unchanged",
        /// Something could not be loaded, and the current version is kept.
        Failed => "failed",
    }
}

closed_set! {
    /// The cause of a failed accept.
    pub enum AcceptError {
        /// The process or the system is out of file descriptors.
        FdLimit => "fd_limit",
        /// The kernel is out of memory for sockets.
        Memory => "memory",
        /// The client closed the connection before it was accepted.
        Aborted => "aborted",
        /// Anything else.
        Other => "other",
    }
}

closed_set! {
    /// The cipher suites, by their IANA names.
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
        /// RFC 8446.
        Tls13Aes128Ccm => "TLS_AES_128_CCM_SHA256",
        /// RFC 8446.
        Tls13Aes128Ccm8 => "TLS_AES_128_CCM_8_SHA256",
        /// RFC 7251.
        EcdsaAes128Ccm => "TLS_ECDHE_ECDSA_WITH_AES_128_CCM",
        /// RFC 7251.
        EcdsaAes256Ccm => "TLS_ECDHE_ECDSA_WITH_AES_256_CCM",
        /// RFC 7251.
        EcdsaAes128Ccm8 => "TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8",
        /// RFC 7251.
        EcdsaAes256Ccm8 => "TLS_ECDHE_ECDSA_WITH_AES_256_CCM_8",
    }
}

impl Cipher {
    /// Returns whether the suite works with a certificate of this key type. Suites of TLS 1.3 work with any.
    pub(crate) fn goes_with(self, key: KeyKind) -> bool {
        match self {
            Self::Tls13Aes128
            | Self::Tls13Aes256
            | Self::Tls13Chacha20
            | Self::Tls13Aes128Ccm
            | Self::Tls13Aes128Ccm8 => true,
            Self::EcdsaAes128
            | Self::EcdsaAes256
            | Self::EcdsaChacha20
            | Self::EcdsaAes128Ccm
            | Self::EcdsaAes256Ccm
            | Self::EcdsaAes128Ccm8
            | Self::EcdsaAes256Ccm8 => key != KeyKind::Rsa,
            Self::RsaAes128 | Self::RsaAes256 | Self::RsaChacha20 => key == KeyKind::Rsa,
        }
    }

    /// Returns whether only configurations have the suite which name it (`tls.legacy_suites`).
    pub(crate) const fn is_legacy(self) -> bool {
        match self {
            Self::Tls13Aes128Ccm
            | Self::Tls13Aes128Ccm8
            | Self::EcdsaAes128Ccm
            | Self::EcdsaAes256Ccm
            | Self::EcdsaAes128Ccm8
            | Self::EcdsaAes256Ccm8 => true,
            Self::Tls13Aes128
            | Self::Tls13Aes256
            | Self::Tls13Chacha20
            | Self::EcdsaAes128
            | Self::EcdsaAes256
            | Self::EcdsaChacha20
            | Self::RsaAes128
            | Self::RsaAes256
            | Self::RsaChacha20 => false,
        }
    }

    /// Returns the name of the suite in OpenSSL, which receivers of the PROXY protocol expect.
    pub(crate) const fn openssl_name(self) -> &'static str {
        match self {
            Self::Tls13Aes128
            | Self::Tls13Aes256
            | Self::Tls13Chacha20
            | Self::Tls13Aes128Ccm
            | Self::Tls13Aes128Ccm8 => self.as_str(),
            Self::EcdsaAes128Ccm => "ECDHE-ECDSA-AES128-CCM",
            Self::EcdsaAes256Ccm => "ECDHE-ECDSA-AES256-CCM",
            Self::EcdsaAes128Ccm8 => "ECDHE-ECDSA-AES128-CCM8",
            Self::EcdsaAes256Ccm8 => "ECDHE-ECDSA-AES256-CCM8",
            Self::EcdsaAes128 => "ECDHE-ECDSA-AES128-GCM-SHA256",
            Self::EcdsaAes256 => "ECDHE-ECDSA-AES256-GCM-SHA384",
            Self::EcdsaChacha20 => "ECDHE-ECDSA-CHACHA20-POLY1305",
            Self::RsaAes128 => "ECDHE-RSA-AES128-GCM-SHA256",
            Self::RsaAes256 => "ECDHE-RSA-AES256-GCM-SHA384",
            Self::RsaChacha20 => "ECDHE-RSA-CHACHA20-POLY1305",
        }
    }

    /// Returns the TLS version of the suite; each belongs to exactly one.
    #[must_use]
    pub const fn version(self) -> &'static str {
        match self {
            Self::Tls13Aes128
            | Self::Tls13Aes256
            | Self::Tls13Chacha20
            | Self::Tls13Aes128Ccm
            | Self::Tls13Aes128Ccm8 => "1.3",
            Self::EcdsaAes128
            | Self::EcdsaAes256
            | Self::EcdsaChacha20
            | Self::RsaAes128
            | Self::RsaAes256
            | Self::RsaChacha20
            | Self::EcdsaAes128Ccm
            | Self::EcdsaAes256Ccm
            | Self::EcdsaAes128Ccm8
            | Self::EcdsaAes256Ccm8 => "1.2",
        }
    }
}

closed_set! {
    /// A part of the duration of a handshake.
    pub(crate) enum HandshakePart {
        /// From accept until a worker first polls the connection, and from a complete ClientHello to our answer, without
        /// the CPU time. It grows on a busy machine.
        Wait => "wait",
        /// Waiting for the client and the network.
        Client => "client",
        /// TLS itself, mostly signatures and key exchange.
        Crypto => "crypto",
    }
}

closed_set! {
    /// The group of a handshake's key exchange, by its IANA name.
    pub enum Group {
        /// The hybrid with ML-KEM: draft-ietf-tls-ecdhe-mlkem.
        X25519MlKem768 => "X25519MLKEM768",
        /// RFC 7748.
        X25519 => "X25519",
        /// NIST P-256.
        Secp256r1 => "secp256r1",
        /// NIST P-384.
        Secp384r1 => "secp384r1",
        /// Any other group of the crypto provider.
        Other => "other",
        /// No key exchange: a resumed session of TLS 1.2.
        None => "none",
    }
}

closed_set! {
    /// The key type of a certificate.
    pub enum KeyKind {
        /// ECDSA.
        Ecdsa => "ecdsa",
        /// RSA.
        Rsa => "rsa",
        /// Ed25519.
        Ed25519 => "ed25519",
        /// Any other.
        Other => "other",
        /// No certificate was sent: the session was resumed.
        None => "none",
    }
}

closed_set! {
    /// The outcome of the resumption that a client offered.
    pub enum ResumptionOutcome {
        /// The session was resumed.
        Resumed => "resumed",
        /// The ticket was sealed with another key or under another policy, or is no ticket of ours.
        UnknownKey => "unknown_key",
        /// The ticket names a key of ours, which did not seal it, or has content that we do not write.
        Damaged => "damaged",
        /// The session is older than `max_session_age`.
        TooOld => "too_old",
        /// A certificate of the client has expired.
        Expired => "expired",
        /// No client has sent these intermediate CAs since the start of the process.
        UnknownIssuers => "unknown_issuers",
        /// The session is not, or no longer, among those that are remembered for clients without tickets.
        UnknownSession => "unknown_session",
        /// The session is valid, but for another server name or cipher suite.
        NotUsable => "not_usable",
    }
}

closed_set! {
    /// The certificate of a client.
    pub enum ClientCertificate {
        /// The client sent none.
        None => "none",
        /// The client sent a valid one, now or in the handshake of the session that it resumed.
        Verified => "verified",
    }
}

closed_set! {
    /// The highest TLS version that a ClientHello offers.
    pub enum OfferedVersion {
        /// TLS 1.3.
        Tls13 => "1.3",
        /// TLS 1.2.
        Tls12 => "1.2",
        /// TLS 1.1.
        Tls11 => "1.1",
        /// TLS 1.0.
        Tls10 => "1.0",
        /// SSL 3.0.
        Ssl3 => "ssl3",
        /// None that is known.
        Unknown => "unknown",
    }
}

closed_set! {
    /// A fatal alert from a client: RFC 8446 section 6, RFC 5246 section 7.2.
    pub enum Alert {
        /// The client does not know the CA of our certificate.
        UnknownCa => "unknown_ca",
        /// Our certificate is corrupt, or was refused for an unspecified cause.
        BadCertificate => "bad_certificate",
        /// Our certificate has expired by the client's clock.
        CertificateExpired => "certificate_expired",
        /// Our certificate was refused for a cause without a specific alert.
        CertificateUnknown => "certificate_unknown",
        /// Our certificate is revoked.
        CertificateRevoked => "certificate_revoked",
        /// The client does not support this type of certificate.
        UnsupportedCertificate => "unsupported_certificate",
        /// The client found no acceptable parameters.
        HandshakeFailure => "handshake_failure",
        /// The client does not support the version that we chose.
        ProtocolVersion => "protocol_version",
        /// The client requires stronger ciphers.
        InsufficientSecurity => "insufficient_security",
        /// A field that we sent is out of range.
        IllegalParameter => "illegal_parameter",
        /// A message that we sent could not be decoded.
        DecodeError => "decode_error",
        /// Our signature or Finished could not be verified.
        DecryptError => "decrypt_error",
        /// A record that we sent could not be decrypted.
        BadRecordMac => "bad_record_mac",
        /// A message that we sent came out of order.
        UnexpectedMessage => "unexpected_message",
        /// Our certificate is valid, but access is denied.
        AccessDenied => "access_denied",
        /// The server name is not recognized.
        UnrecognizedName => "unrecognized_name",
        /// No common ALPN protocol.
        NoApplicationProtocol => "no_application_protocol",
        /// An internal fault of the client, for example out of memory.
        InternalError => "internal_error",
        /// The user of the client cancelled.
        UserCanceled => "user_canceled",
        /// Any other.
        Other => "other",
    }
}

impl Alert {
    /// Returns whether a client with this alert rejects our certificate.
    pub(crate) const fn is_about_certificate(self) -> bool {
        match self {
            Self::UnknownCa
            | Self::BadCertificate
            | Self::CertificateExpired
            | Self::CertificateUnknown
            | Self::CertificateRevoked
            | Self::UnsupportedCertificate => true,
            Self::HandshakeFailure
            | Self::ProtocolVersion
            | Self::InsufficientSecurity
            | Self::IllegalParameter
            | Self::DecodeError
            | Self::DecryptError
            | Self::BadRecordMac
            | Self::UnexpectedMessage
            | Self::AccessDenied
            | Self::UnrecognizedName
            | Self::NoApplicationProtocol
            | Self::InternalError
            | Self::UserCanceled
            | Self::Other => false,
        }
    }
}

closed_set! {
    /// The end of a handshake that its client did not finish.
    pub enum Interruption {
        /// A deadline passed, or TCP gave up.
        Timeout => "timeout",
        /// The client closed its connection.
        Eof => "eof",
        /// The client reset its connection.
        Reset => "reset",
    }
}

closed_set! {
    /// The progress of a handshake that its client did not finish.
    pub enum HandshakeStage {
        /// No byte came.
        Silent => "silent",
        /// The ClientHello is incomplete.
        Hello => "hello",
        /// The ClientHello waited for our answer.
        Unanswered => "unanswered",
        /// Our answer was sent, and the client's TCP has not acknowledged all of it.
        Unacknowledged => "unacknowledged",
        /// The client has our answer.
        Answered => "answered",
    }
}

closed_set! {
    /// The parameter of which client and listener have no common value.
    pub enum Incompatible {
        /// The TLS version.
        Version => "version",
        /// The cipher suite.
        CipherSuite => "cipher_suite",
        /// The group of the key exchange.
        Group => "group",
        /// The signature scheme.
        Signature => "signature",
        /// The ALPN protocol.
        Alpn => "alpn",
        /// Anything else.
        Other => "other",
    }
}

closed_set! {
    /// The condition of the routes that a connection without a route does not meet.
    pub enum NoRouteCause {
        /// The client sent no server name, and each route has names.
        NoSni => "no_sni",
        /// No route has the client's server name.
        UnknownName => "unknown_name",
        /// A route has the client's server name, or needs none, and not the protocol.
        Alpn => "alpn",
    }
}

closed_set! {
    /// The protocol that the first bytes of a connection without TLS look like.
    pub enum LooksLike {
        /// HTTP/1 or HTTP/2.
        Http => "http",
        /// MQTT.
        Mqtt => "mqtt",
        /// Modbus/TCP.
        Modbus => "modbus",
        /// A PROXY protocol header, before which nothing was expected.
        ProxyHeader => "proxy_header",
        /// A ClientHello in the format of SSL 2.0.
        Sslv2 => "sslv2",
        /// DTLS, on TCP.
        Dtls => "dtls",
        /// SSH.
        Ssh => "ssh",
        /// None that is known.
        Other => "other",
    }
}

closed_set! {
    /// The best kind of cipher suite that a client offers, best first.
    pub enum SuiteKind {
        /// Ephemeral elliptic curves with an AEAD, which we accept; but it fits none of our certificates, or the
        /// configuration excludes it.
        EcdheGcm => "ecdhe_gcm",
        /// Ephemeral elliptic curves with CBC.
        EcdheCbc => "ecdhe_cbc",
        /// AES-CCM, common on small devices.
        Ccm => "ccm",
        /// Finite-field Diffie-Hellman.
        Dhe => "dhe",
        /// RSA key exchange.
        Rsa => "rsa",
        /// A pre-shared key instead of certificates.
        Psk => "psk",
        /// No cipher or no authentication, RC4, DES, 3DES, export.
        Weak => "weak",
        /// None that is known.
        Other => "other",
    }
}

closed_set! {
    /// The result of an attempt to connect to a backend.
    pub enum ConnectResult {
        /// Connected.
        Ok => "ok",
        /// The backend refused the connection.
        Refused => "refused",
        /// The backend did not answer in time.
        Timeout => "timeout",
        /// There is no route to the backend, or its name does not resolve.
        Unreachable => "unreachable",
        /// Anything else.
        Error => "error",
    }
}

closed_set! {
    /// The age of a session.
    pub enum Age {
        /// Less than a minute.
        UnderMinute => "under_1m",
        /// Less than an hour.
        UnderHour => "under_1h",
        /// Less than a day.
        UnderDay => "under_1d",
        /// Less than a week.
        UnderWeek => "under_7d",
        /// A week or more.
        OverWeek => "over_7d",
    }
}

closed_set! {
    /// The time since a session's last relayed byte.
    pub enum Silence {
        /// Less than a minute.
        UnderMinute => "under_1m",
        /// Less than ten minutes.
        UnderTenMinutes => "under_10m",
        /// Less than an hour.
        UnderHour => "under_1h",
        /// Less than a day.
        UnderDay => "under_1d",
        /// A day or more.
        OverDay => "over_1d",
    }
}

closed_set! {
    /// The time until the client certificate of a session expires.
    pub enum Expiry {
        /// The client sent no certificate.
        None => "none",
        /// It has expired since the handshake.
        Expired => "expired",
        /// Within a day.
        WithinDay => "within_1d",
        /// Within a week.
        WithinWeek => "within_7d",
        /// Within thirty days.
        WithinMonth => "within_30d",
        /// Within ninety days.
        WithinQuarter => "within_90d",
        /// Later.
        Later => "later",
    }
}

closed_set! {
    /// The kind of objects in a file of a listener's TLS material.
    pub enum MaterialKind {
        /// Certificates that are sent: the server certificate and those of its issuers.
        Certificate => "certificate",
        /// Private keys.
        Key => "key",
        /// CAs of client certificates, and pinned devices.
        ClientCa => "client_ca",
        /// Revocation lists.
        Crl => "crl",
        /// Allow rules.
        Allow => "allow",
        /// Shared ticket keys.
        TicketKeys => "ticket_keys",
    }
}

closed_set! {
    /// A kind of object that a reload loads.
    pub enum ReloadObject {
        /// The configuration file.
        Config => "config",
        /// Certificates and their keys.
        Certificate => "certificate",
        /// The CAs of client certificates.
        ClientCa => "client_ca",
        /// Revocation lists.
        Crl => "crl",
        /// The files of allow rules.
        Allow => "allow",
        /// Shared ticket keys.
        TicketKeys => "ticket_keys",
        /// The token of the admin port.
        AdminToken => "admin_token",
    }
}
