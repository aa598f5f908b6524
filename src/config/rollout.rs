//! The rollout of a new server certificate: the clients that get it first, and the conditions for the others.
//!
//! **Not here.** The rollout itself (`trust/rollout.rs`).

use std::str::FromStr;
use std::time::Duration;

use crate::value::{InvalidValue, TextValue};

/// The rollout of a new server certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// The share of the clients' addresses that get the new certificate first, in percent, 1 to 50.
    pub share: u32,
    /// The shortest time until the other clients get it.
    pub observe: Duration,
    /// The number of addresses that must have completed a handshake with it by then, at least 1.
    pub min_addresses: u32,
    /// The difference of the shares of failing addresses that does not count as worse, in percent, 1 to 50.
    pub tolerance: u32,
}

impl Rollout {
    /// Returns a rollout to this share of the addresses, and the defaults for everything else.
    #[must_use]
    pub const fn to(share: u32) -> Self {
        Self { share, observe: DEFAULT_OBSERVE, min_addresses: 10, tolerance: 2 }
    }
}

/// Long enough to see the reconnects of some thousand devices that stay connected for a day.
const DEFAULT_OBSERVE: Duration = Duration::from_secs(600);

/// A share in percent, from 1 to 50.
pub(crate) struct Percent(pub(crate) u32);

impl TextValue for Percent {
    const EXPECTED: &'static str = "a share from \"1%\" to \"50%\", such as \"5%\"";
}

impl FromStr for Percent {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let digits = text.strip_suffix('%').filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
        let percent = digits.and_then(|digits| digits.parse().ok());
        let percent = percent.filter(|percent| (1..=50).contains(percent));
        percent.map(Self).ok_or(InvalidValue::of::<Self>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_whole_number_of_percent_up_to_a_half() {
        let parse = |text: &str| text.parse::<Percent>().ok().map(|Percent(percent)| percent);
        assert_eq!(["1%", "5%", "50%"].map(parse), [Some(1), Some(5), Some(50)]);
        for bad in ["0%", "51%", "5", "5.5%", "-1%", "+5%", "%", "", "5 %"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
