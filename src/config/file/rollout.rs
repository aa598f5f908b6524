//! The table `rollout` of the TLS keys.
//!
//! **Not here.** Its keys (`sections.rs`), the values (`config/rollout.rs`).

use toml::Spanned;

use super::problem::Problems;
use super::sections::RolloutSection;
use crate::config::Rollout;

/// Converts the table of the section with the key `owner`. An empty one disables rollouts.
pub(super) fn into_rollout(
    section: Spanned<RolloutSection>,
    owner: &str,
    problems: &mut Problems<'_>,
) -> Option<Rollout> {
    let span = section.span();
    let RolloutSection { share, observe, min_addresses, tolerance } = section.into_inner();
    let is_empty = observe.is_none() && min_addresses.is_none() && tolerance.is_none();
    let Some(share) = share else {
        // An unknown key is one problem, not a missing one as well.
        if !is_empty {
            let allowed = "a share from \"1%\" to \"50%\", or an empty table: no rollout";
            problems.missing(&span, &format!("{owner}.rollout"), "share", allowed);
        }
        return None;
    };
    let default = Rollout::to(share.0.0);
    Some(Rollout {
        observe: observe.map_or(default.observe, |time| time.0.0),
        min_addresses: min_addresses.map_or(default.min_addresses, |count| count.0),
        tolerance: tolerance.map_or(default.tolerance, |tolerance| tolerance.0.0),
        ..default
    })
}
