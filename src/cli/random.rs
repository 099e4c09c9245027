//! Seeded chance, for load and for simulations: the same seed, the same run.

use std::time::Duration;

/// A small seeded generator (Steele, Lea, Flood: "Fast splittable pseudorandom number generators"). Jitter needs no more.
#[derive(Debug, Clone)]
pub(super) struct SplitMix(u64);

impl SplitMix {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly in 0..1.
    pub(super) fn fraction(&mut self) -> f64 {
        let high = u32::try_from(self.next() >> 32).unwrap_or(0);
        f64::from(high) / (f64::from(u32::MAX) + 1.0)
    }

    /// Whether what happens this often (0 to 1) happens now.
    pub(super) fn happens(&mut self, probability: f64) -> bool {
        self.fraction() < probability
    }

    /// The time until the next of events that come independently of each other, this long apart on average.
    pub(super) fn exponential(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(-(1.0 - self.fraction()).ln())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_even_and_gaps_have_their_mean() {
        let mut random = SplitMix::new(3);
        let draws = 100_000;
        let sum: f64 = (0..draws).map(|_| random.fraction()).sum();
        assert!((sum / f64::from(draws) - 0.5).abs() < 0.01, "{sum}");
        let gaps: Duration = (0..draws).map(|_| random.exponential(Duration::from_millis(10))).sum();
        let mean = gaps / u32::try_from(draws).unwrap();
        assert!((mean.as_secs_f64() - 0.010).abs() < 0.0002, "{mean:?}");
        let happened = (0..draws).filter(|_| random.happens(0.1)).count();
        assert!((9_500..10_500).contains(&happened), "{happened}");
    }
}
