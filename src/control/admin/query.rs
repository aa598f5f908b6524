//! Query strings of `GET /sessions`, `GET /sessions/facts`, `DELETE /sessions`, `GET /top`, `GET /events`, `POST /trace`
//! and `POST /reload`.
//!
//! **Promises.** An unknown key, a second value for a key, or a value that is not allowed is refused, with the
//! allowed ones: a misspelt filter must not return everything, and a `DELETE` without a filter stops nothing.
//!
//! **Not here.** The responses (`views.rs`), the filter (`sessions/filter.rs`).

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use form_urlencoded::parse;

use super::status::Status;
use crate::events::{EventKind, Happened};
use crate::reload::rollouts::RolloutOrder;
use crate::sessions::Session;
use crate::sessions::filter::{PeerFilter, Seen, SessionFilter};
use crate::sessions::top::{By, What};
use crate::sessions::trace::MAX_CAPTURE_BYTES;
use crate::terms::closed_set::{ClosedSet, closed_set};
use crate::terms::name_pattern::NamePattern;
use crate::trust::rollout::trial::Verdict;

/// Default number of sessions on a page.
const PAGE: usize = 100;

/// Largest number of sessions on a page, and of names in a table.
const LARGEST_PAGE: usize = 1000;

/// Largest number of keys in a query. It is larger than the number of keys that exist.
const MAX_KEYS: usize = 16;

/// In bytes. Identities are cut to as many characters (`trust/identity.rs`).
const LONGEST_PATTERN: usize = 256;

/// Longest time of a trace.
const MAX_TRACE_SECONDS: u64 = 3600;

/// Keys of [`SessionFilter`].
const FILTER_KEYS: &str = "listener, identity, sni, peer";

/// A page of the established sessions that a filter selects.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SessionQuery {
    filter: SessionFilter,
    /// A part of a name or an address, in lower case.
    search: Option<String>,
    pub(super) sort: Sort,
    /// Number of sessions on the page.
    pub(super) limit: Option<usize>,
    /// Only sessions that began after the one with this id.
    pub(super) after: u64,
}

closed_set! {
    /// The order of sessions.
    #[derive(Default)]
    pub(super) enum Sort {
        /// The oldest first.
        #[default]
        Age => "age",
        /// The one that is silent longest first.
        Idle => "idle",
        /// The one with the most bytes first.
        Bytes => "bytes",
        /// By the first name of the certificate.
        Identity => "identity",
    }
}

/// A page of the facts about sessions.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FactsQuery {
    /// Only sessions that began after the one with this id.
    pub(super) after: u64,
    pub(super) limit: usize,
}

/// A selection of events. All parts that are given must match.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct EventQuery {
    pub(super) filter: SessionFilter,
    /// The kinds; all if there are none.
    kinds: Vec<EventKind>,
    /// The number of the last event that the reader has.
    pub(super) since: Option<u64>,
}

/// A choice of one table of counts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TopQuery {
    pub(super) by: By,
    pub(super) what: What,
    pub(super) limit: usize,
}

impl SessionQuery {
    /// Parses a query string.
    ///
    /// # Errors
    /// A sentence about the first mistake.
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let mut wanted = Self::default();
        for (key, value) in keys(query)? {
            match &*key {
                "limit" => wanted.limit = Some(limit(&value)?),
                "search" => wanted.search = Some(value.to_lowercase()),
                "sort" => wanted.sort = one_of(&key, &value)?,
                "after" => wanted.after = session_id(&key, &value)?,
                _ if set(&mut wanted.filter, &key, &value)? => {}
                _ => {
                    return Err(unknown(
                        &key,
                        &format!("{FILTER_KEYS}, search, sort, limit, after"),
                    ));
                }
            }
        }
        Ok(wanted)
    }

    /// Returns whether the query selects a session.
    pub(super) fn includes(&self, session: &Session) -> bool {
        session.is_established()
            && session.id > self.after
            && self.filter.selects(&session.seen())
            && self.search.as_deref().is_none_or(|text| contains(session, text))
    }

    pub(super) fn limit(&self) -> usize {
        self.limit.unwrap_or(PAGE)
    }
}

impl FactsQuery {
    /// Parses a query string.
    ///
    /// # Errors
    /// A sentence about the first mistake.
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let mut wanted = Self { after: 0, limit: LARGEST_PAGE };
        for (key, value) in keys(query)? {
            match &*key {
                "limit" => wanted.limit = limit(&value)?,
                "after" => wanted.after = session_id(&key, &value)?,
                _ => return Err(unknown(&key, "limit, after")),
            }
        }
        Ok(wanted)
    }
}

/// Parses the query string of a request that has no keys.
///
/// # Errors
/// A sentence about the first key.
pub(super) fn none(query: &str) -> Result<(), String> {
    let first = keys(query)?.into_iter().next();
    first.map_or(Ok(()), |(key, _)| Err(format!("unknown key {key:?}; there are none\n")))
}

