//! The versions and suites of a ClientHello, for the metrics: rustls does not return them, in particular for a
//! ClientHello that it refuses.
//!
//! **Promises.** No decision depends on them. Bytes that are not a ClientHello make an unknown offer.
//!
//! **Not here.** Acceptance of the offer: rustls decides, on the same bytes.

use tokio_rustls::rustls::CipherSuite;

use super::client_hello::Rest;
use super::client_hello::kind::SUPPORTED_VERSIONS;
use crate::terms::labels::{OfferedVersion, SuiteKind};

/// Number of suites that are considered. IANA has registered about 350; a hello of 64 KiB has room for 32,000.
pub(super) const MAX_SUITES: usize = 512;

/// The versions and suites of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offered {
    pub(super) version: OfferedVersion,
    pub(super) best_suite: SuiteKind,
}

/// Reads the offer of a ClientHello.
pub(super) fn read(message: &[u8]) -> Offered {
    let unknown = Offered { version: OfferedVersion::Unknown, best_suite: SuiteKind::Other };
    client_hello(message).unwrap_or(unknown)
}

/// Reads a ClientHello up to its extensions: RFC 8446 section 4.1.2, in the same form as RFC 5246 section
/// 7.4.1.2. Unlike `client_hello.rs`, it accepts a message that is incomplete.
fn client_hello(message: &[u8]) -> Option<Offered> {
    let mut rest = Rest(message);
    let [_kind, _, _, _] = rest.array()?;
    let legacy_version = u16::from_be_bytes(rest.array()?);
    let _random: [u8; 32] = rest.array()?;
    let _session_id = rest.vector8()?;
    let suites = rest.vector16()?.as_chunks().0;
    let best_suite = best_suite(suites);
    let _compression_methods = rest.vector8()?;
    let version = supported_versions(rest).unwrap_or_else(|| offered_version(legacy_version));
    Some(Offered { version, best_suite })
}

/// Returns the best kind among the suites. Most clients list it first, and the rest is skipped.
fn best_suite(suites: &[[u8; 2]]) -> SuiteKind {
    let mut best = SuiteKind::Other;
    for &code in suites.iter().take(MAX_SUITES) {
        best = best.min(suite_kind(CipherSuite::from(u16::from_be_bytes(code))));
        if best == SuiteKind::EcdheGcm {
            break;
        }
    }
    best
}

/// Returns the highest version in the supported_versions extension; none without it.
fn supported_versions(mut rest: Rest<'_>) -> Option<OfferedVersion> {
    let mut extensions = Rest(rest.vector16()?);
    loop {
        let kind = u16::from_be_bytes(extensions.array()?);
        let mut extension = Rest(extensions.vector16()?);
        if kind == SUPPORTED_VERSIONS {
            let versions = extension.vector8()?.as_chunks().0;
            let versions = versions.iter().map(|&code| offered_version(u16::from_be_bytes(code)));
            return Some(versions.min().unwrap_or(OfferedVersion::Unknown));
        }
    }
}

/// Returns the label of a version. The highest is the least, and unknown values (RFC 8701) are last.
const fn offered_version(version: u16) -> OfferedVersion {
    match version {
        0x0304 => OfferedVersion::Tls13,
        0x0303 => OfferedVersion::Tls12,
        0x0302 => OfferedVersion::Tls11,
        0x0301 => OfferedVersion::Tls10,
        0x0300 => OfferedVersion::Ssl3,
        _ => OfferedVersion::Unknown,
    }
}

