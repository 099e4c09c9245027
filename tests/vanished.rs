//! A client that goes, by FIN, by RST or by not reading any more, leaves nothing behind: its query is cancelled, its transaction rolled back, its locks let go, and
//! its server connection serves the next, all within a bounded time. Checklist B5, E2, E3; rule 9 of admission.
//!
//! A peer that is silent because its machine is frozen or unplugged (`TCP_USER_TIMEOUT`, keepalive) is not played here: on loopback the kernel acknowledges for every
//! process, frozen or not, so only dropping packets could show it, which takes privileges that a test run does not have.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod harness;

use std::time::Duration;

use harness::frames::{bind, close, copy_data, describe, execute, flush, parse, query, sync};
use harness::{Faulty, PATIENCE, Postgres, Proxy, Wire, eventually, in_time};
use tokio::time::Instant;

/// How a client goes.
#[derive(Clone, Copy, Debug)]
enum Goodbye {
    /// It closes its socket: the kernel sends FIN.
    Fin,
    /// Its connection is reset.
    Rst,
    /// It is killed by something between: both directions are closed in good order while an answer is due.
    HalfClose,
}

const GOODBYES: [Goodbye; 3] = [Goodbye::Fin, Goodbye::Rst, Goodbye::HalfClose];

/// A proxy with one server connection, and a way to it that can be cut.
struct House {
    pg: Postgres,
    proxy: Proxy,
    net: Faulty,
}

impl House {
    async fn start() -> Self {
        let pg = Postgres::start().await;
        pg.sql(
            "CREATE TABLE accounts (id int PRIMARY KEY, balance int); INSERT INTO accounts VALUES (1, 100); GRANT ALL ON accounts TO app",
        )
        .await;
        let options = Proxy::new(&pg).max_connections(1).set("defaults.queue_timeout", "60s").set("upstreams.main.settle_timeout", "20s");
        let proxy = options.start().await;
        let net = Faulty::to(proxy.address()).await;
        Self { pg, proxy, net }
    }

    /// A client over the network that will be cut.
    async fn client(&self) -> Wire {
        Wire::login(&self.net, "app", "secret", "app").await.unwrap()
    }

    /// The one that comes after it, over a network that is sound.
    async fn next(&self) -> Wire {
        Wire::login(&self.proxy, "app", "secret", "app").await.unwrap()
    }

    async fn take_leave(&self, mut client: Wire, how: Goodbye) {
        match how {
            Goodbye::Fin => drop(client),
            Goodbye::Rst => {
                self.net.cut();
                drop(client);
            }
            Goodbye::HalfClose => {
                client.shut_down_writing().await;
                drop(client);
            }
        }
    }

    /// Waits until the only server connection runs this.
    async fn runs(&self, sql: &str) {
        let running = format!("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND usename = 'app' AND query = '{sql}'");
        eventually(sql, PATIENCE, async || self.pg.value(&running).await == "1").await;
    }

    async fn cancelled(&self) -> f64 {
        self.proxy.metric("pgweir_cancelled_total{tenant=\"default\",cause=\"client_gone\"}").await
    }
}

#[tokio::test]
async fn e3_the_query_of_a_client_that_has_gone_is_cancelled_and_its_connection_serves_the_next() {
    let house = House::start().await;
    for how in GOODBYES {
        let mut client = house.client().await;
        let pid = client.value("SELECT pg_backend_pid()").await;
        let before = house.cancelled().await;
        client.send(&query("SELECT pg_sleep(60)")).await;
        house.runs("SELECT pg_sleep(60)").await;
        house.take_leave(client, how).await;
        let mut next = house.next().await;
        assert_eq!(in_time("the next is served", next.value("SELECT pg_backend_pid()")).await, pid, "{how:?}");
        assert!((house.cancelled().await - before - 1.0).abs() < 0.5, "{how:?}");
    }
}

#[tokio::test]
async fn e3_a_transaction_of_a_client_that_has_gone_is_rolled_back_and_its_locks_are_let_go() {
    let house = House::start().await;
    for how in GOODBYES {
        let mut client = house.client().await;
        let pid = client.value("SELECT pg_backend_pid()").await;
        client.query("BEGIN").await;
        client.query("UPDATE accounts SET balance = balance - 10 WHERE id = 1").await;
        house.take_leave(client, how).await;
        // Not over the proxy: what is asked is whether the row is free, not whether the pool is.
        in_time("the row is free", house.pg.sql("UPDATE accounts SET balance = balance WHERE id = 1")).await;
        let mut next = house.next().await;
        assert_eq!(next.value("SELECT pg_backend_pid()").await, pid, "{how:?}");
        assert_eq!(next.value("SELECT balance FROM accounts").await, "100", "{how:?}");
        assert_eq!(next.value("SELECT pg_current_xact_id_if_assigned() IS NULL").await, "t", "{how:?}");
    }
}

