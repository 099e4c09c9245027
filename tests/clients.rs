//! Many clients of a real driver share few server connections. What twelve drivers do is in `tests/clients/run`, which needs
//! their languages; this is the part of it that every test run can afford.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod harness;

use std::time::Duration;

use harness::{Ca, PATIENCE, Postgres, Proxy, Wire, frames, in_time};
use tokio::task::JoinSet;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls};

const CLIENTS: i32 = 200;
const SERVER_CONNECTIONS: u32 = 5;

async fn connect(url: &str) -> Client {
    let (client, connection) = in_time("a login", Box::pin(tokio_postgres::connect(url, NoTls))).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A transaction of two statements that sees its own row and nobody else's.
async fn transact(client: &mut Client, id: i32) {
    let note = format!("client {id}");
    let transaction = client.transaction().await.unwrap();
    // One statement without a name; the other with one, as this driver gives it.
    transaction.query_typed("INSERT INTO visit VALUES ($1, $2)", &[(&id, Type::INT4), (&note, Type::TEXT)]).await.unwrap();
    let found = transaction.query("SELECT note FROM visit WHERE id = $1", &[&id]).await.unwrap();
    assert_eq!(found[0].get::<_, String>(0), note);
    transaction.commit().await.unwrap();
}

async fn storm(url: &str) {
    let mut clients = JoinSet::new();
    for id in 0..CLIENTS {
        let url = url.to_owned();
        clients.spawn(async move { transact(&mut connect(&url).await, id).await });
    }
    let patience = PATIENCE * 3;
    tokio::time::timeout(patience, clients.join_all()).await.expect("every client is served");
}

#[tokio::test]
async fn two_hundred_clients_share_five_server_connections() {
    let pg = Postgres::start().await;
    pg.sql("CREATE TABLE visit (id int PRIMARY KEY, note text); ALTER TABLE visit OWNER TO app").await;
    let proxy = Proxy::new(&pg).max_connections(SERVER_CONNECTIONS).set("defaults.queue_timeout", "60s").start().await;

    let ((), most) = pg.most_backends("app", Box::pin(storm(&proxy.url("app")))).await;
    assert!((1..=SERVER_CONNECTIONS as usize).contains(&most), "{most} server connections were seen");
    assert_eq!(pg.value("SELECT count(*) FROM visit").await, CLIENTS.to_string());
}

#[tokio::test]
async fn clients_that_stay_connected_are_served_in_turn() {
    let pg = Postgres::start().await;
    pg.sql("CREATE TABLE visit (id int PRIMARY KEY, note text); ALTER TABLE visit OWNER TO app").await;
    let proxy = Proxy::new(&pg).max_connections(SERVER_CONNECTIONS).start().await;

    // All of them are logged in before the first transaction, and each does several.
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(connect(&proxy.url("app")).await);
    }
    for round in 0..3 {
        for (number, client) in (0..).zip(&mut clients) {
            in_time("a transaction", Box::pin(transact(client, round * CLIENTS + number))).await;
        }
    }
    assert!(pg.backends("app").await <= SERVER_CONNECTIONS as usize);
    assert_eq!(pg.value("SELECT count(*) FROM visit").await, (3 * CLIENTS).to_string());
}

#[tokio::test]
async fn a_cancelled_statement_leaves_the_session_usable() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).start().await;
    let client = connect(&proxy.url("app")).await;
    let token = client.cancel_token();
    let cancelling = async {
        let running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = 'SELECT pg_sleep(60)'";
        harness::eventually("the statement runs", PATIENCE, || async { pg.value(running).await == "1" }).await;
        token.cancel_query(NoTls).await.unwrap();
    };
    let cancelled = Box::pin(async { tokio::join!(client.simple_query("SELECT pg_sleep(60)"), cancelling).0 });
    let error = tokio::time::timeout(Duration::from_secs(30), cancelled).await.expect("a cancelled statement ends").unwrap_err();
    assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("57014"));
    client.simple_query("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn a_cancel_over_tls_ends_with_a_goodbye() {
    // libpq since 17 sends cancels over TLS and counts an end without close_notify as a failure.
    let pg = Postgres::start().await;
    let ca = Ca::new();
    let proxy = Proxy::new(&pg).tls("require", &ca.server()).start().await;
    let client = Wire::login_tls(&proxy, ca.client_config(None), "app", "secret").await.unwrap();

    let mut request = Wire::connect(&proxy).await;
    assert_eq!(request.ask(&frames::ssl_request()).await, b'S');
    let mut request = Box::pin(request.tls(ca.client_config(None))).await.unwrap();
    request.send(&frames::cancel(client.pid, &client.secret)).await;
    assert_eq!(request.try_read().await.unwrap(), None);
}
