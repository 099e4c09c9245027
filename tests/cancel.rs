//! A cancel reaches what its own client runs or waits for, and nothing else: never another client's query, however the two race. Checklist H1-H7.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::float_cmp, reason = "what is counted is whole, however it is published")]

mod harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use harness::frames::{self, bind, execute, parse, query, sync};
use harness::{Ca, PATIENCE, Peer, Postgres, Proxy, Script, Wire, eventually};
use tokio::task::JoinSet;

async fn login(proxy: &Proxy) -> Wire {
    Wire::login(proxy, "app", "secret", "app").await.unwrap()
}

/// Waits until so many `SELECT pg_sleep(60)` run.
async fn sleeping(pg: &Postgres, count: usize) {
    let running =
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()";
    eventually(&format!("{count} queries run"), PATIENCE, async || pg.value(running).await == count.to_string()).await;
}

async fn queued(proxy: &Proxy, count: u32) {
    let depth = "pgweir_queue_depth{tenant=\"default\",upstream=\"main\"}";
    eventually(&format!("{count} wait"), PATIENCE, async || (proxy.metric(depth).await - f64::from(count)).abs() < 0.5).await;
}

/// Sends a cancel with any key and waits until the proxy has closed it, without a word (H1).
async fn cancel(proxy: &Proxy, pid: u32, secret: &[u8]) {
    let mut request = Wire::connect(proxy).await;
    request.send(&frames::cancel(pid, secret)).await;
    assert_eq!(request.until_closed().await, [], "a cancel request has no answer");
}

/// That the answer is a cancelled query's, and that the session can be used as before.
async fn expect_cancelled(client: &mut Wire) {
    let answer = client.until_ready().await;
    let error = answer.iter().find(|frame| frame.tag == b'E').unwrap_or_else(|| panic!("no error\n{}", client.transcript()));
    let error = harness::ServerError::read(&error.body);
    assert_eq!((error.severity(), error.code()), ("ERROR", "57014"), "{error}");
    assert_eq!(client.value("SELECT 'served'").await, "served");
}

#[tokio::test]
async fn h2_a_cancel_ends_the_query_and_not_the_session() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).start().await;
    let mut client = login(&proxy).await;
    client.send(&query("SELECT pg_sleep(60)")).await;
    sleeping(&pg, 1).await;
    client.cancel(&proxy).await;
    expect_cancelled(&mut client).await;

    client.send(&[parse("", "SELECT pg_sleep(60)", &[]), bind("", "", &[]), execute("", 0), sync()].concat()).await;
    sleeping(&pg, 1).await;
    client.cancel(&proxy).await;
    expect_cancelled(&mut client).await;
    assert_eq!(proxy.metric("pgweir_cancelled_total{tenant=\"default\",cause=\"request\"}").await, 2.0);
}

#[tokio::test]
async fn h2_a_cancel_inside_a_transaction_fails_the_transaction_only() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).start().await;
    let mut client = login(&proxy).await;
    client.query("BEGIN").await;
    client.send(&query("SELECT pg_sleep(60)")).await;
    sleeping(&pg, 1).await;
    client.cancel(&proxy).await;
    client.expect(b'T').await;
    client.expect_error("57014").await;
    client.expect_ready(b'E').await;
    client.query("ROLLBACK").await;
    assert_eq!(client.value("SELECT 'served'").await, "served");
}

