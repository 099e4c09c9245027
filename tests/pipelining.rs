//! Simple and extended queries in every order that a client may send them in: answers through the proxy are those of PostgreSQL, and a server connection is let
//! go when, and only when, nothing is owed on it. Checklist C1-C11, J1.

mod harness;

use std::time::Duration;

use harness::frames::{bind, close, describe, execute, flush, function_call, parse, query, sync};
use harness::{Faulty, Golden, Neighbour, PATIENCE, Postgres, Proxy, Way, Wire, eventually, ping};

/// Parse, Bind and Execute of an unnamed statement.
fn run(sql: &str) -> Vec<u8> {
    [parse("", sql, &[]), bind("", "", &[]), execute("", 0)].concat()
}

async fn login(proxy: &Proxy) -> Wire {
    Wire::login(proxy, "app", "secret", "app").await.expect("a login")
}

#[tokio::test]
async fn c1_an_error_is_heard_at_once_and_the_rest_up_to_sync_is_discarded() {
    let golden = Golden::start().await;
    let failing = ["SELECT nonsense", "SELECT 1/0"];
    for sql in failing {
        golden
            .same(async |wire| {
                // No Sync, no Flush: PostgreSQL flushes its error all the same.
                wire.send(&run(sql)).await;
                while wire.read().await.tag != b'E' {}
                wire.send(&run("SELECT 'discarded'")).await;
                wire.send(&[flush(), sync()].concat()).await;
                wire.expect_ready(b'I').await;
                wire.send(&[run("SELECT 'served'"), sync()].concat()).await;
                wire.until_ready().await;
            })
            .await;
    }
}

#[tokio::test]
async fn c1_each_batch_of_a_pipeline_fails_alone() {
    let golden = Golden::start().await;
    golden
        .same(async |wire| {
            let good = [run("SELECT 'good'"), sync()].concat();
            let bad = [run("SELECT 1"), run("SELECT 1/0"), run("SELECT 2"), sync()].concat();
            let empty = sync();
            wire.send(&[&good[..], &bad, &empty, &bad, &good, &bad].concat()).await;
            for _ in 0..6 {
                wire.until_ready().await;
            }
        })
        .await;
}

#[tokio::test]
async fn c2_an_error_of_a_query_discards_nothing_and_one_of_a_batch_discards_queries_too() {
    let golden = Golden::start().await;
    golden
        .same(async |wire| {
            wire.send(&[query("SELECT 1/0"), query("SELECT 'runs'"), function_call(0, &[]), query("SELECT 'runs too'")].concat()).await;
            for _ in 0..4 {
                wire.until_ready().await;
            }
            wire.send(&[run("SELECT 1/0"), query("SELECT 'discarded'"), function_call(0, &[]), sync(), query("SELECT 'runs'")].concat())
                .await;
            for _ in 0..2 {
                wire.until_ready().await;
            }
        })
        .await;
}

#[tokio::test]
async fn c3_a_sync_that_is_answered_lets_nothing_go_while_the_next_batch_is_open() {
    let golden = Golden::start().await;
    golden
        .same(async |wire| {
            wire.send(&[run("SELECT 'first'"), sync(), parse("", "SELECT 'second'", &[]), bind("", "", &[])].concat()).await;
            wire.until_ready().await;
            // The unnamed statement and its portal are on the server; the neighbour would destroy both.
            wire.send(&flush()).await;
            wire.expect(b'1').await;
            wire.expect(b'2').await;
            wire.send(&[describe(b'P', ""), execute("", 0), sync()].concat()).await;
            wire.until_ready().await;
        })
        .await;
}

#[tokio::test]
async fn c4_what_stands_between_two_syncs_is_one_transaction() {
    let golden = Golden::start().await;
    golden.pg.sql("CREATE TABLE entries AS SELECT 'kept'::text AS name; GRANT ALL ON entries TO app").await;
    golden
        .same(async |wire| {
            wire.send(&[run("DELETE FROM entries"), run("INSERT INTO entries VALUES ('kept')"), sync()].concat()).await;
            wire.until_ready().await;
            wire.send(&[run("INSERT INTO entries VALUES ('undone')"), flush()].concat()).await;
            for _ in 0..3 {
                wire.read().await;
            }
            wire.send(&[run("SELECT count(*) FROM entries"), run("SELECT 1/0"), sync()].concat()).await;
            wire.until_ready().await;
            wire.query("SELECT name FROM entries").await;
        })
        .await;
}

