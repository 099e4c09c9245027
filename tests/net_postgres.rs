//! TLS toward a real PostgreSQL, with tokio-postgres over our connection.

#![allow(clippy::unwrap_used, reason = "a test stops at whatever surprises it")]

mod harness;

use std::path::PathBuf;
use std::time::Duration;

use harness::Postgres;
use pgweir::net::tls::{Attempt, CaSource, ServerTls, ServerTlsSource, SslMode, SslNegotiation, negotiate_server_tls};
use pgweir::net::{ConnectOptions, Found, Io, NegotiationError, connect};
use tokio_postgres::config::SslMode as Asked;
use tokio_postgres::{Config, NoTls};

const OPTIONS: ConnectOptions = ConnectOptions { timeout: Duration::from_secs(5), keepalive: None, user_timeout: None };

fn tls(mode: SslMode, negotiation: SslNegotiation, ca: Option<PathBuf>) -> ServerTls {
    ServerTls::load(&ServerTlsSource { mode, negotiation, ca: ca.map(CaSource::File), pair: None }).unwrap()
}

async fn reach(postgres: &Postgres, tls: &ServerTls, attempt: Attempt) -> Result<Io, NegotiationError> {
    let Found { io, .. } = connect("127.0.0.1", postgres.port(), &OPTIONS).await.unwrap();
    negotiate_server_tls(io, tls, attempt, "127.0.0.1").await
}

/// What the server says of the connection: whether it has TLS, and which. Then a few megabytes each way.
async fn converse(io: Io) -> (bool, Option<String>, Option<String>) {
    let mut config = Config::new();
    config.user("postgres").password("postgres").dbname("app").ssl_mode(Asked::Disable);
    let (client, connection) = config.connect_raw(io, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let row = client.query_one("select ssl, version, cipher from pg_stat_ssl where pid = pg_backend_pid()", &[]).await.unwrap();
    let large = "x".repeat(3_000_000);
    let back: String = client.query_one("select $1::text || 'y'", &[&large]).await.unwrap().get(0);
    assert!(back.len() == 3_000_001 && back.ends_with("xy"));
    drop(client);
    connection.await.unwrap().unwrap();
    (row.get(0), row.get(1), row.get(2))
}

#[tokio::test]
async fn with_tls_both_sides_tell_the_same_of_it() {
    let postgres = Postgres::options().ssl().start().await;
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, postgres.ca().pem()).unwrap();
    let full = tls(SslMode::VerifyFull, SslNegotiation::Postgres, Some(ca));
    let anyone = tls(SslMode::Require, SslNegotiation::Postgres, None);
    let preferred = tls(SslMode::Prefer, SslNegotiation::Postgres, None);
    for (tls, attempt) in [(&full, Attempt::Tls), (&anyone, Attempt::Tls), (&preferred, Attempt::TlsIfOffered)] {
        let io = reach(&postgres, tls, attempt).await.unwrap();
        let info = io.tls_info().unwrap();
        let ours = (true, Some(info.version.to_owned()), Some(info.cipher.to_owned()));
        assert_eq!(converse(io).await, ours);
    }
    let plain = reach(&postgres, &preferred, Attempt::Plain).await.unwrap();
    assert_eq!(converse(plain).await, (false, None, None));
}

#[tokio::test]
async fn without_tls_the_mode_decides() {
    let postgres = Postgres::start().await;
    let preferred = tls(SslMode::Prefer, SslNegotiation::Postgres, None);
    let io = reach(&postgres, &preferred, Attempt::TlsIfOffered).await.unwrap();
    assert_eq!(converse(io).await, (false, None, None));
    let required = tls(SslMode::Require, SslNegotiation::Postgres, None);
    assert!(matches!(reach(&postgres, &required, Attempt::Tls).await, Err(NegotiationError::Refused)));
    // It knows nothing of TLS from the first byte on, and hangs up.
    let direct = tls(SslMode::Require, SslNegotiation::Direct, None);
    assert!(matches!(reach(&postgres, &direct, Attempt::Tls).await, Err(NegotiationError::Handshake(_))));
}

#[tokio::test]
async fn direct_tls_works_from_version_17_on() {
    let postgres = Postgres::options().ssl().start().await;
    let version: u32 = postgres.value("SHOW server_version_num").await.parse().unwrap();
    let direct = tls(SslMode::Require, SslNegotiation::Direct, None);
    let outcome = reach(&postgres, &direct, Attempt::Tls).await;
    if version >= 170_000 {
        let io = outcome.unwrap();
        assert_eq!(io.tls_info().unwrap().alpn, Some(&b"postgresql"[..]));
        assert!(converse(io).await.0);
    } else {
        assert!(outcome.is_err());
    }
}
