//! The same numbers for CloudWatch, in its embedded metric format: a line of JSON in the log, which CloudWatch Logs takes metrics out of. What RDS Proxy has under a
//! name has that name here, so that dashboards and alarms carry over; what it has not has a name of ours.
//!
//! Source: "Specification: Embedded metric format" of the CloudWatch user guide; "Monitoring RDS Proxy metrics" of the RDS user guide.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{
    ClientState, ConnectOutcome, Durations, LoginOutcome, NAMED_TENANTS, ServerState, Snapshot, TenantNumbers, TenantSnapshot,
    UpstreamSnapshot,
};

/// What of a client's states says that it is logged in.
const LOGGED_IN: [ClientState; 4] = [ClientState::Idle, ClientState::Waiting, ClientState::Active, ClientState::Pinned];

/// Writes what has happened from one line to the next.
#[derive(Debug)]
pub struct Embedded {
    namespace: String,
    proxy: String,
    before: Snapshot,
}

/// The metrics of one line.
#[derive(Debug, Default)]
struct Metrics(Vec<(&'static str, &'static str, Value)>);

impl Metrics {
    fn count(&mut self, name: &'static str, count: u64) {
        self.0.push((name, "Count", count.into()));
    }

    fn micros(&mut self, name: &'static str, nanos: u64, times: u64) {
        // What has not happened has taken no time that could be averaged.
        if let Some(each) = nanos.checked_div(times) {
            self.0.push((name, "Microseconds", (each / 1_000).into()));
        }
    }

    fn number(&mut self, name: &'static str, unit: &'static str, number: f64) {
        self.0.push((name, unit, number.into()));
    }
}

impl Embedded {
    /// From this moment on, under a namespace and with this `ProxyName`.
    pub fn new(namespace: &str, proxy: &str, now: Snapshot) -> Self {
        Self { namespace: namespace.to_owned(), proxy: proxy.to_owned(), before: now }
    }

    /// Lines for what has happened since the last: one for the whole proxy, one for each upstream (`Target`) and each tenant (`Tenant`), up to so many as `/metrics` has.
    /// `at` is the time in milliseconds since 1970.
    pub fn lines(&mut self, now: Snapshot, at: u64) -> Vec<String> {
        let before = std::mem::replace(&mut self.before, now);
        let now = &self.before;
        let mut lines = vec![self.line(at, None, whole(now, &before))];
        for upstream in &now.upstreams {
            let then = before.upstreams.iter().find(|then| then.name == upstream.name);
            lines.push(self.line(at, Some(("Target", &upstream.name)), target(upstream, then)));
        }
        let earlier: BTreeMap<&str, &TenantSnapshot> = before.tenants.iter().map(|tenant| (&*tenant.name, tenant)).collect();
        for TenantSnapshot { name, numbers, .. } in now.tenants.iter().filter(|tenant| !tenant.is_folded).take(NAMED_TENANTS) {
            let none = TenantNumbers::default();
            let then = earlier.get(&**name).map_or(&none, |then| &then.numbers);
            let mut metrics = Metrics::default();
            clients(&mut metrics, numbers, then);
            lines.push(self.line(at, Some(("Tenant", name)), metrics));
        }
        lines
    }

    fn line(&self, at: u64, about: Option<(&str, &str)>, metrics: Metrics) -> String {
        let mut dimensions = vec!["ProxyName"];
        let mut members = Map::new();
        members.insert("ProxyName".to_owned(), self.proxy.clone().into());
        if let Some((dimension, name)) = about {
            dimensions.push(dimension);
            members.insert(dimension.to_owned(), name.into());
        }
        let declared: Vec<Value> = metrics.0.iter().map(|(name, unit, _)| json!({ "Name": name, "Unit": unit })).collect();
        let directive = json!([{ "Namespace": self.namespace, "Dimensions": [dimensions], "Metrics": declared }]);
        members.insert("_aws".to_owned(), json!({ "Timestamp": at, "CloudWatchMetrics": directive }));
        members.extend(metrics.0.into_iter().map(|(name, _, value)| (name.to_owned(), value)));
        Value::Object(members).to_string()
    }
}

