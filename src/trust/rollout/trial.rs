//! The groups of a rollout, their figures, and the decision.
//!
//! A client belongs to the new group by a hash of its address, with a random key for each rollout. An address on which
//! a handshake with the new certificate failed gets the earlier one from then on. So does a connection of an address
//! that has such a handshake in progress: a device that reconnects at once can come before the outcome is known.
//!
//! **Promises.** Each address counts once for each figure, however often it connects. 128 KiB of memory, however many
//! addresses there are, and a few bytes for each handshake in progress. A decision is final, and applies to the next
//! handshake. A roll-back is decided by the failure that makes the difference clear; a promotion at the end of the
//! observation, or later by the handshake that completes the conditions.
//!
//! **Not here.** The comparison (`comparison.rs`), the outcome of a handshake (`proxy/handshake/error.rs`).

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use super::addresses::{Addresses, Place};
use super::comparison::{self, Sample};
use crate::config;
use crate::lock::Lock;
use crate::terms::closed_set::ClosedSet;
use crate::terms::rollout::{RolloutCause, RolloutGroup, RolloutState, ShownOutcome};

/// The progress of a rollout. It is shared by all snapshots in which the rollout goes on.
pub(crate) struct Trial {
    hasher: RandomState,
    began: Instant,
    since: SystemTime,
    tally: Lock<Tally>,
    /// Called after a decision.
    wake: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

#[derive(Default)]
struct Tally {
    decision: Option<Decision>,
    /// The end of the observation has been reported.
    waits: bool,
    groups: [GroupTally; RolloutGroup::ALL.len()],
    /// The addresses with a handshake in progress that gets the new certificate.
    in_progress: HashSet<Place>,
}

#[derive(Default)]
struct GroupTally {
    outcomes: [u64; ShownOutcome::ALL.len()],
    seen: Addresses,
    failed: Addresses,
}

/// A decision about a new certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// All clients get it.
    Promote,
    /// No client gets it.
    RollBack,
}

/// A decision, its cause and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) verdict: Verdict,
    pub(crate) cause: RolloutCause,
    pub(crate) at: SystemTime,
}

/// The progress of a rollout at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) since: SystemTime,
    pub(crate) decision: Option<Decision>,
    /// In the order of [`RolloutGroup::ALL`].
    pub(crate) groups: [GroupFigures; RolloutGroup::ALL.len()],
}

/// The figures of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupFigures {
    /// Handshakes, in the order of [`ShownOutcome::ALL`].
    pub(crate) outcomes: [u64; ShownOutcome::ALL.len()],
    /// The addresses that are compared.
    pub(crate) sample: Sample,
}

/// A client's place in a rollout.
pub(crate) struct Assigned {
    trial: Arc<Trial>,
    settings: config::Rollout,
    place: Place,
    pub(crate) group: RolloutGroup,
    /// Its address is among those with a handshake in progress.
    is_observed: bool,
}

