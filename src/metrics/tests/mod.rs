//! What is counted is what is published, under the names of the table.

mod fold;
mod page;
mod shards;
mod text;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::*;
use text::Text;

const FAULTS: &[&str] = &["queue_full", "queue_timeout", "denied"];
const REASONS: &[&str] = &["temp_table", "advisory_lock"];
const WORKERS: usize = 3;

fn metrics(tenants: &[&str]) -> Arc<Metrics> {
    let tenants: Vec<String> = tenants.iter().map(ToString::to_string).collect();
    Metrics::new(WORKERS, &tenants, FAULTS, REASONS)
}

fn shard(metrics: &Metrics, worker: usize, tenant: &str) -> Arc<TenantShard> {
    metrics.tenant(worker, tenant, "app").expect("a shard")
}

fn process() -> ProcessState {
    let started = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_500);
    ProcessState { state: Lifecycle::Ready, started, uptime: Duration::from_millis(2_500) }
}

fn snapshot(metrics: &Metrics) -> Snapshot {
    metrics.collect(process(), Vec::new())
}

fn pressure(pressure: f64) -> Pressure {
    let state = PressureState::Queueing;
    Pressure { state, pressure, queue_wait_p99_ms: 12.5, retry_after_ms: 40, suggested_concurrency: Some(32), clients: 100 }
}

/// An upstream that has two pools and a queue.
fn main_upstream() -> UpstreamState {
    let pool = |database: &str, idle, leased| PoolState {
        database: database.to_owned(),
        user: "app".to_owned(),
        mode: "transaction",
        connections: By::each(|state| match state {
            ServerState::Idle => idle,
            ServerState::Leased => leased,
            ServerState::Opening | ServerState::Mending | ServerState::Listening | ServerState::Closing => 0,
        }),
        waiting: 7,
        listening: 3,
    };
    UpstreamState {
        name: "main".to_owned(),
        limit: 40,
        suggested_limit: Some(12),
        proxies: Some(2),
        queue: vec![("acme".to_owned(), 7)],
        pressure: pressure(0.75),
        tenants: vec![("acme".to_owned(), pressure(0.5))],
        pools: vec![pool("app", 1, 5), pool("reports", 2, 0)],
    }
}

fn published(metrics: &Metrics) -> Text {
    Text::read(&metrics.collect(process(), vec![main_upstream()]).prometheus())
}