/// PostgreSQL 18 leaves open what a Query shares with a batch that had no Sync, and once a Sync alone has ended that it refuses whatever is asked next.
#[tokio::test]
async fn c4_who_ends_a_batch_by_a_query_and_a_sync_leaves_nothing_to_its_neighbour() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let (mut who, mut neighbour) = (login(&proxy).await, login(&proxy).await);
    let together = [run("SELECT 1"), query("SELECT 2")].concat();
    for _ in 0..3 {
        who.send(&together).await;
        who.until_ready().await;
        who.send(&sync()).await;
        who.expect_ready(b'I').await;
        assert_eq!(neighbour.value("SELECT 'as ever'").await, "as ever");
        who.send(&[&together[..], &sync()].concat()).await;
        who.until_ready().await;
        who.expect_ready(b'I').await;
        assert_eq!(neighbour.value("SELECT 'as ever'").await, "as ever");
    }
    who.send(&together).await;
    who.until_ready().await;
    drop(who);
    assert_eq!(neighbour.value("SELECT 'as ever'").await, "as ever");
}

#[tokio::test]
async fn c5_a_flush_has_its_answers_and_no_ready_and_the_batch_goes_on_afterwards() {
    let golden = Golden::start().await;
    golden
        .same(async |wire| {
            wire.send(&[parse("", "SELECT $1::int + 1", &[]), describe(b'S', ""), flush()].concat()).await;
            wire.expect(b'1').await;
            wire.expect(b't').await;
            wire.expect(b'T').await;
            wire.send(&[bind("", "", &[Some("41")]), execute("", 0), flush()].concat()).await;
            wire.expect(b'2').await;
            wire.expect(b'D').await;
            wire.expect(b'C').await;
            wire.send(&sync()).await;
            wire.expect_ready(b'I').await;
            wire.send(&[flush(), flush(), query("SELECT 1")].concat()).await;
            wire.until_ready().await;
        })
        .await;
}

#[tokio::test]
async fn c6_a_portal_is_fetched_in_portions_within_its_transaction() {
    let golden = Golden::start().await;
    golden
        .same(async |wire| {
            let numbers = parse("", "SELECT generate_series(1, 5)", &[]);
            wire.send(&[numbers, bind("", "", &[]), execute("", 2), flush()].concat()).await;
            while wire.read().await.tag != b's' {}
            wire.send(&[execute("", 2), flush()].concat()).await;
            while wire.read().await.tag != b's' {}
            wire.send(&[execute("", 2), sync()].concat()).await;
            wire.until_ready().await;

            // A named portal of a transaction lives from batch to batch; without one it dies at Sync.
            wire.query("BEGIN").await;
            let fetched = [parse("", "SELECT generate_series(1, 3)", &[]), bind("cursor", "", &[]), execute("cursor", 2), sync()];
            wire.send(&fetched.concat()).await;
            wire.until_ready().await;
            wire.send(&[execute("cursor", 2), sync()].concat()).await;
            wire.until_ready().await;
            wire.query("COMMIT").await;
            wire.send(&[execute("cursor", 2), sync()].concat()).await;
            wire.until_ready().await;
        })
        .await;
}

#[tokio::test]
async fn c7_every_kind_of_answer_ends_what_it_answers() {
    let golden = Golden::start().await;
    golden
        .same(async |wire| {
            wire.query("").await;
            wire.query(" ; ").await;
            wire.send(&[run(""), sync()].concat()).await;
            wire.until_ready().await;
            // No columns: NoData for the statement and for the portal.
            let silent = [parse("", "DO ''", &[]), describe(b'S', ""), bind("", "", &[]), describe(b'P', ""), execute("", 0), sync()];
            wire.send(&silent.concat()).await;
            wire.until_ready().await;
            let columns = [parse("", "SELECT $1::text, 2", &[]), describe(b'S', ""), bind("p", "", &[None]), describe(b'P', "p")];
            wire.send(&[columns.concat(), execute("p", 0), close(b'P', "p"), close(b'P', "none"), sync()].concat()).await;
            wire.until_ready().await;
            // A statement of several commands is an error of Parse.
            wire.send(&[run("SELECT 1; SELECT 2"), sync()].concat()).await;
            wire.until_ready().await;
        })
        .await;
}

