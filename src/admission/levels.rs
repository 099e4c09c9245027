//! What leases take when so many are at work: what can be told of the best limit by looking alone.
//!
//! By Little's law the throughput with `n` at work is `n` over the time that a lease then takes. Only what the load itself has come to is known: who never has
//! fewer at work than the limit learns nothing of a lower one, and nothing of a higher one ever.

use std::time::Duration;

/// Beyond so many, several share a place.
const PLACES: u32 = 256;
/// With fewer leases a place says nothing.
const ENOUGH: f64 = 200.0;
/// What is older than this counts half.
const HALF_LIFE: Duration = Duration::from_mins(1);
/// The smallest that does this much of the best is best.
const AS_GOOD: f64 = 0.98;

#[derive(Debug, Clone, Copy, Default)]
struct Place {
    leases: f64,
    seconds: f64,
}

/// Leases by how many were at work.
#[derive(Debug, Clone)]
pub struct Levels {
    most: u32,
    places: Vec<Place>,
    halved: Duration,
}

impl Levels {
    /// For up to `most` at work.
    pub fn new(most: u32) -> Self {
        let most = most.max(1);
        Self { most, places: vec![Place::default(); most.min(PLACES) as usize + 1], halved: Duration::ZERO }
    }

    /// The most at work that it is for.
    pub fn most(&self) -> u32 {
        self.most
    }

    /// A lease that took so long is over, with `held` at work (it among them).
    pub fn note(&mut self, held: u32, took: Duration) {
        let at = if self.most <= PLACES {
            held
        } else {
            (u64::from(held) * u64::from(PLACES)).div_ceil(self.most.into()).try_into().unwrap_or(0)
        };
        if let Some(place) = self.places.get_mut(at as usize) {
            place.leases += 1.0;
            place.seconds += took.as_secs_f64();
        }
    }

    /// Forgets by and by.
    pub fn age(&mut self, now: Duration) {
        if now.saturating_sub(self.halved) >= HALF_LIFE {
            self.halved = now;
            for place in &mut self.places {
                *place = Place { leases: place.leases / 2.0, seconds: place.seconds / 2.0 };
            }
        }
    }

    /// The smallest number at work that does as much as any, of those that are known; none where nothing is.
    pub fn best(&self) -> Option<u32> {
        let step = f64::from(self.most) / f64::from(self.most.min(PLACES));
        let known = (0..).zip(&self.places).filter(|(_, place)| place.leases >= ENOUGH && place.seconds > 0.0);
        let rates: Vec<(f64, f64)> =
            known.map(|(at, place): (u32, _)| (f64::from(at) * step, f64::from(at) * step * place.leases / place.seconds)).collect();
        let best = rates.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most `most`")]
        rates.iter().find(|(_, rate)| *rate >= best * AS_GOOD).map(|(level, _)| level.round() as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(most: u32, levels: impl IntoIterator<Item = (u32, f64)>) -> Levels {
        let mut seen = Levels::new(most);
        for (held, seconds) in levels {
            (0..300).for_each(|_| seen.note(held, Duration::from_secs_f64(seconds)));
        }
        seen
    }

    #[test]
    fn the_knee_is_where_leases_begin_to_take_longer_in_proportion() {
        // One core for each of four: beyond, each takes longer by as much as there are more.
        let knee = |n: u32| (n, 0.001 * f64::from(n.max(4)) / 4.0);
        assert_eq!(seen(20, (1..=20).map(knee)).best(), Some(4));
        assert_eq!(seen(20, (1..=20).map(|n| (n, 0.02))).best(), Some(20), "they do not hinder each other");
        assert_eq!(seen(2000, [(250, 0.01), (500, 0.01), (1000, 0.03)]).best(), Some(500));
    }

    #[test]
    fn what_was_never_seen_is_not_told() {
        assert_eq!(Levels::new(20).best(), None);
        assert_eq!(seen(20, [(20, 0.01)]).best(), Some(20));
        let mut seen = seen(20, [(20, 0.01)]);
        seen.age(HALF_LIFE);
        assert_eq!(seen.best(), None, "it is forgotten");
    }
}
