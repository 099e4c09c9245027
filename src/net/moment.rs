//! A moment of this process's life, in eight bytes: what every question of time on the path of a statement is asked in.
//!
//! The standard library's instants take sixteen, and each difference of two some forty instructions. It reads no clock: [`now`](super::now) does.

use std::num::NonZeroU64;
use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

const SECOND: u64 = 1_000_000_000;

/// What the first moment is: there is room before it for what is said to have been some time ago.
const FIRST: NonZeroU64 = NonZeroU64::MIN.saturating_add(365 * 86_400 * SECOND);

/// A moment, to the nanosecond, of the monotonic clock. What does not fit into 584 years ends at their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(NonZeroU64);

impl Moment {
    /// The first of this process's life: all others are told from it.
    pub const START: Self = Self(FIRST);

    /// How much later than `earlier` it is; zero where it is not.
    #[inline]
    pub const fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.get().saturating_sub(earlier.0.get()))
    }

    /// So much later, where there is such a moment.
    #[inline]
    pub fn checked_add(self, time: Duration) -> Option<Self> {
        self.0.checked_add(nanoseconds(time)).map(Self)
    }
}

/// In nanoseconds, at most what a number holds.
#[inline]
const fn nanoseconds(time: Duration) -> u64 {
    time.as_secs().saturating_mul(SECOND).saturating_add(time.subsec_nanos() as u64)
}

impl Add<Duration> for Moment {
    type Output = Self;

    /// So much later, at most the last moment there is.
    #[inline]
    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(nanoseconds(time)))
    }
}

impl AddAssign<Duration> for Moment {
    #[inline]
    fn add_assign(&mut self, time: Duration) {
        *self = *self + time;
    }
}

impl Sub<Duration> for Moment {
    type Output = Self;

    /// So much earlier, at least the earliest there is.
    #[inline]
    fn sub(self, time: Duration) -> Self {
        Self(NonZeroU64::new(self.0.get().saturating_sub(nanoseconds(time))).unwrap_or(NonZeroU64::MIN))
    }
}

impl Sub for Moment {
    type Output = Duration;

    /// What lies between; zero where the other is the later one.
    #[inline]
    fn sub(self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_eight_bytes_and_so_does_perhaps_one() {
        assert_eq!((size_of::<Moment>(), size_of::<Option<Moment>>()), (8, 8));
    }

    #[test]
    fn what_lies_between_two_is_what_was_added() {
        let time = Duration::new(3, 141_592_653);
        let later = Moment::START + time;
        assert_eq!(later.saturating_duration_since(Moment::START), time);
        assert_eq!(later - time, Moment::START);
        assert_eq!(later - Moment::START, time);
        assert_eq!(Moment::START.saturating_duration_since(later), Duration::ZERO);
        assert_eq!(Moment::START.checked_add(time), Some(later));
        assert!(Moment::START - Duration::from_hours(1) < Moment::START);
    }

    #[test]
    fn beyond_the_last_and_before_the_earliest_there_is_none() {
        let last = Moment::START + Duration::MAX;
        assert_eq!(last + Duration::from_nanos(1), last);
        assert_eq!(Moment::START.checked_add(Duration::MAX), None);
        let earliest = Moment::START - Duration::MAX;
        assert_eq!(earliest - Duration::from_nanos(1), earliest);
        assert!(earliest < Moment::START);
    }
}