#[tokio::test]
async fn e3_a_query_inside_a_transaction_is_cancelled_and_the_transaction_undone() {
    let house = House::start().await;
    for how in GOODBYES {
        let mut client = house.client().await;
        let pid = client.value("SELECT pg_backend_pid()").await;
        client.query("BEGIN").await;
        client.query("DELETE FROM accounts").await;
        client.send(&query("SELECT pg_sleep(60)")).await;
        house.runs("SELECT pg_sleep(60)").await;
        house.take_leave(client, how).await;
        let mut next = house.next().await;
        assert_eq!(next.value("SELECT pg_backend_pid()").await, pid, "{how:?}");
        assert_eq!(next.value("SELECT balance FROM accounts").await, "100", "{how:?}");
    }
}

#[tokio::test]
async fn e3_an_open_batch_of_a_client_that_has_gone_is_undone() {
    let house = House::start().await;
    for how in GOODBYES {
        let mut client = house.client().await;
        let pid = client.value("SELECT pg_backend_pid()").await;
        // Executed, and not committed for want of a Sync.
        client.send(&[parse("", "DELETE FROM accounts", &[]), bind("", "", &[]), execute("", 0), flush()].concat()).await;
        for tag in *b"12C" {
            client.expect(tag).await;
        }
        house.take_leave(client, how).await;
        let mut next = house.next().await;
        assert_eq!(next.value("SELECT pg_backend_pid()").await, pid, "{how:?}");
        assert_eq!(next.value("SELECT balance FROM accounts").await, "100", "{how:?}");
    }
}

#[tokio::test]
async fn e3_what_the_statements_of_a_client_that_has_gone_were_to_be_told_the_next_is_not() {
    let house = House::start().await;
    for how in GOODBYES {
        let mut client = house.client().await;
        let pid = client.value("SELECT pg_backend_pid()").await;
        // What comes behind the Query has answers of its own here, and an error that takes them back.
        let behind = [close(b'S', "none"), parse("wrong", "SELEC", &[]), close(b'S', "none"), sync(), query("SELECT 1")].concat();
        client.send(&[query("SELECT pg_sleep(60)"), behind].concat()).await;
        house.runs("SELECT pg_sleep(60)").await;
        house.take_leave(client, how).await;

        let mut next = house.next().await;
        // The proxy sees to it that no other's unnamed statement is there, which the client is to hear nothing of.
        next.send(&[query("SELEC"), describe(b'S', ""), sync()].concat()).await;
        for expected in [&b"EZ"[..], b"EZ"] {
            let answer = next.until_ready().await;
            assert_eq!(answer.iter().map(|frame| frame.tag).collect::<Vec<_>>(), expected, "{how:?}\n{}", next.transcript());
        }
        assert_eq!(next.value("SELECT pg_backend_pid()").await, pid, "{how:?}");
    }
}

#[tokio::test]
async fn e3_a_copy_of_a_client_that_has_gone_is_undone() {
    let house = House::start().await;
    for how in GOODBYES {
        let mut client = house.client().await;
        let pid = client.value("SELECT pg_backend_pid()").await;
        client.send(&query("COPY accounts FROM STDIN")).await;
        client.expect(b'G').await;
        client.send(&copy_data(b"2\t200\n")).await;
        house.take_leave(client, how).await;
        let mut next = house.next().await;
        assert_eq!(next.value("SELECT pg_backend_pid()").await, pid, "{how:?}");
        assert_eq!(next.value("SELECT count(*) FROM accounts").await, "1", "{how:?}");
    }
}