/// Of all tenants and upstreams together.
fn whole(now: &Snapshot, before: &Snapshot) -> Metrics {
    let sum = |snapshot: &Snapshot| {
        let mut sum = TenantNumbers::default();
        snapshot.tenants.iter().for_each(|tenant| sum.add(&tenant.numbers));
        sum
    };
    let mut metrics = Metrics::default();
    clients(&mut metrics, &sum(now), &sum(before));
    let of = |read: fn(&UpstreamSnapshot) -> u64| now.upstreams.iter().map(read).sum();
    metrics.count("DatabaseConnections", of(open));
    metrics.count("DatabaseConnectionsCurrentlyBorrowed", of(borrowed));
    metrics.count("MaxDatabaseConnectionsAllowed", of(|upstream| upstream.limit.into()));
    metrics
}

/// Of one upstream.
fn target(now: &UpstreamSnapshot, before: Option<&UpstreamSnapshot>) -> Metrics {
    let opened = |outcome: ConnectOutcome| now.connects[outcome].saturating_sub(before.map_or(0, |before| before.connects[outcome]));
    let (ok, failed) = (opened(ConnectOutcome::Ok), opened(ConnectOutcome::Refused) + opened(ConnectOutcome::Failed));
    let mut metrics = Metrics::default();
    metrics.number("AvailabilityPercentage", "Percent", if now.up { 100.0 } else { 0.0 });
    metrics.count("DatabaseConnections", open(now));
    metrics.count("DatabaseConnectionRequests", ok + failed);
    metrics.count("DatabaseConnectionsSetupSucceeded", ok);
    metrics.count("DatabaseConnectionsSetupFailed", failed);
    metrics.count("DatabaseConnectionsCurrentlyBorrowed", borrowed(now));
    metrics.count("MaxDatabaseConnectionsAllowed", now.limit.into());
    metrics.count("QueueDepth", now.queue.iter().map(|queue| queue.depth).sum());
    metrics.number("QueueWaitP99", "Milliseconds", now.pressure.queue_wait_p99_ms);
    metrics.number("Pressure", "None", now.pressure.pressure);
    metrics
}

/// Of some clients.
fn clients(metrics: &mut Metrics, now: &TenantNumbers, before: &TenantNumbers) {
    let connected =
        |numbers: &TenantNumbers| LOGGED_IN.iter().map(|state| u64::try_from(numbers.clients[*state]).unwrap_or(0)).sum::<u64>();
    let logins = |outcome: LoginOutcome| now.logins[outcome].saturating_sub(before.logins[outcome]);
    let (ok, denied) = (logins(LoginOutcome::Ok), logins(LoginOutcome::Denied));
    let (refused, failed) = (logins(LoginOutcome::Refused), logins(LoginOutcome::Failed));
    let spent = |of: fn(&TenantNumbers) -> &Durations| {
        let (now, before) = (of(now), of(before));
        (now.sum_nanos.saturating_sub(before.sum_nanos), now.count().saturating_sub(before.count()))
    };
    let (waited, waits) = spent(|numbers| &numbers.queue_wait);
    let (worked, requests) = spent(|numbers| &numbers.query);
    let total = |counts: &super::Sparse<u64>| counts.values().sum::<u64>();
    metrics.count("ClientConnections", connected(now));
    metrics.count("ClientConnectionsReceived", ok + denied + refused + failed);
    metrics.count("ClientConnectionsSetupSucceeded", ok);
    metrics.count("ClientConnectionsSetupFailedAuth", denied);
    metrics.count("ClientConnectionsClosed", (connected(before) + ok).saturating_sub(connected(now)));
    metrics.count("QueryRequests", now.queries.saturating_sub(before.queries));
    metrics.micros("QueryDatabaseResponseLatency", worked, requests);
    metrics.micros("QueryResponseLatency", worked.saturating_add(waited), requests);
    metrics.micros("DatabaseConnectionsBorrowLatency", waited, waits);
    metrics.count("DatabaseConnectionsCurrentlySessionPinned", now.pinned.values().map(|level| u64::try_from(*level).unwrap_or(0)).sum());
    metrics.count("Refused", total(&now.refused).saturating_sub(total(&before.refused)));
}

/// Server connections that are there.
fn open(upstream: &UpstreamSnapshot) -> u64 {
    let states = [ServerState::Idle, ServerState::Leased, ServerState::Mending, ServerState::Listening];
    states.into_iter().map(|state| upstream.connections[state]).sum()
}

/// Those that clients have.
fn borrowed(upstream: &UpstreamSnapshot) -> u64 {
    [ServerState::Leased, ServerState::Mending].into_iter().map(|state| upstream.connections[state]).sum()
}
