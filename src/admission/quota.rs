//! Quotas over time: transactions and logins per second, server time per minute. Token buckets, kept as the moment at which the bucket is full again (the generic
//! cell rate algorithm): one word each.

use crate::net::Moment;
use std::time::Duration;

/// So much of something over time, and so much of it at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Nanoseconds in which one is earned.
    each: u64,
    /// Nanoseconds in which an empty bucket is full.
    depth: u64,
}

impl Pace {
    /// So many in a second, and `burst` at once; a burst of 0 is one second's worth. `None` where 0 a second stand for no limit.
    pub fn per_second(count: u32, burst: u32) -> Option<Self> {
        let each = 1_000_000_000u64.checked_div(count.into())?;
        let burst = if burst == 0 { count } else { burst };
        Some(Self { each, depth: each.saturating_mul(burst.into()) })
    }
}

/// A bucket: when it is full again, in nanoseconds.
#[derive(Debug, Default)]
struct Bucket {
    full_at: u64,
}

impl Bucket {
    /// Takes one that costs `each`, or says how long until that can be done.
    fn take(&mut self, each: u64, depth: u64, now: u64) -> Result<(), Duration> {
        let after = self.full_at.max(now).saturating_add(each);
        let beyond = (after - now).saturating_sub(depth);
        if beyond > 0 {
            return Err(Duration::from_nanos(beyond));
        }
        self.full_at = after;
        Ok(())
    }

    /// Takes what has been used already, into debt if need be.
    fn charge(&mut self, cost: u64, now: u64) {
        self.full_at = self.full_at.max(now).saturating_add(cost);
    }
}

/// What a tenant may use over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quotas {
    /// Transactions.
    pub transactions: Option<Pace>,
    /// Logins.
    pub logins: Option<Pace>,
    /// Seconds of server time in a minute; 0 is no limit.
    pub server_seconds: u32,
}

/// Which quota is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exceeded {
    /// That of transactions.
    Transactions,
    /// That of server time.
    ServerTime,
    /// That of logins.
    Logins,
}

/// What a tenant has used, by all its clients.
#[derive(Debug)]
pub struct Usage {
    opened: Moment,
    transactions: Bucket,
    logins: Bucket,
    server_time: Bucket,
}

/// The time over which server time is allowed, in nanoseconds.
const MINUTE: u64 = 60_000_000_000;

impl Usage {
    /// Nothing used so far.
    pub fn new(now: Moment) -> Self {
        Self { opened: now, transactions: Bucket::default(), logins: Bucket::default(), server_time: Bucket::default() }
    }

    fn at(&self, now: Moment) -> u64 {
        u64::try_from(now.saturating_duration_since(self.opened).as_nanos()).unwrap_or(u64::MAX)
    }

    /// A transaction begins.
    ///
    /// # Errors
    /// Which quota is used up, and for how long.
    pub fn begin(&mut self, quotas: &Quotas, now: Moment) -> Result<(), (Exceeded, Duration)> {
        let now = self.at(now);
        if quotas.server_seconds > 0 {
            // What is used is known only at the end: one may begin as long as anything is left.
            self.server_time.take(0, MINUTE, now).map_err(|wait| (Exceeded::ServerTime, wait))?;
        }
        let Some(pace) = quotas.transactions else { return Ok(()) };
        self.transactions.take(pace.each, pace.depth, now).map_err(|wait| (Exceeded::Transactions, wait))
    }

    /// A server connection was held for so long.
    pub fn held(&mut self, quotas: &Quotas, held: Duration, now: Moment) {
        let held = u64::try_from(held.as_nanos()).unwrap_or(u64::MAX);
        if let Some(cost) = held.saturating_mul(60).checked_div(quotas.server_seconds.into()) {
            self.server_time.charge(cost, self.at(now));
        }
    }

    /// A client logs in.
    ///
    /// # Errors
    /// How long until one may.
    pub fn log_in(&mut self, quotas: &Quotas, now: Moment) -> Result<(), (Exceeded, Duration)> {
        let Some(pace) = quotas.logins else { return Ok(()) };
        self.logins.take(pace.each, pace.depth, self.at(now)).map_err(|wait| (Exceeded::Logins, wait))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_passes_and_then_the_pace_holds() {
        let start = Moment::START;
        let quotas = Quotas { transactions: Pace::per_second(10, 3), ..Quotas::default() };
        let mut usage = Usage::new(start);
        for _ in 0..3 {
            assert_eq!(usage.begin(&quotas, start), Ok(()));
        }
        assert_eq!(usage.begin(&quotas, start), Err((Exceeded::Transactions, SECOND / 10)));
        assert_eq!(usage.begin(&quotas, start + SECOND / 10), Ok(()), "after the time that it was told");
        assert!(usage.begin(&quotas, start + SECOND / 10).is_err());
        assert_eq!(usage.begin(&Quotas::default(), start), Ok(()), "without a quota nobody asks");
    }

    #[test]
    fn server_time_may_be_overdrawn_once_and_is_paid_back() {
        let start = Moment::START;
        let quotas = Quotas { server_seconds: 6, ..Quotas::default() };
        let mut usage = Usage::new(start);
        assert_eq!(usage.begin(&quotas, start), Ok(()));
        usage.held(&quotas, 9 * SECOND, start);
        assert_eq!(usage.begin(&quotas, start), Err((Exceeded::ServerTime, 30 * SECOND)), "three seconds too many, at six a minute");
        assert_eq!(usage.begin(&quotas, start + 30 * SECOND), Ok(()));
    }

    proptest! {
        #[test]
        fn no_span_of_time_sees_more_than_its_pace_and_one_burst(
            count in 1u32..1000,
            burst in 1u32..50,
            gaps in prop::collection::vec(0u64..5_000_000, 1..500),
        ) {
            let start = Moment::START;
            let quotas = Quotas { logins: Pace::per_second(count, burst), ..Quotas::default() };
            let mut usage = Usage::new(start);
            let (mut now, mut passed) = (start, Vec::new());
            for gap in gaps {
                now += Duration::from_nanos(gap);
                match usage.log_in(&quotas, now) {
                    Ok(()) => passed.push(now),
                    Err((_, wait)) => prop_assert!(wait > Duration::ZERO),
                }
            }
            for (first, at) in passed.iter().enumerate() {
                for (last, until) in passed.iter().enumerate().skip(first) {
                    let most = f64::from(burst) + (*until - *at).as_secs_f64() * f64::from(count) * 1.001;
                    prop_assert!(f64::from(u32::try_from(last - first + 1).unwrap()) <= most + 1e-6);
                }
            }
        }
    }
}
