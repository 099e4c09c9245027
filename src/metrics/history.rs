//! What the page shows of the time before it was opened: a point every ten seconds, for an hour. All tenants together, for a point of each would be much.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;

use super::{Durations, TenantNumbers};

/// How far apart the points are.
pub const EVERY: Duration = Duration::from_secs(10);

/// So many are kept.
const KEPT: usize = 360;

/// The last hour.
#[derive(Debug, Default)]
pub struct History {
    points: VecDeque<Point>,
    /// All tenants' counts, and the process's age in seconds, at the last point.
    last: Option<(TenantNumbers, f64)>,
}

/// What happened between two points, and how hard the upstreams were pressed at the end.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Point {
    /// The process's age, in seconds.
    #[serde(skip)]
    at: f64,
    /// By upstream.
    pressure: BTreeMap<String, f64>,
    /// Per second.
    transactions: f64,
    /// Per second.
    refusals: f64,
    /// The wait for a server connection, median and 99th percentile, in milliseconds; absent where nobody wanted one.
    wait_ms: Option<[f64; 2]>,
    /// How long one was held.
    hold_ms: Option<[f64; 2]>,
}

#[derive(Serialize)]
struct Told<'a> {
    age_seconds: f64,
    #[serde(flatten)]
    point: &'a Point,
}

impl History {
    /// Notes what has happened up to this age of the process: the numbers of all tenants together, and how hard each upstream is pressed.
    pub fn note(&mut self, age: Duration, sum: TenantNumbers, pressure: BTreeMap<String, f64>) {
        let at = age.as_secs_f64();
        if let Some((before, then)) = &self.last {
            let seconds = (at - then).max(0.001);
            let refusals = |numbers: &TenantNumbers| numbers.refused.values().sum::<u64>();
            let per_second = |now: u64, before: u64| Duration::from_secs(now.saturating_sub(before)).as_secs_f64() / seconds;
            let point = Point {
                at,
                pressure,
                transactions: per_second(sum.transactions, before.transactions),
                refusals: per_second(refusals(&sum), refusals(before)),
                wait_ms: quantiles(&sum.queue_wait, &before.queue_wait),
                hold_ms: quantiles(&sum.lease, &before.lease),
            };
            self.points.truncate(KEPT - 1);
            self.points.push_front(point);
        }
        self.last = Some((sum, at));
    }

    /// All of it as JSON, the oldest first, of a process of this age.
    pub fn json(&self, age: Duration) -> String {
        let age = age.as_secs_f64();
        let told: Vec<Told<'_>> = self.points.iter().rev().map(|point| Told { age_seconds: (age - point.at).max(0.0), point }).collect();
        // Every key is text and every number finite, so that there is nothing to fail.
        serde_json::to_string(&told).unwrap_or_default()
    }
}

fn quantiles(now: &Durations, before: &Durations) -> Option<[f64; 2]> {
    let quantile = |share| now.quantile_since(before, share).map(|duration| duration.as_secs_f64() * 1000.0);
    Some([quantile(0.5)?, quantile(0.99)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn look(metrics: &Metrics, history: &mut History, seconds: u64) {
        history.note(Duration::from_secs(seconds), metrics.total(), [("main".to_owned(), 0.25)].into());
    }

    fn told(history: &History, seconds: u64) -> Vec<serde_json::Value> {
        serde_json::from_str(&history.json(Duration::from_secs(seconds))).unwrap()
    }

    #[test]
    fn each_point_is_about_the_time_since_the_one_before() {
        let metrics = Metrics::new(1, &["t".to_owned()], &["a"], &["b"]);
        let shard = metrics.tenant(0, "t", "d").unwrap();
        let mut history = History::default();
        shard.transactions.add(1000);
        look(&metrics, &mut history, 5);
        assert!(told(&history, 5).is_empty(), "there is nothing to compare with yet");
        shard.transactions.add(50);
        shard.refused[0].add(5);
        for _ in 0..100 {
            shard.queue_wait.observe(Duration::from_micros(200));
        }
        look(&metrics, &mut history, 15);
        look(&metrics, &mut history, 25);
        let points = told(&history, 30);
        assert_eq!(points.len(), 2);
        assert_eq!(
            (&points[0]["age_seconds"], &points[0]["transactions"], &points[0]["refusals"]),
            (&15.0.into(), &5.0.into(), &0.5.into())
        );
        let median = points[0]["wait_ms"][0].as_f64().unwrap();
        assert!((0.1..=0.25).contains(&median), "{median} ms, of the bucket from 100 to 250 µs");
        assert_eq!(points[0]["pressure"]["main"], 0.25);
        assert_eq!((&points[1]["age_seconds"], &points[1]["transactions"]), (&5.0.into(), &0.0.into()));
        assert!(points[1]["wait_ms"].is_null() && points[1]["hold_ms"].is_null(), "nobody wanted one");
    }

    #[test]
    fn an_hour_is_kept() {
        let metrics = Metrics::new(1, &[], &[], &[]);
        let mut history = History::default();
        for step in 0..500 {
            look(&metrics, &mut history, 10 * step);
        }
        let points = told(&history, 4990);
        assert_eq!(points.len(), KEPT);
        assert_eq!((&points[0]["age_seconds"], &points[KEPT - 1]["age_seconds"]), (&3590.0.into(), &0.0.into()));
    }
}
