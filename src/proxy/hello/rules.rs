//! Rules of the RFCs on a ClientHello that rustls does not check, or answers with another alert.
//!
//! **Promises.** The first fault is reported, in OpenSSL's order: the version, a fallback, then extensions.
//!
//! **Not here.** Rules that rustls enforces as the RFCs require: compression, points, PSKs, duplicate shares.
//! Lengths of the message's vectors (`client_hello.rs`).

use tokio_rustls::rustls::pki_types::{DnsName, ServerName};
use tokio_rustls::rustls::{PeerIncompatible, ProtocolVersion};

use super::client_hello::version::{SSL_3, TLS_1_2, TLS_1_3};
use super::client_hello::{ClientHello, HelloExtensions, Rest, codes, kind, whole8, whole16};
use super::code_set::CodeSet;
use super::fault::HelloFault;
use super::record_limit::MIN_RECORD_SIZE_LIMIT;
use crate::config::AcceptedVersions;

/// TLS_FALLBACK_SCSV: RFC 7507 section 2.
const FALLBACK: [u8; 2] = [0x56, 0x00];

/// The server name that a client requests.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RequestedName<'a> {
    /// No name.
    None,
    /// A DNS name.
    Dns(DnsName<'a>),
    /// An IP address, which RFC 6066 section 3 forbids. rustls treats it as no name.
    Ip(&'a [u8]),
    /// Another value, which may be empty as in OpenSSL. The client is served like one without a name.
    Other(&'a [u8]),
}

/// Returns the version that a ClientHello leads to, of the accepted ones.
///
/// # Errors
/// The first rule that the message breaks.
pub(super) fn check(
    hello: &ClientHello<'_>,
    accepted: AcceptedVersions,
) -> Result<ProtocolVersion, HelloFault> {
    let version = version(hello, accepted)?;
    let is_best = version == ProtocolVersion::TLSv1_3 || !accepted.tls13;
    if !is_best && hello.suites.contains(&FALLBACK) {
        return Err(HelloFault::Fallback);
    }
    let extensions = &hello.extensions;
    check_forms(extensions)?;
    if version == ProtocolVersion::TLSv1_3 {
        if hello.compressions != [0] {
            return Err(HelloFault::Illegal("a compression method"));
        }
        check_tls13(extensions)?;
    } else {
        check_tls12(extensions)?;
    }
    Ok(version)
}

/// Selects the version: RFC 8446 sections 4.2.1 and D.5.
fn version(
    hello: &ClientHello<'_>,
    accepted: AcceptedVersions,
) -> Result<ProtocolVersion, HelloFault> {
    use PeerIncompatible as P;
    if hello.legacy_version <= SSL_3 {
        return Err(HelloFault::version(P::Tls12NotOffered));
    }
    let Some(extension) = hello.extensions.supported_versions else {
        return match (hello.legacy_version >= TLS_1_2, accepted.tls12) {
            (true, true) => Ok(ProtocolVersion::TLSv1_2),
            (true, false) => Err(HelloFault::version(P::SupportedVersionsExtensionRequired)),
            (false, _) => Err(HelloFault::version(P::Tls12NotOffered)),
        };
    };
    let offered = codes(whole8(extension));
    let offered = offered.ok_or(HelloFault::Malformed("supported_versions"))?;
    let offers = |version: u16| offered.contains(&version.to_be_bytes());
    if offers(TLS_1_3) && accepted.tls13 {
        Ok(ProtocolVersion::TLSv1_3)
    } else if offers(TLS_1_2) && accepted.tls12 {
        Ok(ProtocolVersion::TLSv1_2)
    } else {
        Err(HelloFault::version(P::Tls12NotOfferedOrEnabled))
    }
}

/// Checks the form of extensions that all versions have.
fn check_forms(extensions: &HelloExtensions<'_>) -> Result<(), HelloFault> {
    let lists = [
        ("supported_groups", extensions.supported_groups),
        ("signature_algorithms", extensions.signature_algorithms),
    ];
    for (what, extension) in lists {
        if extension.is_some_and(|extension| codes(whole16(extension)).is_none()) {
            return Err(HelloFault::Malformed(what));
        }
    }
    let empty = [
        ("extended_master_secret", extensions.extended_master_secret),
        ("early_data", extensions.early_data),
        ("post_handshake_auth", extensions.post_handshake_auth),
    ];
    for (what, extension) in empty {
        if extension.is_some_and(|extension| !extension.is_empty()) {
            return Err(HelloFault::Malformed(what));
        }
    }
    let formats = extensions.ec_point_formats;
    if formats.is_some_and(|formats| whole8(formats).is_none_or(<[u8]>::is_empty)) {
        return Err(HelloFault::Malformed("ec_point_formats"));
    }
    if extensions.alpn.is_some_and(|alpn| !is_protocols(alpn)) {
        return Err(HelloFault::Malformed("the ALPN protocols"));
    }
    // RFC 6066 section 4.
    match extensions.max_fragment_length {
        None | Some([1..=4]) => {}
        Some([_]) => return Err(HelloFault::Illegal("a max_fragment_length")),
        Some(_) => return Err(HelloFault::Malformed("max_fragment_length")),
    }
    // RFC 8449 section 4.
    match extensions.record_size_limit {
        None => {}
        Some(&[high, low]) if u16::from_be_bytes([high, low]) >= MIN_RECORD_SIZE_LIMIT => {}
        Some([_, _]) => return Err(HelloFault::Illegal("a record_size_limit")),
        Some(_) => return Err(HelloFault::Malformed("record_size_limit")),
    }
    server_name(extensions).map(|_| ())
}

/// Returns whether `alpn` is a valid list of protocols.
fn is_protocols(alpn: &[u8]) -> bool {
    offered_protocols(alpn, |_| {}).is_some()
}

/// Returns the first of our protocols that is in the extension `alpn`.
pub(super) fn first_offered<'a>(alpn: &[u8], ours: &'a [Vec<u8>]) -> Option<&'a [u8]> {
    let mut first = ours.len();
    offered_protocols(alpn, |offered| {
        let place = ours[..first].iter().position(|protocol| protocol == offered);
        first = place.unwrap_or(first);
    })?;
    ours.get(first).map(Vec::as_slice)
}

