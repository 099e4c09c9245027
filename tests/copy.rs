//! COPY in both directions: who sends what after which error, and what becomes of a server whose client leaves in the middle. Checklist F1-F7, E3, C11.

mod harness;

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use harness::frames::{self, bind, copy_data, copy_done, copy_fail, execute, flush, parse, query, server, sync, terminate};
use harness::{Faulty, Golden, PATIENCE, Postgres, Proxy, Script, Way, Wire, eventually};
use tokio_postgres::NoTls;

const COPY_IN: &str = "COPY numbers FROM STDIN";
const TABLE: &str = "CREATE TABLE numbers (number int PRIMARY KEY); GRANT ALL ON numbers TO app";

async fn golden() -> Golden {
    let golden = Golden::start().await;
    golden.pg.sql(TABLE).await;
    golden
}

/// Parse, Bind and Execute of an unnamed statement.
fn run(sql: &str) -> Vec<u8> {
    [parse("", sql, &[]), bind("", "", &[]), execute("", 0)].concat()
}

/// So that a server connection that is wrongly free has time to be somebody else's.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(15)).await;
}

#[tokio::test]
async fn f1_a_copy_ignores_every_sync_and_flush_and_so_does_the_account() {
    let golden = golden().await;
    golden
        .same(async |wire| {
            wire.query("TRUNCATE numbers").await;
            // With its Sync in front of the data, as tokio-postgres sends it.
            wire.send(&[run(COPY_IN), sync()].concat()).await;
            while wire.read().await.tag != b'G' {}
            pause().await;
            wire.send(&copy_data(b"1\n")).await;
            pause().await;
            wire.send(&[flush(), sync(), copy_data(b"2\n"), sync(), copy_done(), sync()].concat()).await;
            wire.until_ready().await;
        })
        .await;
    golden
        .same(async |wire| {
            wire.query("TRUNCATE numbers").await;
            // Everything at once.
            wire.send(&[run(COPY_IN), sync(), copy_data(b"3\n"), copy_done(), sync(), query("SELECT 'next'")].concat()).await;
            wire.until_ready().await;
            wire.until_ready().await;
        })
        .await;
    golden
        .same(async |wire| {
            wire.query("TRUNCATE numbers").await;
            // Without a Sync until the end.
            wire.send(&[run(COPY_IN), flush()].concat()).await;
            while wire.read().await.tag != b'G' {}
            wire.send(&[copy_data(b"4\n"), copy_done(), flush()].concat()).await;
            wire.expect(b'C').await;
            pause().await;
            wire.send(&sync()).await;
            wire.until_ready().await;
            wire.query("SELECT array_agg(number) FROM numbers").await;
        })
        .await;
}

#[tokio::test]
async fn f2_what_arrives_after_a_failed_copy_is_dropped_and_answered_by_nobody() {
    let golden = golden().await;
    golden
        .same(async |wire| {
            wire.query("TRUNCATE numbers").await;
            let late = [copy_data(b"8\n"), copy_data(b"9\n"), copy_done()].concat();
            // Simple: the server is ready, and may be another's, before the rest arrives.
            wire.send(&query(COPY_IN)).await;
            wire.expect(b'G').await;
            wire.send(&copy_data(b"not a number\n")).await;
            wire.until_ready().await;
            pause().await;
            wire.send(&late).await;
            wire.send(&[copy_fail("late, too"), query("SELECT 'served'")].concat()).await;
            wire.until_ready().await;
            // Everything at once: what follows the bad row is read by nobody.
            wire.send(&[query(COPY_IN), copy_data(b"not a number\n"), late.clone(), query("SELECT 'served'")].concat()).await;
            wire.until_ready().await;
            wire.until_ready().await;
            // An error that comes only with the end.
            wire.send(&[query(COPY_IN), copy_data(b"1\n1\n"), copy_done()].concat()).await;
            wire.until_ready().await;
            // Extended: the rest up to Sync is discarded.
            wire.send(&[run(COPY_IN), flush()].concat()).await;
            while wire.read().await.tag != b'G' {}
            wire.send(&copy_data(b"not a number\n")).await;
            wire.expect(b'E').await;
            pause().await;
            wire.send(&late).await;
            pause().await;
            wire.send(&sync()).await;
            wire.until_ready().await;
            // A COPY that fails before it begins.
            wire.send(&[run("COPY nowhere FROM STDIN"), copy_data(b"1\n"), copy_done(), sync(), query("SELECT 'served'")].concat()).await;
            wire.until_ready().await;
            wire.until_ready().await;
            wire.query("SELECT count(*) FROM numbers").await;
        })
        .await;
}