#[tokio::test]
async fn h4_a_cancel_takes_a_waiting_query_out_of_the_queue() {
    let pg = Postgres::start().await;
    pg.sql("CREATE TABLE entries (name text); GRANT ALL ON entries TO app").await;
    let proxy = Proxy::new(&pg).max_connections(1).set("defaults.queue_timeout", "60s").start().await;
    let (mut holder, mut waiter) = (login(&proxy).await, login(&proxy).await);
    holder.query("BEGIN").await;

    waiter.send(&query("INSERT INTO entries VALUES ('query')")).await;
    queued(&proxy, 1).await;
    waiter.cancel(&proxy).await;
    waiter.expect_error("57014").await;
    waiter.expect_ready(b'I').await;

    let batch = [parse("", "INSERT INTO entries VALUES ('batch')", &[]), bind("", "", &[]), execute("", 0), sync()].concat();
    waiter.send(&batch).await;
    queued(&proxy, 1).await;
    waiter.cancel(&proxy).await;
    waiter.expect_error("57014").await;
    waiter.expect_ready(b'I').await;
    queued(&proxy, 0).await;

    holder.query("COMMIT").await;
    assert_eq!(waiter.value("SELECT count(*) FROM entries").await, "0");
    waiter.send(&batch).await;
    waiter.until_ready().await;
    assert_eq!(pg.value("SELECT string_agg(name, ', ') FROM entries").await, "batch");
}

#[tokio::test]
async fn h5_a_cancel_of_an_idle_client_does_nothing() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let mut client = login(&proxy).await;
    let mut neighbour = login(&proxy).await;
    let pid = client.value("SELECT pg_backend_pid()").await;
    for _ in 0..20 {
        client.cancel(&proxy).await;
        // The server that the client had last is the neighbour's now.
        assert_eq!(neighbour.value("SELECT pg_backend_pid()").await, pid);
    }
    client.expect_silence(Duration::from_millis(20)).await;
    assert_eq!(client.value("SELECT 'served'").await, "served");

    client.query("BEGIN").await;
    client.cancel(&proxy).await;
    client.expect_silence(Duration::from_millis(100)).await;
    assert_eq!(client.value("SELECT 'in the transaction'").await, "in the transaction");
    client.query("COMMIT").await;
    assert_eq!(proxy.metric("pgweir_cancelled_total{tenant=\"default\",cause=\"request\"}").await, 0.0);
}

#[tokio::test]
async fn h5_a_cancel_that_meets_a_neighbours_query_on_ones_last_server_does_nothing() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let (mut client, mut neighbour) = (login(&proxy).await, login(&proxy).await);
    client.query("SELECT 1").await;
    neighbour.send(&query("SELECT pg_sleep(60)")).await;
    sleeping(&pg, 1).await;
    client.cancel(&proxy).await;
    neighbour.expect_silence(Duration::from_millis(300)).await;
    sleeping(&pg, 1).await;
    neighbour.cancel(&proxy).await;
    expect_cancelled(&mut neighbour).await;
}

#[tokio::test]
async fn h6_a_cancel_works_while_every_connection_is_taken_and_many_wait() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(2).set("defaults.queue_timeout", "60s").start().await;
    let mut running = [login(&proxy).await, login(&proxy).await];
    for client in &mut running {
        client.send(&query("SELECT pg_sleep(60)")).await;
    }
    sleeping(&pg, 2).await;
    let mut waiting = Vec::new();
    for _ in 0..5 {
        let mut client = login(&proxy).await;
        client.send(&query("SELECT 'waited'")).await;
        waiting.push(client);
    }
    queued(&proxy, 5).await;
    running[0].cancel(&proxy).await;
    for client in &mut waiting {
        assert_eq!(client.until_ready().await.len(), 4);
    }
    expect_cancelled(&mut running[0]).await;
    sleeping(&pg, 1).await;
}

#[tokio::test]
async fn h6_a_hundred_cancels_at_once_end_one_query() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).set("defaults.queue_timeout", "60s").start().await;
    let (mut client, mut neighbour) = (login(&proxy).await, login(&proxy).await);
    client.send(&query("SELECT pg_sleep(60)")).await;
    sleeping(&pg, 1).await;
    neighbour.send(&query("SELECT 'unharmed'")).await;
    queued(&proxy, 1).await;
    let mut cancels = JoinSet::new();
    for _ in 0..100 {
        let (address, message) = (proxy.address(), frames::cancel(client.pid, &client.secret));
        cancels.spawn(async move {
            let mut request = Wire::connect(address).await;
            request.send(&message).await;
            request.until_closed().await
        });
    }
    assert!(cancels.join_all().await.iter().all(Vec::is_empty));
    assert_eq!(neighbour.until_ready().await.len(), 4, "{}", neighbour.transcript());
    for _ in 0..20 {
        assert_eq!(neighbour.value("SELECT 'unharmed'").await, "unharmed");
    }
    expect_cancelled(&mut client).await;
}

