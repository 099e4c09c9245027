//! What came of a storm: the numbers of the table, the JSON file and the picture.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::callers::Callers;
use super::scenario::Behaviour;
use super::tally::{Interval, Tally};
use crate::cli::callers::nearest_rank;

/// A whole storm. Times are in seconds from its beginning, latencies in milliseconds from arrival to answer, retries among them.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) version: &'static str,
    pub(super) seed: u64,
    /// For how long invocations came.
    pub(super) duration_s: f64,
    /// How long after the last had come the last came out.
    pub(super) drained_s: f64,
    pub(super) interval_s: f64,
    pub(super) tenants: Vec<TenantReport>,
}

/// One tenant's part.
#[derive(Debug, Serialize)]
pub(super) struct TenantReport {
    pub(super) name: String,
    pub(super) behaviour: Behaviour,
    pub(super) invocations: u64,
    pub(super) answered: u64,
    /// Never answered, by what happened last.
    pub(super) gave_up: BTreeMap<String, u64>,
    /// Still under way when the storm was broken off.
    pub(super) under_way: u64,
    /// Runs in an environment: more than the invocations where some were tried again, fewer where some were throttled.
    pub(super) runs: u64,
    pub(super) cold_starts: u64,
    /// Found no environment, however often.
    pub(super) throttled: u64,
    /// Runs that were refused, by SQLSTATE.
    pub(super) refused: BTreeMap<String, u64>,
    /// Of those, how many in a way that a client of pgweir should never see.
    pub(super) undocumented: u64,
    pub(super) timed_out: u64,
    pub(super) killed: u64,
    /// Runs whose connection failed without a word, by reason.
    pub(super) lost: BTreeMap<String, u64>,
    pub(super) latency: Latency,
    pub(super) series: Vec<Point>,
}

/// Latencies of those that were answered; none where nobody was.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Latency {
    pub(super) p50: Option<f64>,
    pub(super) p90: Option<f64>,
    pub(super) p99: Option<f64>,
    pub(super) p999: Option<f64>,
    pub(super) max: Option<f64>,
}

/// One interval.
#[derive(Debug, Serialize)]
pub(super) struct Point {
    pub(super) at_s: f64,
    pub(super) came: u64,
    pub(super) answered: u64,
    pub(super) refused: u64,
    pub(super) throttled: u64,
    /// Timed out, killed or lost.
    pub(super) failed: u64,
    /// Of those that arrived in it.
    pub(super) latency: Latency,
}

impl Report {
    pub(super) fn of(callers: &[impl AsRef<Callers>], seed: u64, duration: Duration, took: Duration, interval: Duration) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            seed,
            duration_s: duration.as_secs_f64(),
            drained_s: took.saturating_sub(duration).as_secs_f64(),
            interval_s: interval.as_secs_f64(),
            tenants: callers.iter().map(|callers| TenantReport::of(callers.as_ref(), interval)).collect(),
        }
    }

    /// Whether every run was answered, throttled, refused as a client can understand, or ended by its own environment.
    pub(super) fn is_faultless(&self) -> bool {
        self.tenants.iter().all(|tenant| tenant.lost.is_empty() && tenant.undocumented == 0)
    }
}

impl TenantReport {
    fn of(callers: &Callers, interval: Duration) -> Self {
        Self::from_tally(&callers.tenant.name, &callers.tenant.behaviour, &callers.tally.borrow(), interval)
    }

    pub(super) fn from_tally(name: &str, behaviour: &Behaviour, tally: &Tally, interval: Duration) -> Self {
        let all: Vec<Duration> = tally.intervals.iter().flat_map(|interval| interval.latencies.iter().copied()).collect();
        let point = |(at, tallied): (u32, &Interval)| Point {
            at_s: (interval * at).as_secs_f64(),
            came: tallied.came,
            answered: tallied.answered,
            refused: tallied.refused,
            throttled: tallied.throttled,
            failed: tallied.failed,
            latency: Latency::of(tallied.latencies.clone()),
        };
        Self {
            name: name.to_owned(),
            behaviour: behaviour.clone(),
            invocations: tally.came,
            answered: tally.answered,
            gave_up: tally.gave_up.clone(),
            under_way: tally.under_way(),
            runs: tally.runs,
            cold_starts: tally.cold_starts,
            throttled: tally.throttled,
            refused: tally.refused.clone(),
            undocumented: tally.undocumented,
            timed_out: tally.timed_out,
            killed: tally.killed,
            lost: tally.lost.clone(),
            latency: Latency::of(all),
            series: (0..).zip(&tally.intervals).map(point).collect(),
        }
    }
}

impl Latency {
    fn of(mut latencies: Vec<Duration>) -> Self {
        latencies.sort_unstable();
        let at = |per_mille| nearest_rank(&latencies, per_mille).map(|latency| latency.as_secs_f64() * 1000.0);
        Self { p50: at(500), p90: at(900), p99: at(990), p999: at(999), max: at(1000) }
    }
}
