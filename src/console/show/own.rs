//! The tables that PgBouncer has no counterpart for: tenants, queues, pins, faults, upstreams.

use std::time::Duration;

use super::{Column, Row, View, big, int, real, text};
use crate::config::LimitSetting;
use crate::console::table::Value;
use crate::metrics::{ClientState, ServerState, TenantSnapshot};
use crate::session::{ClientEntry, Phase};

pub(super) const TENANTS: [Column; 19] = [
    text("tenant"),
    int("clients"),
    int("cl_idle"),
    int("cl_waiting"),
    int("cl_active"),
    int("cl_pinned"),
    int("max_clients"),
    int("max_server_connections"),
    int("reserved_server_connections"),
    int("weight"),
    int("max_queue"),
    big("queue_timeout_ms"),
    big("xact_count"),
    big("query_count"),
    big("server_time"),
    big("wait_time"),
    big("refused"),
    text("upstream"),
    big("logins"),
];

pub(super) const QUEUES: [Column; 9] = [
    text("upstream"),
    text("tenant"),
    int("waiting"),
    int("maxwait"),
    int("maxwait_us"),
    real("queue_wait_p99_ms"),
    big("retry_after_ms"),
    big("suggested_concurrency"),
    text("state"),
];

pub(super) const PINS: [Column; 4] = [text("tenant"), text("reason"), int("clients"), big("total")];

pub(super) const FAULTS: [Column; 3] = [text("tenant"), text("fault"), big("total")];

pub(super) const UPSTREAMS: [Column; 16] = [
    text("upstream"),
    int("up"),
    text("limit"),
    int("max_connections"),
    int("in_force"),
    int("suggested"),
    int("sv_opening"),
    int("sv_idle"),
    int("sv_leased"),
    int("sv_mending"),
    int("sv_listening"),
    int("sv_closing"),
    int("waiting"),
    real("pressure"),
    big("moves"),
    int("proxies"),
];

pub(super) fn tenants(view: &View) -> Vec<Row> {
    let config = view.house.config.load();
    let row = |tenant: &TenantSnapshot| {
        let numbers = &tenant.numbers;
        let configured = config.tenants.iter().find(|configured| configured.name == tenant.name);
        let limit = |read: fn(&crate::config::Limits) -> Value| configured.map_or(Value::Null, |tenant| read(&tenant.limits));
        let of = |state: ClientState| Value::from(numbers.clients[state]);
        let all: i64 = ClientState::ALL.iter().map(|state| numbers.clients[*state]).sum();
        vec![
            tenant.name.as_str().into(),
            all.into(),
            of(ClientState::Idle),
            of(ClientState::Waiting),
            of(ClientState::Active),
            of(ClientState::Pinned),
            limit(|limits| limits.max_clients.into()),
            limit(|limits| limits.max_server_connections.into()),
            limit(|limits| limits.reserved_server_connections.into()),
            limit(|limits| limits.weight.into()),
            limit(|limits| limits.max_queue.into()),
            limit(|limits| limits.queue_timeout.map_or(0, millis).into()),
            numbers.transactions.into(),
            numbers.queries.into(),
            (numbers.lease.sum_nanos / 1_000).into(),
            (numbers.queue_wait.sum_nanos / 1_000).into(),
            numbers.refused.values().sum::<u64>().into(),
            configured.and_then(|tenant| tenant.upstream.as_deref()).into(),
            numbers.logins.iter().map(|(_, count)| count).sum::<u64>().into(),
        ]
    };
    view.snapshot.tenants.iter().map(row).collect()
}

/// Of each upstream all tenants that have clients there, or have had lately.
pub(super) fn queues(view: &View) -> Vec<Row> {
    let mut rows = Vec::new();
    for (index, upstream) in view.snapshot.upstreams.iter().enumerate() {
        for (tenant, pressure) in &upstream.tenants {
            let waits = |client: &&ClientEntry| client.phase == Phase::Waiting && client.upstream == index && client.tenant == *tenant;
            let longest = view.clients.iter().filter(waits).map(|client| client.since).max().unwrap_or_default();
            let waiting = upstream.queue.iter().find(|queue| queue.tenant == *tenant).map_or(0, |queue| queue.depth);
            rows.push(vec![
                upstream.name.as_str().into(),
                tenant.as_str().into(),
                waiting.into(),
                longest.as_secs().into(),
                longest.subsec_micros().into(),
                pressure.queue_wait_p99_ms.into(),
                pressure.retry_after_ms.into(),
                pressure.suggested_concurrency.into(),
                pressure.state.label().into(),
            ]);
        }
    }
    rows
}

pub(super) fn pins(view: &View) -> Vec<Row> {
    let of = |tenant: &TenantSnapshot| {
        let row = |(reason, total): (&&'static str, &u64)| {
            let now = tenant.numbers.pinned.get(reason).copied().unwrap_or(0);
            vec![tenant.name.as_str().into(), (*reason).into(), now.into(), (*total).into()]
        };
        tenant.numbers.pins.iter().map(row).collect::<Vec<_>>()
    };
    view.snapshot.tenants.iter().flat_map(of).collect()
}

pub(super) fn faults(view: &View) -> Vec<Row> {
    let of = |tenant: &TenantSnapshot| {
        let row = |(fault, total): (&&'static str, &u64)| vec![tenant.name.as_str().into(), (*fault).into(), (*total).into()];
        tenant.numbers.refused.iter().map(row).collect::<Vec<_>>()
    };
    view.snapshot.tenants.iter().flat_map(of).collect()
}

pub(super) fn upstreams(view: &View) -> Vec<Row> {
    let config = view.house.config.load();
    let rows = view.snapshot.upstreams.iter().map(|upstream| {
        let configured = config.upstreams.get(&upstream.name);
        let limit = configured.map(|configured| match configured.limit {
            LimitSetting::Fixed => "fixed",
            LimitSetting::Observe => "observe",
            LimitSetting::Adaptive => "adaptive",
        });
        let of = |state: ServerState| Value::from(upstream.connections[state]);
        vec![
            upstream.name.as_str().into(),
            upstream.up.into(),
            limit.into(),
            configured.map(|configured| configured.max_connections).into(),
            upstream.limit.into(),
            upstream.suggested_limit.into(),
            of(ServerState::Opening),
            of(ServerState::Idle),
            of(ServerState::Leased),
            of(ServerState::Mending),
            of(ServerState::Listening),
            of(ServerState::Closing),
            upstream.queue.iter().map(|queue| queue.depth).sum::<u64>().into(),
            upstream.pressure.pressure.into(),
            upstream.moves.into(),
            upstream.proxies.into(),
        ]
    });
    rows.collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
