//! Every number that is published: where it is counted, what it is called, and everything at one moment as plain data.
//!
//! Each worker writes its own shard of each tenant's numbers, so that counting costs a plain load and store; whoever reads adds the shards up.
//! This room never asks the rooms above for their state: whoever takes a [`Snapshot`] brings it.

mod api;
mod durations;
mod embedded;
mod export;
mod fold;
mod history;
mod labels;
mod live;
mod numbers;
mod pressure;
mod process;
mod recent;
mod reference;
mod shard;
mod snapshot;
mod table;
mod tenant;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

pub use api::{ApiNumbers, ApiRequests, ApiSnapshot};
pub use durations::{BOUNDS_MICROS, BUCKETS, Durations, bounds_seconds};
pub use embedded::Embedded;
pub use fold::{NAMED_TENANTS, OTHER_TENANTS};
pub use history::{EVERY as HISTORY_EVERY, History};
pub use labels::{
    Api, ApiOutcome, By, CancelCause, ClientState, ConnectOutcome, Label, Lifecycle, LoginOutcome, PressureState, ServerState, Sparse,
    StatementStep,
};
pub use numbers::{Cells, Counter, Gauge, Histogram};
pub use pressure::Pressure;
pub use process::Usage;
pub use recent::{Party, Recent, RecentFault};
pub use reference::reference;
pub use shard::{TenantShard, UpstreamNumbers};
pub use snapshot::{DatabaseSnapshot, PoolState, Process, ProcessState, Queue, Snapshot, TenantSnapshot, UpstreamSnapshot, UpstreamState};
pub use tenant::TenantNumbers;

use fold::Folding;
use tenant::Names;

/// A tenant's shards, one for each worker, by the database that is meant.
type Tenant = BTreeMap<String, Vec<Arc<TenantShard>>>;

/// Everything.
#[derive(Debug)]
pub struct Metrics {
    workers: usize,
    names: Names,
    tenants: RwLock<BTreeMap<String, Tenant>>,
    upstreams: RwLock<BTreeMap<String, Arc<UpstreamNumbers>>>,
    folding: Mutex<Folding>,
    /// SQL over HTTP.
    pub api: ApiNumbers,
    /// What clients were told last that went wrong.
    pub recent: Recent,
}

impl Metrics {
    /// Numbers for these tenants, with the labels that stand for faults' and pin reasons' numbers.
    pub fn new(workers: usize, tenants: &[String], faults: &'static [&'static str], reasons: &'static [&'static str]) -> Arc<Self> {
        let names = Names { faults, reasons };
        let metrics = Self {
            workers,
            names,
            tenants: RwLock::default(),
            upstreams: RwLock::default(),
            folding: Mutex::default(),
            api: ApiNumbers::default(),
            recent: Recent::default(),
        };
        metrics.set_tenants(tenants);
        Arc::new(metrics)
    }

    /// Adds tenants that a reload has brought; those that are known keep their numbers, by name.
    pub fn set_tenants(&self, names: &[String]) {
        let mut tenants = self.tenants.write();
        for name in names {
            tenants.entry(name.clone()).or_default();
        }
    }

    /// One worker's shard of a tenant's numbers, for its clients of this database; none for a tenant or a worker that there is not.
    pub fn tenant(&self, worker: usize, name: &str, database: &str) -> Option<Arc<TenantShard>> {
        if let Some(shards) = self.tenants.read().get(name)?.get(database) {
            return shards.get(worker).cloned();
        }
        let shard = || Arc::new(TenantShard::new(self.names.faults.len(), self.names.reasons.len()));
        let all = || std::iter::repeat_with(shard).take(self.workers).collect();
        self.tenants.write().get_mut(name)?.entry(database.to_owned()).or_insert_with(all).get(worker).cloned()
    }

    /// An upstream's numbers.
    pub fn upstream(&self, name: &str) -> Arc<UpstreamNumbers> {
        if let Some(numbers) = self.upstreams.read().get(name) {
            return Arc::clone(numbers);
        }
        Arc::clone(self.upstreams.write().entry(name.to_owned()).or_default())
    }

    /// The numbers of all tenants together.
    pub fn total(&self) -> TenantNumbers {
        let tenants = self.tenants.read();
        TenantNumbers::merged(tenants.values().flat_map(BTreeMap::values).flatten().map(Arc::as_ref), self.names)
    }

    /// Everything at this moment. Upstreams are those that the caller brings; of tenants, all that ever were.
    pub fn collect(&self, process: ProcessState, upstreams: Vec<UpstreamState>) -> Snapshot {
        let mut databases: BTreeMap<String, TenantNumbers> = BTreeMap::new();
        let mut tenants = Vec::new();
        for (name, shards) in &*self.tenants.read() {
            let mut numbers = TenantNumbers::default();
            for (database, shards) in shards {
                let merged = TenantNumbers::merged(shards.iter().map(Arc::as_ref), self.names);
                numbers.add(&merged);
                databases.entry(database.clone()).or_default().add(&merged);
            }
            tenants.push(TenantSnapshot { name: name.clone(), numbers, is_folded: false });
        }
        let others = self.folding.lock().fold(&mut tenants);
        let upstreams = upstreams.into_iter().map(|state| {
            let numbers = self.upstream(&state.name);
            UpstreamSnapshot::new(state, &numbers)
        });
        Snapshot {
            version: env!("CARGO_PKG_VERSION"),
            state: process.state,
            uptime_seconds: process.uptime.as_secs_f64(),
            process: Process::now(process.started),
            bounds_seconds: bounds_seconds().collect(),
            tenants,
            databases: databases.into_iter().map(|(name, numbers)| DatabaseSnapshot { name, numbers }).collect(),
            upstreams: upstreams.collect(),
            api: self.api.snapshot(),
            recent_faults: self.recent.all(),
            others,
        }
    }
}