/// Parses a query string that selects sessions to stop.
///
/// # Errors
/// A sentence about the first mistake. A query without a filter is one.
pub(super) fn session_filter(query: &str) -> Result<SessionFilter, String> {
    let mut filter = SessionFilter::default();
    for (key, value) in keys(query)? {
        if !set(&mut filter, &key, &value)? {
            return Err(unknown(&key, FILTER_KEYS));
        }
    }
    not_empty(filter)
}

/// Returns a filter that selects something.
fn not_empty(filter: SessionFilter) -> Result<SessionFilter, String> {
    if filter == SessionFilter::default() {
        return Err(format!("no filter; expected at least one of: {FILTER_KEYS}\n"));
    }
    Ok(filter)
}

/// Checks the listener of a filter for what is to come.
///
/// # Errors
/// A sentence about a listener that there is not: nothing would ever be selected.
pub(super) fn check_listener(filter: &SessionFilter, status: &Status) -> Result<(), String> {
    let Some(name) = &filter.listener else { return Ok(()) };
    let known: Vec<_> = status.listeners().collect();
    let is_known = known.contains(&name.as_str());
    is_known.then_some(()).ok_or_else(|| refused("listener", name, &known.join(", ")))
}

/// Sets a part of a filter. Returns false if it has no such key.
fn set(filter: &mut SessionFilter, key: &str, value: &str) -> Result<bool, String> {
    match key {
        "listener" => filter.listener = Some(value.to_owned()),
        "identity" => filter.identity = Some(pattern(value)?),
        "sni" => filter.server_name = Some(value.to_owned()),
        "peer" => filter.peer = Some(peer(value)?),
        _ => return Ok(false),
    }
    Ok(true)
}

impl EventQuery {
    /// Parses a query string.
    ///
    /// # Errors
    /// A sentence about the first mistake.
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let mut wanted = Self::default();
        for (key, value) in keys(query)? {
            match &*key {
                "kind" => {
                    let kinds = value.split(',').map(|kind| one_of(&key, kind));
                    wanted.kinds = kinds.collect::<Result<_, _>>()?;
                }
                "since" => wanted.since = Some(event_number(&key, &value)?),
                _ if set(&mut wanted.filter, &key, &value)? => {}
                _ => return Err(unknown(&key, &format!("{FILTER_KEYS}, kind, since"))),
            }
        }
        Ok(wanted)
    }

    /// Returns whether the query selects an event. One about lost events is always selected.
    pub(super) fn includes(&self, what: &Happened) -> bool {
        let kind = what.kind();
        if kind == EventKind::Lost {
            return true;
        }
        let is_wanted = self.kinds.is_empty() || self.kinds.contains(&kind);
        is_wanted && (self.filter == SessionFilter::default() || self.selects(what))
    }

    /// Returns whether the filter selects the session of an event, or the listener of an event without one.
    fn selects(&self, what: &Happened) -> bool {
        match what.session() {
            Some(session) => self.filter.selects(&Seen {
                listener: &session.listener,
                names: &session.names,
                peer: session.peer,
                server_name: session.sni.as_deref(),
            }),
            None => {
                let SessionFilter { listener, identity, peer, server_name } = &self.filter;
                let is_of_all = identity.is_none() && peer.is_none() && server_name.is_none();
                is_of_all && what.listener() == listener.as_deref()
            }
        }
    }
}

/// A trace that is to be started.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TraceQuery {
    pub(super) filter: SessionFilter,
    /// Seconds until it ends.
    pub(super) seconds: u64,
    /// It includes the secrets of its connections.
    pub(super) keys: bool,
    /// The most bytes of its connections that it includes; 0 for none.
    pub(super) packets: u64,
}

impl TraceQuery {
    /// Parses a query string.
    ///
    /// # Errors
    /// A sentence about the first mistake. A query without a filter is one.
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let (mut filter, mut seconds) = (SessionFilter::default(), 600);
        let (mut with_keys, mut packets) = (false, 0);
        for (key, value) in keys(query)? {
            match &*key {
                "seconds" => {
                    let number = value.parse().ok().filter(|n| (1..=MAX_TRACE_SECONDS).contains(n));
                    let allowed = format!("1 to {MAX_TRACE_SECONDS}");
                    seconds = number.ok_or_else(|| refused(&key, &value, &allowed))?;
                }
                "keys" => {
                    let is_set = value.parse();
                    with_keys = is_set.map_err(|_| refused(&key, &value, "true, false"))?;
                }
                "packets" => {
                    let number = value.parse().ok().filter(|n| (1..=MAX_CAPTURE_BYTES).contains(n));
                    let allowed = format!("1 to {MAX_CAPTURE_BYTES}");
                    packets = number.ok_or_else(|| refused(&key, &value, &allowed))?;
                }
                _ if set(&mut filter, &key, &value)? => {}
                _ => {
                    let known = format!("{FILTER_KEYS}, seconds, keys, packets");
                    return Err(unknown(&key, &known));
                }
            }
        }
        Ok(Self { filter: not_empty(filter)?, seconds, keys: with_keys, packets })
    }
}

