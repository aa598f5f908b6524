//! The backends of a listener and of its routes, and the section about their use.
//!
//! **Not here.** An address (`config/backend.rs`).

use toml::Spanned;

use super::problem::Problems;
use super::sections::{BalanceSection, ListenerSection};
use super::text::BackendTexts;
use crate::config::{BackendAddress, BackendList, Balance, BalancePolicy, is_own};

/// Converts the value of `key`. Adds a problem for an empty list, and for each address that occurs twice.
pub(super) fn into_list(
    texts: Spanned<BackendTexts>,
    key: &str,
    problems: &mut Problems<'_>,
) -> Option<BackendList> {
    let span = texts.span();
    let list = match texts.into_inner() {
        BackendTexts::One(address) => return Some(address.into()),
        BackendTexts::List(list) => list,
    };
    if list.is_empty() && !problems.is_invalid(key) {
        problems.at(span, key, "found an empty list, expected at least one address");
    }
    let mut addresses: Vec<BackendAddress> = Vec::new();
    for (i, address) in list.into_iter().enumerate() {
        let place = address.span();
        let address = address.into_inner().0;
        match addresses.iter().position(|earlier| *earlier == address) {
            Some(first) => {
                let message =
                    format!("found \"{address}\", but {key}[{first}] has the same address");
                problems.at(place, &format!("{key}[{i}]"), &message);
            }
            None => addresses.push(address),
        }
    }
    BackendList::new(addresses)
}

/// Adds a problem for a policy that has no effect, because no backend has several addresses.
pub(super) fn check_policy(section: &ListenerSection, key: &str, problems: &mut Problems<'_>) {
    let has_several = |(key, backend): (String, Option<&Spanned<BackendTexts>>)| {
        backend.is_some_and(|backend| backend.as_ref().has_several()) || problems.is_invalid(&key)
    };
    let has_effect = of_section(section, key).any(has_several);
    let policy = section.balance.policy.as_ref();
    let policy = policy.filter(|policy| policy.as_ref().0 != BalancePolicy::default());
    if let Some(policy) = policy.filter(|_| !has_effect) {
        let message =
            "found a policy, but no backend of this listener is a list of addresses to choose from";
        problems.at(policy.span(), &format!("{key}.balance.policy"), message);
    }
}

/// Adds a problem for each backend that is the address of the listener itself.
pub(super) fn check_own(section: &ListenerSection, key: &str, problems: &mut Problems<'_>) {
    let Some(listen) = section.listen.as_ref().map(|listen| listen.as_ref().0.0) else { return };
    for (key, backend) in of_section(section, key) {
        let Some(backend) = backend else { continue };
        let found: Vec<_> = match backend.as_ref() {
            BackendTexts::One(address) => vec![(key, backend.span(), address)],
            BackendTexts::List(list) => list
                .iter()
                .enumerate()
                .map(|(i, one)| (format!("{key}[{i}]"), one.span(), &one.as_ref().0))
                .collect(),
        };
        for (key, place, address) in found.into_iter().filter(|(.., a)| is_own(listen, a)) {
            let message = format!(
                "found \"{address}\", which this listener listens on itself ({listen}), expected the address of the \
                 legacy server"
            );
            problems.at(place, &key, &message);
        }
    }
}

/// Returns the backends of a listener's routes, and its own, with their keys.
fn of_section<'a>(
    section: &'a ListenerSection,
    key: &str,
) -> impl Iterator<Item = (String, Option<&'a Spanned<BackendTexts>>)> {
    let routes = section.route.iter().enumerate();
    let of_routes = routes.map(move |(i, route)| {
        (format!("{key}.route[{i}].backend"), route.as_ref().backend.as_ref())
    });
    of_routes.chain([(format!("{key}.backend"), section.backend.as_ref())])
}

impl From<BalanceSection> for Balance {
    fn from(section: BalanceSection) -> Self {
        let limit = section.max_connects_in_progress.map_or(0, |limit| limit.0);
        Self {
            policy: section.policy.map_or_else(Default::default, |p| p.into_inner().0),
            check_interval: section.check_interval.and_then(|interval| interval.0.0),
            connect: section.connect.map_or_else(Default::default, |connect| connect.0),
            max_connects_in_progress: usize::try_from(limit).ok().filter(|&limit| limit != 0),
            source: section.source.map_or_else(Default::default, |s| s.into_inner().0),
        }
    }
}
