//! How many server connections are best at work at once, found by trying: the adaptive limit (decision 12).
//!
//! A server has a knee. Up to it more work at once is more work done; beyond it the leases only take longer, and on some loads so much longer that less is done in
//! all. Little's law makes throughput and latency one thing here: as long as clients wait, throughput is the limit over the time that a lease takes. So the limit that
//! is in force is compared with a neighbour, in turns of a moment each, because what the machine does otherwise changes from second to second but hardly from one
//! moment to the next; and only while clients wait, because else the limit makes no difference. A higher limit must be worth it, a lower one must only cost nothing to
//! speak of: between equals the lower one wins, and the limit comes to rest. The better it has stood its ground, the seldomer it is questioned; a load that changes
//! puts it to the question at once. What failed counts as not done, and where most fails the limit goes down without being asked.

use std::time::Duration;

/// A turn lasts for so long, once the limit of the turn is in force.
const TURN: Duration = Duration::from_millis(250);
/// A turn in which fewer leases ended is prolonged, up to [`LONGEST_TURN`].
const ENOUGH_LEASES: u64 = 40;
const LONGEST_TURN: Duration = Duration::from_secs(2);
/// A limit that is not in force after so long (no connection can be opened, or nothing is given back) is not tried further.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(2);
/// Pairs of turns after which it is decided, at the latest.
const MOST_PAIRS: u32 = 12;
const FEWEST_PAIRS: u32 = 4;
/// So much better a higher limit must be (as logarithms, which near 0 are shares).
const WORTH_IT: f64 = 0.015;
/// So much worse a lower limit may be.
const COSTS_NOTHING: f64 = -0.005;
/// Beyond this no further pair is needed.
const OBVIOUS: f64 = 0.25;
/// Where nothing is known the steps are by half and to twice as many; what is near the best is looked at by quarters.
const LONGEST_STEP: f64 = 2.0;
const SHORTEST_STEP: f64 = 1.25;
/// Between two trials at rest.
const SHORTEST_REST: Duration = Duration::from_secs(8);
const LONGEST_REST: Duration = Duration::from_mins(1);
/// The load is another one when the throughput has changed by this (a logarithm) over two looks of a second.
const ANOTHER_LOAD: f64 = 0.2;
const LOOK: Duration = Duration::from_secs(1);

/// What has happened at an upstream by now.
#[derive(Debug, Clone, Copy)]
pub struct Sight {
    /// Since some beginning.
    pub now: Duration,
    /// Leases that have ended as they should, since some beginning.
    pub done: u64,
    /// Leases that have ended otherwise: the client was gone, the server was lost.
    pub failed: u64,
    /// Server connections that are held.
    pub held: u32,
    /// Whether some client waits.
    pub is_waited_for: bool,
}

/// Which of the two limits of a trial is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Settled,
    Other,
}

/// A neighbour being tried.
#[derive(Debug, Clone, Copy)]
struct Trial {
    other: u32,
    side: Side,
    /// The turn's beginning; none until its limit is in force.
    began: Option<Sight>,
    changed_at: Duration,
    /// What the pair's first turn did, a second.
    first: Option<f64>,
    pairs: u32,
    sum: f64,
    squares: f64,
}

/// The search.
#[derive(Debug, Clone)]
pub struct Limiter {
    least: u32,
    most: u32,
    settled: u32,
    trial: Option<Trial>,
    is_upward: bool,
    step: f64,
    /// A step of this length the other way is known to be no better.
    is_worse_behind: bool,
    rest: Duration,
    rest_until: Duration,
    look: Option<Sight>,
    /// The throughput of the limit when it was last found to be the best.
    usual: Option<f64>,
    unusual: u32,
}

/// What a trial has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Better,
    NoBetter,
}

impl Limiter {
    /// A search from `most` downwards, never below `least`.
    pub fn new(least: u32, most: u32) -> Self {
        let most = most.max(1);
        Self {
            least: least.clamp(1, most),
            most,
            settled: most,
            trial: None,
            is_upward: false,
            step: LONGEST_STEP,
            is_worse_behind: false,
            rest: SHORTEST_REST,
            rest_until: Duration::ZERO,
            look: None,
            usual: None,
            unusual: 0,
        }
    }

