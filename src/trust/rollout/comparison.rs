//! The comparison of the two groups of a rollout.
//!
//! The new certificate is worse if more of its addresses fail than chance explains: by Fisher's exact test, which is
//! valid for small numbers as well. The test is repeated after each failure, so its limit is low.
//!
//! **Promises.** A few failures among few addresses are enough if the other group has none. Failures that occur in
//! both groups alike never decide.
//!
//! **Not here.** Counting (`trial.rs`).

/// The fewest addresses that fail before the new certificate can be worse: one or two can have other causes.
const MIN_FAILED: u32 = 3;

/// The highest probability that chance explains a difference that counts.
const MAX_CHANCE: f64 = 0.001;

/// The addresses of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    /// All of them.
    pub(crate) addresses: u32,
    /// Those with a failed handshake.
    pub(crate) failed: u32,
}

impl Sample {
    /// Returns the share of the addresses that fail.
    fn failing(self) -> f64 {
        f64::from(self.failed) / f64::from(self.addresses.max(1))
    }
}

/// Returns whether the new group fails by at most `tolerance` percent of its addresses more than the old one.
pub(super) fn is_within(new: Sample, old: Sample, tolerance: u32) -> bool {
    new.failing() <= old.failing() + f64::from(tolerance) / 100.0
}

/// Returns whether the new group is clearly worse.
pub(super) fn is_worse(new: Sample, old: Sample, tolerance: u32) -> bool {
    if new.failed < MIN_FAILED || is_within(new, old, tolerance) {
        return false;
    }
    // Without an old group there would be nothing to compare with: it begins with one failed address, and as many
    // others as make it `tolerance` percent.
    let addresses = old.addresses + 100 / tolerance.max(1);
    chance(new, Sample { addresses, failed: old.failed + 1 }) < MAX_CHANCE
}

/// Returns the probability that so many of the failures, or more, are in the new group by chance.
fn chance(new: Sample, old: Sample) -> f64 {
    let failed = new.failed + old.failed;
    let all = ln_choose(new.addresses + old.addresses, failed);
    let most = failed.min(new.addresses);
    let mut sum = 0.0;
    for here in new.failed..=most {
        let ln = ln_choose(new.addresses, here) + ln_choose(old.addresses, failed - here) - all;
        let term = ln.exp();
        sum += term;
        // The terms decrease from here on.
        if term < sum * 1e-9 {
            break;
        }
    }
    sum
}

/// Returns the logarithm of a binomial coefficient.
fn ln_choose(n: u32, k: u32) -> f64 {
    if k > n {
        return f64::NEG_INFINITY;
    }
    ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k)
}

/// Returns the logarithm of a factorial.
fn ln_factorial(n: u32) -> f64 {
    if n < 16 {
        return (2..=n).map(|factor| f64::from(factor).ln()).sum();
    }
    // Stirling's series: the error is below 1e-8.
    let n = f64::from(n);
    let tau = std::f64::consts::TAU;
    (n + 0.5) * n.ln() - n + 0.5 * tau.ln() + 1.0 / (12.0 * n) - 1.0 / (360.0 * n.powi(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(failed: u32, addresses: u32) -> Sample {
        Sample { addresses, failed }
    }

    /// Returns whether (failed, addresses) of the new group are worse than those of the old one, by 2 percent.
    fn worse(new: (u32, u32), old: (u32, u32)) -> bool {
        is_worse(sample(new.0, new.1), sample(old.0, old.1), 2)
    }

    #[test]
    fn three_failures_decide_beside_a_group_that_accepts() {
        assert!(worse((3, 9), (0, 171)), "a third of a share of 5 %");
        assert!(worse((3, 3), (0, 57)), "all of them");
        assert!(!worse((2, 2), (0, 1000)), "two are too few");
        assert!(!worse((3, 150), (0, 2850)), "2 % are tolerated");
    }

    #[test]
    fn failures_that_both_groups_have_never_decide() {
        assert!(!worse((3, 9), (60, 180)));
        assert!(!worse((50, 50), (950, 950)), "the network is down");
        assert!(!worse((30, 1000), (20, 1000)), "3 % instead of 2 %");
        assert!(worse((90, 1000), (20, 1000)), "9 % instead of 2 %");
    }

    #[test]
    fn a_group_without_another_needs_more_failures() {
        assert!(worse((3, 3), (0, 0)));
        assert!(!worse((3, 9), (0, 0)));
        assert!(worse((6, 18), (0, 0)));
    }

    #[test]
    fn chance_seldom_decides_in_a_fleet_with_a_bad_network() {
        // 5 % of 1,000 addresses, of which 4 % fail, by chance: a pseudorandom sequence.
        let mut state = 1_u64;
        let mut below = |limit: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % 1000 < limit
        };
        let mut decided = 0;
        for _ in 0..1000 {
            let (mut new, mut old) = (Sample::default(), Sample::default());
            let mut was_worse = false;
            for _ in 0..1000 {
                let group = if below(50) { &mut new } else { &mut old };
                group.addresses += 1;
                group.failed += u32::from(below(40));
                was_worse |= is_worse(new, old, 2);
            }
            decided += u32::from(was_worse);
        }
        assert!(decided <= 15, "{decided} of 1,000 rollouts");
    }

    #[test]
    fn the_probabilities_are_those_of_the_exact_test() {
        // C(9,3)·50 + C(9,4) of C(59,4), and 1 of C(6,3).
        let exact = (84.0 * 50.0 + 126.0) / 455_126.0;
        assert!((chance(sample(3, 9), sample(1, 50)) - exact).abs() < 1e-9);
        assert!((chance(sample(3, 3), sample(0, 3)) - 1.0 / 20.0).abs() < 1e-9);
        assert!((ln_choose(100, 50) - 66.783_841_656).abs() < 1e-6);
    }

    #[test]
    fn the_new_group_may_fail_as_often_as_the_old_one_and_the_tolerance() {
        assert!(is_within(sample(1, 50), sample(0, 950), 2));
        assert!(!is_within(sample(2, 50), sample(0, 950), 2));
        assert!(is_within(sample(2, 50), sample(19, 950), 2));
        assert!(is_within(Sample::default(), Sample::default(), 2));
    }
}