/// Returns the kind of a suite, by its IANA name.
fn suite_kind(suite: CipherSuite) -> SuiteKind {
    let Some(name) = suite.as_str() else { return SuiteKind::Other };
    let has = |part: &str| name.contains(part);
    match () {
        // TLS 1.3: its suites work with every key exchange.
        () if name.starts_with("TLS13_") && !has("CCM") => SuiteKind::EcdheGcm,
        () if has("SCSV") => SuiteKind::Other,
        () if ["NULL", "EXPORT", "RC4", "RC2", "DES", "anon"].into_iter().any(has) => {
            SuiteKind::Weak
        }
        () if has("PSK") => SuiteKind::Psk,
        () if has("CCM") => SuiteKind::Ccm,
        // AEADs that rustls and most other stacks do not have.
        () if has("ARIA") || has("CAMELLIA") => SuiteKind::Other,
        () if has("ECDHE_") && (has("GCM") || has("CHACHA20")) => SuiteKind::EcdheGcm,
        () if has("ECDHE_") => SuiteKind::EcdheCbc,
        () if has("DHE_") => SuiteKind::Dhe,
        () if has("TLS_RSA_WITH_") => SuiteKind::Rsa,
        () => SuiteKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a ClientHello of `version` with these suites, and with `versions` in its extension.
    fn hello(version: u16, suites: &[u16], versions: Option<&[u16]>) -> Vec<u8> {
        let codes = |list: &[u16]| list.iter().flat_map(|c| c.to_be_bytes()).collect::<Vec<_>>();
        let vector16 = |bytes: Vec<u8>| {
            [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat()
        };
        let mut body = [&version.to_be_bytes()[..], &[7; 32], &[0]].concat();
        body.extend(vector16(codes(suites)));
        body.extend([1, 0]);
        if let Some(versions) = versions {
            let list = codes(versions);
            let list = [&[u8::try_from(list.len()).unwrap()][..], &list].concat();
            // An unknown extension before it.
            let other = [&[0xaa, 0xaa][..], &vector16(vec![1, 2, 3])].concat();
            let ours = [&SUPPORTED_VERSIONS.to_be_bytes()[..], &vector16(list)].concat();
            body.extend(vector16([other, ours].concat()));
        }
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[1][..], &length[1..], &body].concat()
    }

    fn version(version: u16, versions: Option<&[u16]>) -> OfferedVersion {
        read(&hello(version, &[0xc02b], versions)).version
    }

    fn best(suites: &[u16]) -> SuiteKind {
        read(&hello(0x0303, suites, None)).best_suite
    }

    #[test]
    fn the_highest_version_counts_at_any_position() {
        assert_eq!(version(0x0303, Some(&[0x0303, 0x0304])), OfferedVersion::Tls13);
        assert_eq!(version(0x0303, Some(&[0x1a1a, 0x0302])), OfferedVersion::Tls11);
        assert_eq!(version(0x0303, None), OfferedVersion::Tls12);
        assert_eq!(version(0x0301, None), OfferedVersion::Tls10);
        assert_eq!(version(0x0300, None), OfferedVersion::Ssl3);
        assert_eq!(version(0x0303, Some(&[0x1a1a])), OfferedVersion::Unknown);
    }

    #[test]
    fn the_best_kind_of_suite_counts() {
        assert_eq!(best(&[0x002f, 0xc013, 0xc02b]), SuiteKind::EcdheGcm);
        assert_eq!(best(&[0x1301]), SuiteKind::EcdheGcm);
        assert_eq!(best(&[0x002f, 0xc013]), SuiteKind::EcdheCbc);
        assert_eq!(best(&[0xc0ae, 0x00a8]), SuiteKind::Ccm);
        assert_eq!(best(&[0x002f, 0x0033]), SuiteKind::Dhe);
        assert_eq!(best(&[0x000a, 0x002f]), SuiteKind::Rsa);
        assert_eq!(best(&[0x0005, 0x000a, 0x0002]), SuiteKind::Weak);
        assert_eq!(best(&[0x00ff, 0x1a1a]), SuiteKind::Other);
        assert_eq!(best(&[0xc05c, 0xc086]), SuiteKind::Other, "ARIA and CAMELLIA with GCM");
        let late = [vec![0x1a1a; MAX_SUITES], vec![0x1301]].concat();
        assert_eq!(best(&late), SuiteKind::Other, "beyond the limit");
        assert_eq!(best(&[]), SuiteKind::Other);
    }

    #[test]
    fn an_incomplete_hello_is_not_a_fault() {
        let whole = hello(0x0303, &[0xc013], Some(&[0x0304]));
        let expected = Offered { version: OfferedVersion::Tls13, best_suite: SuiteKind::EcdheCbc };
        assert_eq!(read(&whole), expected);
        for end in 0..whole.len() {
            // It must not panic, and must not report a wrong kind.
            let torn = read(&whole[..end]);
            assert!([SuiteKind::Other, SuiteKind::EcdheCbc].contains(&torn.best_suite));
        }
        assert_eq!(read(b"GET / HTTP/1.1\r\n").version, OfferedVersion::Unknown);
    }
}
