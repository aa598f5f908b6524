//! The steps of a traced connection.
//!
//! **Promises.** The fields are keys of the JSON of `POST /trace` and are public: docs/admin-api.md lists them. A list has at
//! most [`MAX_LISTED`] names.
//!
//! **Not here.** The connections that are traced (`trace.rs`), what makes the steps (`proxy/record/trace.rs`,
//! `proxy/handshake/steps.rs`).

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;

use data_encoding::BASE64;
use serde::{Serialize, Serializer};
use zeroize::Zeroizing;

use crate::terms::reason::Reason;

/// Names of a list.
pub(crate) const MAX_LISTED: usize = 64;

/// A step of a connection.
#[derive(Debug, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub(crate) enum Step {
    /// It was connected when the trace began.
    Connected {
        identity: Option<Box<str>>,
        sni: Option<Box<str>>,
        backend: Option<Box<str>>,
        age_seconds: u64,
    },
    /// It was accepted.
    Accepted,
    /// A proxy before tlsidecar has stated the device's address.
    Forwarded { via: String },
    /// Its ClientHello was read.
    Hello(Box<HelloStep>),
    /// The policy of its handshake was chosen.
    Policy { route: Option<usize>, rollout: Option<&'static str>, client_certificate: &'static str },
    /// It was shown a server certificate.
    ServerCertificate { subject: String, serial: String, not_after: String, key: &'static str },
    /// It has shown its own certificate.
    ClientCertificate(Box<ClientCertificateStep>),
    /// An alert was sent by the device or by tlsidecar, in the handshake or later. A close_notify ends a session in order.
    Alert { sender: Sender, alert: Cow<'static, str> },
    /// Its handshake is complete.
    Handshake(Box<HandshakeStep>),
    /// A backend was connected, or not.
    Backend { backend: Box<str>, connected: bool },
    /// The relay begins.
    Relay { connect_ms: f64 },
    /// Bytes were relayed in the last second. The counts are those since the relay began.
    Bytes { bytes_to_backend: u64, bytes_to_client: u64 },
    /// A secret of its session, as a line of RFC 9850.
    Key { line: KeyLine },
    /// Bytes that its socket has returned or taken.
    Packet(PacketStep),
    /// It has ended.
    Closed(Box<ClosedStep>),
}

/// The sender of an alert.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Sender {
    Device,
    Tlsidecar,
}

/// The offer of a ClientHello, by the names of IANA's registries or as hexadecimal numbers.
#[derive(Debug, Default, Serialize)]
pub(crate) struct HelloStep {
    pub(crate) bytes: usize,
    pub(crate) sni: Option<String>,
    pub(crate) versions: Vec<String>,
    pub(crate) suites: Vec<String>,
    pub(crate) groups: Vec<String>,
    pub(crate) key_shares: Vec<String>,
    pub(crate) schemes: Vec<String>,
    pub(crate) alpn: Vec<String>,
    pub(crate) resumption: bool,
    pub(crate) early_data: bool,
}

/// The certificate of a device.
#[derive(Debug, Serialize)]
pub(crate) struct ClientCertificateStep {
    /// False for the names in a certificate that was refused: anybody can write them.
    pub(crate) verified: bool,
    pub(crate) names: Box<[Box<str>]>,
    pub(crate) subject: Option<Box<str>>,
    pub(crate) issuer: Option<Box<str>>,
    pub(crate) serial: Option<Box<str>>,
    pub(crate) sha256: Option<Box<str>>,
    /// In the form of RFC 3339.
    pub(crate) not_after: Option<String>,
}

/// The result of a handshake.
#[derive(Debug, Serialize)]
pub(crate) struct HandshakeStep {
    pub(crate) tls: &'static str,
    pub(crate) cipher: &'static str,
    pub(crate) group: &'static str,
    pub(crate) handshake: &'static str,
    pub(crate) alpn: Option<Box<str>>,
    pub(crate) resumption: Option<&'static str>,
    pub(crate) identity: Option<Box<str>>,
    pub(crate) waited_ms: f64,
    pub(crate) crypto_ms: f64,
}

/// Bytes of one direction.
#[derive(Debug, Serialize)]
pub(crate) struct PacketStep {
    pub(crate) sender: Sender,
    /// The address of ours that the device has connected to.
    pub(crate) local: Option<SocketAddr>,
    /// Bytes of this sender before these. A gap is a loss.
    pub(crate) offset: u64,
    #[serde(rename = "data", serialize_with = "base64")]
    pub(crate) bytes: Vec<u8>,
}

fn base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE64.encode(bytes))
}

/// The end of a connection.
#[derive(Debug, Serialize)]
pub(crate) struct ClosedStep {
    #[serde(serialize_with = "as_label")]
    pub(crate) reason: Reason,
    pub(crate) phase: &'static str,
    /// The likely cause for which the client has rejected the server certificate.
    pub(crate) likely_cause: Option<&'static str>,
    pub(crate) error: Option<String>,
    pub(crate) bytes_to_backend: u64,
    pub(crate) bytes_to_client: u64,
    pub(crate) duration_ms: f64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn as_label<S: Serializer>(reason: &Reason, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(reason.as_str())
}

/// A line with a secret, which is wiped on drop and is in no log.
pub(crate) struct KeyLine(Zeroizing<String>);

impl KeyLine {
    /// Returns the line of a secret: RFC 9850 section 2.
    pub(crate) fn new(label: &str, client_random: &[u8], secret: &[u8]) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digits = 2 * (client_random.len() + secret.len());
        // With its whole capacity, so that no copy is left behind by growth.
        let mut line = Zeroizing::new(String::with_capacity(label.len() + digits + 2));
        line.push_str(label);
        for bytes in [client_random, secret] {
            line.push(' ');
            for byte in bytes {
                line.push(char::from(DIGITS[usize::from(byte >> 4)]));
                line.push(char::from(DIGITS[usize::from(byte & 15)]));
            }
        }
        Self(line)
    }
}

impl fmt::Debug for KeyLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyLine")
    }
}

impl Serialize for KeyLine {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_line_has_the_form_of_rfc_9850_and_is_not_shown() {
        let line = KeyLine::new("CLIENT_RANDOM", &[0, 255], &[0x1f]);
        assert_eq!(serde_json::to_value(&line).unwrap(), "CLIENT_RANDOM 00ff 1f");
        assert_eq!(format!("{line:?}"), "KeyLine");
    }
}
