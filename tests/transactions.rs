//! A server connection belongs to one client for as long as its transaction lasts, and no longer, however the client leaves it. Checklist E1-E6; pool modes, time limits.

mod harness;

use std::time::Duration;

use harness::frames::{bind, execute, flush, parse, query, sync, terminate};
use harness::{Faulty, Golden, Neighbour, PATIENCE, Postgres, Proxy, ProxyOptions, Wire, eventually, ping};

async fn login(proxy: &Proxy) -> Wire {
    Wire::login(proxy, "app", "secret", "app").await.expect("a login")
}

/// Waits until the server executes a statement that begins like this.
async fn runs(pg: &Postgres, statement: &str) {
    let running = format!("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '{statement}%' AND state = 'active'");
    eventually("the statement runs", PATIENCE, || async { pg.value(&running).await == "1" }).await;
}

/// A table with one row that tells whether a transaction was committed.
async fn with_account() -> Postgres {
    let pg = Postgres::start().await;
    pg.sql("CREATE TABLE account AS SELECT 100 AS balance; GRANT ALL ON account TO app").await;
    pg
}

#[tokio::test]
async fn e1_the_status_of_the_server_decides_and_nothing_else() {
    let pg = Postgres::options().conf("max_prepared_transactions = 5").start().await;
    let golden = Box::pin(Golden::before(pg)).await;
    golden
        .same(async |wire| {
            let conversation = [
                "BEGIN; SELECT 1",
                "SELECT 1/0",
                "SELECT 'refused in a failed transaction'",
                "COMMIT",
                "BEGIN",
                "SAVEPOINT s",
                "SELECT 1/0",
                "ROLLBACK TO SAVEPOINT s",
                "SELECT 'alive again'",
                "COMMIT AND CHAIN",
                "SELECT 'in the next transaction'",
                "ROLLBACK AND CHAIN",
                "ROLLBACK",
                "BEGIN",
                "PREPARE TRANSACTION 'p'",
                "ROLLBACK PREPARED 'p'",
                "COMMIT",
                "START TRANSACTION READ ONLY",
                "END",
            ];
            for sql in conversation {
                let _ = wire.try_query(sql).await;
                // The neighbour has time to take what it can get.
                wire.send(&sync()).await;
                wire.until_ready().await;
            }
        })
        .await;
}

#[tokio::test]
async fn e1_a_transaction_is_one_servers_from_begin_to_commit() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(2).start().await;
    let mut wire = login(&proxy).await;
    let neighbour = Neighbour::move_in(&proxy).await;
    for end in ["COMMIT", "ROLLBACK"] {
        wire.query("BEGIN").await;
        let pid = wire.value("SELECT pg_backend_pid()").await;
        for _ in 0..20 {
            assert_eq!(wire.value("SELECT pg_backend_pid()").await, pid);
        }
        wire.query(end).await;
    }
    neighbour.move_out().await;
}

/// How a client leaves.
#[derive(Clone, Copy, Debug)]
enum Leave {
    Terminate,
    Close,
    Reset,
}

const LEAVES: [Leave; 3] = [Leave::Terminate, Leave::Close, Leave::Reset];

/// Lets a client on its own network do something, and leave. Answers the server process that it had.
async fn visit(proxy: &Proxy, leave: Leave, what: impl AsyncFnOnce(&mut Wire)) -> String {
    let net = Faulty::to(proxy.address()).await;
    let mut wire = Wire::login(&net, "app", "secret", "app").await.expect("a login");
    wire.query("BEGIN").await;
    let pid = wire.value("SELECT pg_backend_pid()").await;
    what(&mut wire).await;
    match leave {
        Leave::Terminate => wire.send(&terminate()).await,
        Leave::Close => {}
        Leave::Reset => net.cut(),
    }
    drop(wire);
    // Dropped earlier, the network would cut what is still on its way.
    eventually("the proxy has seen it leave", PATIENCE, || async { net.connections() == 0 }).await;
    pid
}

