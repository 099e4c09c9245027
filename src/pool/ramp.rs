//! How many connections may be opening at once: slow start, as in rule 7 of admission; and what a pool's own failures have to do with it.

use crate::net::Moment;
use std::time::Duration;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// No opening before then: a pause that doubles with each failure in a row.
#[derive(Debug)]
pub struct Pause {
    next: Duration,
    not_before: Option<Moment>,
}

impl Default for Pause {
    fn default() -> Self {
        Self { next: FIRST_PAUSE, not_before: None }
    }
}

impl Pause {
    /// Whether it is over.
    pub fn is_over(&self, now: Moment) -> bool {
        self.not_before.is_none_or(|at| now >= at)
    }

    /// One more failure.
    pub fn lengthen(&mut self, now: Moment) {
        self.not_before = Some(now + self.next);
        self.next = (self.next * 2).min(LONGEST_PAUSE);
    }
}

/// The window of openings under way, doubled by success and halved by failure, and the pause after a failure.
#[derive(Debug)]
pub struct Ramp {
    window: u32,
    most: u32,
    pause: Pause,
}

impl Ramp {
    /// A cold ramp, whose window grows up to `most`.
    pub fn new(most: u32) -> Self {
        Self { window: 2, most: most.max(1), pause: Pause::default() }
    }

    /// Whether one more may be opened while `opening` are under way.
    pub fn may_open(&self, opening: u32, now: Moment) -> bool {
        opening < self.window && self.pause.is_over(now)
    }

    /// An opening has succeeded.
    pub fn succeeded(&mut self) {
        self.window = (self.window * 2).min(self.most);
        self.pause = Pause::default();
    }

    /// An opening has failed: fewer at once, and none for a while.
    pub fn failed(&mut self, now: Moment) {
        self.halve();
        self.pause.lengthen(now);
    }

    /// Fewer at once.
    pub fn halve(&mut self) {
        self.window = (self.window / 2).max(1);
    }
}

/// What stands in the way of one pool alone.
#[derive(Debug, Default)]
pub struct Trouble {
    pause: Pause,
    /// Its last opening was refused for a reason that more patience does not mend, such as a wrong password.
    is_refused: bool,
    /// The server has no room for more than so many.
    most: Option<u32>,
}

impl Trouble {
    /// The server lets nobody in as this user, or not into this database.
    pub fn refused(&mut self, now: Moment) {
        self.is_refused = true;
        self.pause.lengthen(now);
    }

    /// The server, or what it allows this user or database, is full while the pool has `live` connections: these are enough for a while. Then one more is
    /// tried at a time.
    pub fn full(&mut self, live: u32, now: Moment) {
        self.is_refused = false;
        self.most = Some(live);
        self.pause.lengthen(now);
    }

    /// An opening has succeeded.
    pub fn succeeded(&mut self) {
        self.is_refused = false;
        self.pause = Pause::default();
        self.most = self.most.and_then(|most| most.checked_add(1));
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether one more may be opened while the pool has `total`, `opening` of which are under way.
    #[inline]
    pub fn may_open(&self, total: u32, opening: u32, now: Moment) -> bool {
        let has_room = self.most.is_none_or(|most| total < most || opening == 0);
        has_room && self.pause.is_over(now)
    }

    /// Whether who asks now had better be told so at once.
    pub fn is_hopeless(&self, now: Moment) -> bool {
        self.is_refused && !self.pause.is_over(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_and_halves_within_its_bounds() {
        let (mut ramp, now) = (Ramp::new(12), Moment::START);
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

    #[test]
    fn a_full_server_is_tried_with_one_at_a_time_beyond_what_it_had_room_for() {
        let (mut trouble, now) = (Trouble::default(), Moment::START);
        trouble.full(3, now);
        assert!(!trouble.may_open(3, 0, now) && !trouble.is_hopeless(now), "who waits is served by those that there are");
        let later = now + FIRST_PAUSE;
        assert!(trouble.may_open(3, 0, later) && !trouble.may_open(4, 1, later));
        assert!(trouble.may_open(2, 1, later), "what has closed meanwhile is replaced at once");
        trouble.succeeded();
        assert!(trouble.may_open(4, 0, now) && !trouble.may_open(5, 1, now));
    }

    #[test]
    fn a_refusal_is_taken_for_granted_only_for_a_moment() {
        let (mut trouble, now) = (Trouble::default(), Moment::START);
        trouble.refused(now);
        assert!(trouble.is_hopeless(now) && !trouble.may_open(0, 0, now));
        let later = now + FIRST_PAUSE;
        assert!(!trouble.is_hopeless(later) && trouble.may_open(0, 0, later));
        trouble.refused(later);
        assert!(trouble.is_hopeless(later + FIRST_PAUSE), "the pause doubles");
    }
}