#[tokio::test]
async fn f3_a_copy_ends_as_its_client_says() {
    let golden = golden().await;
    golden
        .same(async |wire| {
            wire.query("TRUNCATE numbers").await;
            for end in [copy_done(), copy_fail("I have changed my mind")] {
                for begin in [query(COPY_IN), [run(COPY_IN), flush()].concat()] {
                    let extended = begin[0] == b'P';
                    wire.query("TRUNCATE numbers").await;
                    wire.send(&begin).await;
                    while wire.read().await.tag != b'G' {}
                    pause().await;
                    wire.send(&copy_data(b"1\n2\n")).await;
                    wire.send(&end).await;
                    if extended {
                        wire.send(&sync()).await;
                    }
                    wire.until_ready().await;
                }
            }
            // In a transaction a failed COPY fails it.
            wire.send(&[query("BEGIN"), query(COPY_IN), copy_fail(""), query("SELECT 1"), query("COMMIT")].concat()).await;
            for _ in 0..4 {
                wire.until_ready().await;
            }
        })
        .await;
}

#[tokio::test]
async fn f4_a_copy_out_passes_whole_or_with_its_error_in_the_middle() {
    let golden = golden().await;
    golden
        .same(async |wire| {
            let good = "COPY (SELECT generate_series(1, 5000)) TO STDOUT";
            let bad = "COPY (SELECT 1 / (5000 - x) FROM generate_series(1, 10000) AS x) TO STDOUT";
            for sql in [good, bad] {
                wire.send(&query(sql)).await;
                wire.until_ready().await;
                wire.send(&[run(sql), sync(), query("SELECT 'next'")].concat()).await;
                wire.until_ready().await;
                wire.until_ready().await;
            }
        })
        .await;
}

#[tokio::test]
async fn f5_a_server_that_waits_for_copy_data_is_nobody_elses() {
    let pg = Postgres::start().await;
    pg.sql(TABLE).await;
    let proxy = Proxy::new(&pg).max_connections(1).set("defaults.queue_timeout", "150ms").start().await;
    let (mut copying, mut other) = (login(&proxy).await, login(&proxy).await);
    for begin in [query(COPY_IN), [run(COPY_IN), sync()].concat()] {
        pg.sql("TRUNCATE numbers").await;
        let extended = begin[0] == b'P';
        copying.send(&begin).await;
        while copying.read().await.tag != b'G' {}
        assert_eq!(other.try_query("SELECT 'stolen'").await.unwrap_err().code(), "53300");
        copying.send(&[copy_data(b"1\n"), copy_done()].concat()).await;
        if extended {
            copying.send(&sync()).await;
        }
        copying.expect(b'C').await;
        copying.expect_ready(b'I').await;
        assert_eq!(other.value("SELECT count(*) FROM numbers").await, "1");
    }
}

#[tokio::test]
async fn f6_in_a_copy_both_either_side_may_end_first() {
    let script = Script::start(|mut peer| async move {
        peer.accept_login(42, &[1, 2, 3, 4]).await;
        let both = frames::message(b'W', &[0, 0, 0]);
        let end = [server::complete("COPY 0"), server::complete("START_REPLICATION"), server::ready(b'I')].concat();
        // The client ends first.
        peer.expect(b'Q').await;
        peer.send(&[both.clone(), copy_data(b"from the server")].concat()).await;
        assert_eq!(peer.expect(b'd').await.body, "from the client");
        peer.expect(b'c').await;
        peer.send(&[copy_data(b"a last word"), copy_done(), end.clone()].concat()).await;
        // The server ends first.
        peer.expect(b'Q').await;
        peer.send(&[both, copy_done()].concat()).await;
        peer.expect(b'd').await;
        peer.expect(b'c').await;
        peer.send(&end).await;
        peer.expect(b'Q').await;
        peer.send(&[server::complete("SELECT 0"), server::ready(b'I')].concat()).await;
        peer.until_closed().await;
    })
    .await;
    let proxy = Proxy::before_script(&script).max_connections(1).start().await;
    let mut wire = login(&proxy).await;
    wire.send(&query("a copy in both directions")).await;
    wire.expect(b'W').await;
    assert_eq!(wire.expect(b'd').await.body, "from the server");
    wire.send(&[copy_data(b"from the client"), copy_done()].concat()).await;
    let tags = |answer: Vec<harness::Frame>| answer.iter().map(|frame| char::from(frame.tag)).collect::<String>();
    assert_eq!(tags(wire.until_ready().await), "dcCCZ");
    wire.send(&query("another")).await;
    wire.expect(b'W').await;
    wire.expect(b'c').await;
    wire.send(&[copy_data(b"still something"), copy_done()].concat()).await;
    assert_eq!(tags(wire.until_ready().await), "CCZ");
    // Settled: somebody else is served by the same connection.
    let mut other = login(&proxy).await;
    other.send(&query("SELECT")).await;
    assert_eq!(tags(other.until_ready().await), "CZ");
    assert_eq!(script.accepted(), 1);
}