#[tokio::test]
async fn h1_a_key_that_is_nobodys_is_ignored() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).start().await;
    let mut client = login(&proxy).await;
    let neighbour = login(&proxy).await;
    client.send(&query("SELECT pg_sleep(60)")).await;
    sleeping(&pg, 1).await;
    let (pid, secret) = (client.pid, client.secret.clone());
    for at in 0..secret.len() {
        let mut wrong = secret.to_vec();
        wrong[at] ^= 1;
        cancel(&proxy, pid, &wrong).await;
    }
    cancel(&proxy, pid, &neighbour.secret).await;
    cancel(&proxy, neighbour.pid, &secret).await;
    for unknown in [0, 1, pid ^ 0x0100_0000, pid ^ 0x00ff, u32::MAX] {
        cancel(&proxy, unknown, &secret).await;
    }
    cancel(&proxy, pid, &[&secret[..], &secret].concat()).await;
    // What a client can find out about its server is no key either.
    let backend = pg.value("SELECT pid FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'").await.parse().unwrap();
    assert_ne!(pid, backend);
    cancel(&proxy, backend, &secret).await;

    client.expect_silence(Duration::from_millis(100)).await;
    sleeping(&pg, 1).await;
    client.cancel(&proxy).await;
    expect_cancelled(&mut client).await;
}

#[tokio::test]
async fn h1_a_client_is_given_the_proxys_key_and_the_server_hears_its_own() {
    const SERVERS: (u32, [u8; 4]) = (4711, [0xde, 0xad, 0xbe, 0xef]);
    let script = Script::start(|mut peer: Peer| async move {
        peer.accept_login(SERVERS.0, &SERVERS.1).await;
        peer.answer_queries("scripted").await;
    })
    .await;
    let proxy = Proxy::before_script(&script).start().await;
    let mut keys = Vec::new();
    for _ in 0..2 {
        let mut client = login(&proxy).await;
        keys.push((client.pid, client.secret.clone()));
        assert_eq!(client.value("SELECT anything").await, "scripted");
        assert_ne!((client.pid, &client.secret[..]), (SERVERS.0, &SERVERS.1[..]));
        assert_ne!(client.secret, Bytes::copy_from_slice(&SERVERS.1));
    }
    assert_ne!(keys[0], keys[1]);
    assert_ne!(keys[0].1, keys[1].1);
}

#[tokio::test]
async fn h1_a_cancel_over_tls_is_as_good_as_one_without() {
    let pg = Postgres::start().await;
    let ca = Ca::new();
    let proxy = Proxy::new(&pg).tls("prefer", &ca.server()).start().await;
    let mut client = Wire::login_tls(&proxy, ca.client_config(None), "app", "secret").await.unwrap();
    for over_tls in [true, false] {
        client.send(&query("SELECT pg_sleep(60)")).await;
        sleeping(&pg, 1).await;
        let mut request = Wire::connect(&proxy).await;
        if over_tls {
            assert_eq!(request.ask(&frames::ssl_request()).await, b'S');
            request = Box::pin(request.tls(ca.client_config(None))).await.unwrap();
        }
        request.send(&frames::cancel(client.pid, &client.secret)).await;
        assert_eq!(request.until_closed().await, []);
        expect_cancelled(&mut client).await;
    }
}

