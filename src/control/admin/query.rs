//! What is asked for in a query string.
//!
//! **Promises.** A key that is not known, or a value that is not allowed, is refused with what is: a
//! filter that is misspelt must not answer with everything.
//!
//! **Not here.** The answers (`views.rs`).

use std::net::{IpAddr, SocketAddr};

use form_urlencoded::parse;

use crate::sessions::Session;
use crate::sessions::top::{By, What};
use crate::terms::closed_set::ClosedSet;

/// Sessions of a page, unless told otherwise.
const PAGE: usize = 100;

/// Sessions of a page at the most, and names of a table.
const LARGEST_PAGE: usize = 1000;

/// In bytes: as long as the names that are kept (`trust/identity.rs`).
const LONGEST_PATTERN: usize = 256;

/// Which sessions are asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    listener: Option<String>,
    identity: Option<String>,
    peer: Option<Peer>,
    server_name: Option<String>,
    /// How many of them.
    pub(super) limit: Option<usize>,
    /// Only those that began later than the one of this id.
    pub(super) after: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Peer {
    Any(IpAddr),
    Just(SocketAddr),
}

/// Which table is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ranking {
    pub(super) by: By,
    pub(super) what: What,
    pub(super) limit: usize,
}

impl Wanted {
    /// Reads a query string.
    ///
    /// # Errors
    /// What is wrong with it, in a sentence.
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let mut wanted = Self::default();
        for (key, value) in parse(query.as_bytes()) {
            let value = value.into_owned();
            match &*key {
                "listener" => wanted.listener = Some(value),
                "identity" => wanted.identity = Some(pattern(&value)?),
                "sni" => wanted.server_name = Some(value),
                "peer" => wanted.peer = Some(peer(&value)?),
                "limit" => wanted.limit = Some(limit(&value)?),
                "after" => {
                    let id = value.parse().map_err(|_| refused(&key, &value, "a session's id"));
                    wanted.after = id?;
                }
                _ => return Err(unknown(&key, "listener, identity, sni, peer, limit, after")),
            }
        }
        Ok(wanted)
    }

    /// Whether a session is one of them.
    pub(super) fn includes(&self, session: &Session) -> bool {
        let listener = self.listener.as_deref().is_none_or(|name| name == session.metrics.name());
        let names = || session.identity.get().into_iter().flat_map(|identity| &identity.names);
        let identity =
            self.identity.as_deref().is_none_or(|wanted| names().any(|name| fits(wanted, name)));
        let peer = self.peer.as_ref().is_none_or(|peer| match peer {
            Peer::Any(address) => *address == session.peer.ip(),
            Peer::Just(address) => *address == session.peer,
        });
        let server_name = self.server_name.as_deref().is_none_or(|wanted| {
            session.server_name.get().is_some_and(|name| name.eq_ignore_ascii_case(wanted))
        });
        session.is_established()
            && session.id > self.after
            && listener
            && identity
            && peer
            && server_name
    }

    pub(super) fn limit(&self) -> usize {
        self.limit.unwrap_or(PAGE)
    }
}

impl Ranking {
    /// Reads a query string.
    ///
    /// # Errors
    /// What is wrong with it, in a sentence.
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let mut ranking = Self { by: By::Peer, what: What::Failures, limit: 20 };
        for (key, value) in parse(query.as_bytes()) {
            match &*key {
                "by" => ranking.by = one_of(&key, &value)?,
                "what" => ranking.what = one_of(&key, &value)?,
                "limit" => ranking.limit = limit(&value)?,
                _ => return Err(unknown(&key, "by, what, limit")),
            }
        }
        Ok(ranking)
    }
}

fn peer(value: &str) -> Result<Peer, String> {
    let address = value.parse().map(Peer::Any);
    address.or_else(|_| value.parse().map(Peer::Just)).map_err(|_| {
        refused("peer", value, "an IP address, alone or with a port, such as 192.0.2.1:4711")
    })
}

