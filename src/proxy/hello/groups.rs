//! The choice of the group for the key exchange.
//!
//! rustls takes the first group of the client's list that it supports, and asks the client for a second ClientHello if
//! the first one has no share of that group. Small stacks list a strong group first and send a share of another one:
//! each handshake would cost a round trip more. So the group is chosen here, and put first in the list that rustls sees.
//! rustls also compares each offered group with each of ours, which takes a millisecond for a list of 30,000. A long list
//! is therefore cut to the groups that matter: an extension of the type that RFC 8701 reserves has the rest.
//!
//! **Promises.** A client is asked for a second ClientHello only if it sent no share of a group that is accepted. The
//! answer to that request cannot select another group than the requested one.
//!
//! **Not here.** The accepted groups (`trust/provider/accepted.rs`), the refusal of a client that offers none of them: rustls.

use tokio_rustls::rustls::ProtocolVersion;

use super::client_hello::{HelloExtensions, Rest, codes, whole16};
use crate::trust::provider::{Accepted, Change};
use crate::trust::resolver::certificate_curves;

/// A ClientHello of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    First,
    /// The answer to a HelloRetryRequest.
    Second,
}

/// Number of groups above which rustls sees a part of the list. IANA has registered about 60.
const LONG: usize = 64;

/// Returns the changes that put the chosen group first, and hide the rest of a long list in an extension of an `unused`
/// type. None if the list stays as it is.
pub(super) fn changes(
    extensions: &HelloExtensions<'_>,
    accepted: &Accepted,
    version: ProtocolVersion,
    round: Round,
    unused: &mut impl Iterator<Item = [u8; 2]>,
) -> Vec<Change> {
    let Some(offered) = codes(extensions.supported_groups.and_then(whole16)) else {
        return Vec::new();
    };
    let shares = match round {
        Round::First => extensions.key_share,
        Round::Second => None,
    };
    let ours = accepted.groups_of(version);
    let shares = shares.into_iter().flat_map(shared_groups);
    let chosen = choose(offered, shares, ours, accepted.groups_decide);
    // The list is behind its length.
    let list = extensions.supported_groups_at + 2;
    if offered.len() > LONG
        && let Some(unused) = unused.next()
    {
        return cut(list, offered.len(), &known(offered, chosen, ours), unused);
    }
    match chosen {
        Some(chosen) if chosen > 0 => [(0, chosen), (chosen, 0)]
            .map(|(to, from)| Change { at: list + 2 * to, bytes: offered[from] })
            .into(),
        _ => Vec::new(),
    }
}

/// Returns the groups of a list that matter to rustls, the chosen one first and the others in the client's order. If there
/// are none, one that does not matter: the list must not be empty.
fn known(offered: &[[u8; 2]], chosen: Option<usize>, ours: &[[u8; 2]]) -> Vec<[u8; 2]> {
    // In TLS 1.2 the list says also which curves of certificates the client knows: RFC 8422 section 5.1.1.
    let curves: Vec<_> = certificate_curves().collect();
    let mut known: Vec<_> = chosen.map(|place| offered[place]).into_iter().collect();
    for group in offered {
        if (ours.contains(group) || curves.contains(group)) && !known.contains(group) {
            known.push(*group);
        }
    }
    if known.is_empty() {
        known.extend(offered.first());
    }
    known
}

/// Returns the changes that leave `known` of the list with `count` groups at the place `list`.
fn cut(list: usize, count: usize, known: &[[u8; 2]], unused: [u8; 2]) -> Vec<Change> {
    let length = |entries: usize| u16::try_from(2 * entries).unwrap_or(u16::MAX).to_be_bytes();
    // The lengths of the extension and of its list, the list, then type and length of the extension with the rest.
    let heads = [length(known.len() + 1), length(known.len())];
    let words = heads.into_iter().chain(known.iter().copied());
    let words = words.chain([unused, length(count - known.len() - 2)]);
    words.enumerate().map(|(n, bytes)| Change { at: list - 4 + 2 * n, bytes }).collect()
}

