//! Name constraints: RFC 5280 section 4.2.1.10, as OpenSSL applies them (`v3_ncons.c`).
//!
//! **Promises.** A name of a constrained kind that cannot be compared is refused. If a
//! certificate has no DNS name in its SAN, its common names count as DNS names if they look like
//! DNS names, because they identify the device. The number of comparisons is bounded.
//!
//! **Not here.** The choice of the constraints for a certificate (`path.rs`).

use std::net::{Ipv4Addr, Ipv6Addr};

use x509_parser::extensions::{GeneralSubtree, NameConstraints};
use x509_parser::prelude::GeneralName;

use super::certificate::Certificate;
use super::names::{self, CanonicalName};
use super::sans;

/// Comparisons for one certificate at most. A device has a few names, and a CA a few constraints.
const MAX_COMPARISONS: usize = 100_000;

/// `emailAddress`, RFC 2985 section 5.2.1.
const EMAIL_ADDRESS: &str = "1.2.840.113549.1.9.1";

/// Returns whether the names of a certificate satisfy the constraints of a CA above it. `is_leaf`: the
/// certificate is the device's own.
pub(super) fn are_kept(
    constraints: &NameConstraints<'_>,
    certificate: &Certificate<'_>,
    is_leaf: bool,
) -> bool {
    let names = ConstrainedNames::of(certificate, is_leaf);
    let permitted = constraints.permitted_subtrees.as_deref().unwrap_or_default();
    let excluded = constraints.excluded_subtrees.as_deref().unwrap_or_default();
    let comparisons = names.0.len().saturating_mul(permitted.len() + excluded.len());
    comparisons <= MAX_COMPARISONS
        && names.0.iter().all(|name| is_permitted(name, permitted) && !is_in_any(name, excluded))
}

/// The names of a certificate that constraints apply to.
struct ConstrainedNames<'a>(Vec<ConstrainedName<'a>>);

