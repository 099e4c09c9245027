//! How many connections may be opening at once: slow start, as in rule 7 of admission.

use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The window of openings under way, doubled by success and halved by failure, and the pause after a failure.
#[derive(Debug)]
pub struct Ramp {
    window: u32,
    most: u32,
    pause: Duration,
    not_before: Option<Instant>,
}

impl Ramp {
    /// A cold ramp, whose window grows up to `most`.
    pub fn new(most: u32) -> Self {
        Self { window: 2, most: most.max(1), pause: FIRST_PAUSE, not_before: None }
    }

    /// Whether one more may be opened while `opening` are under way.
    pub fn may_open(&self, opening: u32, now: Instant) -> bool {
        opening < self.window && self.not_before.is_none_or(|at| now >= at)
    }

    /// An opening has succeeded.
    pub fn succeeded(&mut self) {
        self.window = (self.window * 2).min(self.most);
        self.pause = FIRST_PAUSE;
        self.not_before = None;
    }

    /// An opening has failed: fewer at once, and none for a while.
    pub fn failed(&mut self, now: Instant) {
        self.window = (self.window / 2).max(1);
        self.not_before = Some(now + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// How long until the next opening may be tried.
    pub fn pause_left(&self, now: Instant) -> Duration {
        self.not_before.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_and_halves_within_its_bounds() {
        let (mut ramp, now) = (Ramp::new(12), Instant::now());
        assert!(ramp.may_open(1, now) && !ramp.may_open(2, now));
        for _ in 0..10 {
            ramp.succeeded();
        }
        assert!(ramp.may_open(11, now) && !ramp.may_open(12, now));
        ramp.failed(now);
        assert!(!ramp.may_open(0, now), "a pause comes first");
        let later = now + FIRST_PAUSE;
        assert!(ramp.may_open(5, later) && !ramp.may_open(6, later));
        for _ in 0..20 {
            ramp.failed(later);
        }
        assert!(ramp.may_open(0, later + LONGEST_PAUSE) && !ramp.may_open(1, later + LONGEST_PAUSE));
    }
}
