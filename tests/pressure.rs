//! `/pressure` tells whoever drives the callers how it stands, and how many of them the servers can take.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod harness;

use std::time::Duration;

use harness::{PATIENCE, Postgres, Proxy, ProxyOptions, Stop, Wire, eventually};
use serde_json::Value;
use tokio::task::JoinSet;

async fn main_upstream(proxy: &Proxy) -> Value {
    let answer = proxy.http_get("/pressure").await;
    assert_eq!(answer.status, 200);
    let page: Value = serde_json::from_str(&answer.body).unwrap();
    page["upstreams"]["main"].clone()
}

/// A caller that is at the database for 20 of every 100 milliseconds, until it is dropped.
async fn caller(address: std::net::SocketAddr) {
    let mut client = Wire::login(address, "app", "secret", "app").await.unwrap();
    loop {
        client.query("SELECT pg_sleep(0.02)").await;
        tokio::time::sleep(Duration::from_millis(80)).await;
    }
}

fn callers(proxy: &Proxy, count: u64) -> JoinSet<()> {
    (0..count).map(|_| caller(proxy.address())).collect()
}

async fn proxy_of(options: ProxyOptions) -> Proxy {
    // Four connections are busy with 200 such calls a second: 20 callers without any wait, 16 for four fifths.
    options.max_connections(4).start().await
}

#[tokio::test]
async fn it_suggests_as_many_callers_as_the_servers_can_take() {
    let pg = Postgres::start().await;
    let proxy = proxy_of(Proxy::new(&pg)).await;
    let too_many = callers(&proxy, 60);
    eventually("a queue", PATIENCE, async || main_upstream(&proxy).await["state"] == "queueing").await;
    // Until what was before they came is forgotten.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let pressed = main_upstream(&proxy).await;
    assert_eq!((&pressed["state"], &pressed["clients"], &pressed["limit"]), (&"queueing".into(), &60.into(), &4.into()), "{pressed}");
    assert!(pressed["pressure"].as_f64().unwrap() > 0.5 && pressed["queue_wait_p99_ms"].as_f64().unwrap() > 50.0, "{pressed}");
    assert!(pressed["retry_after_ms"].as_u64().unwrap() > 0, "{pressed}");
    assert!(proxy.metric("pgweir_pressure{upstream=\"main\"}").await > 0.5);
    let suggested = pressed["suggested_concurrency"].as_u64().unwrap();
    assert!((8..=20).contains(&suggested), "{pressed}");
    assert_eq!(pressed["tenants"]["default"]["clients"], 60, "{pressed}");

    // With as many as were suggested hardly anybody waits, and the same number is suggested.
    drop(too_many);
    let enough = callers(&proxy, suggested);
    tokio::time::sleep(Duration::from_secs(11)).await;
    let relieved = main_upstream(&proxy).await;
    assert!(relieved["queue_wait_p99_ms"].as_f64().unwrap() < pressed["queue_wait_p99_ms"].as_f64().unwrap() / 2.0, "{relieved}");
    let again = relieved["suggested_concurrency"].as_u64().unwrap();
    assert!((8..=24).contains(&again), "{relieved}");
    drop(enough);
}

#[tokio::test]
async fn it_says_who_is_refused_and_who_is_not() {
    let pg = Postgres::start().await;
    let options =
        Proxy::new(&pg).user("other", "secret").tenant("small", "match = { user = \"other\" }\nmax_server_connections = 1\nmax_queue = 0");
    pg.sql("CREATE ROLE other LOGIN PASSWORD 'secret'").await;
    let proxy = proxy_of(options).await;
    let mut first = Wire::login(&proxy, "other", "secret", "app").await.unwrap();
    let mut second = Wire::login(&proxy, "other", "secret", "app").await.unwrap();
    let mut third = Wire::login(&proxy, "app", "secret", "app").await.unwrap();
    third.query("SELECT 1").await;
    first.query("BEGIN").await;
    assert_eq!(second.try_query("SELECT 1").await.unwrap_err().code(), "53300");
    let page = main_upstream(&proxy).await;
    let small = &page["tenants"]["small"];
    assert_eq!((&small["state"], &small["pressure"]), (&"shedding".into(), &1.0.into()), "{page}");
    assert!(small["retry_after_ms"].as_u64().unwrap() >= 100, "{page}");
    assert_eq!(
        (&page["state"], &page["tenants"]["default"]["state"]),
        (&"ok".into(), &"ok".into()),
        "a tenant at its own cap is nobody else's trouble: {page}"
    );
}

#[tokio::test]
async fn an_upstream_that_is_down_takes_nobody() {
    let mut pg = Postgres::start().await;
    let proxy = proxy_of(Proxy::new(&pg).set("upstreams.main.failover_window", "0s")).await;
    let mut client = Wire::login(&proxy, "app", "secret", "app").await.unwrap();
    client.query("SELECT 1").await;
    assert_eq!(main_upstream(&proxy).await["state"], "ok");
    pg.stop(Stop::Fast);
    assert_eq!(client.try_query("SELECT 1").await.unwrap_err().code(), "57P03");
    let page = main_upstream(&proxy).await;
    assert_eq!((&page["state"], &page["pressure"], &page["suggested_concurrency"]), (&"down".into(), &1.0.into(), &0.into()), "{page}");
    pg.start_again().await;
    eventually("it is back", PATIENCE, async || main_upstream(&proxy).await["state"] != "down").await;
}