/// Parses the number of an event.
///
/// # Errors
/// A sentence about the mistake.
pub(super) fn event_number(key: &str, value: &str) -> Result<u64, String> {
    value.parse().map_err(|_| refused(key, value, "an event's number"))
}

/// Returns true if a name or an address of the session contains `text`, which is in lower case.
fn contains(session: &Session, text: &str) -> bool {
    let names = session.identity.get().into_iter().flat_map(|identity| &identity.names);
    let names = names.chain(session.server_name.get());
    let found = |name: &str| name.to_lowercase().contains(text);
    names.into_iter().any(|name| found(name))
        || found(session.metrics.name())
        || session.peer().to_string().contains(text)
}

/// Parses the id of a session at the end of a path.
///
/// # Errors
/// A sentence about the mistake.
pub(super) fn session_id(key: &str, value: &str) -> Result<u64, String> {
    value.parse().map_err(|_| refused(key, value, "a session's id"))
}

impl TopQuery {
    /// Parses a query string.
    ///
    /// # Errors
    /// A sentence about the first mistake.
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let mut selected = Self { by: By::Peer, what: What::Failures, limit: 20 };
        for (key, value) in keys(query)? {
            match &*key {
                "by" => selected.by = one_of(&key, &value)?,
                "what" => selected.what = one_of(&key, &value)?,
                "limit" => selected.limit = limit(&value)?,
                _ => return Err(unknown(&key, "by, what, limit")),
            }
        }
        Ok(selected)
    }
}

closed_set! {
    /// A decision about a rollout.
    enum RolloutAction {
        /// All clients get the new certificate.
        Promote => "promote",
        /// All clients get the earlier one.
        RollBack => "rollback",
    }
}

/// Parses the query string of `POST /reload`. Returns the decision about rollouts that it orders; none if it is empty.
///
/// # Errors
/// A sentence about the first mistake.
pub(super) fn rollout_order(query: &str) -> Result<Option<RolloutOrder>, String> {
    let (mut action, mut listener) = (None, None);
    for (key, value) in keys(query)? {
        match &*key {
            "rollout" => action = Some(one_of(&key, &value)?),
            "listener" => listener = Some(value.into_owned()),
            _ => return Err(unknown(&key, "rollout, listener")),
        }
    }
    let verdict = match action {
        Some(RolloutAction::Promote) => Verdict::Promote,
        Some(RolloutAction::RollBack) => Verdict::RollBack,
        None if listener.is_some() => {
            return Err("listener is given without rollout: all files are reloaded\n".to_owned());
        }
        None => return Ok(None),
    };
    Ok(Some(RolloutOrder { verdict, listener }))
}

/// A key of a query with its value.
type Pair<'a> = (Cow<'a, str>, Cow<'a, str>);

/// Returns the keys of a query with their values.
///
/// # Errors
/// A sentence about a key that has two values: of two filters with one key, neither is the obvious one.
fn keys(query: &str) -> Result<Vec<Pair<'_>>, String> {
    let mut keys: Vec<Pair<'_>> = Vec::new();
    for (key, value) in parse(query.as_bytes()) {
        if keys.len() == MAX_KEYS {
            return Err(format!("more than {MAX_KEYS} keys\n"));
        }
        if keys.iter().any(|(known, _)| *known == key) {
            return Err(format!("{key:?} is given twice; allowed: once\n"));
        }
        keys.push((key, value));
    }
    Ok(keys)
}

/// Parses an address, alone or with a port. An IPv4 address in IPv6 form is the address of an IPv4 session.
fn peer(value: &str) -> Result<PeerFilter, String> {
    let address = value.parse().map(|address: IpAddr| PeerFilter::Any(address.to_canonical()));
    let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
    address.or_else(|_| value.parse().map(|at| PeerFilter::Just(canonical(at)))).map_err(|_| {
        refused("peer", value, "an IP address, alone or with a port, such as 192.0.2.1:4711")
    })
}

