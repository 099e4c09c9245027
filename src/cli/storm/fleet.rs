//! The environments of one function, as Lambda runs them: one invocation at a time in each, warm ones first, so many at most, so many new ones in ten seconds.

use std::time::Duration;

use super::scenario::Behaviour;

const TEN_SECONDS: f64 = 10.0;

/// A tenant's environments. `T` is what a warm one holds.
#[derive(Debug)]
pub(super) struct Fleet<T> {
    most: u32,
    /// How many new ones may start in ten seconds.
    new: u32,
    idle_lifetime: Option<Duration>,
    alive: u32,
    /// New ones that may start now; what is not used does not add up beyond ten seconds' worth.
    credit: f64,
    credited_at: Duration,
    /// Those without work, and since when; the last that was used is the first that is used again.
    idle: Vec<(Duration, T)>,
}

/// Where an invocation runs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place<T> {
    /// In an environment that was idle.
    Warm(T),
    /// In a new one.
    Cold,
    /// Nowhere: all are busy, and no other may be started.
    Throttled,
}

impl<T> Fleet<T> {
    pub(super) fn new(behaviour: &Behaviour) -> Self {
        Self {
            most: behaviour.environments,
            new: behaviour.new_environments,
            idle_lifetime: behaviour.idle_lifetime.limit(),
            alive: 0,
            credit: f64::from(behaviour.new_environments),
            credited_at: Duration::ZERO,
            idle: Vec::new(),
        }
    }

    /// A place for an invocation. Whoever has one gives it back with [`Self::park`] or [`Self::ended`].
    pub(super) fn place(&mut self, now: Duration) -> Place<T> {
        self.retire(now);
        if let Some((_, warm)) = self.idle.pop() {
            return Place::Warm(warm);
        }
        let new = f64::from(self.new);
        self.credit = (self.credit + now.saturating_sub(self.credited_at).as_secs_f64() * new / TEN_SECONDS).min(new);
        self.credited_at = now;
        if self.alive >= self.most || self.credit < 1.0 {
            return Place::Throttled;
        }
        self.alive += 1;
        self.credit -= 1.0;
        Place::Cold
    }

    /// The invocation is done; its environment waits for the next.
    pub(super) fn park(&mut self, now: Duration, environment: T) {
        self.idle.push((now, environment));
    }

    /// The environment is gone.
    pub(super) fn ended(&mut self) {
        self.alive = self.alive.saturating_sub(1);
    }

    /// Lets go of those that had no work for too long.
    pub(super) fn retire(&mut self, now: Duration) {
        let Some(lifetime) = self.idle_lifetime else { return };
        // The longest idle are in front.
        let old = self.idle.partition_point(|(since, _)| *since + lifetime <= now);
        self.idle.drain(..old);
        self.alive = self.alive.saturating_sub(u32::try_from(old).unwrap_or(u32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::storm::scenario::Wishes;
    use crate::config::Period;

    fn fleet(environments: u32, new_environments: u32) -> Fleet<u32> {
        Fleet::new(&Behaviour { environments, new_environments, idle_lifetime: Period::secs(60), ..Wishes::default().behaviour() })
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn cold_starts(fleet: &mut Fleet<u32>, now: Duration) -> usize {
        std::iter::from_fn(|| (fleet.place(now) == Place::Cold).then_some(())).count()
    }

    #[test]
    fn new_environments_come_ten_seconds_worth_at_once_and_then_evenly() {
        let mut fleet = fleet(10_000, 1_000);
        assert_eq!(cold_starts(&mut fleet, at(0)), 1_000);
        assert_eq!(cold_starts(&mut fleet, at(1)), 100);
        assert_eq!(cold_starts(&mut fleet, at(1)), 0);
        assert_eq!(cold_starts(&mut fleet, at(1_000)), 1_000, "what is not used does not add up");
    }

    #[test]
    fn there_are_never_more_than_the_most() {
        let mut fleet = fleet(3, 1_000);
        assert_eq!(cold_starts(&mut fleet, at(0)), 3);
        fleet.ended();
        assert_eq!(cold_starts(&mut fleet, at(0)), 1);
    }

    #[test]
    fn the_last_used_is_used_first_and_the_idle_are_let_go() {
        let mut fleet = fleet(3, 1_000);
        assert_eq!(cold_starts(&mut fleet, at(0)), 3);
        fleet.park(at(10), 1);
        fleet.park(at(20), 2);
        assert_eq!(fleet.place(at(30)), Place::Warm(2));
        fleet.park(at(30), 2);
        // 60 s after the first was parked, only the second is left, and room for the first's successor.
        assert_eq!(fleet.place(at(70)), Place::Warm(2));
        assert_eq!(fleet.place(at(70)), Place::Cold);
        assert_eq!(fleet.place(at(70)), Place::Throttled);
    }
}