/// Calls `each` with the protocols in the extension: RFC 7301 section 3.1. Returns none if they are not a list.
fn offered_protocols(alpn: &[u8], mut each: impl FnMut(&[u8])) -> Option<()> {
    let mut rest = Rest(whole16(alpn).filter(|list| !list.is_empty())?);
    while !rest.0.is_empty() {
        each(rest.vector8().filter(|protocol| !protocol.is_empty())?);
    }
    Some(())
}

/// Returns the name in the server_name extension: RFC 6066 section 3.
///
/// # Errors
/// If it is not a list of one host name. Names of other types cannot be skipped, since their form is not
/// defined; OpenSSL refuses them as well.
pub(super) fn server_name<'a>(
    extensions: &HelloExtensions<'a>,
) -> Result<RequestedName<'a>, HelloFault> {
    const MALFORMED: HelloFault = HelloFault::Malformed("server_name");
    let Some(extension) = extensions.server_name else { return Ok(RequestedName::None) };
    let mut list = Rest(whole16(extension).ok_or(MALFORMED)?);
    let [0] = list.array().ok_or(MALFORMED)? else { return Err(MALFORMED) };
    let name = list.vector16().ok_or(MALFORMED)?;
    if !list.0.is_empty() {
        return Err(MALFORMED);
    }
    // As in OpenSSL: a value longer than any name, or with a NUL, at which C programs would end it.
    if name.len() > 255 || name.contains(&0) {
        return Err(HelloFault::UnknownName);
    }
    Ok(match ServerName::try_from(name) {
        Ok(ServerName::DnsName(name)) => RequestedName::Dns(name),
        Ok(ServerName::IpAddress(_)) => RequestedName::Ip(name),
        Ok(_) | Err(_) => RequestedName::Other(name),
    })
}

/// Checks the extensions of TLS 1.2: RFC 5746 section 3.6.
fn check_tls12(extensions: &HelloExtensions<'_>) -> Result<(), HelloFault> {
    match extensions.renegotiation_info.map(whole8) {
        None | Some(Some([])) => Ok(()),
        Some(Some(_)) => Err(HelloFault::Renegotiation),
        Some(None) => Err(HelloFault::Malformed("renegotiation_info")),
    }
}

/// Checks the extensions of TLS 1.3: RFC 8446 sections 4.2 and 9.2.
fn check_tls13(extensions: &HelloExtensions<'_>) -> Result<(), HelloFault> {
    use PeerIncompatible as P;
    if extensions.pre_shared_key.is_some() && extensions.last_type != Some(kind::PRE_SHARED_KEY) {
        return Err(HelloFault::Illegal("a pre_shared_key that is not the last extension"));
    }
    if extensions
        .psk_key_exchange_modes
        .is_some_and(|modes| whole8(modes).is_none_or(<[u8]>::is_empty))
    {
        return Err(HelloFault::Malformed("psk_key_exchange_modes"));
    }
    let Some(groups) = extensions.supported_groups else {
        return Err(HelloFault::missing(P::NamedGroupsExtensionRequired));
    };
    let Some(shares) = extensions.key_share else {
        return Err(HelloFault::missing(P::KeyShareExtensionRequired));
    };
    if extensions.signature_algorithms.is_none() {
        return Err(HelloFault::missing(P::SignatureAlgorithmsExtensionRequired));
    }
    check_shares(shares, codes(whole16(groups)).unwrap_or_default())
}

/// Checks that each key share belongs to an offered group: RFC 8446 section 4.2.8.
fn check_shares(shares: &[u8], groups: &[[u8; 2]]) -> Result<(), HelloFault> {
    const MALFORMED: HelloFault = HelloFault::Malformed("key_share");
    let mut rest = Rest(whole16(shares).ok_or(MALFORMED)?);
    let mut offered = CodeSet::default();
    for &group in groups {
        offered.insert(u16::from_be_bytes(group));
    }
    let mut checked = 0;
    while !rest.0.is_empty() {
        let group = u16::from_be_bytes(rest.array().ok_or(MALFORMED)?);
        if rest.vector16().is_none_or(<[u8]>::is_empty) {
            return Err(MALFORMED);
        }
        checked += 1;
        // More shares than groups: one of them occurs twice.
        if checked > groups.len() || !offered.contains(group) {
            return Err(HelloFault::Illegal("a key_share of a group that is not offered"));
        }
    }
    Ok(())
}