/// A pattern for names, in which `**` is one star: neither way does it take long.
fn pattern(value: &str) -> Result<String, String> {
    if value.len() > LONGEST_PATTERN {
        let told = format!("{} bytes long", value.len());
        return Err(refused("identity", &told, &format!("{LONGEST_PATTERN} bytes")));
    }
    let mut pattern = value.to_owned();
    while pattern.contains("**") {
        pattern = pattern.replace("**", "*");
    }
    Ok(pattern)
}

fn limit(value: &str) -> Result<usize, String> {
    let number = value.parse().ok().filter(|limit| (1..=LARGEST_PAGE).contains(limit));
    number.ok_or_else(|| refused("limit", value, &format!("1 to {LARGEST_PAGE}")))
}

fn one_of<L: ClosedSet>(key: &str, value: &str) -> Result<L, String> {
    let found = L::all().iter().find(|allowed| allowed.label() == value);
    found.copied().ok_or_else(|| {
        let allowed: Vec<_> = L::all().iter().map(|allowed| allowed.label()).collect();
        refused(key, value, &allowed.join(", "))
    })
}

fn refused(key: &str, value: &str, allowed: &str) -> String {
    format!("{key} is {value:?}; allowed: {allowed}\n")
}

fn unknown(key: &str, known: &str) -> String {
    format!("unknown key {key:?}; known: {known}\n")
}

/// Whether a name fits a pattern, whatever its case; `*` stands for any part of a label, and labels
/// end at dots and slashes.
fn fits(pattern: &str, name: &str) -> bool {
    let is_end = |c: &u8| [b'.', b'/'].contains(c);
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    // The last star, and what of the name it does not stand for yet.
    let mut star = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, n));
            p += 1;
        } else if pattern.get(p).is_some_and(|c| c.eq_ignore_ascii_case(&name[n])) {
            p += 1;
            n += 1;
        } else if let Some((at, from)) = star.filter(|(_, from)| !is_end(&name[*from])) {
            star = Some((at, from + 1));
            (p, n) = (at + 1, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_within_one_label() {
        assert!(fits("sensor-1.plant.example", "SENSOR-1.plant.example"));
        assert!(fits("*.plant.example", "sensor-1.plant.example"));
        assert!(!fits("*.example", "sensor-1.plant.example"));
        assert!(
            fits("sensor-*", "sensor-17") && fits("*", "sensor-17") && fits("s*r-*7", "sensor-17")
        );
        assert!(!fits("sensor-*", "sensor-17.plant") && !fits("*", "a.b") && !fits("", "a"));
        assert!(fits("urn:plant/*/pump", "urn:plant/north/pump"));
        assert!(!fits("urn:plant/*", "urn:plant/north/pump"));
        assert!(fits("*a*b.c", "xaab.c") && !fits("*a*b.c", "xaac.c"));
    }

    #[test]
    fn what_is_misspelt_is_refused_with_what_is_allowed() {
        let said = |query: &str| Wanted::parse(query).unwrap_err();
        assert!(said("identiy=x").contains("known: listener, identity"));
        assert!(said("limit=0").contains("1 to 1000") && said("limit=1001").contains("\"1001\""));
        let long = said(&format!("identity={}", "x".repeat(LONGEST_PATTERN + 1)));
        assert!(long.contains("256 bytes") && long.len() < 100, "{long}");
        assert_eq!(pattern("*****.a**").unwrap(), "*.a*");
        assert!(said("peer=host").contains("192.0.2.1:4711") && said("after=x").contains("after"));
        assert!(Ranking::parse("by=name").unwrap_err().contains("identity, peer"));
        assert!(Ranking::parse("what=x").unwrap_err().contains("failures, bytes, connections"));
        let wanted = Wanted::parse("identity=a%2Fb&peer=%3A%3A1&limit=7").unwrap();
        assert_eq!(wanted.identity.as_deref(), Some("a/b"));
        assert_eq!(
            (wanted.peer, wanted.limit),
            (Some(Peer::Any([0, 0, 0, 0, 0, 0, 0, 1].into())), Some(7))
        );
    }
}