/// A name, of one kind of GeneralName.
enum ConstrainedName<'a> {
    Dns(&'a str),
    DnsText(String),
    Email(&'a str),
    EmailText(String),
    Uri(&'a str),
    Ip(&'a [u8]),
    Directory(CanonicalName),
    /// A name of a kind that cannot be compared.
    Opaque(NameKind),
}

/// The kinds of GeneralName.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NameKind {
    Other,
    Email,
    Dns,
    X400,
    Directory,
    EdiParty,
    Uri,
    Ip,
    Registered,
}

impl<'a> ConstrainedNames<'a> {
    fn of(certificate: &'a Certificate<'_>, is_leaf: bool) -> Self {
        let mut names: Vec<_> = sans(&certificate.parsed).map(ConstrainedName::of).collect();
        let has_dns = names.iter().any(|name| name.kind() == NameKind::Dns);
        let subject = certificate.parsed.subject();
        if !certificate.subject.is_empty() {
            names.push(ConstrainedName::Directory(certificate.subject.clone()));
        }
        for attribute in subject.iter_attributes() {
            let Some(text) = names::text(attribute.attr_value()) else { continue };
            if attribute.attr_type().to_id_string() == EMAIL_ADDRESS {
                names.push(ConstrainedName::EmailText(text.into_owned()));
            }
        }
        if is_leaf && !has_dns {
            let common_names = subject.iter_common_name();
            let texts = common_names.filter_map(|name| names::text(name.attr_value()));
            let dns = texts.filter(|text| looks_like_dns(text));
            names.extend(dns.map(|text| ConstrainedName::DnsText(text.into_owned())));
        }
        Self(names)
    }
}

impl<'a> ConstrainedName<'a> {
    fn of(name: &'a GeneralName<'_>) -> Self {
        match name {
            GeneralName::DNSName(name) => Self::Dns(name),
            GeneralName::RFC822Name(name) => Self::Email(name),
            GeneralName::URI(name) => Self::Uri(name),
            GeneralName::IPAddress(bytes) => Self::Ip(bytes),
            GeneralName::DirectoryName(name) => Self::Directory(CanonicalName::of(name)),
            GeneralName::OtherName(..)
            | GeneralName::X400Address(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::RegisteredID(_)
            | GeneralName::Invalid(..) => Self::Opaque(kind(name)),
        }
    }

    const fn kind(&self) -> NameKind {
        match self {
            Self::Dns(_) | Self::DnsText(_) => NameKind::Dns,
            Self::Email(_) | Self::EmailText(_) => NameKind::Email,
            Self::Uri(_) => NameKind::Uri,
            Self::Ip(_) => NameKind::Ip,
            Self::Directory(_) => NameKind::Directory,
            Self::Opaque(kind) => *kind,
        }
    }

    /// Returns whether it is in the subtree of a base of the same kind; none if they cannot be compared.
    fn is_in(&self, base: &GeneralName<'_>) -> Option<bool> {
        match (self, base) {
            (Self::Dns(name), GeneralName::DNSName(base)) => Some(dns_is_in(name, base)),
            (Self::DnsText(name), GeneralName::DNSName(base)) => Some(dns_is_in(name, base)),
            (Self::Email(name), GeneralName::RFC822Name(base)) => email_is_in(name, base),
            (Self::EmailText(name), GeneralName::RFC822Name(base)) => email_is_in(name, base),
            (Self::Uri(name), GeneralName::URI(base)) => uri_is_in(name, base),
            (Self::Ip(name), GeneralName::IPAddress(base)) => ip_is_in(name, base),
            (Self::Directory(name), GeneralName::DirectoryName(base)) => {
                Some(name.is_below(&CanonicalName::of(base)))
            }
            _ => None,
        }
    }
}

/// Returns the kind of a GeneralName, also if its value cannot be parsed.
fn kind(name: &GeneralName<'_>) -> NameKind {
    match name {
        GeneralName::OtherName(..) => NameKind::Other,
        GeneralName::RFC822Name(_) => NameKind::Email,
        GeneralName::DNSName(_) => NameKind::Dns,
        GeneralName::X400Address(_) => NameKind::X400,
        GeneralName::DirectoryName(_) => NameKind::Directory,
        GeneralName::EDIPartyName(_) => NameKind::EdiParty,
        GeneralName::URI(_) => NameKind::Uri,
        GeneralName::IPAddress(_) => NameKind::Ip,
        GeneralName::RegisteredID(_) => NameKind::Registered,
        GeneralName::Invalid(tag, _) => match tag.0 {
            1 => NameKind::Email,
            2 => NameKind::Dns,
            3 => NameKind::X400,
            4 => NameKind::Directory,
            5 => NameKind::EdiParty,
            6 => NameKind::Uri,
            7 => NameKind::Ip,
            8 => NameKind::Registered,
            _ => NameKind::Other,
        },
    }
}

/// Returns whether the name is in a permitted subtree, or there is none of its kind. A comparison that
/// cannot be made does not permit the name.
fn is_permitted(name: &ConstrainedName<'_>, permitted: &[GeneralSubtree<'_>]) -> bool {
    let mut own_kind = permitted.iter().filter(|tree| kind(&tree.base) == name.kind()).peekable();
    own_kind.peek().is_none() || own_kind.any(|tree| name.is_in(&tree.base) == Some(true))
}

/// Returns whether the name is in an excluded subtree. A comparison that cannot be made excludes the name.
fn is_in_any(name: &ConstrainedName<'_>, excluded: &[GeneralSubtree<'_>]) -> bool {
    let mut own_kind = excluded.iter().filter(|tree| kind(&tree.base) == name.kind());
    own_kind.any(|tree| name.is_in(&tree.base) != Some(false))
}

/// Matches `example.com` and the names below it; for the base `.example.com`, only the names below it.
fn dns_is_in(name: &str, base: &str) -> bool {
    let Some(at) = name.len().checked_sub(base.len()) else { return false };
    let (Some(front), Some(end)) = (name.get(..at), name.get(at..)) else { return false };
    end.eq_ignore_ascii_case(base)
        && (base.is_empty() || front.is_empty() || base.starts_with('.') || front.ends_with('.'))
}

/// Matches a mailbox, all mailboxes of a host, or all mailboxes of the hosts below a domain.
fn email_is_in(name: &str, base: &str) -> Option<bool> {
    let (user, host) = name.rsplit_once('@')?;
    Some(match base.rsplit_once('@') {
        Some((of, at)) => (of.is_empty() || of == user) && host.eq_ignore_ascii_case(at),
        None if base.starts_with('.') => dns_is_in(host, base),
        None => host.eq_ignore_ascii_case(base),
    })
}

/// Matches the host of a URI; for the base `.example.com`, the hosts below it. A URI without a host cannot be
/// compared.
fn uri_is_in(name: &str, base: &str) -> Option<bool> {
    let (_, rest) = name.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next().filter(|authority| !authority.is_empty())?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if host.starts_with('[') {
        // The constraint "applies to the host part", which must be a name: RFC 5280 section 4.2.1.10.
        return None;
    }
    let host = host.split_once(':').map_or(host, |(host, _)| host);
    if host.is_empty() {
        return None;
    }
    Some(if base.starts_with('.') {
        dns_is_in(host, base)
    } else {
        host.eq_ignore_ascii_case(base)
    })
}

/// Matches an address in a network of the same family. The base has an address and a mask.
fn ip_is_in(name: &[u8], base: &[u8]) -> Option<bool> {
    let (v4, v6) = (size_of::<Ipv4Addr>(), size_of::<Ipv6Addr>());
    if ![v4, v6].contains(&name.len()) || ![2 * v4, 2 * v6].contains(&base.len()) {
        return None;
    }
    if base.len() != 2 * name.len() {
        return Some(false);
    }
    let (network, mask) = base.split_at(name.len());
    let bytes = name.iter().zip(network).zip(mask);
    Some(bytes.into_iter().all(|((name, network), mask)| name & mask == network & mask))
}

/// Returns whether a common name can be a DNS name: at least two labels of letters, digits, `-` and
/// `_`. OpenSSL has the same rule (`cn2dnsid`).
fn looks_like_dns(name: &str) -> bool {
    let label = |label: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        !label.is_empty()
            && label.chars().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.contains('.') && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dns_constraint_holds_for_whole_labels() {
        for (name, base, is_in) in [
            ("pump.plant-a.example", "plant-a.example", true),
            ("PLANT-A.example", "plant-a.Example", true),
            ("pump.plant-a.example", ".plant-a.example", true),
            ("plant-a.example", ".plant-a.example", false),
            ("xplant-a.example", "plant-a.example", false),
            ("anything", "", true),
            ("a", "a.b", false),
            ("é.b", ".b", true),
        ] {
            assert_eq!(dns_is_in(name, base), is_in, "{name} in {base}");
        }
    }

    #[test]
    fn a_uri_constraint_holds_for_its_host() {
        for (name, base, is_in) in [
            ("spiffe://plant-a.example/pump", "plant-a.example", Some(true)),
            ("spiffe://plant-a.example/pump", ".example", Some(true)),
            ("https://user@Host.example:8443?x", "host.example", Some(true)),
            ("https://x.host.example", "host.example", Some(false)),
            ("https://evil.example/@host.example", "host.example", Some(false)),
            ("urn:dev:ops:32473-pump", "host.example", None),
            ("https://[::1]/", "host.example", None),
        ] {
            assert_eq!(uri_is_in(name, base), is_in, "{name} in {base}");
        }
    }

    #[test]
    fn an_email_constraint_is_a_mailbox_a_host_or_a_domain() {
        for (name, base, is_in) in [
            ("pump@plant.example", "pump@plant.example", Some(true)),
            ("pump@plant.example", "valve@plant.example", Some(false)),
            ("pump@plant.example", "Plant.example", Some(true)),
            ("pump@a.plant.example", "plant.example", Some(false)),
            ("pump@a.plant.example", ".plant.example", Some(true)),
            ("pump", "plant.example", None),
        ] {
            assert_eq!(email_is_in(name, base), is_in, "{name} in {base}");
        }
    }

    #[test]
    fn an_ip_constraint_is_a_network_of_the_same_family() {
        let net = [10, 1, 0, 0, 255, 255, 0, 0];
        assert_eq!(ip_is_in(&[10, 1, 2, 3], &net), Some(true));
        assert_eq!(ip_is_in(&[10, 2, 2, 3], &net), Some(false));
        assert_eq!(ip_is_in(&[0; 16], &net), Some(false));
        assert_eq!(ip_is_in(&[10, 1, 2], &net), None);
        assert_eq!(ip_is_in(&[10, 1, 2, 3], &net[1..]), None);
    }

    #[test]
    fn a_common_name_counts_as_dns_from_two_labels_on() {
        for (name, is_dns) in [
            ("pump.plant-a.example", true),
            ("pump_7.example", true),
            ("pump-7", false),
            ("pump 7.example", false),
            (".example", false),
            ("pump..example", false),
            ("-pump.example", false),
        ] {
            assert_eq!(looks_like_dns(name), is_dns, "{name}");
        }
    }
}
