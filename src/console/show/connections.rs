//! SHOW POOLS, CLIENTS, SERVERS and SOCKETS: who is connected, and what they do.
//!
//! A client without a request is `active` or `idle` as PgBouncer has it: in POOLS it counts among `cl_active`, in CLIENTS its state is `idle`. Requests to
//! cancel hold no place in a pool here, so that their columns are 0.

use std::collections::HashMap;
use std::time::{Duration, UNIX_EPOCH};

use super::{Column, Row, View, big, int, moment, text};
use crate::config::PoolMode;
use crate::console::table::Value;
use crate::net::{Address, Peer};
use crate::pool::ledger::{PoolId, ServerId, State};
use crate::pool::{Pool, ServerEntry};
use crate::session::{ClientEntry, Phase};
use crate::wire::startup::Replication;

pub(super) const POOLS: [Column; 23] = [
    text("database"),
    text("user"),
    int("cl_active"),
    int("cl_waiting"),
    int("cl_active_cancel_req"),
    int("cl_waiting_cancel_req"),
    int("sv_active"),
    int("sv_active_cancel"),
    int("sv_being_canceled"),
    int("sv_idle"),
    int("sv_used"),
    int("sv_tested"),
    int("sv_login"),
    int("maxwait"),
    int("maxwait_us"),
    text("pool_mode"),
    text("load_balance_hosts"),
    text("upstream"),
    int("sv_closing"),
    int("cl_pinned"),
    int("paused"),
    int("sv_listening"),
    int("cl_listening"),
];

pub(super) const CLIENTS: [Column; 24] = connection_and([text("tenant"), int("pinned"), text("pin_reason")]);

pub(super) const SERVERS: [Column; 22] = connection_and([text("upstream")]);

pub(super) const SOCKETS: [Column; 28] = connection_and([
    int("recv_pos"),
    int("pkt_pos"),
    int("pkt_remain"),
    int("send_pos"),
    int("send_remain"),
    int("pkt_avail"),
    int("send_avail"),
]);

/// The columns that all connections have, and more.
const fn connection_and<const MORE: usize, const ALL: usize>(more: [Column; MORE]) -> [Column; ALL] {
    let mut columns = [CONNECTION[0]; ALL];
    let mut at = 1;
    while at < ALL {
        columns[at] = if at < CONNECTION.len() { CONNECTION[at] } else { more[at - CONNECTION.len()] };
        at += 1;
    }
    columns
}

const CONNECTION: [Column; 21] = [
    text("type"),
    text("user"),
    text("database"),
    text("replication"),
    text("state"),
    text("addr"),
    int("port"),
    text("local_addr"),
    int("local_port"),
    text("connect_time"),
    text("request_time"),
    int("wait"),
    int("wait_us"),
    int("close_needed"),
    text("ptr"),
    text("link"),
    int("remote_pid"),
    text("tls"),
    text("application_name"),
    int("prepared_statements"),
    big("id"),
];

/// The buffers of PgBouncer's sockets, of which there are none here.
const BUFFERS: usize = 7;

/// What the clients of one pool do.
#[derive(Debug, Clone, Copy, Default)]
struct Crowd {
    active: u32,
    waiting: u32,
    pinned: u32,
    longest: Duration,
}

pub(super) fn pools(view: &View) -> Vec<Row> {
    let mut crowds: HashMap<(usize, PoolId), Crowd> = HashMap::new();
    for client in &view.clients {
        let crowd = crowds.entry((client.upstream, client.pool)).or_default();
        crowd.pinned += u32::from(client.pin.is_some());
        if client.phase == Phase::Waiting {
            crowd.waiting += 1;
            crowd.longest = crowd.longest.max(client.since);
        } else {
            crowd.active += 1;
        }
    }
    let upstreams = view.house.upstreams();
    let pools = upstreams.iter().flat_map(|upstream| upstream.pools());
    pools.map(|pool| pool_row(view, &pool, crowds.get(&(pool.upstream.index, pool.id)).copied().unwrap_or_default())).collect()
}

fn pool_row(view: &View, pool: &Pool, crowd: Crowd) -> Row {
    let own = || view.servers.iter().filter(|server| server.pool.id == pool.id && server.pool.upstream.index == pool.upstream.index);
    let count = |name: &str| own().filter(|server| server_state(server) == name).count();
    let database = lossy(&pool.key.database);
    let is_paused = view.house.gates.is_paused(&database);
    vec![
        database.into(),
        lossy(&pool.key.user).into(),
        crowd.active.into(),
        crowd.waiting.into(),
        0_u32.into(),
        0_u32.into(),
        count("active").into(),
        0_u32.into(),
        0_u32.into(),
        count("idle").into(),
        count("used").into(),
        count("tested").into(),
        count("new").into(),
        crowd.longest.as_secs().into(),
        crowd.longest.subsec_micros().into(),
        mode(pool.mode).into(),
        Value::Null,
        pool.upstream.name.as_str().into(),
        count("closing").into(),
        crowd.pinned.into(),
        is_paused.into(),
        count("listening").into(),
        pool.switchboard.clients().into(),
    ]
}

pub(super) fn mode(mode: PoolMode) -> &'static str {
    match mode {
        PoolMode::Transaction => "transaction",
        PoolMode::Session => "session",
        PoolMode::Statement => "statement",
    }
}

pub(super) fn clients(view: &View) -> Vec<Row> {
    let row = |client: &ClientEntry| {
        let own = vec![client.tenant.as_str().into(), client.pin.is_some().into(), client.pin.unwrap_or_default().into()];
        [client_row(view, client, client_state(client)), own].concat()
    };
    view.clients.iter().map(row).collect()
}

