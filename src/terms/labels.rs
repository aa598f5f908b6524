//! The label values of the metrics: closed sets, each value with its meaning.
//!
//! **Promises.** Labels are public: added to, never renamed.
//!
//! **Not here.** The metrics themselves (`metrics.rs`), the reasons (`terms/reason.rs`).

use super::closed_set::closed_set;

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
    /// Whether it goes with a certificate that has this kind of key: those of TLS 1.3 with any.
    pub(crate) fn goes_with(self, key: KeyKind) -> bool {
        match self {
            Self::Tls13Aes128 | Self::Tls13Aes256 | Self::Tls13Chacha20 => true,
            Self::EcdsaAes128 | Self::EcdsaAes256 | Self::EcdsaChacha20 => key != KeyKind::Rsa,
            Self::RsaAes128 | Self::RsaAes256 | Self::RsaChacha20 => key == KeyKind::Rsa,
        }
    }

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

closed_set! {
    /// What the time of a handshake went into.
    pub(crate) enum Part {
        /// From accept to the first turn of the connection's task: a machine that is busy.
        Wait => "wait",
        /// Waiting for the client, its way included.
        Client => "client",
        /// TLS itself, signatures and key exchange above all.
        Crypto => "crypto",
    }
}

closed_set! {
    /// The group of a handshake's key exchange, under its IANA name.
    pub enum Group {
        /// The hybrid with ML-KEM: draft-ietf-tls-ecdhe-mlkem.
        X25519MlKem768 => "X25519MLKEM768",
        /// RFC 7748.
        X25519 => "X25519",
        /// NIST P-256.
        Secp256r1 => "secp256r1",
        /// NIST P-384.
        Secp384r1 => "secp384r1",
        /// Any other that the provider may come to have.
        Other => "other",
        /// No key exchange: TLS 1.2, resumed.
        None => "none",
    }
}

closed_set! {
    /// What kind of key a certificate has.
    pub enum KeyKind {
        /// An elliptic curve, by ECDSA.
        Ecdsa => "ecdsa",
        /// RSA.
        Rsa => "rsa",
        /// Ed25519.
        Ed25519 => "ed25519",
        /// Any other.
        Other => "other",
        /// No certificate was shown: the session was resumed.
        None => "none",
    }
}

closed_set! {
    /// Whether a client has shown a certificate.
    pub enum ClientCertificate {
        /// It has not.
        None => "none",
        /// It has, and it was found good, now or when the session that it resumed began.
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
        /// None that can be read.
        Unknown => "unknown",
    }
}

closed_set! {
    /// A fatal alert of a client: RFC 8446 section 6, RFC 5246 section 7.2.
    pub enum Alert {
        /// It does not know the CA of our certificate.
        UnknownCa => "unknown_ca",
        /// Our certificate is corrupt, or was refused without saying more.
        BadCertificate => "bad_certificate",
        /// Our certificate is expired, by the client's clock.
        CertificateExpired => "certificate_expired",
        /// Our certificate was refused for a cause that has no alert of its own.
        CertificateUnknown => "certificate_unknown",
        /// Our certificate is revoked.
        CertificateRevoked => "certificate_revoked",
        /// It cannot use certificates of our kind.
        UnsupportedCertificate => "unsupported_certificate",
        /// It found nothing acceptable.
        HandshakeFailure => "handshake_failure",
        /// It does not speak the version that we chose.
        ProtocolVersion => "protocol_version",
        /// It wants stronger ciphers.
        InsufficientSecurity => "insufficient_security",
        /// A field of ours is out of range to it.
        IllegalParameter => "illegal_parameter",
        /// A message of ours could not be read.
        DecodeError => "decode_error",
        /// A signature or a Finished of ours could not be verified.
        DecryptError => "decrypt_error",
        /// A record of ours could not be opened.
        BadRecordMac => "bad_record_mac",
        /// A message of ours came out of order.
        UnexpectedMessage => "unexpected_message",
        /// A valid certificate, but no access.
        AccessDenied => "access_denied",
        /// It does not know the name that was asked for.
        UnrecognizedName => "unrecognized_name",
        /// No common ALPN protocol.
        NoApplicationProtocol => "no_application_protocol",
        /// A fault of its own: out of memory, say.
        InternalError => "internal_error",
        /// Its user gave up.
        UserCanceled => "user_canceled",
        /// Any other.
        Other => "other",
    }
}

closed_set! {
    /// What a client and the listener do not have in common.
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
    /// The best kind of cipher suite that a client offers, from good to bad.
    pub enum SuiteKind {
        /// What is accepted here: ephemeral elliptic curves with an AEAD; it fits no certificate of
        /// ours.
        EcdheGcm => "ecdhe_gcm",
        /// Ephemeral elliptic curves with CBC.
        EcdheCbc => "ecdhe_cbc",
        /// AES-CCM, as small devices have it.
        Ccm => "ccm",
        /// Finite-field Diffie-Hellman.
        Dhe => "dhe",
        /// RSA key exchange.
        Rsa => "rsa",
        /// A shared key instead of certificates.
        Psk => "psk",
        /// No cipher or no authentication, RC4, DES, 3DES, export.
        Weak => "weak",
        /// None that is known.
        Other => "other",
    }
}

closed_set! {
    /// How an attempt to reach a backend ended.
    pub enum ConnectResult {
        /// It is connected.
        Ok => "ok",
        /// It refused.
        Refused => "refused",
        /// It did not answer in time.
        Timeout => "timeout",
        /// There is no way to it, or its name does not resolve.
        Unreachable => "unreachable",
        /// Anything else.
        Error => "error",
    }
}

closed_set! {
    /// How old a session is.
    pub enum Age {
        /// Less than a minute.
        UnderMinute => "under_1m",
        /// Less than an hour.
        UnderHour => "under_1h",
        /// Less than a day.
        UnderDay => "under_1d",
        /// Less than a week.
        UnderWeek => "under_7d",
        /// A week and more.
        OverWeek => "over_7d",
    }
}

closed_set! {
    /// How long ago a session's last byte was relayed.
    pub enum Silence {
        /// Less than a minute.
        UnderMinute => "under_1m",
        /// Less than ten minutes.
        UnderTenMinutes => "under_10m",
        /// Less than an hour.
        UnderHour => "under_1h",
        /// Less than a day.
        UnderDay => "under_1d",
        /// A day and more.
        OverDay => "over_1d",
    }
}

closed_set! {
    /// When the certificate of a session's client expires.
    pub enum Expiry {
        /// It has shown none.
        None => "none",
        /// It has expired since.
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
    /// What a file of a listener's TLS holds.
    pub enum MaterialKind {
        /// The certificates that are sent: the server's own, and those of its issuers.
        Certificate => "certificate",
        /// Private keys.
        Key => "key",
        /// The CAs of client certificates, and pinned devices.
        ClientCa => "client_ca",
        /// Revocation lists.
        Crl => "crl",
    }
}

closed_set! {
    /// What a reload loads.
    pub enum ReloadObject {
        /// The configuration file.
        Config => "config",
        /// Certificates and their keys.
        Certificate => "certificate",
        /// The CAs of client certificates.
        ClientCa => "client_ca",
        /// Revocation lists.
        Crl => "crl",
    }
}
