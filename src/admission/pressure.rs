//! How hard an upstream is pressed, by tenant and in all, over the last seconds: what whoever drives the callers goes by. Pure: events, now.
//!
//! Little's law does the reckoning: the leases that are held on average are the callers' rate times the time that each lease takes. The callers that do not
//! wait, times the connections that there are for each that is held, is how many callers would have work for all of them.

use std::time::Duration;

/// Half of the time that is looked back on, in nanoseconds.
const HALF: u64 = 5_000_000_000;
/// The share of the connections that may be busy without a queue: beyond it waits grow out of proportion.
const BUSY_ENOUGH: f64 = 0.8;
/// A wait at the 99th percentile from which on clients are said to wait: shorter ones are opening connections and chance.
const NOTICEABLE: Duration = Duration::from_millis(5);
/// Of so many one in a hundred can be told; of fewer the slowest has perhaps only waited for a connection to be opened.
const ENOUGH_TO_TELL: u64 = 100;
/// So many clients that wait on average are a queue.
const A_QUEUE: f64 = 0.2;
/// The least that a refused client is told to wait.
const LEAST_RETRY: Duration = Duration::from_millis(100);

/// Waits in buckets: up to a quarter of a millisecond, and each twice as long as the one before.
const BUCKETS: usize = 18;
const FIRST_BUCKET_BITS: u32 = 18;

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strain {
    /// Nobody waits to speak of.
    Ok,
    /// Clients wait.
    Queueing,
    /// Clients are refused for want of connections.
    Shedding,
}

/// What can be told of a tenant, or of all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// How it stands.
    pub strain: Strain,
    /// From 0 to 1: up to a half how busy the connections are, above that how long clients wait for what they may wait; 1 where some are refused.
    pub pressure: f64,
    /// The 99th percentile of the waits.
    pub wait_p99: Duration,
    /// When a client that is refused should come back.
    pub retry_after: Duration,
    /// How many clients would keep four fifths of the connections busy that there are for them; `None`: none was at work.
    pub suggested_clients: Option<u64>,
    /// How many clients there are.
    pub clients: u32,
    /// Server connections held on average.
    pub held: f64,
}

/// What happened to a tenant lately.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lately {
    now: Half,
    before: Half,
}

#[derive(Debug, Clone, Copy, Default)]
struct Half {
    waits: [u32; BUCKETS],
    held_nanos: u64,
    samples: u32,
    held: u64,
    queued: u64,
    refused: u32,
    refused_when_full: u32,
}

impl Half {
    fn add(&mut self, other: &Self) {
        for (own, theirs) in self.waits.iter_mut().zip(other.waits) {
            *own = own.saturating_add(theirs);
        }
        self.held_nanos = self.held_nanos.saturating_add(other.held_nanos);
        self.samples = self.samples.saturating_add(other.samples);
        self.held = self.held.saturating_add(other.held);
        self.queued = self.queued.saturating_add(other.queued);
        self.refused = self.refused.saturating_add(other.refused);
        self.refused_when_full = self.refused_when_full.saturating_add(other.refused_when_full);
    }
}

impl Lately {
    /// A client was served after that wait.
    #[inline]
    pub(super) fn waited(&mut self, wait: Duration) {
        let nanos = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        let bucket = (64 - (nanos >> FIRST_BUCKET_BITS).leading_zeros()) as usize;
        self.now.waits[bucket.min(BUCKETS - 1)] += 1;
    }

    /// A lease that lasted for so long is over.
    #[inline]
    pub(super) fn held(&mut self, nanos: u64) {
        self.now.held_nanos = self.now.held_nanos.saturating_add(nanos);
    }

    /// A client was refused; `full` says that the upstream has nothing left for anybody.
    pub(super) fn refused(&mut self, full: bool) {
        self.now.refused += 1;
        self.now.refused_when_full += u32::from(full);
    }

    /// A look at how many connections are held and how many clients wait; a new half begins where `turn` says so.
    pub(super) fn sample(&mut self, held: u32, queued: u32, turn: bool) {
        if turn {
            self.before = std::mem::take(&mut self.now);
        }
        self.now.samples += 1;
        self.now.held += u64::from(held);
        self.now.queued += u64::from(queued);
    }

    fn both(&self) -> Half {
        let mut both = self.now;
        both.add(&self.before);
        both
    }
}

/// When halves began.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Halves {
    now: u64,
    before: u64,
}

