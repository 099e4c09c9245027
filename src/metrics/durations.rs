//! How long things took, as plain data: what a histogram held at one moment.

use std::time::Duration;

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

/// The upper bounds of a histogram's buckets, in microseconds; the last bucket has none.
pub const BOUNDS_MICROS: [u64; 19] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000,
    20_000_000, 30_000_000, 60_000_000,
];

/// How many buckets a histogram has.
pub const BUCKETS: usize = BOUNDS_MICROS.len() + 1;

/// The same bounds in nanoseconds, and two that nothing exceeds, so that a look at the next two is always within.
const BOUNDS_NANOS: [u64; BUCKETS + 1] = {
    let mut nanos = [u64::MAX; BUCKETS + 1];
    let mut at = 0;
    while at < BOUNDS_MICROS.len() {
        nanos[at] = BOUNDS_MICROS[at] * 1_000;
        at += 1;
    }
    nanos
};

/// By a number's leading zero bits: how many bounds lie below all such numbers.
const BELOW: [usize; 65] = {
    let mut below = [0; 65];
    let mut bits = 0;
    while bits < 64 {
        let least = 1_u64 << (63 - bits);
        while BOUNDS_NANOS[below[bits]] < least {
            below[bits] += 1;
        }
        bits += 1;
    }
    below
};

/// The bucket for this many nanoseconds: the first whose bound is not below.
///
/// A lookup and two comparisons, no branch: a search mispredicts, and this is done for every query. Two are enough, since no doubling passes more than two
/// bounds (a test goes over all of them).
#[inline]
pub(super) fn bucket(nanos: u64) -> usize {
    let below = BELOW[nanos.leading_zeros() as usize];
    below + usize::from(BOUNDS_NANOS[below] < nanos) + usize::from(BOUNDS_NANOS[below + 1] < nanos)
}

/// The same bounds, in seconds.
pub fn bounds_seconds() -> impl Iterator<Item = f64> {
    BOUNDS_MICROS.into_iter().map(|micros| Duration::from_micros(micros).as_secs_f64())
}

/// How many things took how long.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Durations {
    /// How many fell into each bucket: above the bound before, up to its own.
    pub counts: [u64; BUCKETS],
    /// The sum of all.
    pub sum_nanos: u64,
}

impl Durations {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of all, in seconds.
    pub fn sum_seconds(&self) -> f64 {
        Duration::from_nanos(self.sum_nanos).as_secs_f64()
    }

    /// How long the quickest such share of those took that have come since `before`; read within its bucket, of which the last counts as its lower bound.
    pub fn quantile_since(&self, before: &Self, share: f64) -> Option<Duration> {
        let counts: Vec<u64> = self.counts.iter().zip(before.counts).map(|(now, before)| now.wrapping_sub(before)).collect();
        let seconds = |count: u64| Duration::from_secs(count).as_secs_f64();
        let wanted = share * seconds(counts.iter().sum());
        let (mut low, mut below) = (0.0, 0.0);
        for (count, high) in counts.iter().zip(bounds_seconds().map(Some).chain([None])) {
            let count = seconds(*count);
            if count > 0.0 && below + count >= wanted {
                let within = (wanted - below) / count;
                return Some(Duration::from_secs_f64(low + (high.unwrap_or(low) - low) * within));
            }
            below += count;
            low = high.unwrap_or(low);
        }
        None
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        for (own, theirs) in self.counts.iter_mut().zip(other.counts) {
            *own = own.wrapping_add(theirs);
        }
        self.sum_nanos = self.sum_nanos.wrapping_add(other.sum_nanos);
    }

    /// How many took at most as long as each bound says.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let up_to = self.counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        bounds_seconds().zip(up_to)
    }
}

impl Serialize for Durations {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Durations", 3)?;
        object.serialize_field("count", &self.count())?;
        object.serialize_field("sum_seconds", &self.sum_seconds())?;
        object.serialize_field("buckets", &self.counts)?;
        object.end()
    }
}
