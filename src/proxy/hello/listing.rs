//! The offer of a ClientHello by the names of IANA's registries, for traces.
//!
//! **Promises.** No decision depends on it. Each list has at most [`MAX_LISTED`] names, and text of the client is escaped.
//! A code without a known name is a hexadecimal number; those that RFC 8701 reserves are left out.
//!
//! **Not here.** The rules on an offer (`rules.rs`).

use tokio_rustls::rustls::CipherSuite;

use super::client_hello::{ClientHello, Rest};
use crate::sessions::trace::step::{HelloStep, MAX_LISTED};
use crate::terms::iana::{group, scheme, version};
use crate::terms::labels::Cipher;

/// Returns the offer of a message. One that cannot be parsed has its length.
pub(super) fn listing(message: &[u8]) -> HelloStep {
    let mut step = HelloStep { bytes: message.len(), ..HelloStep::default() };
    let Ok(hello) = ClientHello::parse(message) else { return step };
    let extensions = &hello.extensions;
    let codes16 =
        |body: Option<&[u8]>| body.and_then(|body| Rest(body).vector16()).map(<[u8]>::to_vec);
    let versions = extensions.supported_versions.and_then(|body| Rest(body).vector8());
    let legacy = hello.legacy_version.to_be_bytes();
    step.versions = names(versions.unwrap_or(&legacy), version);
    step.suites = names(hello.suites.as_flattened(), suite);
    step.groups = names(&codes16(extensions.supported_groups).unwrap_or_default(), group);
    step.schemes = names(&codes16(extensions.signature_algorithms).unwrap_or_default(), scheme);
    step.key_shares = key_shares(&codes16(extensions.key_share).unwrap_or_default());
    step.alpn = protocols(&codes16(extensions.alpn).unwrap_or_default());
    step.resumption = extensions.session_ticket.is_some_and(|ticket| !ticket.is_empty())
        || extensions.pre_shared_key.is_some();
    step.early_data = extensions.early_data.is_some();
    step
}

/// Returns the names of codes of two bytes.
fn names(codes: &[u8], name: fn(u16) -> Option<&'static str>) -> Vec<String> {
    let codes = codes.as_chunks().0.iter().map(|code| u16::from_be_bytes(*code));
    // RFC 8701: both bytes are equal and end in a.
    let meant = codes.filter(|code| !(code & 0x0f0f == 0x0a0a && code >> 8 == code & 0xff));
    let shown = |code| name(code).map_or_else(|| format!("0x{code:04x}"), str::to_owned);
    meant.take(MAX_LISTED).map(shown).collect()
}

fn suite(code: u16) -> Option<&'static str> {
    // rustls names these after their version.
    Some(match code {
        0x1301 => Cipher::Tls13Aes128.as_str(),
        0x1302 => Cipher::Tls13Aes256.as_str(),
        0x1303 => Cipher::Tls13Chacha20.as_str(),
        0x1304 => Cipher::Tls13Aes128Ccm.as_str(),
        0x1305 => Cipher::Tls13Aes128Ccm8.as_str(),
        // rustls also knows codes of SSL, which IANA has not.
        _ => CipherSuite::from(code).as_str().filter(|name| name.starts_with("TLS_"))?,
    })
}

/// Returns the groups of the shares: RFC 8446 section 4.2.8.
fn key_shares(list: &[u8]) -> Vec<String> {
    let (mut rest, mut codes) = (Rest(list), Vec::new());
    while let Some(code) = rest.array::<2>() {
        codes.extend(code);
        if rest.vector16().is_none() {
            break;
        }
    }
    names(&codes, group)
}

/// Returns the names of protocols: RFC 7301 section 3.1.
fn protocols(list: &[u8]) -> Vec<String> {
    let mut rest = Rest(list);
    let protocols = std::iter::from_fn(|| rest.vector8());
    protocols.take(MAX_LISTED).map(|name| name.escape_ascii().to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_names_of_iana_and_unknown_ones_are_numbers() {
        let shown = |codes: &[u16], name| {
            names(&codes.iter().flat_map(|code| code.to_be_bytes()).collect::<Vec<_>>(), name)
        };
        assert_eq!(
            shown(&[0x1302, 0x1305, 0xc02b, 0x0a0a, 0x00ff, 0xfefe], suite),
            [
                "TLS_AES_256_GCM_SHA384",
                "TLS_AES_128_CCM_8_SHA256",
                "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
                "TLS_EMPTY_RENEGOTIATION_INFO_SCSV",
                "0xfefe",
            ]
        );
        assert_eq!(
            shown(&[0x001d, 0x0017, 0x0100, 0x11eb, 0x11ec, 0xfefe], group),
            ["X25519", "secp256r1", "ffdhe2048", "SecP256r1MLKEM768", "X25519MLKEM768", "0xfefe"]
        );
        assert_eq!(
            shown(&[0x0403, 0x0804, 0x0807, 0x0904, 0xfefe], scheme),
            ["ecdsa_secp256r1_sha256", "rsa_pss_rsae_sha256", "ed25519", "mldsa44", "0xfefe"]
        );
    }

    #[test]
    fn every_suite_of_tls_1_3_has_a_name_that_iana_has() {
        let names = (0..=u16::MAX).filter_map(suite);
        assert_eq!(names.filter(|name| name.starts_with("TLS13_")).count(), 0);
    }
}
