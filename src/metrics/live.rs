//! What the page shows, out of the same snapshot as everything else: small, whatever the number of tenants.

use std::collections::BTreeMap;

use serde::Serialize;

use super::labels::{By, ClientState, Lifecycle, ServerState, Sparse};
use super::{Durations, Pressure, RecentFault, Snapshot, TenantNumbers, TenantSnapshot, UpstreamSnapshot};

/// How many tenants of each ranking are told.
pub const RANKED: usize = 50;

#[derive(Serialize)]
struct Page<'a> {
    version: &'static str,
    state: Lifecycle,
    uptime_seconds: f64,
    bounds_seconds: &'a [f64],
    upstreams: Vec<Upstream<'a>>,
    /// All tenants together, or the one that was asked for.
    all: Numbers<'a>,
    /// How many tenants there are.
    tenant_count: usize,
    tenants: Vec<Tenant<'a>>,
    recent_faults: Vec<&'a RecentFault>,
}

#[derive(Serialize)]
struct Upstream<'a> {
    name: &'a str,
    up: bool,
    limit: u32,
    suggested_limit: Option<u32>,
    proxies: Option<u32>,
    connections: &'a By<ServerState, u64>,
    waiting: u64,
    #[serde(flatten)]
    pressure: Pressure,
}

#[derive(Serialize)]
struct Numbers<'a> {
    clients: &'a By<ClientState, i64>,
    queue_wait: &'a Durations,
    lease: &'a Durations,
    query: &'a Durations,
    transactions: u64,
    queries: u64,
    bytes_in: u64,
    bytes_out: u64,
    refused: &'a Sparse<u64>,
    pinned: &'a Sparse<i64>,
    pins: &'a Sparse<u64>,
}

#[derive(Serialize)]
struct Tenant<'a> {
    name: &'a str,
    clients: i64,
    waiting: i64,
    transactions: u64,
    lease_seconds: f64,
    wait_seconds: f64,
    refused: u64,
}

impl Snapshot {
    /// What the page shows: of all, with the tenants that have had the most server time and the most refusals; or of one tenant, if there is one of that name.
    pub fn live_json(&self, tenant: Option<&str>) -> Option<String> {
        let one = match tenant {
            None => None,
            Some(name) => Some(self.tenant(name)?),
        };
        let mut sum = TenantNumbers::default();
        match one {
            Some(tenant) => sum.add(&tenant.numbers),
            None => self.tenants.iter().for_each(|tenant| sum.add(&tenant.numbers)),
        }
        let page = Page {
            version: self.version,
            state: self.state,
            uptime_seconds: self.uptime_seconds,
            bounds_seconds: &self.bounds_seconds,
            upstreams: self.upstreams.iter().filter_map(|upstream| upstream_of(upstream, tenant)).collect(),
            all: numbers(&sum),
            tenant_count: self.tenants.len(),
            tenants: if one.is_some() { Vec::new() } else { self.ranked() },
            recent_faults: self.recent_faults.iter().filter(|told| tenant.is_none() || told.tenant.as_deref() == tenant).collect(),
        };
        // Every key is text and every number finite, so that there is nothing to fail.
        Some(serde_json::to_string(&page).unwrap_or_default())
    }

    fn ranked(&self) -> Vec<Tenant<'_>> {
        let mut chosen: BTreeMap<&str, &TenantSnapshot> = BTreeMap::new();
        let refused = |tenant: &TenantSnapshot| tenant.numbers.refused.values().sum::<u64>();
        let mut all: Vec<&TenantSnapshot> = self.tenants.iter().collect();
        all.sort_by_key(|tenant| std::cmp::Reverse(tenant.numbers.lease.sum_nanos));
        chosen.extend(all.iter().take(RANKED).map(|tenant| (tenant.name.as_str(), *tenant)));
        all.sort_by_key(|tenant| std::cmp::Reverse(refused(tenant)));
        chosen.extend(all.iter().take(RANKED).map(|tenant| (tenant.name.as_str(), *tenant)));
        let row = |tenant: &TenantSnapshot| (tenant.numbers.clients.iter().map(|(_, count)| count).sum(), refused(tenant));
        let told = chosen.into_iter().map(|(name, tenant)| {
            let (clients, refused) = row(tenant);
            let numbers = &tenant.numbers;
            Tenant {
                name,
                clients,
                waiting: numbers.clients[ClientState::Waiting],
                transactions: numbers.transactions,
                lease_seconds: numbers.lease.sum_seconds(),
                wait_seconds: numbers.queue_wait.sum_seconds(),
                refused,
            }
        });
        told.collect()
    }
}

/// An upstream as all see it, or as one tenant does; none where it has no clients there and had none lately.
fn upstream_of<'a>(upstream: &'a UpstreamSnapshot, tenant: Option<&str>) -> Option<Upstream<'a>> {
    let pressure = match tenant {
        None => upstream.pressure,
        Some(name) => upstream.tenants.iter().find(|(tenant, _)| tenant == name)?.1,
    };
    let counts = |of: &str| tenant.is_none_or(|name| of == name);
    let waiting = upstream.queue.iter().filter(|queue| counts(&queue.tenant)).map(|queue| queue.depth).sum();
    Some(Upstream {
        name: &upstream.name,
        up: upstream.up,
        limit: upstream.limit,
        suggested_limit: upstream.suggested_limit,
        proxies: upstream.proxies,
        connections: &upstream.connections,
        waiting,
        pressure,
    })
}

fn numbers(sum: &TenantNumbers) -> Numbers<'_> {
    Numbers {
        clients: &sum.clients,
        queue_wait: &sum.queue_wait,
        lease: &sum.lease,
        query: &sum.query,
        transactions: sum.transactions,
        queries: sum.queries,
        bytes_in: sum.bytes_in,
        bytes_out: sum.bytes_out,
        refused: &sum.refused,
        pinned: &sum.pinned,
        pins: &sum.pins,
    }
}