    /// Other bounds from now on.
    pub fn set_bounds(&mut self, least: u32, most: u32) {
        let most = most.max(1);
        let least = least.clamp(1, most);
        if (least, most) != (self.least, self.most) {
            (self.least, self.most) = (least, most);
            self.settled = self.settled.clamp(least, most);
            self.trial = None;
            self.wake();
        }
    }

    /// The limit that has proved best so far.
    pub fn settled(&self) -> u32 {
        self.settled
    }

    /// The limit that is to be in force now.
    pub fn limit(&self) -> u32 {
        match self.trial {
            Some(Trial { other, side: Side::Other, .. }) => other,
            _ => self.settled,
        }
    }

    /// The highest limit that is in force for a moment at least: the higher one of a trial, or the settled one.
    pub fn ceiling(&self) -> u32 {
        self.trial.map_or(self.settled, |trial| trial.other.max(self.settled))
    }

    /// Takes a look, some times a second; [`Self::limit`] may be another one after it.
    pub fn tick(&mut self, sight: Sight) {
        self.watch(sight);
        if !sight.is_waited_for {
            // Without a queue there is nothing to compare. The limit stays where it is.
            self.trial = None;
            return;
        }
        let Some(mut trial) = self.trial else {
            if sight.now >= self.rest_until {
                self.begin(sight.now);
            }
            return;
        };
        let limit = self.limit();
        let Some(began) = trial.began else {
            let is_in_force =
                if trial.side == Side::Other && trial.other > self.settled { sight.held >= limit } else { sight.held <= limit };
            if is_in_force {
                trial.began = Some(sight);
            } else if sight.now.saturating_sub(trial.changed_at) >= IN_FORCE_WITHIN {
                return self.decided(Verdict::NoBetter, sight.now);
            }
            self.trial = Some(trial);
            return;
        };
        let (done, lasted) = (sight.done - began.done, sight.now.saturating_sub(began.now));
        if lasted < TURN || done < ENOUGH_LEASES && lasted < LONGEST_TURN {
            return;
        }
        let rate = rate(done, lasted);
        match trial.first.take() {
            None => trial.first = Some(rate),
            Some(first) => trial.compared(first, rate),
        }
        // One pair begins as the other has ended: A B, B A, A B. Each switch serves two turns, and what drifts favours neither.
        if trial.first.is_some() {
            trial.side = trial.side.other();
            trial.began = None;
            trial.changed_at = sight.now;
        } else {
            trial.began = Some(sight);
        }
        self.trial = Some(trial);
        if let Some(verdict) = trial.verdict(trial.other > self.settled) {
            self.decided(verdict, sight.now);
        }
    }