#[tokio::test]
async fn e2_a_transaction_whose_client_has_gone_is_rolled_back_and_its_server_reused() {
    let pg = with_account().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let mut next = login(&proxy).await;
    for leave in LEAVES {
        for failed in [false, true] {
            let pid = visit(&proxy, leave, async |wire| {
                wire.query("UPDATE account SET balance = 0").await;
                if failed {
                    wire.try_query("SELECT 1/0").await.unwrap_err();
                }
            })
            .await;
            assert_eq!(next.value("SELECT pg_backend_pid()").await, pid, "{leave:?}");
            assert_eq!(next.value("SELECT balance FROM account").await, "100", "{leave:?}");
            // Not in a transaction any more.
            assert_eq!(next.value("SELECT now() = statement_timestamp()").await, "t");
        }
    }
}

#[tokio::test]
async fn e2_a_query_whose_client_has_gone_is_cancelled_and_its_server_reused() {
    let pg = with_account().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let mut next = login(&proxy).await;
    for (number, leave) in [Leave::Close, Leave::Reset].into_iter().enumerate() {
        let pid = visit(&proxy, leave, async |wire| {
            wire.query("UPDATE account SET balance = 0").await;
            wire.send(&query("SELECT pg_sleep(600)")).await;
            runs(&pg, "SELECT pg_sleep").await;
        })
        .await;
        assert_eq!(next.value("SELECT pg_backend_pid()").await, pid, "{leave:?}");
        assert_eq!(next.value("SELECT balance FROM account").await, "100", "{leave:?}");
        let counted = proxy.metric(r#"pgweir_cancelled_total{tenant="default",cause="client_gone"}"#).await;
        assert!((counted - f64::from(u32::try_from(number).unwrap()) - 1.0).abs() < 0.1, "{counted} counted");
    }
}

#[tokio::test]
async fn e2_a_query_that_nobody_can_cancel_costs_its_connection_not_the_pool() {
    let pg = Postgres::start().await;
    // This function goes on when it is cancelled.
    pg.sql(
        "CREATE FUNCTION stubborn() RETURNS void LANGUAGE plpgsql AS $$
         BEGIN LOOP BEGIN PERFORM pg_sleep(600); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$",
    )
    .await;
    let proxy = Proxy::new(&pg).max_connections(2).set("upstreams.main.settle_timeout", "300ms").start().await;
    let pid = visit(&proxy, Leave::Close, async |wire| {
        wire.send(&query("SELECT stubborn()")).await;
        runs(&pg, "SELECT stubborn").await;
    })
    .await;
    let given_up = r#"pgweir_server_connections{upstream="main",state="closing"}"#;
    eventually("the connection is given up", PATIENCE, || async { proxy.metric(given_up).await > 0.5 }).await;
    let mut next = login(&proxy).await;
    assert_ne!(next.value("SELECT pg_backend_pid()").await, pid);
    // It still counts against the budget, for PostgreSQL still has it.
    assert_eq!(pg.backends("app").await, 2);
    pg.sql(&format!("SELECT pg_terminate_backend({pid})")).await;
    eventually("its place is free again", PATIENCE, || async { proxy.metric(given_up).await < 0.5 }).await;
}

#[tokio::test]
async fn e2_half_a_message_at_the_server_costs_the_connection() {
    let pg = with_account().await;
    let proxy = Proxy::new(&pg).max_connections(1).set("process.workers", 1).start().await;
    let mut pinger = login(&proxy).await;
    let pid = visit(&proxy, Leave::Close, async |wire| {
        wire.query("UPDATE account SET balance = 0").await;
        let large = query(&format!("SELECT '{}'", "x".repeat(200_000)));
        wire.send(&large[..100_000]).await;
        ping(&mut pinger).await;
    })
    .await;
    assert_ne!(pinger.value("SELECT pg_backend_pid()").await, pid);
    assert_eq!(pinger.value("SELECT balance FROM account").await, "100");
}

#[tokio::test]
async fn e2_an_open_batch_whose_client_has_gone_is_ended_and_undone() {
    let pg = with_account().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let mut next = login(&proxy).await;
    let update = |end: Vec<u8>| [parse("", "UPDATE account SET balance = 0", &[]), bind("", "", &[]), execute("", 0), end].concat();
    let failing = [parse("", "SELECT nonsense", &[]), flush()].concat();
    for leave in LEAVES {
        let mut wire = login(&proxy).await;
        let pid = wire.value("SELECT pg_backend_pid()").await;
        drop(wire);
        visit(&proxy, leave, async |wire| {
            wire.query("ROLLBACK").await;
            wire.send(&update(flush())).await;
            while wire.read().await.tag != b'C' {}
        })
        .await;
        assert_eq!(next.value("SELECT pg_backend_pid()").await, pid, "{leave:?}");
        // PostgreSQL, too, commits nothing of a batch without its Sync when the client leaves.
        assert_eq!(next.value("SELECT balance FROM account").await, "100", "{leave:?}");
        visit(&proxy, leave, async |wire| {
            wire.send(&failing).await;
            wire.expect_error("42703").await;
        })
        .await;
        assert_eq!(next.value("SELECT pg_backend_pid()").await, pid, "{leave:?}");
    }
}

#[tokio::test]
async fn e2_what_a_client_asked_for_before_it_said_goodbye_is_done() {
    let pg = with_account().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let mut wire = login(&proxy).await;
    wire.send(&[query("SELECT pg_sleep(0.2)"), query("UPDATE account SET balance = balance - 1"), terminate()].concat()).await;
    assert!(wire.until_closed().await.iter().all(|frame| frame.tag != b'E'));
    assert_eq!(login(&proxy).await.value("SELECT balance FROM account").await, "99");
}

#[tokio::test]
async fn e4_a_transaction_left_idle_is_ended_and_one_that_works_is_not() {
    let pg = with_account().await;
    let proxy = Proxy::new(&pg).max_connections(1).set("defaults.idle_transaction_timeout", "300ms").start().await;
    let mut busy = login(&proxy).await;
    busy.query("BEGIN; UPDATE account SET balance = 0").await;
    let pid = busy.value("SELECT pg_backend_pid()").await;
    // A statement of three times the limit, and small ones that go on for as long.
    busy.query("SELECT pg_sleep(0.9)").await;
    for _ in 0..35 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        busy.value("SELECT 1").await;
    }
    // Now idle.
    let said = busy.until_closed().await;
    let error = harness::ServerError::read(&said.first().expect("a last word").body);
    assert_eq!((error.severity(), error.code()), ("FATAL", "25P03"));
    let mut next = login(&proxy).await;
    assert_eq!(next.value("SELECT pg_backend_pid()").await, pid);
    assert_eq!(next.value("SELECT balance FROM account").await, "100");
    // Idle outside a transaction is nobody's business.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(next.value("SELECT 1").await, "1");
    let counted = proxy.metric(r#"pgweir_refused_total{tenant="default",fault="idle_in_transaction"}"#).await;
    assert!((counted - 1.0).abs() < 0.1, "{counted}");
}

#[tokio::test]
async fn e4_a_transaction_may_be_idle_for_longer_while_nobody_waits() {
    let pg = with_account().await;
    let proxy = Proxy::new(&pg).max_connections(1).set("defaults.contended_idle_transaction_timeout", "500ms").start().await;
    let (mut holder, mut other) = (login(&proxy).await, login(&proxy).await);
    holder.query("BEGIN; UPDATE account SET balance = 0").await;
    // Three times the limit.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(holder.value("SELECT balance FROM account").await, "0");
    // Somebody comes.
    other.send(&[query("SELECT balance FROM account")].concat()).await;
    let said = holder.until_closed().await;
    let error = harness::ServerError::read(&said.first().expect("a last word").body);
    assert_eq!((error.severity(), error.code()), ("FATAL", "25P03"));
    assert!(error.message().contains("others wait"), "{error}");
    let answer = other.until_ready().await;
    assert!(answer.iter().any(|frame| frame.tag == b'D' && frame.values()[0].as_deref() == Some(b"100")), "{}", other.transcript());
}

#[tokio::test]
async fn e4_the_limit_does_not_kill_a_query_that_arrives_with_it() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).set("defaults.idle_transaction_timeout", "60ms").start().await;
    let (mut ended, mut answered) = (0, 0);
    for round in 0..30_u64 {
        let mut wire = login(&proxy).await;
        wire.query("BEGIN").await;
        tokio::time::sleep(Duration::from_millis(50 + round)).await;
        // Whichever came first: an answer that is whole, or the end with its reason; nothing between.
        let _ = wire.try_send(&query("SELECT 'answered'")).await;
        match wire.try_read().await {
            Ok(Some(frame)) if frame.tag == b'T' => {
                assert_eq!(wire.until_ready().await.len(), 3);
                answered += 1;
            }
            Ok(Some(frame)) => {
                assert_eq!(harness::ServerError::read(&frame.body).code(), "25P03");
                ended += 1;
            }
            // The end may have overtaken its reason: the query met a closed socket.
            Ok(None) | Err(_) => ended += 1,
        }
    }
    assert_eq!(ended + answered, 30);
    assert_eq!(login(&proxy).await.value("SELECT 1").await, "1");
}