fn pattern(value: &str) -> Result<NamePattern, String> {
    if value.len() > LONGEST_PATTERN {
        let length = format!("{} bytes long", value.len());
        return Err(refused("identity", &length, &format!("{LONGEST_PATTERN} bytes")));
    }
    Ok(NamePattern::glob(value))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_of_events_selects_by_kind_and_by_listener() {
        let includes =
            |query: &str, what: &Happened| EventQuery::parse(query).unwrap().includes(what);
        let drain = Happened::Drain { phase: "draining", connections: 1 };
        let up = Happened::Backend { listener: "a".into(), backend: "b".into(), up: true };
        for (query, expected) in [
            ("", [true, true]),
            ("kind=drain", [true, false]),
            ("kind=opened,backend", [false, true]),
            ("listener=a", [false, true]),
            ("listener=b", [false, false]),
            ("identity=a", [false, false]),
        ] {
            assert_eq!([&drain, &up].map(|what| includes(query, what)), expected, "{query}");
            assert!(includes(query, &Happened::Lost { count: None }), "{query}");
        }
        let refusal = |query: &str| EventQuery::parse(query).unwrap_err();
        assert!(refusal("kind=open").contains("opened, closed, refused"));
        assert!(refusal("since=x").contains("number") && refusal("limit=1").contains("since"));
    }

    #[test]
    fn a_query_of_facts_selects_a_page_and_one_of_offers_has_no_keys() {
        let page = |after, limit| Ok(FactsQuery { after, limit });
        assert_eq!(FactsQuery::parse(""), page(0, LARGEST_PAGE));
        assert_eq!(FactsQuery::parse("after=7&limit=3"), page(7, 3));
        assert!(FactsQuery::parse("identity=a").unwrap_err().contains("known: limit, after"));
        assert!(FactsQuery::parse("limit=1001").unwrap_err().contains("1 to 1000"));
        assert_eq!(none(""), Ok(()));
        assert!(none("limit=1").unwrap_err().contains("\"limit\""));
    }

    #[test]
    fn a_query_that_stops_sessions_needs_a_filter() {
        let refusal = |query: &str| session_filter(query).unwrap_err();
        assert!(refusal("").contains("no filter; expected at least one of: listener, identity"));
        for query in ["limit=7", "after=7", "listener=a&limit=7"] {
            assert!(refusal(query).contains("known: listener, identity, sni, peer\n"), "{query}");
        }
        assert!(refusal(&"a=1&".repeat(2)).contains("twice"));
        let many: String = (0..=MAX_KEYS).map(|n| format!("k{n}=&")).collect();
        assert!(refusal(&many).contains("more than 16"));
    }

    #[test]
    fn a_reload_without_a_query_decides_about_no_rollout() {
        let order = |verdict, listener: Option<&str>| {
            Ok(Some(RolloutOrder { verdict, listener: listener.map(str::to_owned) }))
        };
        assert_eq!(rollout_order(""), Ok(None));
        assert_eq!(rollout_order("rollout=promote"), order(Verdict::Promote, None));
        assert_eq!(
            rollout_order("rollout=rollback&listener=a"),
            order(Verdict::RollBack, Some("a"))
        );
        for (query, part) in [
            ("rollout=back", "promote, rollback"),
            ("listener=a", "without rollout"),
            ("promote", "known: rollout, listener"),
            ("rollout=promote&rollout=rollback", "twice"),
        ] {
            assert!(rollout_order(query).unwrap_err().contains(part), "{query}");
        }
    }

    #[test]
    fn a_mistake_is_refused_with_the_allowed_values() {
        let refusal = |query: &str| SessionQuery::parse(query).unwrap_err();
        assert!(refusal("identiy=x").contains("known: listener, identity"));
        assert!(
            refusal("limit=0").contains("1 to 1000") && refusal("limit=1001").contains("\"1001\"")
        );
        let long = refusal(&format!("identity={}", "x".repeat(LONGEST_PATTERN + 1)));
        assert!(long.contains("256 bytes") && long.len() < 100, "{long}");
        assert!(
            refusal("peer=host").contains("192.0.2.1:4711") && refusal("after=x").contains("after")
        );
        assert!(TopQuery::parse("by=name").unwrap_err().contains("identity, peer"));
        assert!(TopQuery::parse("what=x").unwrap_err().contains("failures, bytes, connections"));
        assert!(refusal("peer=::1&peer=::2").contains("twice"));
        let peer = |query: &str| SessionQuery::parse(query).unwrap().filter.peer;
        let v4 = IpAddr::from([192, 0, 2, 1]);
        assert_eq!(peer("peer=::ffff:192.0.2.1"), Some(PeerFilter::Any(v4)));
        let just = PeerFilter::Just(SocketAddr::new(v4, 7));
        assert_eq!(peer("peer=%5B::ffff:192.0.2.1%5D:7"), Some(just));
        let wanted = SessionQuery::parse("identity=a%2Fb&peer=%3A%3A1&limit=7").unwrap();
        assert_eq!(wanted.filter.identity, Some(NamePattern::glob("a/b")));
        assert_eq!(
            (wanted.filter.peer, wanted.limit),
            (Some(PeerFilter::Any([0, 0, 0, 0, 0, 0, 0, 1].into())), Some(7))
        );
    }
}