#[tokio::test]
async fn h7_a_cancel_goes_to_the_server_over_tls_where_the_connection_does() {
    // The server takes no connection without TLS: only a cancel that speaks TLS can be read there.
    let pg = Postgres::options().ssl().hba("hostnossl all all 127.0.0.1/32 reject").start().await;
    pg.append_conf("log_connections = on");
    let options = Proxy::new(&pg).set("tls.server.mode", "verify-ca");
    let ca = options.file("servers-ca.crt", pg.ca().pem());
    let proxy = options.set("tls.server.ca", ca.to_str().unwrap()).start().await;
    let mut client = login(&proxy).await;
    client.send(&query("SELECT pg_sleep(60)")).await;
    sleeping(&pg, 1).await;
    client.cancel(&proxy).await;
    expect_cancelled(&mut client).await;
}

/// What one client of the race has seen.
#[derive(Default)]
struct Seen {
    answered: AtomicU32,
    cancelled: AtomicU32,
}

async fn run_short_queries(mut client: Wire, number: usize, seen: Arc<Seen>, over: Arc<AtomicBool>) {
    while !over.load(Ordering::Relaxed) {
        // Those that are cancelled run long enough to be met by it, the others short enough to be on the next client's server at once.
        let seconds = if number.is_multiple_of(2) { "0.01" } else { "0.002" };
        let sql = format!("SELECT {number} FROM pg_sleep({seconds})");
        match client.try_query(&sql).await {
            Ok(rows) => {
                assert_eq!(rows, [[Some(number.to_string())]], "the answer is one's own");
                seen.answered.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                assert_eq!(error.code(), "57014", "{error}");
                seen.cancelled.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[tokio::test]
async fn h2_a_cancel_never_hits_another_clients_query_however_they_race() {
    const CLIENTS: usize = 100;
    let pg = Postgres::start().await;
    let options = Proxy::new(&pg).max_connections(5).set("defaults.queue_timeout", "60s").set("process.workers", 2);
    let proxy = options.start().await;
    let over = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    let mut seen = Vec::new();
    let mut keys = Vec::new();
    for number in 0..CLIENTS {
        let client = login(&proxy).await;
        // Only those with an even number are ever cancelled.
        if number % 2 == 0 {
            keys.push((client.pid, client.secret.clone()));
        }
        seen.push(Arc::new(Seen::default()));
        tasks.spawn(run_short_queries(client, number, Arc::clone(&seen[number]), Arc::clone(&over)));
    }
    for canceller in 0..4 {
        let (over, keys, address) = (Arc::clone(&over), keys.clone(), proxy.address());
        tasks.spawn(async move {
            // Steps that are prime to the number of keys visit all of them in an order that fits nothing else's.
            let mut at = canceller * 11;
            while !over.load(Ordering::Relaxed) {
                at = (at + 37) % keys.len();
                let mut request = Wire::connect(address).await;
                request.send(&frames::cancel(keys[at].0, &keys[at].1)).await;
                request.until_closed().await;
            }
        });
    }
    let count = |which: fn(&Seen) -> &AtomicU32, of: usize| -> u32 {
        seen.iter().skip(of).step_by(2).map(|seen| which(seen).load(Ordering::Relaxed)).sum()
    };
    let race_ends = tokio::time::Instant::now() + Duration::from_secs(3);
    // Who is cancelled while it waits never reaches the server; that many must have been cancelled there.
    let at_server = || pg.log().matches("canceling statement due to user request").count();
    eventually("cancels hit and queries are answered", PATIENCE * 2, async || {
        tokio::time::Instant::now() > race_ends && at_server() >= 20 && count(|seen| &seen.answered, 1) >= 200
    })
    .await;
    over.store(true, Ordering::Relaxed);
    tokio::time::timeout(PATIENCE, tasks.join_all()).await.expect("nobody is left hanging");
    assert_eq!(count(|seen| &seen.cancelled, 1), 0, "clients that nobody cancelled saw 57014");
    assert!(count(|seen| &seen.cancelled, 0) > 0);
}