#[tokio::test]
async fn e5_what_ends_with_its_transaction_pins_nobody() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let (mut first, mut second) = (login(&proxy).await, login(&proxy).await);
    let harmless = [
        "SELECT pg_advisory_xact_lock(1), pg_try_advisory_xact_lock_shared(2)",
        "SET LOCAL work_mem = '1MB'",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "CREATE TEMP TABLE t ON COMMIT DROP AS SELECT 1",
        "DECLARE c CURSOR FOR SELECT generate_series(1, 3)",
        "SELECT set_config('app.tenant', '7', true)",
    ];
    for sql in harmless {
        first.send(&[query("BEGIN"), query(sql), query("COMMIT")].concat()).await;
        for _ in 0..3 {
            assert!(first.until_ready().await.iter().all(|frame| frame.tag != b'E'), "{}", first.transcript());
        }
        // A client that was pinned would keep the only connection.
        assert_eq!(second.value("SELECT 'served'").await, "served", "after {sql}");
    }
    let page = proxy.http_get("/metrics").await.body;
    let pins: Vec<_> = page.lines().filter(|line| line.starts_with("pgweir_pins_total{")).collect();
    assert!(pins.is_empty(), "{pins:?}");
}

#[tokio::test]
async fn e6_in_statement_mode_a_transaction_ends_the_session() {
    let pg = with_account().await;
    let proxy = Proxy::new(&pg).max_connections(1).pool_mode("statement").start().await;
    let mut next = login(&proxy).await;
    let pid = next.value("SELECT pg_backend_pid()").await;
    let extended = |sql: &str| [parse("", sql, &[]), bind("", "", &[]), execute("", 0), sync()].concat();
    let openings = [query("BEGIN"), query("UPDATE account SET balance = 0; BEGIN"), extended("BEGIN"), query("BEGIN; SELECT 1/0")];
    for opening in openings {
        let mut wire = login(&proxy).await;
        assert_eq!(wire.value("SELECT 1; SELECT 2 WHERE false").await, "1");
        wire.send(&opening).await;
        let said = wire.until_closed().await;
        let error = harness::ServerError::read(&said.last().expect("a last word").body);
        assert_eq!((error.severity(), error.code()), ("FATAL", "0A000"), "{}", wire.transcript());
        assert_eq!(next.value("SELECT pg_backend_pid()").await, pid);
        assert_eq!(next.value("SELECT now() = statement_timestamp()").await, "t");
    }
}