#[tokio::test]
async fn f7_any_other_message_in_a_copy_is_the_servers_to_judge() {
    let golden = golden().await;
    for other in [query("SELECT 1"), parse("", "SELECT 1", &[]), bind("", "", &[]), execute("", 0)] {
        for begin in [query(COPY_IN), [run(COPY_IN), flush()].concat()] {
            golden
                .same(async |wire| {
                    wire.send(&begin).await;
                    while wire.read().await.tag != b'G' {}
                    pause().await;
                    wire.send(&[&copy_data(b"1\n")[..], &other].concat()).await;
                    // PostgreSQL ends the session over it, having lost its place.
                    wire.until_closed().await;
                })
                .await;
        }
    }
    assert_eq!(golden.pg.value("SELECT count(*) FROM numbers").await, "0");
}

#[tokio::test]
async fn c11_copies_within_a_query_of_many_statements_take_their_turn() {
    let golden = golden().await;
    golden
        .same(async |wire| {
            wire.query("TRUNCATE numbers").await;
            wire.send(&query(&format!("SELECT 1; {COPY_IN}; {COPY_IN}; COPY numbers TO STDOUT; SELECT 2"))).await;
            for data in [b"1\n", b"2\n"] {
                while wire.read().await.tag != b'G' {}
                pause().await;
                wire.send(&[copy_data(data), copy_done()].concat()).await;
            }
            wire.until_ready().await;
            wire.send(&[query(&format!("{COPY_IN}; SELECT 3")), copy_data(b"3\n"), copy_done(), query("SELECT 4")].concat()).await;
            wire.until_ready().await;
            wire.until_ready().await;
        })
        .await;
}

async fn login(proxy: &Proxy) -> Wire {
    Wire::login(proxy, "app", "secret", "app").await.expect("a login")
}

#[tokio::test]
async fn e3_a_copy_in_whose_client_has_gone_is_undone_and_its_server_reused() {
    let pg = Postgres::start().await;
    pg.sql(TABLE).await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let mut next = login(&proxy).await;
    let mut pid = next.value("SELECT pg_backend_pid()").await;
    let beginnings = [
        query(COPY_IN),
        query(&format!("BEGIN; {COPY_IN}")),
        [run(COPY_IN), sync()].concat(),
        [run(COPY_IN), flush()].concat(),
        [query("BEGIN"), run(COPY_IN), sync()].concat(),
    ];
    for begin in &beginnings {
        for leave in ["goodbye", "close", "reset"] {
            let net = Faulty::to(proxy.address()).await;
            let mut wire = Wire::login(&net, "app", "secret", "app").await.unwrap();
            wire.send(begin).await;
            while wire.read().await.tag != b'G' {}
            wire.send(&copy_data(b"1\n2\n3\n")).await;
            match leave {
                "goodbye" => wire.send(&terminate()).await,
                "reset" => net.cut(),
                _ => {}
            }
            drop(wire);
            assert_eq!(next.value("SELECT count(*) FROM numbers").await, "0", "{leave}");
            let now = next.value("SELECT pg_backend_pid()").await;
            // A Sync in front of the data was ignored if the COPY had begun to read, and only PostgreSQL knows that: closed, to be sure.
            assert!(now == pid || begin.ends_with(&sync()), "{leave}");
            pid = now;
        }
    }
    // In the middle of a CopyData nothing can be put in order.
    let mut wire = login(&proxy).await;
    wire.send(&query(COPY_IN)).await;
    wire.expect(b'G').await;
    wire.send(&copy_data(b"1\n2\n3\n")[..8]).await;
    drop(wire);
    assert_eq!(next.value("SELECT count(*) FROM numbers").await, "0");
}

