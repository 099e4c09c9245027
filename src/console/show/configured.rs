//! SHOW DATABASES, USERS and CONFIG: what the configuration says, and how much of it is in use.

use std::collections::BTreeSet;

use super::connections::mode;
use super::{Column, Row, View, int, text};
use crate::config::{Applies, Config, Database, Endpoint, Upstream};
use crate::console::table::Value;
use crate::session::CONSOLE_NAMES;

pub(super) const DATABASES: [Column; 20] = [
    text("name"),
    text("host"),
    int("port"),
    text("database"),
    text("force_user"),
    int("pool_size"),
    int("min_pool_size"),
    int("reserve_pool_size"),
    int("server_lifetime"),
    text("pool_mode"),
    text("load_balance_hosts"),
    int("max_connections"),
    int("current_connections"),
    int("max_client_connections"),
    int("current_client_connections"),
    int("paused"),
    int("disabled"),
    text("upstream"),
    int("strict"),
    // Of PgBouncer before 1.8, for tools of that time.
    int("reserve_pool"),
];

pub(super) const USERS: [Column; 10] = [
    text("name"),
    text("pool_size"),
    text("reserve_pool_size"),
    text("pool_mode"),
    int("max_user_connections"),
    int("current_connections"),
    int("max_user_client_connections"),
    int("current_client_connections"),
    text("server_user"),
    text("console"),
];

pub(super) const CONFIG: [Column; 5] = [text("key"), text("value"), text("default"), text("changeable"), text("applies")];

pub(super) fn databases(view: &View) -> Vec<Row> {
    let config = view.house.config.load();
    // Those that are named, and those that clients of a wildcard have asked for.
    let asked = view.clients.iter().map(|client| client.database.clone());
    let names: BTreeSet<String> = config.databases.keys().cloned().chain(asked).collect();
    let mut rows: Vec<Row> = names.iter().filter_map(|name| database_row(view, &config, name, config.database(name)?)).collect();
    rows.push(console_row());
    rows
}

fn database_row(view: &View, config: &Config, name: &str, database: &Database) -> Option<Row> {
    let upstream = config.upstreams.get(&database.upstream)?;
    let (host, port) = places(upstream);
    let connections = view.servers.iter().filter(|server| server.pool.key.database == name.as_bytes()).count();
    let clients = view.clients.iter().filter(|client| client.database == name).count();
    let gates = &view.house.gates;
    Some(vec![
        name.into(),
        host.into(),
        port.into(),
        database.dbname.as_deref().unwrap_or(name).into(),
        Value::Null,
        upstream.max_connections.into(),
        upstream.min_idle.into(),
        0_u32.into(),
        upstream.server_lifetime.map_or(0, |lifetime| lifetime.as_secs()).into(),
        mode(database.pool_mode).into(),
        Value::Null,
        upstream.max_connections.into(),
        connections.into(),
        config.clients.max_clients.into(),
        clients.into(),
        gates.is_paused(name).into(),
        gates.is_disabled(name).into(),
        upstream.name.as_str().into(),
        database.strict.into(),
        0_u32.into(),
    ])
}

/// The admin database itself.
fn console_row() -> Row {
    let mut row: Row = DATABASES.iter().map(|_| Value::Null).collect();
    for (column, value) in DATABASES.iter().zip(&mut row) {
        *value = match column.name {
            "name" | "database" => CONSOLE_NAMES[0].into(),
            "pool_mode" => "statement".into(),
            "host" | "force_user" | "load_balance_hosts" | "upstream" => Value::Null,
            _ => 0_u32.into(),
        };
    }
    row
}

/// The hosts of an upstream, and the port of the first.
fn places(upstream: &Upstream) -> (String, u32) {
    let host = |endpoint: &Endpoint| match endpoint {
        Endpoint::Tcp { host, .. } => host.clone(),
        Endpoint::Unix(file) => file.display().to_string(),
    };
    let port = match upstream.endpoints.first() {
        Some(Endpoint::Tcp { port, .. }) => (*port).into(),
        Some(Endpoint::Unix(_)) | None => 0,
    };
    (upstream.endpoints.iter().map(host).collect::<Vec<_>>().join(","), port)
}

pub(super) fn users(view: &View) -> Vec<Row> {
    let config = view.house.config.load();
    let known = config.users.keys().cloned();
    let names: BTreeSet<String> = known.chain(view.clients.iter().map(|client| client.user.clone())).collect();
    let row = |name: &String| {
        let connections = view.servers.iter().filter(|server| server.pool.key.user == name.as_bytes()).count();
        let clients = view.clients.iter().filter(|client| client.user == *name).count();
        let role = match &config.console {
            console if console.admin_users.contains(name) => Value::from("admin"),
            console if console.stats_users.contains(name) => Value::from("stats"),
            _ => Value::Null,
        };
        vec![
            name.as_str().into(),
            "".into(),
            "".into(),
            Value::Null,
            0_u32.into(),
            connections.into(),
            0_u32.into(),
            clients.into(),
            config.users.get(name).map(|user| user.server_user.as_str()).into(),
            role,
        ]
    };
    names.iter().map(row).collect()
}

pub(super) fn config(view: &View) -> Vec<Row> {
    let config = view.house.config.load();
    let row = |setting: crate::config::Shown| {
        let (changeable, applies) = match setting.applies {
            Applies::AtOnce => ("yes", "at once"),
            Applies::NextConnection => ("yes", "next connection"),
            Applies::Restart => ("no", "restart"),
        };
        vec![setting.path.into(), setting.value.into(), setting.default.into(), changeable.into(), applies.into()]
    };
    config.shown().map(row).collect()
}