#[tokio::test]
async fn a_client_that_goes_while_it_waits_is_never_served() {
    let house = House::start().await;
    let depth = "pgweir_queue_depth{tenant=\"default\",upstream=\"main\"}";
    for how in [Goodbye::Fin, Goodbye::Rst] {
        let mut holder = house.next().await;
        holder.query("BEGIN").await;
        let mut client = house.client().await;
        client.send(&query("DELETE FROM accounts")).await;
        eventually("it waits", PATIENCE, async || house.proxy.metric(depth).await > 0.5).await;
        house.take_leave(client, how).await;
        eventually("it has left the queue", PATIENCE, async || house.proxy.metric(depth).await < 0.5).await;
        holder.query("COMMIT").await;
        assert_eq!(holder.value("SELECT balance FROM accounts").await, "100", "{how:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_put_in_order_in_time_is_closed() {
    let pg = Postgres::start().await;
    let net = Faulty::to(pg.address()).await;
    let options = Proxy::before_faulty(&net).max_connections(1).set("defaults.queue_timeout", "60s");
    let proxy = options.set("upstreams.main.settle_timeout", "300ms").start().await;
    let mut client = Wire::login(&proxy, "app", "secret", "app").await.unwrap();
    client.query("BEGIN").await;
    let pid = client.value("SELECT pg_backend_pid()").await;
    // The server does not hear ROLLBACK.
    net.stall(harness::Way::Onward);
    drop(client);
    proxy.logged("was not put in order in time").await;
    net.heal();
    let mut next = Wire::login(&proxy, "app", "secret", "app").await.unwrap();
    assert_ne!(next.value("SELECT pg_backend_pid()").await, pid);
    eventually("one is left", PATIENCE, async || pg.backends("app").await == 1).await;
}

/// Some 200 MB in rows of 10 kB: more than any socket buffer takes.
const HUGE: &str = "SELECT repeat('x', 10000) FROM generate_series(1, 20000)";

#[tokio::test]
async fn b5_a_client_that_stops_reading_stalls_only_itself_and_is_cut() {
    let pg = Postgres::start().await;
    // One worker, so that the neighbour is served by the thread that the other one would stall.
    let options = Proxy::new(&pg).max_connections(2).set("process.workers", 1);
    let proxy = options.set("clients.write_stall_timeout", "500ms").start().await;
    let (mut stalled, mut neighbour) =
        (Wire::login(&proxy, "app", "secret", "app").await.unwrap(), Wire::login(&proxy, "app", "secret", "app").await.unwrap());
    let pid = stalled.value("SELECT pg_backend_pid()").await;
    let before = proxy.resident_bytes();
    stalled.send(&query(HUGE)).await;
    let active = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND state = 'active'");
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    let mut asked = 0;
    while began.elapsed() < Duration::from_millis(400) || pg.value(&active).await == "1" {
        assert!(began.elapsed() < PATIENCE, "the query of a client that does not read still runs");
        let asking = Instant::now();
        assert_eq!(neighbour.value("SELECT 'served'").await, "served");
        slowest = slowest.max(asking.elapsed());
        asked += 1;
    }
    assert!(asked > 5 && slowest < Duration::from_millis(400), "{asked} queries of a neighbour, the slowest in {slowest:?}");
    let grown = proxy.resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes are held for a client that does not read");

    // Both connections are in use again, the stalled client's among them.
    neighbour.query("BEGIN").await;
    let mut next = Wire::login(&proxy, "app", "secret", "app").await.unwrap();
    let pids = [next.value("SELECT pg_backend_pid()").await, neighbour.value("SELECT pg_backend_pid()").await];
    assert!(pids.contains(&pid), "{pid} in {pids:?}");
    let rest = async { while matches!(stalled.try_read().await, Ok(Some(frame)) if frame.tag != b'Z') {} };
    in_time("the client is cut off", rest).await;
    assert!(!matches!(stalled.try_read().await, Ok(Some(_))), "a result that was cut off has no end");
}

#[tokio::test]
async fn b5_a_client_that_reads_slowly_is_not_cut() {
    let pg = Postgres::start().await;
    // The kernel's buffers hold megabytes, and say that there is room again only when a good part of them is free: the limit must be longer than that takes.
    let limit = Duration::from_secs(3);
    let proxy = Proxy::new(&pg).set("clients.write_stall_timeout", "3s").start().await;
    let net = Faulty::to(proxy.address()).await;
    let mut client = Wire::login(&net, "app", "secret", "app").await.unwrap();
    // 64 KiB every 20 ms at most: longer than the limit for the whole, and never that long without a byte.
    net.delay(harness::Way::Back, Duration::from_millis(20));
    let began = Instant::now();
    client.send(&query("SELECT repeat('x', 10000) FROM generate_series(1, 2000)")).await;
    let rows = client.until_ready().await.iter().filter(|frame| frame.tag == b'D').count();
    assert_eq!(rows, 2000);
    assert!(began.elapsed() > limit, "slow enough to prove something: {:?}", began.elapsed());
}
