//! How much server time a client has had lately: its rank among the clients of its tenant (rule 4).

use std::time::Duration;

/// How many ranks there are: coarse ones, so that arrival decides among most.
pub const LEVELS: usize = 4;

/// Server time up to which a client is of the first rank, in microseconds; each further one reaches ten times as far.
const FIRST: u32 = 5_000;

/// A client falls back to a rank only with so much less than what leads beyond it: half of it goes at the turn of a period for all at once, and those who are alike
/// but for chance shall stay of one rank.
const FALLS: u32 = 4;

/// The server time that a client has had lately: what is older counts half with each period that has passed since.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recent {
    /// Microseconds.
    used: u32,
    /// The number of the period in which that was noted, and in the two lowest bits the rank that it had then.
    noted: u32,
}

impl Recent {
    /// What it has had, and its rank, as of that period.
    #[inline]
    fn at(self, period: u32) -> (u32, u8) {
        let passed = period.wrapping_sub(self.noted >> 2) & (u32::MAX >> 2);
        let used = self.used.checked_shr(passed).unwrap_or(0);
        let noted = (self.noted & 3) as u8;
        (used, noted.min(rank(used.saturating_mul(FALLS))))
    }

    /// It has held a server connection for so long.
    #[inline]
    pub fn add(&mut self, held: Duration, period: u32) {
        let (used, before) = self.at(period);
        let used = used.saturating_add(u32::try_from(held.as_micros()).unwrap_or(u32::MAX));
        *self = Self { used, noted: period << 2 | u32::from(before.max(rank(used))) };
    }

    /// Its rank, below [`LEVELS`]: the lower, the less it has had.
    #[inline]
    pub fn level(self, period: u32) -> u8 {
        self.at(period).1
    }
}

/// The rank of who comes with so much.
#[inline]
fn rank(used: u32) -> u8 {
    match used {
        ..FIRST => 0,
        FIRST..50_000 => 1,
        50_000..500_000 => 2,
        _ => 3,
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
        let levels: Vec<u8> = (7..18).map(|period| batch.level(period)).collect();
        assert!(levels.is_sorted_by(|a, b| a >= b), "{levels:?}");
        assert_eq!(batch.level(18), 0);
        assert_eq!(batch.level(200), 0, "more periods than the number has digits");
    }

    /// The same all the time, seen from each of its sides.
    #[test]
    fn who_has_as_much_as_ever_keeps_its_rank() {
        for held in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512].map(Duration::from_millis) {
            let mut client = Recent::default();
            let mut ranks = Vec::new();
            for period in 0..20 {
                ranks.push(client.level(period));
                client.add(held, period);
                ranks.push(client.level(period));
            }
            ranks.drain(..20);
            assert!(ranks.iter().all(|rank| *rank == ranks[0]), "{held:?}: {ranks:?}");
        }
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
