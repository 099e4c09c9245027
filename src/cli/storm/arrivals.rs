//! When the invocations of one tenant come, counted from the storm's beginning.

use std::iter::Peekable;
use std::time::Duration;

use super::scenario::Behaviour;
use crate::cli::random::SplitMix;

/// The moments at which a tenant's invocations come, in order: a steady rate with independent gaps, and bursts.
pub(super) fn arrivals(behaviour: &Behaviour, duration: Duration, random: SplitMix) -> impl Iterator<Item = Duration> + use<> {
    InOrder { a: steady(behaviour.rate, duration, random).peekable(), b: bursts(behaviour, duration).peekable() }
}

fn steady(rate: f64, duration: Duration, mut random: SplitMix) -> impl Iterator<Item = Duration> + use<> {
    let gap = (rate > 0.0).then(|| Duration::from_secs_f64(1.0 / rate));
    let mut at = Duration::ZERO;
    std::iter::from_fn(move || {
        at += random.exponential(gap?);
        (at < duration).then_some(at)
    })
}

fn bursts(behaviour: &Behaviour, duration: Duration) -> impl Iterator<Item = Duration> + use<> {
    let (every, size) = (behaviour.burst_every.limit(), behaviour.burst as usize);
    let moments = std::iter::successors(Some(behaviour.burst_at.0), move |at| every.map(|every| *at + every));
    moments.take_while(move |at| *at < duration).flat_map(move |at| std::iter::repeat_n(at, size))
}

/// Two ordered sequences as one.
struct InOrder<A: Iterator, B: Iterator> {
    a: Peekable<A>,
    b: Peekable<B>,
}

impl<A: Iterator<Item = Duration>, B: Iterator<Item = Duration>> Iterator for InOrder<A, B> {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        match (self.a.peek(), self.b.peek()) {
            (Some(a), Some(b)) if b < a => self.b.next(),
            (None, _) => self.b.next(),
            _ => self.a.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::storm::scenario::Wishes;
    use crate::config::Period;

    fn of(behaviour: &Behaviour, seed: u64) -> Vec<Duration> {
        arrivals(behaviour, Duration::from_secs(20), SplitMix::new(seed)).collect()
    }

    #[test]
    fn bursts_come_at_once_among_a_steady_rate() {
        let behaviour = Behaviour { rate: 100.0, burst: 500, burst_every: Period::secs(8), ..Wishes::default().behaviour() };
        let moments = of(&behaviour, 1);
        assert!(moments.is_sorted());
        for second in [1, 9, 17] {
            assert_eq!(moments.iter().filter(|at| **at == Duration::from_secs(second)).count(), 500);
        }
        let steady = moments.len() - 1500;
        assert!((1_800..2_200).contains(&steady), "{steady}");
        assert_eq!(moments, of(&behaviour, 1), "the seed decides");
        assert_ne!(moments, of(&behaviour, 2));
    }

    #[test]
    fn a_burst_alone_comes_once() {
        let behaviour = Behaviour { burst: 10, ..Wishes::default().behaviour() };
        assert_eq!(of(&behaviour, 1), [Duration::from_secs(1); 10]);
    }
}