#[tokio::test]
async fn c8_a_sync_alone_takes_no_server() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let mut holder = login(&proxy).await;
    holder.query("BEGIN").await;

    let mut idle = login(&proxy).await;
    idle.send(&sync().repeat(1000)).await;
    for _ in 0..1000 {
        idle.expect_ready(b'I').await;
    }
    // Within a transaction a Sync is the server's to answer.
    holder.send(&sync().repeat(3)).await;
    for _ in 0..3 {
        holder.expect_ready(b'T').await;
    }
    holder.query("COMMIT").await;
    assert_eq!(idle.value("SELECT 1").await, "1");
}

#[tokio::test]
async fn c9_who_is_refused_a_server_hears_it_once_and_goes_on_after_its_sync() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).set("defaults.queue_timeout", "200ms").set("process.workers", 1).start().await;
    let mut holder = login(&proxy).await;
    let mut pinger = login(&proxy).await;
    holder.query("BEGIN").await;

    let mut refused = login(&proxy).await;
    // In the extended protocol: the error now, the rest is dropped, then one ReadyForQuery.
    refused.send(&run("SELECT 1")).await;
    refused.expect_error("53300").await;
    refused.send(&[run("SELECT 2"), flush(), query("SELECT 3")].concat()).await;
    ping(&mut pinger).await;
    refused.send(&sync()).await;
    refused.expect_ready(b'I').await;
    // With its Sync in the same breath.
    refused.send(&[run("SELECT 4"), run("SELECT 5"), sync()].concat()).await;
    refused.expect_error("53300").await;
    refused.expect_ready(b'I').await;
    // In the simple protocol each Query is refused by itself.
    refused.send(&[query("SELECT 6"), query("SELECT 7")].concat()).await;
    for _ in 0..2 {
        refused.expect_error("53300").await;
        refused.expect_ready(b'I').await;
    }
    // A large message is dropped whole.
    refused.send(&[run(&format!("SELECT '{}'", "x".repeat(100_000))), sync()].concat()).await;
    refused.expect_error("53300").await;
    refused.expect_ready(b'I').await;

    holder.query("COMMIT").await;
    assert_eq!(refused.value("SELECT 'served'").await, "served");
    ping(&mut refused).await;
    assert!(proxy.metric(r#"pgweir_refused_total{tenant="default",fault="queue_timeout"}"#).await >= 5.0);
}

#[tokio::test]
async fn c10_an_unnamed_statement_that_waits_for_its_bind_is_there_when_it_comes() {
    let golden = Golden::start().await;
    golden
        .same_pinned(async |wire| {
            wire.send(&[parse("", "SELECT $1 || '!'", &[25]), sync()].concat()).await;
            wire.until_ready().await;
            wire.send(&[bind("", "", &[Some("mine")]), execute("", 0), sync()].concat()).await;
            wire.until_ready().await;
            wire.send(&[parse("", "SELECT 'replaced'", &[]), bind("", "", &[]), execute("", 0), sync()].concat()).await;
            wire.until_ready().await;
        })
        .await;
}

#[tokio::test]
async fn c10_batches_of_unnamed_statements_do_not_wait_for_each_other() {
    let pg = Postgres::start().await;
    pg.sql("CREATE TABLE seen (x int); GRANT ALL ON seen TO app").await;
    let net = Faulty::to(pg.address()).await;
    let proxy = Proxy::before_faulty(&net).max_connections(1).start().await;
    let mut wire = login(&proxy).await;
    for begun in [Vec::new(), [parse("", "SELECT 'not run'", &[]), sync()].concat()] {
        wire.query("SELECT 1").await;
        wire.send(&begun).await;
        if !begun.is_empty() {
            wire.until_ready().await;
        }
        pg.sql("TRUNCATE seen").await;
        eventually("its server connection is free", PATIENCE, async || {
            proxy.metric(r#"pgweir_server_connections{upstream="main",state="idle"}"#).await > 0.5
        })
        .await;
        net.stall(Way::Back);
        let batch = |number: i32| [run(&format!("INSERT INTO seen VALUES ({number})")), sync()].concat();
        wire.send(&(1..=5).flat_map(batch).collect::<Vec<u8>>()).await;
        eventually("the server has run all of them before it is heard", PATIENCE, async || {
            pg.value("SELECT count(*) FROM seen").await == "5"
        })
        .await;
        net.heal();
        for _ in 1..=5 {
            wire.until_ready().await;
        }
    }
}

#[tokio::test]
async fn c10_nobody_is_ever_served_the_unnamed_statement_of_another() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let (mut owner, mut thief) = (login(&proxy).await, login(&proxy).await);
    owner.send(&[run("SELECT 'a secret'"), sync()].concat()).await;
    owner.until_ready().await;
    // The statement is still on the only server connection.
    let attempts = [bind("", "", &[]), describe(b'S', ""), bind("portal", "", &[])];
    for attempt in attempts {
        thief.send(&[attempt.clone(), execute("", 0), sync()].concat()).await;
        thief.expect_error("26000").await;
        thief.expect_ready(b'I').await;
        // Behind something that takes the server in any case, too.
        thief.send(&[close(b'P', "none"), attempt, execute("", 0), sync()].concat()).await;
        thief.expect(b'3').await;
        thief.expect_error("26000").await;
        thief.expect_ready(b'I').await;
    }
    assert_eq!(thief.value("SELECT 1").await, "1");
}

#[tokio::test]
async fn c10_a_large_bind_in_pieces_does_not_reach_the_unnamed_statement_of_another() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).set("process.workers", 1).start().await;
    let (mut owner, mut pinger) = (login(&proxy).await, login(&proxy).await);
    let bound = [parse("", "SELECT 'a secret', $1::text", &[]), bind("", "", &[Some("x")]), execute("", 0), sync()];
    let large = bind("", "", &[Some(&"x".repeat(100_000))]);
    // The names are cut off from the head, or come with it.
    for cut in [5, 6, 7, 20, 40_000] {
        owner.send(&bound.concat()).await;
        owner.until_ready().await;
        let mut thief = login(&proxy).await;
        thief.send(&large[..cut]).await;
        ping(&mut pinger).await;
        // The session may be ended over it.
        let _ = thief.try_send(&[&large[cut..], &execute("", 0), &sync()].concat()).await;
        let answer = thief.read().await;
        assert_eq!(char::from(answer.tag), 'E', "cut at {cut}\n{}", thief.transcript());
    }
}