#[tokio::test]
async fn e3_a_copy_in_whose_client_has_gone_before_it_began_is_undone_too() {
    let pg = Postgres::start().await;
    pg.sql(TABLE).await;
    let net = Faulty::to(pg.address()).await;
    // What is closed because it was not put in order in time serves nobody here.
    let options = Proxy::before_faulty(&net).max_connections(1).set("upstreams.main.settle_timeout", "1h");
    let proxy = options.set("defaults.queue_timeout", "1h").start().await;
    let one_is = async |state: &str| {
        let metric = format!(r#"pgweir_server_connections{{upstream="main",state="{state}"}}"#);
        eventually(&format!("a server connection is {state}"), PATIENCE, async || proxy.metric(&metric).await > 0.5).await;
    };
    let mut next = login(&proxy).await;
    let mut pid = next.value("SELECT pg_backend_pid()").await;
    let beginnings = [
        query(COPY_IN),
        query(&format!("SELECT 1; {COPY_IN}; {COPY_IN}")),
        query(&format!("BEGIN; {COPY_IN}")),
        [run(COPY_IN), sync()].concat(),
        [run(COPY_IN), flush()].concat(),
    ];
    for begin in &beginnings {
        for leave in [&terminate()[..], &[]] {
            let mut wire = login(&proxy).await;
            one_is("idle").await;
            // The proxy does not hear that the COPY has begun.
            net.stall(Way::Back);
            wire.send(&[begin, leave].concat()).await;
            drop(wire);
            one_is("mending").await;
            net.heal();
            assert_eq!(next.value("SELECT count(*) FROM numbers").await, "0");
            let now = next.value("SELECT pg_backend_pid()").await;
            // A Sync that was sent before the COPY began may have been read by it, and only PostgreSQL knows that: closed, to be sure.
            assert!(now == pid || begin.starts_with(b"P"), "it is in order after {begin:?}");
            pid = now;
        }
    }
}

#[tokio::test]
async fn f4_a_copy_out_whose_client_has_gone_is_cancelled_and_its_server_reused() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let mut next = login(&proxy).await;
    let pid = next.value("SELECT pg_backend_pid()").await;
    let endless = "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 30000) AS a, generate_series(1, 30000) AS b) TO STDOUT";
    for begin in [query(endless), [run(endless), sync()].concat()] {
        let mut wire = login(&proxy).await;
        wire.send(&begin).await;
        while wire.read().await.tag != b'd' {}
        let stuck = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite'";
        eventually("the server waits for its client", PATIENCE, || async { pg.value(stuck).await == "1" }).await;
        drop(wire);
        assert_eq!(next.value("SELECT pg_backend_pid()").await, pid);
    }
}

#[tokio::test]
async fn tokio_postgres_copies_in_and_out_and_survives_its_errors() {
    const ROWS: i32 = 20_000;
    let pg = Postgres::start().await;
    pg.sql(TABLE).await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let (client, connection) = Box::pin(tokio_postgres::connect(&proxy.url("app"), NoTls)).await.unwrap();
    tokio::spawn(connection);
    for round in 0..3 {
        client.simple_query("DELETE FROM numbers").await.unwrap();
        let sink = client.copy_in(COPY_IN).await.unwrap();
        let mut sink = std::pin::pin!(sink);
        for number in 0..ROWS {
            sink.send(Bytes::from(format!("{number}\n"))).await.unwrap();
        }
        assert_eq!(sink.finish().await.unwrap(), u64::try_from(ROWS).unwrap(), "round {round}");

        let sink = client.copy_in(COPY_IN).await.unwrap();
        let mut sink = std::pin::pin!(sink);
        // The error may come while there is still data to send, or with the end.
        let mut sent = sink.send(Bytes::from_static(b"nonsense\n")).await;
        for _ in 0..1000 {
            if sent.is_ok() {
                sent = sink.send(Bytes::from_static(b"100001\n")).await;
            }
        }
        let error = match sent {
            Ok(()) => sink.finish().await.unwrap_err(),
            Err(error) => error,
        };
        assert!(error.code().is_none_or(|code| code.code() == "22P02"), "{error:?}");

        let rows = client.copy_out("COPY numbers TO STDOUT").await.unwrap();
        let rows: Vec<_> = std::pin::pin!(rows).collect().await;
        assert!(rows.iter().all(Result::is_ok));
        assert_eq!(rows.len(), usize::try_from(ROWS).unwrap());
    }
}

#[tokio::test]
async fn f2_a_copy_that_has_failed_keeps_no_server_for_what_still_comes() {
    let pg = Postgres::start().await;
    pg.sql("CREATE TABLE numbers (n int); ALTER TABLE numbers OWNER TO app").await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let (mut wire, mut other) = (login(&proxy).await, login(&proxy).await);
    let late = copy_data(&b"1\n".repeat(10_000));
    for cut in [1, 7, 15_000] {
        wire.send(&query(COPY_IN)).await;
        while wire.read().await.tag != b'G' {}
        wire.send(&[copy_data(b"nonsense\n"), late[..cut].to_vec()].concat()).await;
        wire.expect_error("22P02").await;
        wire.expect_ready(b'I').await;
        // The client has nothing to ask: what it still sends nobody answers.
        wire.send(&[&late[cut..], &copy_done()[..]].concat()).await;
        assert_eq!(other.value("SELECT 'served'").await, "served", "cut at {cut}");
        assert_eq!(wire.value("SELECT 'goes on'").await, "goes on", "cut at {cut}");
    }
}
