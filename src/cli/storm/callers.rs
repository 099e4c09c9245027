//! All callers of one tenant: each invocation finds an environment or is throttled, and what fails is tried again.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::arrivals::arrivals;
use super::fleet::{Fleet, Place};
use super::invocation::{Fate, Kept, Outcome, invoke};
use super::scenario::{Behaviour, Tenant};
use super::tally::Tally;
use crate::cli::random::SplitMix;

/// One tenant's callers, its function's environments, and what came of it all.
pub(super) struct Callers {
    pub(super) tenant: Tenant,
    pub(super) tally: RefCell<Tally>,
    fleet: RefCell<Fleet<Option<Kept>>>,
    random: RefCell<SplitMix>,
    began: Instant,
}

impl Callers {
    /// Callers of a storm that begins at `began`.
    pub(super) fn new(tenant: Tenant, seed: u64, interval: Duration, began: Instant) -> Self {
        let fleet = RefCell::new(Fleet::new(&tenant.behaviour));
        // What happens to an invocation is drawn from a sequence of its own, lest retries move the arrivals.
        let random = RefCell::new(SplitMix::new(seed ^ 0x5851_f42d_4c95_7f2d));
        Self { tenant, tally: RefCell::new(Tally::new(interval)), fleet, random, began }
    }

    /// Lets invocations come for so long, and waits until the last has come out. Dropping the future cuts every connection.
    pub(super) async fn come(self: Rc<Self>, seed: u64, duration: Duration) {
        let mut under_way = JoinSet::new();
        for arrival in arrivals(&self.tenant.behaviour, duration, SplitMix::new(seed)) {
            sleep_until(self.began + arrival).await;
            self.tally.borrow_mut().came(arrival);
            under_way.spawn_local(Rc::clone(&self).invocation(arrival));
            while under_way.try_join_next().is_some() {}
        }
        while under_way.join_next().await.is_some() {}
    }

    /// One invocation, tried as often as the scenario has it.
    async fn invocation(self: Rc<Self>, arrival: Duration) {
        let mut last = None;
        for attempt in 0..=self.tenant.behaviour.retries {
            if attempt > 0 {
                let wait = backoff(&self.tenant.behaviour, attempt, &mut self.random.borrow_mut());
                sleep(wait).await;
            }
            last = self.attempt().await;
            if last == Some(Outcome::Answered) {
                return self.tally.borrow_mut().answered(arrival, self.now());
            }
        }
        self.tally.borrow_mut().gave_up(last.as_ref());
    }

    /// One run in an environment; none if there is none.
    async fn attempt(&self) -> Option<Outcome> {
        let place = self.fleet.borrow_mut().place(self.now());
        let kept = match place {
            Place::Warm(kept) => kept,
            Place::Cold => {
                self.tally.borrow_mut().cold_starts += 1;
                None
            }
            Place::Throttled => {
                self.tally.borrow_mut().throttled(self.now());
                return None;
            }
        };
        let fate = Fate::draw(&self.tenant.behaviour, &mut self.random.borrow_mut());
        let (outcome, kept) = invoke(&self.tenant, kept, fate).await;
        self.tally.borrow_mut().ran(&outcome, self.now());
        match outcome {
            Outcome::TimedOut | Outcome::Killed => self.fleet.borrow_mut().ended(),
            Outcome::Answered | Outcome::Refused(_) | Outcome::Lost(_) => self.fleet.borrow_mut().park(self.now(), kept),
        }
        Some(outcome)
    }

    /// Lets go of environments that had no work for too long.
    pub(super) fn retire(&self) {
        self.fleet.borrow_mut().retire(self.now());
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

/// How long to wait before this retry (1 is the first): twice as long each time, all of it or a random part.
fn backoff(behaviour: &Behaviour, retry: u32, random: &mut SplitMix) -> Duration {
    let whole = behaviour.backoff.0.saturating_mul(1 << retry.saturating_sub(1).min(20));
    if behaviour.jitter { whole.mul_f64(random.fraction()) } else { whole }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::storm::scenario::Wishes;
    use crate::config::Period;

    #[test]
    fn each_retry_waits_up_to_twice_as_long() {
        let plain = Behaviour { backoff: Period::millis(100), jitter: false, ..Wishes::default().behaviour() };
        let mut random = SplitMix::new(1);
        let waits = [1, 2, 3].map(|retry| backoff(&plain, retry, &mut random).as_millis());
        assert_eq!(waits, [100, 200, 400]);
        let jittered = Behaviour { jitter: true, ..plain };
        let draws: Vec<Duration> = (0..1000).map(|_| backoff(&jittered, 2, &mut random)).collect();
        assert!(draws.iter().all(|wait| *wait < Duration::from_millis(200)));
        let mean = draws.iter().sum::<Duration>() / 1000;
        assert!((90..110).contains(&mean.as_millis()), "{mean:?}");
    }
}