impl Trial {
    /// Begins the rollout of a new certificate.
    pub(super) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            began: Instant::now(),
            since: SystemTime::now(),
            tally: Lock::default(),
            wake: OnceLock::new(),
        }
    }

    /// Has `wake` called after the decision.
    pub(crate) fn wake_by(&self, wake: impl Fn() + Send + Sync + 'static) {
        // A rollout that goes on over a reload has it already.
        let _has_one = self.wake.set(Box::new(wake));
    }

    /// Returns the group of the client with this address, and its place for [`Assigned::count`].
    pub(crate) fn assign(
        self: &Arc<Self>,
        address: &impl Hash,
        settings: config::Rollout,
    ) -> Assigned {
        let place = Place(self.hasher.hash_one(address));
        let mut tally = self.tally.lock();
        let has_failed = tally.groups[RolloutGroup::New.index()].failed.has(place);
        let is_chosen = !has_failed && place.percentile() < settings.share;
        let group = match tally.decision.map(|decision| decision.verdict) {
            Some(Verdict::Promote) => RolloutGroup::New,
            Some(Verdict::RollBack) => RolloutGroup::Old,
            None if is_chosen && tally.in_progress.insert(place) => RolloutGroup::New,
            None => RolloutGroup::Old,
        };
        let is_observed = tally.decision.is_none() && group == RolloutGroup::New;
        Assigned { trial: Arc::clone(self), settings, place, group, is_observed }
    }

    /// Decides, unless there is a decision already. A roll-back can be followed by a promotion.
    pub(crate) fn decide(&self, verdict: Verdict, cause: RolloutCause) -> bool {
        let decided = self.tally.lock().decide(verdict, cause);
        if decided && let Some(wake) = self.wake.get() {
            wake();
        }
        decided
    }

    /// Decides at the end of the observation. Returns true, once, if the conditions are not met by then.
    pub(crate) fn review(&self, settings: &config::Rollout) -> bool {
        let mut tally = self.tally.lock();
        if self.left(settings) > Duration::ZERO || tally.decision.is_some() {
            return false;
        }
        let (decided, waits) = (tally.consider(settings, true), !tally.waits);
        tally.waits = true;
        drop(tally);
        if decided && let Some(wake) = self.wake.get() {
            wake();
        }
        waits && !decided
    }

    /// Returns the time until [`Self::review`] has to be called; none if it need not.
    pub(crate) fn review_in(&self, settings: &config::Rollout) -> Option<Duration> {
        let tally = self.tally.lock();
        let is_open = tally.decision.is_none() && !tally.waits;
        is_open.then(|| self.left(settings))
    }

    /// Returns the rest of the observation.
    fn left(&self, settings: &config::Rollout) -> Duration {
        settings.observe.saturating_sub(self.began.elapsed())
    }

    /// Returns the decision; none while clients are observed.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        self.tally.lock().decision.map(|decision| decision.verdict)
    }

    /// Returns the state of a rollout that is not promoted.
    pub(super) fn state(&self) -> RolloutState {
        match self.verdict() {
            Some(Verdict::RollBack) => RolloutState::RolledBack,
            Some(Verdict::Promote) | None => RolloutState::Observing,
        }
    }

    /// Returns the figures and the decision.
    pub(crate) fn progress(&self) -> Progress {
        let tally = self.tally.lock();
        let figures = |group: &RolloutGroup| {
            let tally = &tally.groups[group.index()];
            GroupFigures { outcomes: tally.outcomes, sample: tally.sample() }
        };
        let groups = [figures(&RolloutGroup::Old), figures(&RolloutGroup::New)];
        Progress { since: self.since, decision: tally.decision, groups }
    }
}

impl Tally {
    fn decide(&mut self, verdict: Verdict, cause: RolloutCause) -> bool {
        let is_open = match self.decision.map(|decision| decision.verdict) {
            None => true,
            Some(Verdict::RollBack) => verdict == Verdict::Promote,
            Some(Verdict::Promote) => false,
        };
        if is_open {
            self.decision = Some(Decision { verdict, cause, at: SystemTime::now() });
        }
        is_open
    }

    /// Decides if the figures are clear. `is_over`: the time of the observation has passed.
    fn consider(&mut self, settings: &config::Rollout, is_over: bool) -> bool {
        let [old, new] =
            [RolloutGroup::Old, RolloutGroup::New].map(|g| self.groups[g.index()].sample());
        if comparison::is_worse(new, old, settings.tolerance) {
            return self.decide(Verdict::RollBack, RolloutCause::Worse);
        }
        let are_enough = new.addresses - new.failed >= settings.min_addresses;
        let is_good = is_over && are_enough && comparison::is_within(new, old, settings.tolerance);
        is_good && self.decide(Verdict::Promote, RolloutCause::NotWorse)
    }
}

impl GroupTally {
    fn sample(&self) -> Sample {
        // Two addresses can share a bit in one set and not in the other.
        let addresses = self.seen.count().max(self.failed.count());
        Sample { addresses, failed: self.failed.count() }
    }
}