/// Returns the place of the group to use in the client's list: by the client's order one of which there is a share; by
/// our order the same, or else any.
fn choose(
    offered: &[[u8; 2]],
    shares: impl Iterator<Item = [u8; 2]>,
    ours: &[[u8; 2]],
    we_decide: bool,
) -> Option<usize> {
    let place = |group: &[u8; 2]| offered.iter().position(|other| other == group);
    // A bit for each group of ours. Both lists of the client can be long, ours is short: no search for each pair of them.
    let place_of_ours = |group: &[u8; 2]| ours.iter().position(|other| other == group);
    let places = shares.filter_map(|group| place_of_ours(&group));
    let shared = places.fold(0_u64, |shared, place| shared | 1 << place);
    if we_decide {
        let with_share = ours.iter().enumerate().filter(|(place, _)| shared & 1 << place != 0);
        let with_share = with_share.map(|(_, group)| group);
        with_share.chain(ours).find_map(place)
    } else {
        let has_share = |group| place_of_ours(group).is_some_and(|place| shared & 1 << place != 0);
        offered.iter().position(has_share)
    }
}

/// Returns the groups of which the extension has a share: RFC 8446 section 4.2.8.
fn shared_groups(key_share: &[u8]) -> impl Iterator<Item = [u8; 2]> {
    let mut rest = Rest(whole16(key_share).unwrap_or_default());
    std::iter::from_fn(move || {
        let group = rest.array()?;
        rest.vector16()?;
        Some(group)
    })
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
        let chosen =
            |offered: &[_], shares: &[_]| choose(offered, shares.iter().copied(), &OURS, false);
        assert_eq!(chosen(&[P384, P256], &[P256]), Some(1), "a later share");
        assert_eq!(chosen(&[HYBRID, X25519], &[X25519, HYBRID]), Some(0), "the hybrid's share");
        assert_eq!(chosen(&[HYBRID, X25519], &[X25519]), Some(1), "no share of the hybrid");
        assert_eq!(chosen(&[P521, P384, P256], &[P521]), None, "no accepted share");
        assert_eq!(chosen(&[P521, P384, P256], &[]), None, "no share");
    }

    #[test]
    fn a_long_list_is_cut_to_the_groups_that_matter_and_an_extension_with_the_rest() {
        let offered = [vec![P521, HYBRID], vec![[0x60, 0]; 100], vec![X25519, P521]].concat();
        let known = known(&offered, Some(102), &OURS);
        assert_eq!(known, [X25519, P521, HYBRID], "the chosen one, then the client's order");
        // The extension, and one byte before and after.
        let length = u16::try_from(2 * offered.len()).unwrap();
        let head = [10, length + 2, length].map(u16::to_be_bytes);
        let mut message = [&[7], head.as_flattened(), offered.as_flattened(), &[7]].concat();
        for Change { at, bytes } in cut(7, offered.len(), &known, [0x0a, 0x0a]) {
            message[at..at + 2].copy_from_slice(&bytes);
        }
        let mut rest = Rest(&message[1..]);
        assert_eq!(rest.array(), Some([0, 10]));
        assert_eq!(codes(whole16(rest.vector16().unwrap())), Some(&known[..]));
        assert_eq!(rest.array(), Some([0x0a, 0x0a]));
        assert_eq!(rest.vector16().map(<[u8]>::len), Some(2 * (offered.len() - 3 - 2)));
        assert_eq!(rest.0, [7]);
    }

    #[test]
    fn by_our_order_a_share_decides_before_the_order() {
        let ours = [P384, P256];
        let chosen =
            |offered: &[_], shares: &[_]| choose(offered, shares.iter().copied(), &ours, true);
        assert_eq!(chosen(&[P256, P384], &[P256, P384]), Some(1), "our first");
        assert_eq!(chosen(&[P256, P384], &[P256]), Some(0), "the only share");
        assert_eq!(chosen(&[X25519, P256, P384], &[X25519]), Some(2), "no accepted share");
        assert_eq!(chosen(&[X25519, P521], &[X25519]), None, "none in common");
    }
}
