//! Whether an upstream is to be tried at all: rule 8 of admission. Pure: failure, success, now.
//!
//! Closed while somebody answers. When an opening finds nobody and no connection is left, it opens: then one opening is tried at a time, after a pause
//! that doubles and is never the same twice, whether anybody waits or not. For a while after it has opened new clients wait, for servers restart and
//! standbys are promoted; after that they are refused at once, until an opening succeeds.

use crate::net::Moment;
use std::time::Duration;

use super::ledger::PoolId;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Whether an upstream is to be tried.
#[derive(Debug)]
pub struct Circuit {
    window: Duration,
    was_up: bool,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    since: Moment,
    try_at: Moment,
    pause: Duration,
    /// Whose opening has failed, and will be tried again.
    pool: PoolId,
}

impl Circuit {
    /// A closed one; clients wait for as long as `window` after it opens.
    pub fn new(window: Duration) -> Self {
        Self { window, was_up: false, open: None }
    }

    /// For how long clients wait.
    pub fn set_window(&mut self, window: Duration) {
        self.window = window;
    }

    /// Whether nobody answers.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// An opening for `pool` has found nobody, and no connection is left; `jitter` is from 0 to 1. Whether that is news.
    pub fn failed(&mut self, now: Moment, pool: PoolId, jitter: f64) -> bool {
        let spread = |pause: Duration| pause.mul_f64(0.5 + jitter);
        match &mut self.open {
            None => {
                self.open = Some(Open { since: now, try_at: now + spread(FIRST_PAUSE), pause: FIRST_PAUSE, pool });
                true
            }
            Some(open) => {
                // Those that were under way when the first failed say nothing new.
                if now >= open.try_at {
                    open.pause = (open.pause * 2).min(LONGEST_PAUSE);
                    open.try_at = now + spread(open.pause);
                    open.pool = pool;
                }
                false
            }
        }
    }

    /// The upstream has answered. Whether that is news.
    pub fn answered(&mut self) -> bool {
        self.was_up = true;
        self.open.take().is_some()
    }

    /// Whether one more may be opened while `opening` are under way.
    #[inline]
    pub fn may_open(&self, opening: u32, now: Moment) -> bool {
        self.open.as_ref().is_none_or(|open| opening == 0 && now >= open.try_at)
    }

    /// For which pool an opening should be tried now, though nobody may want one.
    pub fn probe(&self, opening: u32, now: Moment) -> Option<PoolId> {
        self.open.as_ref().filter(|open| opening == 0 && now >= open.try_at).map(|open| open.pool)
    }

    /// Whether there is hope for who waits. There is none where the upstream has never answered: then it is more likely that it is named wrongly.
    pub fn is_hopeful(&self, now: Moment) -> bool {
        self.open.as_ref().is_none_or(|open| self.was_up && now < open.since + self.window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: PoolId = PoolId(3);
    const WINDOW: Duration = Duration::from_secs(5);

    #[test]
    fn one_is_tried_at_a_time_after_a_pause_that_doubles() {
        let (mut circuit, start) = (Circuit::new(WINDOW), Moment::START);
        assert!(circuit.may_open(7, start));
        assert!(circuit.failed(start, POOL, 0.5));
        assert!(!circuit.failed(start, POOL, 0.5), "a second that was under way");
        assert!(!circuit.may_open(0, start));
        let mut now = start + FIRST_PAUSE;
        for times in [2, 4, 8, 10, 10] {
            assert!(circuit.may_open(0, now) && !circuit.may_open(1, now));
            assert_eq!(circuit.probe(0, now), Some(POOL));
            assert!(!circuit.failed(now, POOL, 0.5));
            let pause = FIRST_PAUSE * times;
            assert!(!circuit.may_open(0, now + pause / 2) && circuit.may_open(0, now + pause), "{times}");
            now += pause;
        }
        assert!(circuit.answered() && !circuit.answered());
        assert!(circuit.may_open(7, now));
        assert_eq!(circuit.probe(0, now), None);
    }

    #[test]
    fn no_two_pauses_are_alike() {
        let (mut one, mut two, start) = (Circuit::new(WINDOW), Circuit::new(WINDOW), Moment::START);
        one.failed(start, POOL, 0.0);
        two.failed(start, POOL, 1.0);
        let between = start + FIRST_PAUSE;
        assert!(one.may_open(0, between) && !two.may_open(0, between));
    }

    #[test]
    fn there_is_hope_for_a_while_where_there_was_ever_an_answer() {
        let (mut circuit, start) = (Circuit::new(WINDOW), Moment::START);
        circuit.failed(start, POOL, 0.5);
        assert!(!circuit.is_hopeful(start), "it was never there");
        circuit.answered();
        assert!(circuit.is_hopeful(start));
        circuit.failed(start, POOL, 0.5);
        assert!(circuit.is_hopeful(start + WINDOW / 2));
        circuit.failed(start + WINDOW / 2, POOL, 0.5);
        assert!(!circuit.is_hopeful(start + WINDOW), "the window begins with the first failure");
    }
}