pub(super) fn servers(view: &View) -> Vec<Row> {
    let holders = holders(view);
    let row = |server: &ServerEntry| {
        [server_row(view, server, server_state(server), &holders), vec![server.pool.upstream.name.as_str().into()]].concat()
    };
    view.servers.iter().map(row).collect()
}

pub(super) fn sockets(view: &View) -> Vec<Row> {
    some_sockets(view, |_| true, |_| true)
}

/// Those that something is under way on.
pub(super) fn active_sockets(view: &View) -> Vec<Row> {
    let works = |server: &ServerEntry| !matches!(server.state, State::Idle);
    some_sockets(view, |client| !matches!(client.phase, Phase::Idle | Phase::Login), works)
}

fn some_sockets(view: &View, is_client: impl Fn(&ClientEntry) -> bool, is_server: impl Fn(&ServerEntry) -> bool) -> Vec<Row> {
    let holders = holders(view);
    let clients = view.clients.iter().filter(|client| is_client(client)).map(|client| {
        let state = if client.phase == Phase::Waiting { "cl_waiting" } else { "cl_active" };
        client_row(view, client, state)
    });
    let servers = view.servers.iter().filter(|server| is_server(server)).map(|server| {
        let state = match server_state(server) {
            "new" => "sv_login".to_owned(),
            state => format!("sv_{state}"),
        };
        server_row(view, server, &state, &holders)
    });
    clients.chain(servers).map(|row| row.into_iter().chain(std::iter::repeat_n(Value::Null, BUFFERS)).collect()).collect()
}

fn client_state(client: &ClientEntry) -> &'static str {
    match client.phase {
        Phase::Login | Phase::Idle => "idle",
        Phase::Waiting => "waiting",
        Phase::Running | Phase::Open | Phase::Pinned => "active",
    }
}

/// As PgBouncer calls it: `used` is an idle one that is checked before it is given to a client.
fn server_state(server: &ServerEntry) -> &'static str {
    match server.state {
        State::Opening => "new",
        State::Idle if server.since >= server.pool.upstream.times.load().check_after => "used",
        State::Idle => "idle",
        State::Leased(_) => "active",
        State::Mending(_) => "tested",
        State::Listening => "listening",
        State::Closing => "closing",
    }
}

/// Which client holds which server connection.
fn holders(view: &View) -> HashMap<(usize, ServerId), u32> {
    view.clients.iter().filter_map(|client| Some(((client.upstream, client.server?), client.id))).collect()
}

fn client_row(view: &View, client: &ClientEntry, state: &str) -> Row {
    let (address, port, pid) = match client.peer {
        Peer::Tcp(address) => (address.ip().to_canonical().to_string(), address.port(), 0),
        Peer::Unix { pid, .. } => ("unix".to_owned(), 0, pid),
        Peer::InProcess => ("in-process".to_owned(), 0, 0),
    };
    let wait = if client.phase == Phase::Waiting { client.since } else { Duration::ZERO };
    vec![
        "C".into(),
        client.user.as_str().into(),
        client.database.as_str().into(),
        replication(client.replication).into(),
        state.into(),
        address.into(),
        u32::from(port).into(),
        Value::Null,
        Value::Null,
        moment(UNIX_EPOCH + Duration::from_secs(client.connected.into())).into(),
        view.now.checked_sub(client.since).map(moment).into(),
        wait.as_secs().into(),
        wait.subsec_micros().into(),
        false.into(),
        client_name(client.id).into(),
        client.server.map(|server| server_name(client.upstream, server)).unwrap_or_default().into(),
        i64::from(pid).into(),
        client.protection.label().into(),
        client.application_name.as_str().into(),
        Value::Null,
        client.id.into(),
    ]
}

fn server_row(view: &View, server: &ServerEntry, state: &str, holders: &HashMap<(usize, ServerId), u32>) -> Row {
    let (upstream, key) = (&server.pool.upstream, &server.pool.key);
    let open = server.open.as_ref();
    let (address, port) = match open.map(|open| &open.card.address) {
        Some(Address::Tcp(address)) => (Some(address.ip().to_string()), address.port()),
        Some(Address::Unix(file)) => (Some(file.display().to_string()), 0),
        None => (None, 0),
    };
    let holder = holders.get(&(upstream.index, server.id)).filter(|_| matches!(server.state, State::Leased(_)));
    vec![
        "S".into(),
        lossy(&key.user).into(),
        lossy(&key.database).into(),
        replication(key.replication).into(),
        state.into(),
        address.into(),
        u32::from(port).into(),
        Value::Null,
        Value::Null,
        open.map(|open| moment(open.at)).into(),
        view.now.checked_sub(server.since).map(moment).into(),
        0_u32.into(),
        0_u32.into(),
        (server.state == State::Closing).into(),
        server_name(upstream.index, server.id).into(),
        holder.map(|client| client_name(*client)).unwrap_or_default().into(),
        open.map(|open| open.card.pid).into(),
        open.and_then(|open| open.tls).unwrap_or_default().into(),
        Value::Null,
        Value::Null,
        server.id.0.into(),
    ]
}

fn client_name(id: u32) -> String {
    format!("client {id}")
}

fn server_name(upstream: usize, id: ServerId) -> String {
    format!("server {upstream}/{}", id.0)
}

fn replication(kind: Option<Replication>) -> &'static str {
    match kind {
        None => "none",
        Some(Replication::Logical) => "logical",
        Some(Replication::Physical) => "physical",
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
