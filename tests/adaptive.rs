//! The adaptive limit before a real server: it finds what the load bears, follows it when it changes, and leaves what is fixed alone.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod harness;

use std::time::Duration;

use harness::{PATIENCE, Postgres, Proxy, Wire, eventually};
use rustix::process::Signal;
use tokio::task::JoinSet;

/// A search of several steps. It takes half a minute; where other programs have the processors by turns, what it measures tells it little for a while.
const SEARCH: Duration = Duration::from_mins(4);
/// One at a time, however many are at work.
const IN_SINGLE_FILE: &str = "SELECT pg_sleep(0.004) FROM (SELECT pg_advisory_xact_lock(7)) AS locked";
/// Nobody hinders anybody.
const SIDE_BY_SIDE: &str = "SELECT pg_sleep(0.02)";

/// Clients that want this all the time, until they are dropped.
async fn clients(proxy: &Proxy, statement: &'static str) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for _ in 0..40 {
        let mut client = Wire::login(proxy, "app", "secret", "app").await.unwrap();
        clients.spawn(async move {
            loop {
                // What takes too long is cancelled.
                let _ = client.try_query(statement).await;
            }
        });
    }
    clients
}

async fn suggested(proxy: &Proxy) -> f64 {
    proxy.metric("pgweir_upstream_limit_suggested{upstream=\"main\"}").await
}

async fn limit(proxy: &Proxy) -> f64 {
    proxy.metric("pgweir_upstream_limit{upstream=\"main\"}").await
}

#[tokio::test]
async fn it_follows_the_load_down_and_up() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(16).set("upstreams.main.limit", "adaptive").start().await;
    assert!((suggested(&proxy).await - 16.0).abs() < 0.1);
    let single = clients(&proxy, IN_SINGLE_FILE).await;
    eventually("few are as good as many", SEARCH, async || suggested(&proxy).await < 4.5).await;
    eventually("the others are closed", PATIENCE, async || pg.backends("app").await <= 6).await;
    drop(single);

    let _many = clients(&proxy, SIDE_BY_SIDE).await;
    eventually("the more, the better", SEARCH, async || suggested(&proxy).await > 14.5).await;
    assert!((limit(&proxy).await - 16.0).abs() < 1.1);
}

#[tokio::test]
async fn what_is_cancelled_does_not_count_as_done() {
    let pg = Postgres::start().await;
    let options = Proxy::new(&pg).max_connections(16).set("upstreams.main.limit", "adaptive");
    let proxy = options.set("defaults.query_timeout", "30ms").start().await;
    // All sixteen at once: half of them are cancelled, and that is as many ends of leases as a few could not have.
    let _single = clients(&proxy, IN_SINGLE_FILE).await;
    let cancelled = "pgweir_cancelled_total{tenant=\"default\",cause=\"timeout\"}";
    eventually("statements are cancelled", PATIENCE, async || proxy.metric(cancelled).await > 20.0).await;
    eventually("as few as are served are at work", SEARCH, async || suggested(&proxy).await < 6.5).await;
}

#[tokio::test]
async fn a_reload_switches_it_on_and_off() {
    let pg = Postgres::start().await;
    let mut proxy = Proxy::new(&pg).max_connections(12).start().await;
    let _clients = clients(&proxy, IN_SINGLE_FILE).await;
    assert!(!proxy.http_get("/metrics").await.body.contains("pgweir_upstream_limit_suggested{"), "a fixed limit suggests nothing");

    proxy.rewrite_config(|options| options.set("upstreams.main.limit", "adaptive").set("upstreams.main.limit_min", 3));
    proxy.signal(Signal::HUP);
    eventually("it looks", PATIENCE, async || proxy.http_get("/metrics").await.body.contains("pgweir_upstream_limit_suggested{")).await;
    eventually("it goes down to where it may", SEARCH, async || suggested(&proxy).await < 3.5).await;
    assert!(suggested(&proxy).await > 2.5);

    proxy.rewrite_config(|options| options.set("upstreams.main.limit", "fixed"));
    proxy.signal(Signal::HUP);
    eventually("all are used again", PATIENCE, async || pg.backends("app").await == 12).await;
    assert!((limit(&proxy).await - 12.0).abs() < 0.1);
}

#[tokio::test]
async fn observing_limits_nothing() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(8).set("upstreams.main.limit", "observe").start().await;
    let _clients = clients(&proxy, SIDE_BY_SIDE).await;
    eventually("it knows", PATIENCE, async || proxy.http_get("/metrics").await.body.contains("pgweir_upstream_limit_suggested{")).await;
    assert!((suggested(&proxy).await - 8.0).abs() < 0.1, "a load that has all at work shows no other level");
    assert!((limit(&proxy).await - 8.0).abs() < 0.1);
}
