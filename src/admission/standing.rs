//! Whether a tenant's queue is a burst or a standing one: controlled delay's question (RFC 8289).
//!
//! A burst drains: sooner or later somebody is served who has waited for a moment only. Where for an interval everybody who was served had waited for most of the
//! time that they may, the queue stands, and serving the oldest first means serving callers that are about to give up, while every new one becomes such a
//! caller. Then the newest go first, and the oldest are refused in time.
//!
//! The target is a part of the tenant's own limit and no fixed time: as long as all can be served in order within their time, nobody is refused for another.

use std::time::Duration;

/// Waits below these parts of a hundred of the longest that a client may wait are no sign of a standing queue.
const TARGET_PERCENT: u32 = 75;

/// For so long every wait must have been above the target.
const INTERVAL: Duration = Duration::from_millis(500);

/// What is known of one tenant's queue.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Standing {
    /// Since when every wait was above the target, in nanoseconds of the accounts' clock.
    above_since: Option<u64>,
    stands: bool,
}

impl Standing {
    /// Whether it stands.
    #[inline]
    pub(super) fn stands(self) -> bool {
        self.stands
    }

    /// A client was served while the oldest of its equals had waited for `oldest`, of at most `limit`. Without a limit nobody would ever be refused, so
    /// the newest never go first.
    #[inline]
    pub(super) fn served(&mut self, oldest: Duration, limit: Option<Duration>, now: u64) {
        let Some(limit) = limit else { return self.emptied() };
        if oldest < limit * TARGET_PERCENT / 100 {
            return self.emptied();
        }
        let since = *self.above_since.get_or_insert(now);
        self.stands |= Duration::from_nanos(now.saturating_sub(since)) >= INTERVAL.min(limit);
    }

    /// Nobody waits.
    #[inline]
    pub(super) fn emptied(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Option<Duration> = Some(Duration::from_secs(5));

    fn nanos(millis: u64) -> u64 {
        millis * 1_000_000
    }

    #[test]
    fn a_burst_is_not_a_standing_queue() {
        let mut queue = Standing::default();
        for millis in 0..400 {
            queue.served(Duration::from_millis(4000 - millis), LIMIT, nanos(millis));
        }
        assert!(!queue.stands());
    }

    #[test]
    fn it_stands_after_an_interval_above_the_target_until_a_short_wait() {
        let mut queue = Standing::default();
        let long = Duration::from_secs(4);
        queue.served(long, LIMIT, nanos(1000));
        queue.served(long, LIMIT, nanos(1499));
        assert!(!queue.stands());
        queue.served(long, LIMIT, nanos(1500));
        assert!(queue.stands());
        queue.served(Duration::from_secs(3), LIMIT, nanos(1501));
        assert!(!queue.stands());
    }

    #[test]
    fn a_queue_in_which_all_are_served_in_time_keeps_its_order() {
        let mut queue = Standing::default();
        for seconds in 0..10 {
            queue.served(Duration::from_secs(3), LIMIT, nanos(1000 * seconds));
        }
        assert!(!queue.stands());
    }

    #[test]
    fn without_a_limit_on_the_wait_it_never_stands() {
        let mut queue = Standing::default();
        for seconds in 0..10 {
            queue.served(Duration::from_secs(9), None, nanos(1000 * seconds));
        }
        assert!(!queue.stands());
    }
}
