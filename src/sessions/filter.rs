//! Filters for sessions: by listener, by a name of the certificate, by address, by server name.
//!
//! **Not here.** Their form in queries (`control/admin/query.rs`).

use std::net::{IpAddr, SocketAddr};

use crate::terms::name_pattern::NamePattern;

/// A filter for sessions. All parts that are given must match.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct SessionFilter {
    pub(crate) listener: Option<String>,
    pub(crate) identity: Option<NamePattern>,
    pub(crate) peer: Option<PeerFilter>,
    pub(crate) server_name: Option<String>,
}

/// An address, with or without its port.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PeerFilter {
    Any(IpAddr),
    Just(SocketAddr),
}

/// The parts of a session that a filter looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) listener: &'a str,
    /// The names of the certificate.
    pub(crate) names: &'a [Box<str>],
    pub(crate) peer: SocketAddr,
    pub(crate) server_name: Option<&'a str>,
}

impl SessionFilter {
    /// Returns whether the filter selects a session.
    pub(crate) fn selects(&self, seen: &Seen<'_>) -> bool {
        self.fits_peer(seen) && self.fits_server_name(seen) && self.fits_identity(seen)
    }

    /// Returns whether the listener and the address fit.
    pub(super) fn fits_peer(&self, seen: &Seen<'_>) -> bool {
        let listener = self.listener.as_deref().is_none_or(|name| name == seen.listener);
        let peer = self.peer.as_ref().is_none_or(|peer| match peer {
            PeerFilter::Any(address) => *address == seen.peer.ip(),
            PeerFilter::Just(address) => *address == seen.peer,
        });
        listener && peer
    }

    /// Returns whether the server name fits.
    pub(super) fn fits_server_name(&self, seen: &Seen<'_>) -> bool {
        self.server_name.as_deref().is_none_or(|wanted| {
            seen.server_name.is_some_and(|name| name.eq_ignore_ascii_case(wanted))
        })
    }

    /// Returns whether a name of the certificate fits.
    pub(super) fn fits_identity(&self, seen: &Seen<'_>) -> bool {
        let identity = self.identity.as_ref();
        identity.is_none_or(|id| seen.names.iter().any(|name| id.matches(name)))
    }
}
