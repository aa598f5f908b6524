//! The choice of the group for the key exchange.
//!
//! rustls takes the first group of the client's list that it supports, and asks the client for a second ClientHello if
//! the first one has no share of that group. Small stacks list a strong group first and send a share of another one:
//! each handshake would cost a round trip more. So the group is chosen here, and put first in the list that rustls sees.
//!
//! **Promises.** A client is asked for a second ClientHello only if it sent no share of a group that is accepted. The
//! answer to that request cannot select another group than the requested one.
//!
//! **Not here.** The accepted groups (`trust/provider/accepted.rs`), the refusal of a client that offers none of them: rustls.

use tokio_rustls::rustls::ProtocolVersion;

use super::client_hello::{HelloExtensions, Rest, codes, whole16};
use crate::trust::provider::{Accepted, Change};

/// A ClientHello of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    First,
    /// The answer to a HelloRetryRequest.
    Second,
}

/// Returns the changes that put the chosen group first. None if the list stays, or if no group is chosen.
pub(super) fn changes(
    extensions: &HelloExtensions<'_>,
    accepted: &Accepted,
    version: ProtocolVersion,
    round: Round,
) -> Option<[Change; 2]> {
    let offered = codes(whole16(extensions.supported_groups?))?;
    let shares = match round {
        Round::First => extensions.key_share.map(shared_groups).unwrap_or_default(),
        Round::Second => Vec::new(),
    };
    let ours: Vec<_> = accepted.groups_of(version).collect();
    let chosen =
        choose(offered, &shares, &ours, accepted.groups_decide).filter(|&place| place > 0)?;
    // The list is behind its length.
    let at = |place: usize| extensions.supported_groups_at + 2 + 2 * place;
    Some([(0, chosen), (chosen, 0)].map(|(to, from)| Change { at: at(to), bytes: offered[from] }))
}

/// Returns the place of the group to use in the client's list: by the client's order one of which there is a share; by
/// our order the same, or else any.
fn choose(
    offered: &[[u8; 2]],
    shares: &[[u8; 2]],
    ours: &[[u8; 2]],
    we_decide: bool,
) -> Option<usize> {
    let place = |group: &[u8; 2]| offered.iter().position(|other| other == group);
    if we_decide {
        let with_share = ours.iter().filter(|group| shares.contains(group)).find_map(place);
        with_share.or_else(|| ours.iter().find_map(place))
    } else {
        // Both lists of the client can be long, ours is short: no search for each pair of them.
        let shared: Vec<_> = ours.iter().filter(|group| shares.contains(group)).collect();
        offered.iter().position(|group| shared.contains(&group))
    }
}

/// Returns the groups of which the extension has a share: RFC 8446 section 4.2.8.
fn shared_groups(key_share: &[u8]) -> Vec<[u8; 2]> {
    let mut rest = Rest(whole16(key_share).unwrap_or_default());
    let mut groups = Vec::new();
    while let Some(group) = rest.array()
        && rest.vector16().is_some()
    {
        groups.push(group);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: [u8; 2] = [0x11, 0xec];
    const X25519: [u8; 2] = [0, 29];
    const P256: [u8; 2] = [0, 23];
    const P384: [u8; 2] = [0, 24];
    const P521: [u8; 2] = [0, 25];
    const OURS: [[u8; 2]; 4] = [X25519, P256, P384, HYBRID];

    #[test]
    fn by_the_clients_order_the_first_accepted_group_with_a_share_is_chosen() {
        let chosen = |offered: &[_], shares: &[_]| choose(offered, shares, &OURS, false);
        assert_eq!(chosen(&[P384, P256], &[P256]), Some(1), "a later share");
        assert_eq!(chosen(&[HYBRID, X25519], &[X25519, HYBRID]), Some(0), "the hybrid's share");
        assert_eq!(chosen(&[HYBRID, X25519], &[X25519]), Some(1), "no share of the hybrid");
        assert_eq!(chosen(&[P521, P384, P256], &[P521]), None, "no accepted share");
        assert_eq!(chosen(&[P521, P384, P256], &[]), None, "no share");
    }

    #[test]
    fn by_our_order_a_share_decides_before_the_order() {
        let ours = [P384, P256];
        let chosen = |offered: &[_], shares: &[_]| choose(offered, shares, &ours, true);
        assert_eq!(chosen(&[P256, P384], &[P256, P384]), Some(1), "our first");
        assert_eq!(chosen(&[P256, P384], &[P256]), Some(0), "the only share");
        assert_eq!(chosen(&[X25519, P256, P384], &[X25519]), Some(2), "no accepted share");
        assert_eq!(chosen(&[X25519, P521], &[X25519]), None, "none in common");
    }
}
