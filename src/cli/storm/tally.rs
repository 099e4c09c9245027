//! What one tenant's invocations came to, altogether and interval by interval.

use std::collections::BTreeMap;
use std::time::Duration;

use super::invocation::Outcome;
use crate::cli::callers::DOCUMENTED_REFUSALS;

/// Counts, from the storm's beginning on.
#[derive(Debug)]
pub(super) struct Tally {
    interval: Duration,
    pub(super) came: u64,
    pub(super) answered: u64,
    /// Not answered in the end, by what happened last.
    pub(super) gave_up: BTreeMap<String, u64>,
    /// Runs in an environment, those of retries among them.
    pub(super) runs: u64,
    pub(super) cold_starts: u64,
    /// Found no environment.
    pub(super) throttled: u64,
    /// Runs by SQLSTATE.
    pub(super) refused: BTreeMap<String, u64>,
    /// Of those, how many with one that a client of the proxy should never see.
    pub(super) undocumented: u64,
    pub(super) timed_out: u64,
    pub(super) killed: u64,
    /// By reason.
    pub(super) lost: BTreeMap<String, u64>,
    pub(super) intervals: Vec<Interval>,
}

/// What happened in one interval.
#[derive(Debug, Default, Clone)]
pub(super) struct Interval {
    pub(super) came: u64,
    pub(super) answered: u64,
    pub(super) refused: u64,
    pub(super) throttled: u64,
    /// Timed out, killed or lost.
    pub(super) failed: u64,
    /// From arrival to answer, of those that arrived in it; in no order.
    pub(super) latencies: Vec<Duration>,
}

impl Tally {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            came: 0,
            answered: 0,
            gave_up: BTreeMap::new(),
            runs: 0,
            cold_starts: 0,
            throttled: 0,
            refused: BTreeMap::new(),
            undocumented: 0,
            timed_out: 0,
            killed: 0,
            lost: BTreeMap::new(),
            intervals: Vec::new(),
        }
    }

    pub(super) fn came(&mut self, at: Duration) {
        self.came += 1;
        self.at(at).came += 1;
    }

    pub(super) fn answered(&mut self, arrival: Duration, now: Duration) {
        self.answered += 1;
        self.at(now).answered += 1;
        self.at(arrival).latencies.push(now.saturating_sub(arrival));
    }

    pub(super) fn gave_up(&mut self, last: Option<&Outcome>) {
        let words = last.map_or_else(|| "throttled".to_owned(), Outcome::words);
        *self.gave_up.entry(words).or_default() += 1;
    }

    pub(super) fn throttled(&mut self, now: Duration) {
        self.throttled += 1;
        self.at(now).throttled += 1;
    }

    /// A run that ended so.
    pub(super) fn ran(&mut self, outcome: &Outcome, now: Duration) {
        self.runs += 1;
        match outcome {
            Outcome::Answered => {}
            Outcome::Refused(state) => {
                self.undocumented += u64::from(!DOCUMENTED_REFUSALS.contains(state));
                *self.refused.entry(state.code().to_owned()).or_default() += 1;
                self.at(now).refused += 1;
            }
            Outcome::TimedOut => {
                self.timed_out += 1;
                self.at(now).failed += 1;
            }
            Outcome::Killed => {
                self.killed += 1;
                self.at(now).failed += 1;
            }
            Outcome::Lost(reason) => {
                *self.lost.entry(reason.clone()).or_default() += 1;
                self.at(now).failed += 1;
            }
        }
    }

    /// Invocations that have come and not come out yet.
    pub(super) fn under_way(&self) -> u64 {
        self.came.saturating_sub(self.answered).saturating_sub(self.gave_up.values().sum())
    }

    fn at(&mut self, moment: Duration) -> &mut Interval {
        let index = usize::try_from(moment.as_nanos() / self.interval.as_nanos().max(1)).unwrap_or(usize::MAX - 1);
        if self.intervals.len() <= index {
            self.intervals.resize(index + 1, Interval::default());
        }
        &mut self.intervals[index]
    }
}

impl Outcome {
    fn words(&self) -> String {
        match self {
            Self::Answered => "answered".to_owned(),
            Self::Refused(state) => format!("refused {}", state.code()),
            Self::TimedOut => "timed out".to_owned(),
            Self::Killed => "killed".to_owned(),
            Self::Lost(reason) => format!("lost: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_postgres::error::SqlState;

    use super::*;

    #[test]
    fn latency_belongs_to_the_arrival_and_the_answer_to_its_own_moment() {
        let ms = Duration::from_millis;
        let mut tally = Tally::new(ms(100));
        for at in [0, 50, 150] {
            tally.came(ms(at));
        }
        tally.answered(ms(50), ms(250));
        tally.ran(&Outcome::Refused(SqlState::TOO_MANY_CONNECTIONS), ms(120));
        tally.ran(&Outcome::Refused(SqlState::UNDEFINED_TABLE), ms(120));
        tally.gave_up(Some(&Outcome::Refused(SqlState::TOO_MANY_CONNECTIONS)));
        assert_eq!((tally.came, tally.answered, tally.runs, tally.undocumented, tally.under_way()), (3, 1, 2, 1, 1));
        let [first, second, third] = &tally.intervals[..] else { panic!("{:?}", tally.intervals) };
        assert_eq!((first.came, first.answered, &first.latencies[..]), (2, 0, &[ms(200)][..]));
        assert_eq!((second.came, second.refused, third.answered), (1, 2, 1));
        assert_eq!(tally.gave_up.keys().collect::<Vec<_>>(), ["refused 53300"]);
    }
}
