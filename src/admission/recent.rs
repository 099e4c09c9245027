//! How much server time a client has had lately: its rank among the clients of its tenant (rule 4).

use std::time::Duration;

/// How many ranks there are: coarse ones, so that arrival decides among most.
pub const LEVELS: usize = 4;

/// Server time up to which a client is of the first rank, in microseconds; each further one reaches ten times as far.
const FIRST: u32 = 5_000;

/// The server time that a client has had lately: what is older counts half with each period that has passed since.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recent {
    /// Microseconds.
    used: u32,
    /// The number of the period in which that was noted.
    period: u32,
}

impl Recent {
    /// As of that period.
    fn at(self, period: u32) -> Self {
        let passed = period.wrapping_sub(self.period);
        Self { used: self.used.checked_shr(passed).unwrap_or(0), period }
    }

    /// It has held a server connection for so long.
    #[inline]
    pub fn add(&mut self, held: Duration, period: u32) {
        let now = self.at(period);
        let held = u32::try_from(held.as_micros()).unwrap_or(u32::MAX);
        *self = Self { used: now.used.saturating_add(held), ..now };
    }

    /// Its rank, below [`LEVELS`]: the lower, the less it has had.
    #[inline]
    pub fn level(self, period: u32) -> u8 {
        match self.at(period).used {
            ..FIRST => 0,
            FIRST..50_000 => 1,
            50_000..500_000 => 2,
            _ => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_had_much_ranks_behind_until_it_is_forgotten() {
        let mut batch = Recent::default();
        assert_eq!(batch.level(0), 0);
        batch.add(Duration::from_secs(2), 7);
        assert_eq!(batch.level(7), 3);
        let levels: Vec<u8> = (7..17).map(|period| batch.level(period)).collect();
        assert!(levels.is_sorted_by(|a, b| a >= b), "{levels:?}");
        assert_eq!(batch.level(17), 0);
        assert_eq!(batch.level(200), 0, "more periods than the number has digits");
    }

    #[test]
    fn short_calls_stay_in_front() {
        let mut short = Recent::default();
        for period in 0..100 {
            short.add(Duration::from_millis(2), period);
        }
        assert_eq!(short.level(100), 0);
    }
}