#[tokio::test]
async fn c11_a_query_of_many_statements_has_all_their_answers_and_one_ready() {
    let golden = Golden::start().await;
    golden
        .same(async |wire| {
            let queries = [
                "SELECT 1; SELECT 2; BEGIN; SELECT 3",
                "SELECT 4; COMMIT; SELECT 5",
                "SELECT 6; SELECT 1/0; SELECT 7",
                "BEGIN; SELECT 1/0",
                "SELECT 'refused'",
                "ROLLBACK; SELECT 8; BEGIN",
                "COMMIT; BEGIN; ROLLBACK; SELECT 9",
            ];
            for sql in queries {
                let _ = wire.try_query(sql).await;
            }
            wire.send(&queries.map(query).concat()).await;
            for _ in queries {
                wire.until_ready().await;
            }
        })
        .await;
}

#[tokio::test]
async fn j1_a_function_call_has_its_one_answer() {
    let golden = Golden::start().await;
    let upper: u32 = golden.pg.value("SELECT 'upper(text)'::regprocedure::oid").await.parse().unwrap();
    golden
        .same(async |wire| {
            wire.send(&function_call(upper, &["loud"])).await;
            wire.until_ready().await;
            wire.send(&[function_call(upper, &["and"]), function_call(0, &[]), query("SELECT 1")].concat()).await;
            for _ in 0..3 {
                wire.until_ready().await;
            }
        })
        .await;
}