    fn begin(&mut self, now: Duration) {
        let mut other = self.neighbour();
        if other == self.settled {
            // At the end of the road: the other way then.
            self.found_no_better(now);
            other = self.neighbour();
        }
        if other != self.settled {
            self.trial =
                Some(Trial { other, side: Side::Settled, began: None, changed_at: now, first: None, pairs: 0, sum: 0.0, squares: 0.0 });
        }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and twice a number of connections")]
    fn neighbour(&self) -> u32 {
        let settled = f64::from(self.settled);
        let (less, more) = ((settled / self.step).round() as u32, (settled * self.step).round() as u32);
        let other = if self.is_upward { more.max(self.settled + 1) } else { less.min(self.settled - 1) };
        other.clamp(self.least, self.most)
    }

    fn decided(&mut self, verdict: Verdict, now: Duration) {
        let Some(trial) = self.trial.take() else { return };
        self.look = None;
        match verdict {
            Verdict::Better => {
                self.settled = trial.other;
                // What was usual was another limit's.
                self.usual = None;
                self.is_worse_behind = true;
                (self.rest, self.rest_until) = (SHORTEST_REST, Duration::ZERO);
                if self.step <= SHORTEST_STEP {
                    // The best is elsewhere by now: faster.
                    self.step *= SHORTEST_STEP;
                }
            }
            Verdict::NoBetter => self.found_no_better(now),
        }
    }

    /// The other way is looked at as well, and then both by shorter steps; in the end there is rest before each further look.
    fn found_no_better(&mut self, now: Duration) {
        self.is_upward = !self.is_upward;
        if self.step <= SHORTEST_STEP {
            self.rest_until = now + self.rest;
            self.rest = (self.rest * 2).min(LONGEST_REST);
        } else if self.is_worse_behind {
            self.step = self.step.sqrt().max(SHORTEST_STEP);
            self.is_worse_behind = false;
        } else {
            self.is_worse_behind = true;
        }
    }

    /// The load may be another one: no more rest.
    fn wake(&mut self) {
        self.rest = SHORTEST_REST;
        self.rest_until = Duration::ZERO;
        self.step = LONGEST_STEP;
        self.is_worse_behind = false;
        self.usual = None;
        self.unusual = 0;
    }

    /// Sees between trials whether the load is still the same, and at all times whether most of it fails.
    fn watch(&mut self, sight: Sight) {
        let Some(look) = self.look else {
            self.look = Some(sight);
            return;
        };
        let lasted = sight.now.saturating_sub(look.now);
        if lasted < LOOK {
            return;
        }
        self.look = Some(sight);
        let (done, failed) = (sight.done - look.done, sight.failed - look.failed);
        if failed > done && failed >= u64::from(self.limit()) && sight.is_waited_for {
            if self.trial.is_some_and(|trial| trial.other > self.settled) {
                return self.decided(Verdict::NoBetter, sight.now);
            }
            self.trial = None;
            self.settled = (self.settled * 3 / 4).max(self.least);
            return self.wake();
        }
        if self.trial.is_some() || !sight.is_waited_for || !look.is_waited_for || done < ENOUGH_LEASES {
            return;
        }
        let rate = rate(done, lasted);
        let usual = *self.usual.get_or_insert(rate);
        if (rate / usual).ln().abs() < ANOTHER_LOAD {
            self.usual = Some(usual + (rate - usual) / 8.0);
            self.unusual = 0;
        } else {
            self.unusual += 1;
            if self.unusual >= 2 {
                self.wake();
            }
        }
    }
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Settled => Self::Other,
            Self::Other => Self::Settled,
        }
    }
}

impl Trial {
    /// A pair of turns is complete: `first`, then `second` on the side that is in force.
    fn compared(&mut self, first: f64, second: f64) {
        let (settled, other) = match self.side {
            Side::Other => (first, second),
            Side::Settled => (second, first),
        };
        if settled > 0.0 && other > 0.0 {
            let ratio = (other / settled).ln();
            self.pairs += 1;
            self.sum += ratio;
            self.squares += ratio * ratio;
        } else if settled > 0.0 || other > 0.0 {
            self.pairs = MOST_PAIRS;
            self.sum = if other > 0.0 { f64::INFINITY } else { f64::NEG_INFINITY };
        }
    }

    fn verdict(&self, is_upward: bool) -> Option<Verdict> {
        let pairs = f64::from(self.pairs);
        let mean = self.sum / pairs;
        let least = if is_upward { WORTH_IT } else { COSTS_NOTHING };
        let of = |is_better: bool| Some(if is_better { Verdict::Better } else { Verdict::NoBetter });
        if self.pairs >= MOST_PAIRS || self.pairs == 2 && mean.abs() > OBVIOUS {
            return of(mean > least);
        }
        if self.pairs < FEWEST_PAIRS {
            return None;
        }
        let variance = (self.squares / pairs - mean * mean).max(0.0) / (pairs - 1.0);
        let error = 2.0 * variance.sqrt();
        if (mean - least).abs() > error { of(mean > least) } else { None }
    }
}

#[expect(clippy::cast_precision_loss, reason = "leases in seconds")]
fn rate(done: u64, lasted: Duration) -> f64 {
    done as f64 / lasted.as_secs_f64().max(1e-9)
}

#[cfg(test)]
mod tests;
