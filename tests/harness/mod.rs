//! What the integration tests stand on: a real PostgreSQL, the real proxy, and peers that misbehave.
//!
//! - [`Postgres`]: a private cluster of the test, gone when the test is, however it ends.
//! - [`Proxy`]: the `pgweir` program with a configuration built by the test.
//! - [`Wire`]: a client that sends any bytes at all and reads frames with a deadline.
//! - [`Script`]: a server that does what PostgreSQL never does.
//! - [`Golden`]: one conversation played to PostgreSQL directly and through the proxy, which must not differ.
//! - [`Admin`]: a session of an admin database; [`PgBouncer`]: a real one to compare with.
//! - [`Caller`]: a caller of SQL over HTTP; [`Issuer`]: one who signs tokens.
//! - [`Faulty`]: a network between two ends that cuts, delays, stalls and half-closes.
//! - [`eventually`]: waits for a condition, never for a time.
//!
//! Every wait in here has a deadline; a deadline that passes fails the test and says what was awaited.

#![allow(dead_code, unused_imports, reason = "every test file takes the whole harness and uses its part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a harness fails its test by panicking, with words that say what was awaited"
)]

mod admin;
mod api;
mod certs;
mod endpoint;
mod faulty;
pub mod frames;
mod golden;
mod http;
mod inside;
mod issuer;
mod keeper;
mod light;
mod postgres;
mod proxy;
mod received;
mod script;
mod template;
mod transcript;
mod wire;

use std::time::Duration;

pub use admin::{Admin, PgBouncer, Row as AdminRow};
pub use api::{APP, Caller, Reply};
pub use certs::{Ca, Pem};
pub use endpoint::Endpoint;
pub use faulty::{Faulty, Way};
pub use golden::{Elsewhere, Golden, Neighbour, compare_leniently, ping};
pub use http::get as http_get;
pub use inside::{start_inside, start_inside_with};
pub use issuer::{Issuer, in_an_hour, with};
pub use light::Light;
pub use postgres::{Postgres, PostgresOptions, Stop};
pub use proxy::{Proxy, ProxyOptions};
pub use received::{Frame, ServerError};
pub use script::{Peer, Script};
pub use wire::Wire;

/// How long a single wait of the harness may last before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Polls `condition` until it holds; fails the test, naming `what`, when it still does not after `within`.
pub async fn eventually<F: Future<Output = bool>>(what: &str, within: Duration, mut condition: impl FnMut() -> F) {
    let polling = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(within, polling).await.is_ok(), "not within {within:?}: {what}");
}

/// Awaits `future` for at most [`PATIENCE`]; fails the test, naming `what`, when it takes longer.
pub async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    let Ok(value) = tokio::time::timeout(PATIENCE, future).await else { panic!("not within {PATIENCE:?}: {what}") };
    value
}

/// A TCP port of 127.0.0.1 that nobody listens on just now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