impl Halves {
    /// Whether a new half begins.
    pub(super) fn turn(&mut self, now: u64) -> bool {
        let turn = now.saturating_sub(self.now) >= HALF;
        if turn {
            self.before = self.now;
            self.now = now;
        }
        turn
    }

    fn elapsed(self, now: u64) -> Duration {
        Duration::from_nanos(now.saturating_sub(self.before).max(1))
    }
}

/// What a reading is made of, beside what happened lately.
#[derive(Debug, Clone, Copy)]
pub(super) struct Around {
    pub(super) halves: Halves,
    pub(super) now: u64,
    /// How many clients there are.
    pub(super) clients: u32,
    /// How many of them wait just now.
    pub(super) queued: u32,
    /// How long each may wait.
    pub(super) limit: Option<Duration>,
    /// When one more would be served, where that can be told.
    pub(super) expected: Option<Duration>,
    /// Whether refusals count only where the upstream had nothing left.
    pub(super) in_all: bool,
}

/// What lately has been, added up.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum(Half);

impl Sum {
    pub(super) fn of(lately: &Lately) -> Self {
        Self(lately.both())
    }

    pub(super) fn add(&mut self, lately: &Lately) {
        self.0.add(&lately.both());
    }

    /// How many were served.
    pub(super) fn served(&self) -> u64 {
        self.0.waits.iter().map(|count| u64::from(*count)).sum()
    }

    /// The server time of all leases that have ended.
    pub(super) fn held(&self) -> Duration {
        Duration::from_nanos(self.0.held_nanos)
    }

    /// What a lease took on average, where there was one.
    pub(super) fn usual_hold(&self) -> Option<Duration> {
        let served = self.served();
        (served > 0).then(|| Duration::from_nanos(self.0.held_nanos / served))
    }

    /// How many connections were held on average: by the leases that have ended, or by the looks that were taken, which see long ones better.
    fn average_held(&self, elapsed: Duration) -> f64 {
        let ended = Duration::from_nanos(self.0.held_nanos).as_secs_f64() / elapsed.as_secs_f64();
        ended.max(average(self.0.held, self.0.samples))
    }

    fn wait_p99(&self) -> Duration {
        let served = self.served();
        let mut beyond = served / 100;
        for (at, count) in self.0.waits.iter().enumerate().rev() {
            let count = u64::from(*count);
            if count > beyond {
                // The first bucket is as good as no wait; within another the waits are taken to be spread evenly.
                if at == 0 {
                    return Duration::ZERO;
                }
                let lower = Duration::from_nanos(1 << (FIRST_BUCKET_BITS as usize + at - 1));
                return lower + lower.mul_f64(1.0 - ratio(beyond, count));
            }
            beyond -= count;
        }
        Duration::ZERO
    }

    /// What can be told; `free` is how many more connections there are for these clients.
    pub(super) fn reading(&self, around: Around, free: impl FnOnce(f64) -> f64) -> Reading {
        let held = self.average_held(around.halves.elapsed(around.now));
        let queued = average(self.0.queued, self.0.samples);
        let wait_p99 = self.wait_p99();
        let refused = if around.in_all { self.0.refused_when_full } else { self.0.refused };
        let strain = match () {
            () if refused > 0 => Strain::Shedding,
            () if queued >= A_QUEUE || around.queued > 0 || self.served() >= ENOUGH_TO_TELL && wait_p99 >= NOTICEABLE => Strain::Queueing,
            () => Strain::Ok,
        };
        let all = held + free(held).max(0.0);
        let busy = if all > 0.0 { (held / all).min(1.0) } else { 0.0 };
        let pressure = match strain {
            Strain::Ok => busy / 2.0,
            Strain::Queueing => 0.5 + 0.5 * around.limit.map_or(0.0, |limit| wait_p99.as_secs_f64() / limit.as_secs_f64()).min(1.0),
            Strain::Shedding => 1.0,
        };
        let retry_after = match strain {
            Strain::Ok => Duration::ZERO,
            Strain::Queueing => around.expected.unwrap_or_default(),
            Strain::Shedding => around.expected.unwrap_or_default().max(LEAST_RETRY),
        };
        let working = (f64::from(around.clients) - queued).max(1.0);
        let suggested = (held > 0.0 && around.clients > 0).then(|| whole(all * BUSY_ENOUGH * working / held).max(1));
        Reading { strain, pressure, wait_p99, retry_after, suggested_clients: suggested, clients: around.clients, held }
    }
}