#[tokio::test]
async fn a_query_over_its_limit_is_cancelled_and_the_session_lives_on() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).set("defaults.query_timeout", "300ms").start().await;
    let mut wire = login(&proxy).await;
    let error = wire.try_query("SELECT pg_sleep(600)").await.unwrap_err();
    assert_eq!((error.severity(), error.code()), ("ERROR", "57014"));
    assert_eq!(wire.value("SELECT 'alive'").await, "alive");
    // In a transaction each statement has its own time, and what is idle has none of it.
    wire.query("BEGIN").await;
    for _ in 0..3 {
        wire.query("SELECT pg_sleep(0.15)").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(wire.try_query("SELECT pg_sleep(600)").await.unwrap_err().code(), "57014");
    wire.query("ROLLBACK").await;
    assert_eq!(wire.value("SELECT 'alive'").await, "alive");
    let counted = proxy.metric(r#"pgweir_cancelled_total{tenant="default",cause="timeout"}"#).await;
    assert!((counted - 2.0).abs() < 0.1, "{counted}");
}

fn with_transaction_limit(pg: &Postgres) -> ProxyOptions {
    Proxy::new(pg).max_connections(1).set("defaults.transaction_timeout", "400ms")
}

#[tokio::test]
async fn a_transaction_over_its_limit_is_ended_whether_it_works_or_not() {
    let pg = with_account().await;
    let proxy = with_transaction_limit(&pg).start().await;
    let mut next = login(&proxy).await;
    // It works: what runs is cancelled.
    let mut working = login(&proxy).await;
    working.query("BEGIN; UPDATE account SET balance = 0").await;
    assert_eq!(working.try_query("SELECT pg_sleep(600)").await.unwrap_err().code(), "57014");
    let _ = working.try_send(&query("ROLLBACK")).await;
    drop(working);
    assert_eq!(next.value("SELECT balance FROM account").await, "100");
    // One long statement is a transaction, too.
    let mut single = login(&proxy).await;
    assert_eq!(single.try_query("SELECT pg_sleep(600)").await.unwrap_err().code(), "57014");
    assert_eq!(single.value("SELECT 'alive'").await, "alive");
    // It does not: the session ends.
    let mut idle = login(&proxy).await;
    idle.query("BEGIN; UPDATE account SET balance = 0").await;
    let said = idle.until_closed().await;
    assert_eq!(harness::ServerError::read(&said.first().expect("a last word").body).severity(), "FATAL");
    assert_eq!(next.value("SELECT balance FROM account").await, "100");
}

#[tokio::test]
async fn in_session_mode_a_client_keeps_its_server_and_leaves_nothing_on_it() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(2).pool_mode("session").start().await;
    let mut owner = login(&proxy).await;
    let pid = owner.value("SELECT pg_backend_pid()").await;
    owner.query("SET work_mem = '3MB'; CREATE TEMP TABLE mine (x int); SELECT pg_advisory_lock(7)").await;
    let mut other = login(&proxy).await;
    for _ in 0..5 {
        assert_ne!(other.value("SELECT pg_backend_pid()").await, pid);
        assert_eq!(owner.value("SELECT pg_backend_pid()").await, pid);
        assert_eq!(owner.value("SHOW work_mem").await, "3MB");
    }
    owner.send(&terminate()).await;
    drop(owner);
    let mut next = login(&proxy).await;
    assert_eq!(next.value("SELECT pg_backend_pid()").await, pid);
    assert_ne!(next.value("SHOW work_mem").await, "3MB");
    assert_eq!(next.value("SELECT to_regclass('pg_temp.mine') IS NULL").await, "t");
    assert_eq!(next.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").await, "0");
}
