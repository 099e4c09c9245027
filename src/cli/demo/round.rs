//! One round: the whole surge down one road, counted.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, interval};

use super::invocations::{Outcome, Surge, invoke};
use super::progress::{self, Progress};
use super::server_connections::ServerConnections;
use super::tenants::Tenant;
use crate::cli::callers::{DOCUMENTED_REFUSALS, nearest_rank};

/// Time to set all invocations up before the first arrives.
const HEAD_START: Duration = Duration::from_millis(100);

/// Which way the invocations go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Road {
    /// Straight to PostgreSQL.
    Direct,
    /// Through the proxy.
    ThroughPgweir,
}

impl Road {
    /// Its name in the table, and in the rows that its invocations write.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::ThroughPgweir => "through pgweir",
        }
    }
}

/// What came of a round.
#[derive(Debug)]
pub(super) struct Round {
    road: Road,
    /// Shortest first.
    latencies: Vec<Duration>,
    refused: BTreeMap<String, u32>,
    undocumented_refusals: u32,
    /// Neither answered nor refused, by reason.
    failed: BTreeMap<String, u32>,
    most_server_connections: u32,
}

impl Round {
    /// Sends the surge to `address`, the tenants taking turns, and counts until the last invocation has left.
    /// Dropping the future cuts every connection of the round.
    pub(super) async fn run(
        road: Road,
        surge: &Surge,
        address: SocketAddr,
        tenants: &[Tenant],
        connections: &ServerConnections,
    ) -> anyhow::Result<Self> {
        let clients: Vec<_> = tenants.iter().map(|tenant| tenant.client_config(address)).collect();
        let start = Instant::now() + HEAD_START;
        // Tasks of the runtime would be cut only when it next has a turn, and the drops that stop the servers leave it none:
        // the proxy would wait for clients who cannot go.
        let here = LocalSet::new();
        let mut under_way = JoinSet::new();
        for ((number, offset), client) in (0..).zip(surge.arrivals()).zip(clients.iter().cycle()) {
            under_way.spawn_local_on(invoke(client.clone(), road.label(), number, start + offset, surge.clone()), &here);
        }

        let most = AtomicU32::new(0);
        let mut round = tokio::select! {
            counted = here.run_until(Self::collect(road, surge, under_way)) => counted,
            failed = connections.sample(&most) => return Err(failed.unwrap_err()),
        };
        round.latencies.sort_unstable();
        round.most_server_connections = most.load(Ordering::Relaxed);
        Ok(round)
    }

    /// Counts every invocation as it comes out. Cancelling it cuts those that are still under way.
    async fn collect(road: Road, surge: &Surge, mut under_way: JoinSet<Outcome>) -> Self {
        let mut round = Self::new(road);
        let mut progress = Progress::new(road.label(), surge.invocations);
        let mut redraw = interval(progress::REDRAW_EVERY);
        loop {
            tokio::select! {
                ended = under_way.join_next() => match ended {
                    Some(outcome) => {
                        progress.advance();
                        round.count(outcome.unwrap_or_else(|panic| Outcome::Lost(panic.to_string())));
                    }
                    None => return round,
                },
                _ = redraw.tick() => progress.draw(),
            }
        }
    }

    fn new(road: Road) -> Self {
        let none = BTreeMap::new;
        let (refused, failed) = (none(), none());
        Self { road, latencies: Vec::new(), refused, undocumented_refusals: 0, failed, most_server_connections: 0 }
    }

    fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Answered(latency) => self.latencies.push(latency),
            Outcome::Refused(state) => {
                self.undocumented_refusals += u32::from(!DOCUMENTED_REFUSALS.contains(&state));
                *self.refused.entry(state.code().to_owned()).or_default() += 1;
            }
            Outcome::TimedOut => *self.failed.entry("timed out".to_owned()).or_default() += 1,
            Outcome::Lost(reason) => *self.failed.entry(reason).or_default() += 1,
        }
    }

    pub(super) fn road(&self) -> Road {
        self.road
    }

    pub(super) fn answered(&self) -> usize {
        self.latencies.len()
    }

    pub(super) fn refused(&self) -> u32 {
        self.refused.values().sum()
    }

    /// How often each SQLSTATE was heard.
    pub(super) fn refusals(&self) -> &BTreeMap<String, u32> {
        &self.refused
    }

    /// How many were neither answered nor refused.
    pub(super) fn failed(&self) -> u32 {
        self.failed.values().sum()
    }

    /// The same by reason.
    pub(super) fn failures(&self) -> &BTreeMap<String, u32> {
        &self.failed
    }

    pub(super) fn most_server_connections(&self) -> u32 {
        self.most_server_connections
    }

    /// Every invocation was answered, or refused in a way that its driver can understand.
    pub(super) fn is_faultless(&self) -> bool {
        self.failed.is_empty() && self.undocumented_refusals == 0
    }

    /// The latency that `percent` of the answered stayed within (nearest rank); `None` without an answer.
    pub(super) fn percentile(&self, percent: usize) -> Option<Duration> {
        nearest_rank(&self.latencies, percent * 10)
    }
}

#[cfg(test)]
impl Round {
    /// A round with these outcomes, for the table's tests.
    pub(super) fn of(road: Road, outcomes: impl IntoIterator<Item = Outcome>, most_server_connections: u32) -> Self {
        let mut round = Self { most_server_connections, ..Self::new(road) };
        outcomes.into_iter().for_each(|outcome| round.count(outcome));
        round.latencies.sort_unstable();
        round
    }
}

#[cfg(test)]
mod tests {
    use tokio_postgres::error::SqlState;

    use super::*;

    fn answered_in(milliseconds: u64) -> Outcome {
        Outcome::Answered(Duration::from_millis(milliseconds))
    }

    #[test]
    fn only_documented_refusals_are_forgiven() {
        let faultless = |outcome| Round::of(Road::ThroughPgweir, [answered_in(1), outcome], 0).is_faultless();
        assert!(faultless(Outcome::Refused(SqlState::TOO_MANY_CONNECTIONS)));
        assert!(!faultless(Outcome::Refused(SqlState::INTERNAL_ERROR)));
        assert!(!faultless(Outcome::TimedOut));
        assert!(!faultless(Outcome::Lost("connection closed".into())));
    }
}
