//! The offers of the last 24 hours in the form of `GET /offers`.
//!
//! **Promises.** The names in the JSON are public: added to, never changed.
//!
//! **Not here.** The counts (`offers.rs`), the judgement of a candidate (`app/live.rs`).

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::Sessions;
use super::offers::{OfferExample, SeenOffer};
use crate::terms::offer_class::{OfferClass, OfferList};

/// The offers of the last 24 hours.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OffersPage {
    /// The classes that found no place in the table, since the start.
    pub(crate) replaced: u64,
    /// The most frequent first.
    pub(crate) offers: Vec<OfferFacts>,
}

/// The handshakes of the last 24 hours with one offer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct OfferFacts {
    pub(crate) listener: String,
    /// The place of the route that was selected, from 0; none for the listener's own policy.
    pub(crate) route: Option<usize>,
    /// Identifies the offer; the same in every process of this version.
    pub(crate) class: u64,
    pub(crate) versions: Vec<String>,
    pub(crate) suites: Vec<String>,
    pub(crate) groups: Vec<String>,
    pub(crate) schemes: Vec<String>,
    pub(crate) handshakes: u64,
    /// Unix time of the hour of the last handshake.
    pub(crate) last: i64,
    /// A device with this offer.
    pub(crate) example: ExampleFacts,
}

/// A device with an offer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ExampleFacts {
    pub(crate) identity: Option<String>,
    pub(crate) peer: SocketAddr,
    pub(crate) sni: Option<String>,
    pub(crate) alpn: Option<String>,
}

impl OffersPage {
    /// Returns the offers of all listeners.
    pub(crate) fn of(sessions: &Sessions) -> Self {
        let (seen, replaced) = sessions.offers.seen();
        let mut offers: Vec<_> = seen.into_iter().map(OfferFacts::of).collect();
        offers.sort_by(|one, other| {
            let order = |facts: &OfferFacts| (facts.listener.clone(), facts.route, facts.class);
            other.handshakes.cmp(&one.handshakes).then_with(|| order(one).cmp(&order(other)))
        });
        Self { replaced, offers }
    }
}

impl OfferFacts {
    fn of(seen: SeenOffer) -> Self {
        let SeenOffer { metrics, route, class, handshakes, last, example } = seen;
        let names = |list| class.offered(list).map(|(_, name)| name.to_owned()).collect();
        let OfferExample { identity, peer, server_name, alpn } = example;
        let text = |text: Option<Box<str>>| text.map(String::from);
        Self {
            listener: metrics.name().to_owned(),
            route,
            class: class.number(),
            versions: names(OfferList::Versions),
            suites: names(OfferList::Suites),
            groups: names(OfferList::Groups),
            schemes: names(OfferList::Schemes),
            handshakes,
            last,
            example: ExampleFacts {
                identity: text(identity),
                peer,
                sni: text(server_name),
                alpn: text(alpn),
            },
        }
    }

    /// Returns the class, if this program knows it.
    pub(crate) fn class(&self) -> Option<OfferClass> {
        OfferClass::from_number(self.class)
    }
}