/// A small generator (Knuth's constants) so that a failing seed is the whole story.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % sides
    }
}

/// A message, or a few that belong together, as some client somewhere sends them.
fn some_messages(dice: &mut Dice) -> Vec<u8> {
    let failing = ["SELECT 1/0", "SELECT nonsense", "nonsense"];
    match dice.throw(18) {
        0 | 1 => run("SELECT 1"),
        2 => [parse("", "SELECT generate_series(1, 3)", &[]), describe(b'S', ""), bind("", "", &[]), execute("", 2)].concat(),
        3 => [run("BEGIN"), run("SAVEPOINT s")].concat(),
        4 => run(""),
        5 => run(failing[dice.throw(3)]),
        6 => run("ROLLBACK"),
        7 => [bind("p", "nobody's", &[]), execute("p", 0)].concat(),
        8 => [close(b'P', ""), close(b'P', "none"), close(b'S', "none")].concat(),
        9 => flush(),
        10 | 11 => sync(),
        12 => query(failing[dice.throw(3)]),
        13 => query(["BEGIN", "COMMIT", "ROLLBACK", "ROLLBACK; BEGIN"][dice.throw(4)]),
        14 => query("SELECT 2; SELECT 1/0; SELECT 3"),
        15 => query("SELECT 4; SELECT 5"),
        16 => function_call(0, &[]),
        _ => query(""),
    }
}

#[tokio::test]
async fn any_pipeline_in_any_pieces_is_answered_as_by_postgresql() {
    let golden = Golden::start().await;
    for seed in 1..=40 {
        println!("seed {seed}");
        golden
            .same(async |wire| {
                let mut dice = Dice(seed);
                let messages: Vec<u8> = (0..3 + dice.throw(20)).flat_map(|_| some_messages(&mut dice)).collect();
                let end = [sync(), query("ROLLBACK"), query("SELECT 'the end'")].concat();
                let whole = [messages, end].concat();
                // Noted as one, sent in pieces of two lengths.
                let cut = dice.throw(whole.len());
                wire.send_in_pieces(&whole, cut.max(1)).await;
                loop {
                    let frame = wire.read().await;
                    if frame.tag == b'D' && frame.values()[0].as_deref() == Some(b"the end") {
                        break;
                    }
                }
                wire.until_ready().await;
            })
            .await;
    }
}

#[tokio::test]
async fn two_clients_take_turns_on_one_server_connection() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let (mut first, mut second) = (login(&proxy).await, login(&proxy).await);
    let neighbour = Neighbour::move_in(&proxy).await;
    for turn in 0..50 {
        first.send(&[run(&format!("SELECT 'first {turn}', pg_backend_pid()")), sync()].concat()).await;
        second.send(&query(&format!("BEGIN; SELECT 'second {turn}', pg_backend_pid(); COMMIT"))).await;
        let mut pids = Vec::new();
        for (name, wire) in [("first", &mut first), ("second", &mut second)] {
            let answer = wire.until_ready().await;
            let row = answer.iter().find(|frame| frame.tag == b'D').expect("a row").values();
            assert_eq!(row[0].as_deref(), Some(format!("{name} {turn}").as_bytes()));
            pids.push(row[1].clone());
        }
        assert_eq!(pids[0], pids[1], "one server connection serves both");
    }
    neighbour.move_out().await;
}

#[tokio::test]
async fn c3_half_a_message_that_the_proxy_holds_back_keeps_no_server() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).set("defaults.queue_timeout", "10s").start().await;
    let (mut slow, mut other) = (login(&proxy).await, login(&proxy).await);
    let (whole, next) = (query("SELECT 'whole'"), query("SELECT 'next'"));
    slow.send(&[&whole, &next[..9]].concat()).await;
    slow.until_ready().await;
    assert_eq!(other.value("SELECT 'served meanwhile'").await, "served meanwhile");
    slow.send(&next[9..]).await;
    assert_eq!(slow.until_ready().await[1].values()[0].as_deref(), Some(&b"next"[..]));
    slow.expect_silence(Duration::from_millis(20)).await;
}