#[expect(clippy::cast_precision_loss, reason = "an average of some seconds: exact enough at any size")]
fn average(sum: u64, samples: u32) -> f64 {
    sum as f64 / f64::from(samples.max(1))
}

#[expect(clippy::cast_precision_loss, reason = "counts of some seconds: exact enough at any size")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates, and is never negative")]
fn whole(number: f64) -> u64 {
    number as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn around(clients: u32, queued: u32) -> Around {
        let halves = Halves::default();
        Around { halves, now: 10 * SECOND, clients, queued, limit: Some(Duration::from_secs(5)), expected: None, in_all: false }
    }

    /// Ten seconds in which leases of `hold` ran at `rate` a second, each after `wait`.
    fn lately(rate: u32, hold: Duration, wait: Duration) -> Lately {
        let mut lately = Lately::default();
        for _ in 0..rate * 10 {
            lately.waited(wait);
            lately.held(u64::try_from(hold.as_nanos()).unwrap());
        }
        lately
    }

    #[test]
    fn half_busy_and_nobody_waits() {
        // 100 a second of 50 ms are five of ten, by Little's law; 40 clients make them.
        let lately = lately(100, Duration::from_millis(50), Duration::ZERO);
        let reading = Sum::of(&lately).reading(around(40, 0), |held| 10.0 - held);
        assert_eq!((reading.strain, reading.wait_p99, reading.retry_after), (Strain::Ok, Duration::ZERO, Duration::ZERO));
        assert!((reading.pressure - 0.25).abs() < 1e-6 && (reading.held - 5.0).abs() < 1e-6, "{reading:?}");
        assert_eq!(reading.suggested_clients, Some(64), "eight busy connections take 8/5 of 40 clients");
    }

    #[test]
    fn those_who_wait_do_no_work() {
        let mut lately = lately(200, Duration::from_millis(50), Duration::from_secs(1));
        for _ in 0..40 {
            lately.sample(10, 60, false);
        }
        let reading = Sum::of(&lately).reading(around(100, 60), |held| 10.0 - held);
        assert_eq!(reading.strain, Strain::Queueing);
        assert!((0.55..0.65).contains(&reading.pressure), "a wait of one of five seconds: {reading:?}");
        assert!((Duration::from_millis(500)..Duration::from_secs(2)).contains(&reading.wait_p99), "{reading:?}");
        assert_eq!(reading.suggested_clients, Some(32), "forty are at work: four fifths of them leave room");
    }

    #[test]
    fn refusals_are_the_highest_pressure() {
        let mut lately = lately(10, Duration::from_millis(1), Duration::ZERO);
        lately.refused(false);
        let reading = Sum::of(&lately).reading(around(3, 0), |held| 10.0 - held);
        assert_eq!((reading.strain, reading.pressure, reading.retry_after), (Strain::Shedding, 1.0, LEAST_RETRY));
        let in_all = Sum::of(&lately).reading(Around { in_all: true, ..around(3, 0) }, |held| 10.0 - held);
        assert_eq!(in_all.strain, Strain::Ok, "a tenant at its own cap does not press the upstream");
    }

    #[test]
    fn what_is_long_ago_is_forgotten() {
        let (mut lately, mut halves) = (lately(1, Duration::from_millis(1), Duration::from_secs(3)), Halves::default());
        for seconds in [5, 10] {
            assert!(Sum::of(&lately).wait_p99() > Duration::from_secs(2), "{seconds}");
            let turn = halves.turn(seconds * SECOND);
            assert!(turn);
            lately.sample(0, 0, turn);
        }
        assert_eq!(Sum::of(&lately).wait_p99(), Duration::ZERO);
        assert!(!halves.turn(11 * SECOND));
    }

    #[test]
    fn the_99th_percentile_is_that() {
        let mut lately = Lately::default();
        for _ in 0..990 {
            lately.waited(Duration::from_micros(10));
        }
        for _ in 0..10 {
            lately.waited(Duration::from_secs(1));
        }
        assert_eq!(Sum::of(&lately).wait_p99(), Duration::ZERO, "one in a hundred may");
        for _ in 0..10 {
            lately.waited(Duration::from_secs(1));
        }
        assert!(Sum::of(&lately).wait_p99() > Duration::from_millis(500));
    }

    #[test]
    fn nothing_is_suggested_where_nothing_was_at_work() {
        let reading = Sum::default().reading(around(0, 0), |held| 10.0 - held);
        assert_eq!((reading.strain, reading.pressure, reading.suggested_clients), (Strain::Ok, 0.0, None));
    }
}
