//! Everything at one moment, as plain data. `/metrics`, `/status`, SHOW and the dashboard are made from one of these, so that they cannot disagree.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::labels::{By, ConnectOutcome, Lifecycle, ServerState};
use super::process::Usage;
use super::tenant::TenantNumbers;
use super::{ApiSnapshot, Durations, Pressure, RecentFault, UpstreamNumbers};

/// What the caller knows of the process.
#[derive(Debug, Clone, Copy)]
pub struct ProcessState {
    /// What it is doing.
    pub state: Lifecycle,
    /// When it started.
    pub started: SystemTime,
    /// How long ago that was.
    pub uptime: Duration,
}

/// What the caller knows of an upstream.
#[derive(Debug, Clone)]
pub struct UpstreamState {
    /// Its name.
    pub name: String,
    /// How many server connections it may have.
    pub limit: u32,
    /// How many at work would be best, where that is looked for and known.
    pub suggested_limit: Option<u32>,
    /// How many proxies share its budget, this one among them, where it is shared; 0 while that cannot be said.
    pub proxies: Option<u32>,
    /// How many clients of which tenant wait for it; those that have none waiting may be left out.
    pub queue: Vec<(String, u64)>,
    /// How hard it is pressed.
    pub pressure: Pressure,
    /// The same by tenant, where a tenant has clients or has had lately.
    pub tenants: Vec<(String, Pressure)>,
    /// Its pools.
    pub pools: Vec<PoolState>,
}

/// The connections of one (database, user).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolState {
    /// The database as clients name it.
    pub database: String,
    /// The user as clients name it.
    pub user: String,
    /// The pool mode.
    pub mode: &'static str,
    /// Server connections.
    pub connections: By<ServerState, u64>,
    /// Clients that wait for one.
    pub waiting: u64,
    /// Clients that listen by way of a connection that they share.
    pub listening: u64,
}

/// Everything at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    /// The version of the program.
    pub version: &'static str,
    /// What the process is doing.
    pub state: Lifecycle,
    /// How long it has been running.
    pub uptime_seconds: f64,
    /// What it uses.
    pub process: Process,
    /// The upper bounds of all durations' buckets; the last bucket has none.
    pub bounds_seconds: Vec<f64>,
    /// Tenants, by name.
    pub tenants: Vec<TenantSnapshot>,
    /// Databases that clients have asked for, by the name of the configuration (`*` is the wildcard).
    pub databases: Vec<DatabaseSnapshot>,
    /// Upstreams, in the caller's order.
    pub upstreams: Vec<UpstreamSnapshot>,
    /// SQL over HTTP.
    pub api: ApiSnapshot,
    /// The faults that clients were told last, the newest first.
    pub recent_faults: Vec<RecentFault>,
    /// What happened in tenants while they had no series of their own in `/metrics`; none while all have one.
    #[serde(skip)]
    pub(super) others: Option<TenantNumbers>,
}

/// What the process uses.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Process {
    /// When it started, in seconds since 1970.
    pub started: f64,
    /// What the system says; absent where it says nothing.
    #[serde(flatten)]
    pub usage: Usage,
}

/// A tenant.
#[derive(Debug, Clone, Serialize)]
pub struct TenantSnapshot {
    /// Its name.
    pub name: String,
    /// Its numbers.
    #[serde(flatten)]
    pub numbers: TenantNumbers,
    /// Whether `/metrics` counts it among the others.
    #[serde(skip)]
    pub(super) is_folded: bool,
}

/// A database: the numbers of all tenants' clients that asked for it.
#[derive(Debug, Clone, Serialize)]
pub struct DatabaseSnapshot {
    /// Its name.
    pub name: String,
    /// Its numbers.
    #[serde(flatten)]
    pub numbers: TenantNumbers,
}

/// An upstream.
#[derive(Debug, Clone, Serialize)]
pub struct UpstreamSnapshot {
    /// Its name.
    pub name: String,
    /// Whether it answers, as far as the last opening says.
    pub up: bool,
    /// How often all its connections were given up because the server is elsewhere.
    pub moves: u64,
    /// How many server connections it may have.
    pub limit: u32,
    /// How many at work would be best, where that is looked for and known.
    pub suggested_limit: Option<u32>,
    /// How many proxies share its budget, this one among them, where it is shared; 0 while that cannot be said.
    pub proxies: Option<u32>,
    /// Its server connections, over all pools.
    pub connections: By<ServerState, u64>,
    /// Openings that have ended.
    pub connects: By<ConnectOutcome, u64>,
    /// How long they took.
    pub connect: Durations,
    /// Who waits.
    pub queue: Vec<Queue>,
    /// How hard it is pressed.
    #[serde(skip)]
    pub pressure: Pressure,
    /// The same by tenant.
    #[serde(skip)]
    pub tenants: Vec<(String, Pressure)>,
    /// Its pools.
    pub pools: Vec<PoolState>,
}

/// A tenant's clients that wait for an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Queue {
    /// The tenant.
    pub tenant: String,
    /// How many wait.
    pub depth: u64,
}

impl Process {
    pub(super) fn now(started: SystemTime) -> Self {
        // A clock before 1970 is no clock.
        let started = started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        Self { started, usage: Usage::now() }
    }
}

impl UpstreamSnapshot {
    pub(super) fn new(state: UpstreamState, numbers: &UpstreamNumbers) -> Self {
        let UpstreamState { name, limit, suggested_limit, proxies, queue, pressure, tenants, pools } = state;
        let queue = queue.into_iter().map(|(tenant, depth)| Queue { tenant, depth }).collect();
        Self {
            name,
            up: numbers.is_up(),
            moves: numbers.retirements(),
            limit,
            suggested_limit,
            proxies,
            connections: By::each(|state| pools.iter().map(|pool| pool.connections[state]).sum()),
            connects: By::each(|outcome| numbers.connects(outcome)),
            connect: numbers.connect.durations(),
            queue,
            pressure,
            tenants,
            pools,
        }
    }
}

impl Snapshot {
    /// A tenant.
    pub fn tenant(&self, name: &str) -> Option<&TenantSnapshot> {
        let place = self.tenants.binary_search_by_key(&name, |tenant| &tenant.name).ok()?;
        self.tenants.get(place)
    }

    /// As JSON, for `/status`.
    pub fn json(&self) -> String {
        // Every key is text and every number finite, so that there is nothing to fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}