impl Assigned {
    /// Counts the outcome of the client's handshake, and decides if it makes the figures clear. After the decision
    /// nothing is counted.
    pub(crate) fn count(&self, outcome: ShownOutcome) {
        let Self { trial, settings, place, group, is_observed: _ } = self;
        let mut tally = trial.tally.lock();
        if tally.decision.is_some() {
            return;
        }
        // An address that changed its group because it failed says nothing about the other addresses of that group.
        let has_moved = *group == RolloutGroup::Old && place.percentile() < settings.share;
        let counted = &mut tally.groups[group.index()];
        counted.outcomes[outcome.index()] += 1;
        if has_moved {
            return;
        }
        counted.seen.add(*place);
        if outcome.is_failure() {
            counted.failed.add(*place);
        }
        let decided = tally.consider(settings, trial.left(settings).is_zero());
        drop(tally);
        if decided && let Some(wake) = trial.wake.get() {
            wake();
        }
    }
}

impl Drop for Assigned {
    /// Ends the handshake, whether it was counted or not.
    fn drop(&mut self) {
        if self.is_observed {
            self.trial.tally.lock().in_progress.remove(&self.place);
        }
    }
}

impl fmt::Debug for Assigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assigned").field("group", &self.group).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A rollout to a tenth of the addresses, whose observation ends at once or never.
    fn settings(is_over: bool) -> config::Rollout {
        let observe = if is_over { Duration::ZERO } else { Duration::MAX };
        config::Rollout { observe, ..config::Rollout::to(10) }
    }

    /// Connects from so many addresses, and returns how many of each group there were.
    fn connect(
        trial: &Arc<Trial>,
        settings: config::Rollout,
        addresses: u32,
        outcome: impl Fn(u32, RolloutGroup) -> ShownOutcome,
    ) -> [u32; 2] {
        let mut groups = [0, 0];
        for address in 0..addresses {
            let assigned = trial.assign(&address, settings);
            groups[assigned.group.index()] += 1;
            assigned.count(outcome(address, assigned.group));
        }
        groups
    }

    fn accepts(_: u32, _: RolloutGroup) -> ShownOutcome {
        ShownOutcome::Completed
    }

    /// Returns the outcome of a client; a third of the addresses rejects the new certificate.
    fn a_third_rejects(address: u32, group: RolloutGroup) -> ShownOutcome {
        let rejects = group == RolloutGroup::New && address.is_multiple_of(3);
        if rejects { ShownOutcome::Alert } else { ShownOutcome::Completed }
    }

    #[test]
    fn an_address_stays_in_its_group() {
        let (trial, settings) = (Arc::new(Trial::new()), settings(false));
        let groups = || (0..1000).map(|n: u32| trial.assign(&n, settings).group);
        let first: Vec<_> = groups().collect();
        assert!(groups().eq(first.iter().copied()));
        let new = first.iter().filter(|group| **group == RolloutGroup::New).count();
        assert!((60..140).contains(&new), "{new} of 1,000");
    }

    #[test]
    fn a_larger_share_has_the_addresses_of_a_smaller_one() {
        let trial = Arc::new(Trial::new());
        let new = |share| {
            let is_new = move |n: &u32, trial: &Arc<Trial>| {
                trial.assign(n, config::Rollout::to(share)).group == RolloutGroup::New
            };
            (0..1000).filter(|n| is_new(n, &trial)).collect::<Vec<_>>()
        };
        let (small, large) = (new(5), new(20));
        assert!(small.iter().all(|n| large.contains(n)) && small.len() < large.len());
    }

    #[test]
    fn a_failed_address_gets_the_earlier_certificate_from_then_on() {
        let (trial, settings) = (Arc::new(Trial::new()), settings(false));
        let failing = (0..).find(|n: &u32| trial.assign(n, settings).group == RolloutGroup::New);
        trial.assign(&failing.unwrap(), settings).count(ShownOutcome::Closed);
        let again = trial.assign(&failing.unwrap(), settings);
        assert_eq!(again.group, RolloutGroup::Old);
        again.count(ShownOutcome::Completed);
        let [old, new] = trial.progress().groups;
        assert_eq!(old.outcomes[ShownOutcome::Completed.index()], 1);
        assert_eq!(old.sample, Sample::default(), "it does not count for the other group");
        assert_eq!(new.sample, Sample { addresses: 1, failed: 1 });
    }

    #[test]
    fn an_address_has_one_handshake_at_a_time_with_the_new_certificate() {
        let (trial, settings) = (Arc::new(Trial::new()), settings(false));
        let group = |address: u32| trial.assign(&address, settings).group;
        let address = (0..).find(|n| group(*n) == RolloutGroup::New).unwrap();
        let in_progress = trial.assign(&address, settings);
        assert_eq!(group(address), RolloutGroup::Old);
        drop(in_progress);
        assert_eq!(group(address), RolloutGroup::New);
    }

    #[test]
    fn a_certificate_that_a_third_rejects_is_rolled_back_by_the_failure_that_makes_it_clear() {
        let (trial, settings) = (Arc::new(Trial::new()), settings(false));
        let wakes = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&wakes);
        trial.wake_by(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        connect(&trial, settings, 1000, a_third_rejects);
        let Progress { decision, groups: [_, new], .. } = trial.progress();
        let decision = decision.unwrap();
        assert_eq!((decision.verdict, decision.cause), (Verdict::RollBack, RolloutCause::Worse));
        assert!((3..10).contains(&new.sample.failed), "{:?}", new.sample);
        assert_eq!(wakes.load(Ordering::SeqCst), 1);
        assert_eq!(connect(&trial, settings, 1000, accepts), [1000, 0]);
        assert_eq!(trial.progress().groups[1], new, "nothing is counted after the decision");
    }

    #[test]
    fn a_certificate_that_all_accept_is_promoted_at_the_end_of_the_observation() {
        let trial = Arc::new(Trial::new());
        connect(&trial, settings(false), 1000, accepts);
        assert_eq!(trial.verdict(), None);
        assert!(!trial.review(&settings(true)), "it does not wait");
        assert_eq!(trial.verdict(), Some(Verdict::Promote));
        assert_eq!(connect(&trial, settings(true), 100, accepts), [0, 100]);
    }

    #[test]
    fn too_few_addresses_are_waited_for_after_the_observation() {
        let (trial, settings) = (Arc::new(Trial::new()), settings(true));
        assert_eq!(trial.review_in(&settings), Some(Duration::ZERO));
        assert_eq!([trial.review(&settings), trial.review(&settings)], [true, false]);
        assert_eq!(trial.review_in(&settings), None);
        connect(&trial, settings, 1000, accepts);
        let Progress { decision, groups: [_, new], .. } = trial.progress();
        assert_eq!(decision.unwrap().cause, RolloutCause::NotWorse);
        assert_eq!(new.sample, Sample { addresses: settings.min_addresses, failed: 0 });
    }

    #[test]
    fn failures_of_both_groups_neither_roll_back_nor_promote_too_early() {
        let (trial, settings) = (Arc::new(Trial::new()), settings(true));
        // The same part of each group fails: with a third of all, one of a hundred hashes would be a real difference.
        let seen = [const { AtomicUsize::new(0) }; 2];
        let outcome = |_, group: RolloutGroup| match seen[group.index()]
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(3)
        {
            true => ShownOutcome::Silent,
            false => ShownOutcome::Completed,
        };
        connect(&trial, settings, 3000, outcome);
        assert_eq!(trial.verdict(), Some(Verdict::Promote), "{:?}", trial.progress());
    }

    #[test]
    fn an_operator_can_promote_after_a_roll_back_and_not_the_reverse() {
        let trial = Trial::new();
        let decide = |verdict| trial.decide(verdict, RolloutCause::Operator);
        assert_eq!(
            [Verdict::RollBack, Verdict::RollBack, Verdict::Promote, Verdict::RollBack].map(decide),
            [true, false, true, false]
        );
        assert_eq!(trial.verdict(), Some(Verdict::Promote));
    }
}
