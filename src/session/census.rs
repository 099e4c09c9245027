//! What is told of clients to operators: plain data, taken on the clients' own worker.

use std::time::Duration;

use super::phase::Phase;
use super::pins::Pin;
use super::watch::Watch;
use crate::net::{Moment, Peer};
use crate::pool::ledger::{PoolId, ServerId};
use crate::wire::startup::Replication;

/// Whose sessions an operator ends.
#[derive(Debug, Clone)]
pub enum Victims {
    /// Everybody's.
    All,
    /// Those of a database.
    Database(String),
    /// One client's, by its number.
    Client(u32),
}

/// What protects a client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// Nothing.
    Plain,
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

impl Protection {
    /// What a TLS version's name stands for.
    pub fn of(version: Option<&str>) -> Self {
        match version {
            None => Self::Plain,
            Some("TLSv1.2") => Self::Tls12,
            Some(_) => Self::Tls13,
        }
    }

    /// As PostgreSQL writes it; empty where there is none.
    pub fn label(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Tls12 => "TLSv1.2",
            Self::Tls13 => "TLSv1.3",
        }
    }
}

/// A client.
#[derive(Debug, Clone)]
pub struct ClientEntry {
    /// Its number; also the first word of its cancel key.
    pub id: u32,
    /// The user that it logged in as.
    pub user: String,
    /// The database that it asked for.
    pub database: String,
    /// Its tenant.
    pub tenant: String,
    /// The place of its upstream among the upstreams.
    pub upstream: usize,
    /// Its pool there.
    pub pool: PoolId,
    /// The kind of replication session, if it is one.
    pub replication: Option<Replication>,
    /// What it does.
    pub phase: Phase,
    /// For how long.
    pub since: Duration,
    /// Why it keeps its server connection for longer than its transactions, if it does.
    pub pin: Option<&'static str>,
    /// The server connection that it holds.
    pub server: Option<ServerId>,
    /// Where it comes from.
    pub peer: Peer,
    /// When it logged in, in seconds since 1970.
    pub connected: u32,
    /// What protects its connection.
    pub protection: Protection,
    /// What it calls itself.
    pub application_name: String,
}

impl ClientEntry {
    pub(super) fn of(id: u32, watch: &Watch, now: Moment) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (timing, key) = (watch.timing(), &watch.pool.key);
        let holds = matches!(timing.phase, Phase::Running | Phase::Open | Phase::Pinned);
        Self {
            id,
            user: text(&key.user),
            database: text(&key.database),
            tenant: watch.tenant.borrow().name.clone(),
            upstream: watch.pool.upstream.index,
            pool: watch.pool.id,
            replication: key.replication,
            phase: timing.phase,
            since: now.saturating_duration_since(timing.since),
            pin: watch.pin().map(Pin::label),
            server: holds.then(|| watch.server()),
            peer: watch.peer,
            connected: watch.connected,
            protection: watch.protection.get(),
            application_name: watch.with_settings(|settings| settings.value("application_name").map(text)).unwrap_or_default(),
        }
    }
}
