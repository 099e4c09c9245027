//! Replication sessions: a server connection of their own for as long as they last. Checklist A13.

#![expect(clippy::panic, reason = "a test's helpers fail the test")]

mod harness;

use harness::{Endpoint, PATIENCE, Postgres, Proxy, Wire, eventually};

async fn server() -> Postgres {
    let pg = Postgres::options().conf("wal_level = logical").conf("max_wal_senders = 4").start().await;
    pg.sql("ALTER ROLE app REPLICATION").await;
    pg
}

async fn replication(to: impl Into<Endpoint>, value: &str) -> Wire {
    let mut wire = Wire::connect(to).await;
    wire.start(&[("user", "app"), ("database", "app"), ("application_name", "copies"), ("replication", value)]).await;
    wire.authenticate("app", "secret").await.unwrap_or_else(|error| panic!("replication={value}: {error}"));
    wire
}

/// How many connections of this kind the server has for clients.
async fn count(pg: &Postgres, kind: &str) -> String {
    pg.value(&format!("SELECT count(*)::text FROM pg_stat_activity WHERE usename = 'app' AND backend_type = '{kind}'")).await
}

#[tokio::test]
async fn a13_a_replication_client_speaks_to_the_server_as_directly() {
    let pg = server().await;
    let proxy = Proxy::new(&pg).start().await;
    for value in ["true", "on", "1", "database"] {
        let (mut direct, mut through) = (replication(&pg, value).await, replication(&proxy, value).await);
        let said = (direct.query("IDENTIFY_SYSTEM").await.remove(0), through.query("IDENTIFY_SYSTEM").await.remove(0));
        // The third column is how far the server has written: it moves.
        let known = |row: &[Option<String>]| [row[0].clone(), row[1].clone(), row[3].clone()];
        assert_eq!(known(&said.0), known(&said.1), "replication={value}");
        assert_eq!(said.1[3].as_deref(), (value == "database").then_some("app"));
    }
}

#[tokio::test]
async fn a13_a_replication_client_has_a_server_connection_to_itself_which_nobody_has_after_it() {
    let pg = server().await;
    let proxy = Proxy::new(&pg).max_connections(2).set("defaults.queue_timeout", "300ms").start().await;
    let mut first = replication(&proxy, "database").await;
    let mut second = replication(&proxy, "database").await;
    let pids = [first.value("SELECT pg_backend_pid()").await, second.value("SELECT pg_backend_pid()").await];
    assert_ne!(pids[0], pids[1]);
    assert_eq!([first.value("SELECT pg_backend_pid()").await, second.value("SELECT pg_backend_pid()").await], pids);
    assert_eq!(count(&pg, "walsender").await, "2");
    let counted = async || {
        let page = proxy.http_get("/metrics").await.body;
        let lines = page.lines().filter(|line| line.starts_with("pgweir_server_connections{"));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u32>().ok()).sum::<u32>()
    };
    eventually("both are counted", PATIENCE, || async { counted().await == 2 }).await;

    // Both count: there is no third connection for an ordinary client.
    let error = match Wire::login(&proxy, "app", "secret", "app").await {
        Ok(mut wire) => wire.try_query("SELECT 1").await.expect_err("a refusal"),
        Err(error) => error,
    };
    assert_eq!(error.code(), "53300", "{error}");

    drop((first, second));
    eventually("they have ended", PATIENCE, || async { count(&pg, "walsender").await == "0" }).await;
    let mut third = replication(&proxy, "database").await;
    assert!(!pids.contains(&third.value("SELECT pg_backend_pid()").await));
    let mut ordinary = Wire::login(&proxy, "app", "secret", "app").await.unwrap();
    assert_eq!(ordinary.value("SELECT backend_type FROM pg_stat_activity WHERE pid = pg_backend_pid()").await, "client backend");
}

#[tokio::test]
async fn a13_replication_false_is_an_ordinary_client() {
    let pg = server().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    for value in ["false", "off", "0"] {
        // All of them are served by the one connection, one transaction after the other.
        let (mut wire, mut other) = (replication(&proxy, value).await, Wire::login(&proxy, "app", "secret", "app").await.unwrap());
        let pid = wire.value("SELECT pg_backend_pid()").await;
        assert_eq!(other.value("SELECT pg_backend_pid()").await, pid);
        assert_eq!(wire.value("SELECT backend_type FROM pg_stat_activity WHERE pid = pg_backend_pid()").await, "client backend");
    }
}
