//! Prepared statements in transaction mode: they follow their client to whichever server it gets, and nobody else sees them. Checklist D1-D11, C10.
//!
//! That answers are PostgreSQL's own, message for message, is shown by `tests/conversations`; here is what takes two clients, a changed table or a metric.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod harness;

use harness::frames::{bind, close, describe, execute, flush, parse, query, sync};
use harness::{Elsewhere, Faulty, Frame, PATIENCE, Postgres, Proxy, Way, Wire, eventually};

async fn login(proxy: &Proxy) -> Wire {
    Wire::login(proxy, "app", "secret", "app").await.expect("a login")
}

/// Sends a batch and reads its answer, which must not be an error.
async fn run(wire: &mut Wire, batch: &[Vec<u8>]) -> Vec<Frame> {
    wire.send(&[batch.concat(), sync()].concat()).await;
    let answer = wire.until_ready().await;
    assert!(answer.iter().all(|frame| frame.tag != b'E'), "{}", wire.transcript());
    answer
}

fn tags(frames: &[Frame]) -> String {
    frames.iter().map(|frame| char::from(frame.tag)).collect()
}

/// The first value of the first row.
fn value(frames: &[Frame]) -> String {
    let row = frames.iter().find(|frame| frame.tag == b'D').expect("a row");
    String::from_utf8(row.values()[0].as_ref().expect("a value").to_vec()).unwrap()
}

/// Two server connections; a function that shows the statements on the server it runs on, which no reader of texts sees.
async fn two_servers() -> (Postgres, Proxy) {
    let pg = Postgres::start().await;
    pg.sql(
        "CREATE FUNCTION statements() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM pg_prepared_statements';
         CREATE FUNCTION drop_statements() RETURNS void LANGUAGE plpgsql AS 'BEGIN EXECUTE ''DEALLOCATE ALL''; END';
         CREATE TABLE item (id int PRIMARY KEY, note text);
         ALTER TABLE item OWNER TO app;
         INSERT INTO item VALUES (1, 'one')",
    )
    .await;
    let proxy = Proxy::new(&pg).max_connections(2).set("process.workers", 1).start().await;
    (pg, proxy)
}

async fn is_never_kept(proxy: &Proxy) {
    for reason in ["statement", "unnamed_statement", "prepare"] {
        let pins = proxy.metric(&format!(r#"pgweir_pins_total{{tenant="default",reason="{reason}"}}"#)).await;
        assert!(pins < 0.5, "a server connection was kept for a {reason}");
    }
}

#[tokio::test]
async fn d1_d3_a_statement_is_wherever_its_client_is() {
    let (_pg, proxy) = two_servers().await;
    let mut elsewhere = Elsewhere::begin(&proxy).await;
    let mut wire = login(&proxy).await;
    run(&mut wire, &[parse("pid", "SELECT pg_backend_pid() + $1::int - $1::int", &[]), describe(b'S', "pid")]).await;
    let mut pids = Vec::new();
    for _ in 0..6 {
        assert!(elsewhere.switch().await, "the server connection is let go");
        let answer = run(&mut wire, &[bind("", "pid", &[Some("7")]), execute("", 0)]).await;
        assert_eq!(tags(&answer), "2DCZ", "the Parse that it took is not the client's business");
        pids.push(value(&answer));
    }
    pids.sort();
    pids.dedup();
    assert_eq!(pids.len(), 2, "it had both servers");
    is_never_kept(&proxy).await;
}

#[tokio::test]
async fn d1_the_same_name_is_another_statement_for_another_client() {
    let (_pg, proxy) = two_servers().await;
    let (mut one, mut other) = (login(&proxy).await, login(&proxy).await);
    run(&mut one, &[parse("q", "SELECT 'one'", &[])]).await;
    run(&mut other, &[parse("q", "SELECT 'other'", &[])]).await;
    for _ in 0..3 {
        assert_eq!(value(&run(&mut one, &[bind("", "q", &[]), execute("", 0)]).await), "one");
        assert_eq!(value(&run(&mut other, &[bind("", "q", &[]), execute("", 0)]).await), "other");
    }
    // The same text with other parameter types is another statement, too.
    run(&mut one, &[parse("t", "SELECT pg_typeof($1)::text", &[23])]).await;
    run(&mut other, &[parse("t", "SELECT pg_typeof($1)::text", &[25])]).await;
    assert_eq!(value(&run(&mut one, &[bind("", "t", &[Some("1")]), execute("", 0)]).await), "integer");
    assert_eq!(value(&run(&mut other, &[bind("", "t", &[Some("1")]), execute("", 0)]).await), "text");
}

#[tokio::test]
async fn d1_nobody_sees_or_uses_what_another_has_prepared() {
    let (_pg, proxy) = two_servers().await;
    let (mut owner, mut other) = (login(&proxy).await, login(&proxy).await);
    run(&mut owner, &[parse("secret", "SELECT 'secret'", &[])]).await;
    for name in ["secret", "weir_1"] {
        for message in [bind("", name, &[]), describe(b'S', name)] {
            other.send(&[message, sync()].concat()).await;
            other.expect_error("26000").await;
            other.until_ready().await;
        }
    }
    assert_eq!(other.value("SELECT count(*) FROM pg_prepared_statements").await, "0");
    assert_eq!(other.value("SELECT count(*) FROM pg_prepared_statement()").await, "0");
    let listed = [parse("", "SELECT count(*) FROM pg_prepared_statements", &[]), bind("", "", &[]), execute("", 0)];
    assert_eq!(value(&run(&mut other, &listed).await), "0");
    assert_eq!(value(&run(&mut owner, &[bind("", "secret", &[]), execute("", 0)]).await), "secret");
}

#[tokio::test]
async fn d2_what_a_server_has_is_not_sent_again() {
    let (pg, proxy) = two_servers().await;
    let mut wire = login(&proxy).await;
    let rows = "SELECT calls FROM (SELECT count(*) AS calls FROM pg_stat_activity WHERE query LIKE 'nothing') AS none";
    let before = wire.value("SELECT statements()").await;
    for _ in 0..20 {
        let mut short = login(&proxy).await;
        let answer = run(&mut short, &[parse("s", rows, &[]), describe(b'S', "s"), bind("", "s", &[]), execute("", 0)]).await;
        assert_eq!(tags(&answer), "1tT2DCZ");
    }
    assert_eq!(before, "0");
    // Twenty clients have prepared it; the server was told once.
    assert_eq!(wire.value("SELECT statements()").await, "1");
    drop(pg);
}

#[tokio::test]
async fn d4_a_parse_that_fails_leaves_no_name_behind() {
    let (_pg, proxy) = two_servers().await;
    let mut elsewhere = Elsewhere::begin(&proxy).await;
    let mut wire = login(&proxy).await;
    for _ in 0..2 {
        wire.send(&[parse("s", "SELECT nonsense", &[]), bind("", "s", &[]), execute("", 0), parse("t", "SELECT 1", &[]), sync()].concat())
            .await;
        wire.expect_error("42703").await;
        assert_eq!(tags(&wire.until_ready().await), "Z");
        assert!(elsewhere.switch().await);
        for name in ["s", "t"] {
            wire.send(&[bind("", name, &[]), sync()].concat()).await;
            wire.expect_error("26000").await;
            wire.until_ready().await;
            assert!(elsewhere.switch().await);
        }
    }
    assert_eq!(value(&run(&mut wire, &[parse("s", "SELECT 'now'", &[]), bind("", "s", &[]), execute("", 0)]).await), "now");
}

#[tokio::test]
async fn d3_a_statement_whose_table_is_gone_is_one_error() {
    let (pg, proxy) = two_servers().await;
    let mut elsewhere = Elsewhere::begin(&proxy).await;
    let mut wire = login(&proxy).await;
    pg.sql("CREATE TABLE passing (x int); GRANT ALL ON passing TO app").await;
    run(&mut wire, &[parse("s", "SELECT x FROM passing", &[])]).await;
    pg.sql("DROP TABLE passing").await;
    assert!(elsewhere.switch().await);
    wire.send(&[bind("", "s", &[]), describe(b'P', ""), execute("", 0), sync()].concat()).await;
    assert_eq!(tags(&wire.until_ready().await), "EZ");
    pg.sql("CREATE TABLE passing (x int); INSERT INTO passing VALUES (5); GRANT ALL ON passing TO app").await;
    assert_eq!(value(&run(&mut wire, &[bind("", "s", &[]), execute("", 0)]).await), "5", "the client still has it");
}

#[tokio::test]
async fn d9_a_changed_table_heals_by_itself_outside_a_transaction() {
    let (pg, proxy) = two_servers().await;
    let mut wire = login(&proxy).await;
    let fetch = [bind("", "s", &[]), describe(b'P', ""), execute("", 0)];
    run(&mut wire, &[parse("s", "SELECT * FROM item", &[])]).await;
    assert_eq!(run(&mut wire, &fetch).await.iter().find(|frame| frame.tag == b'D').unwrap().values().len(), 2);
    pg.sql("ALTER TABLE item ADD COLUMN more int DEFAULT 3").await;
    let answer = run(&mut wire, &fetch).await;
    assert_eq!(tags(&answer), "2TDCZ");
    assert_eq!(answer[2].values().len(), 3);
    // Inside a transaction nobody can undo what has been done: the error is passed on, and the next transaction works.
    pg.sql("ALTER TABLE item ADD COLUMN evenmore int DEFAULT 4").await;
    wire.query("BEGIN").await;
    wire.send(&[fetch.concat(), sync()].concat()).await;
    wire.expect_error("0A000").await;
    wire.until_ready().await;
    wire.query("ROLLBACK").await;
    assert_eq!(run(&mut wire, &fetch).await[2].values().len(), 4);
    // A client that comes after the change never knew what was before, whatever it asks first.
    for (columns, first) in [(3, vec![]), (2, vec![describe(b'S', "mine")])] {
        pg.sql(if columns == 3 { "ALTER TABLE item DROP COLUMN evenmore" } else { "ALTER TABLE item DROP COLUMN more" }).await;
        let mut late = login(&proxy).await;
        let batch = [vec![parse("mine", "SELECT * FROM item", &[])], first, vec![bind("", "mine", &[]), execute("", 0)]].concat();
        let answer = run(&mut late, &batch).await;
        assert_eq!(answer.iter().find(|frame| frame.tag == b'D').unwrap().values().len(), columns);
        run(&mut late, &[close(b'S', "mine"), parse("mine", "SELECT * FROM item", &[]), describe(b'S', "mine")]).await;
    }
}

#[tokio::test]
async fn d9_a_statement_that_somebody_has_dropped_is_prepared_again() {
    let (_pg, proxy) = two_servers().await;
    let mut wire = login(&proxy).await;
    run(&mut wire, &[parse("s", "SELECT 'here'", &[])]).await;
    // No text tells, and no tag.
    assert_eq!(wire.value("SELECT statements()").await, "1");
    wire.query("SELECT drop_statements()").await;
    assert_eq!(wire.value("SELECT statements()").await, "0");
    assert_eq!(value(&run(&mut wire, &[bind("", "s", &[]), execute("", 0)]).await), "here");
}

#[tokio::test]
async fn d8_deallocate_is_about_the_clients_own_statements() {
    let (_pg, proxy) = two_servers().await;
    let mut elsewhere = Elsewhere::begin(&proxy).await;
    let (mut wire, mut other) = (login(&proxy).await, login(&proxy).await);
    let is_gone = async |wire: &mut Wire, name: &str| {
        wire.send(&[bind("", name, &[]), sync()].concat()).await;
        wire.expect_error("26000").await;
        wire.until_ready().await;
    };
    run(&mut other, &[parse("kept", "SELECT 'kept'", &[])]).await;
    for (statement, drops) in [
        ("DEALLOCATE a", "a"),
        ("DEALLOCATE PREPARE \"B\" ;", "B"),
        ("DEALLOCATE ALL", "aB"),
        ("SELECT 1; DEALLOCATE ALL; SELECT 2", "aB"),
        ("DISCARD ALL", "aB"),
    ] {
        for name in ["a", "B"] {
            run(&mut wire, &[close(b'S', name), parse(name, &format!("SELECT '{name}'"), &[])]).await;
        }
        assert!(elsewhere.switch().await);
        wire.query(statement).await;
        assert!(elsewhere.switch().await, "{statement}");
        for name in ["a", "B"] {
            if drops.contains(name) {
                is_gone(&mut wire, name).await;
            } else {
                assert_eq!(value(&run(&mut wire, &[bind("", name, &[]), execute("", 0)]).await), name, "{statement}");
            }
            assert!(elsewhere.switch().await);
        }
        assert_eq!(value(&run(&mut other, &[bind("", "kept", &[]), execute("", 0)]).await), "kept", "{statement}");
        assert!(elsewhere.switch().await);
    }
    assert_eq!(wire.try_query("DEALLOCATE nobody").await.unwrap_err().code(), "26000");
    // By the extended protocol, as psycopg does in a pipeline.
    run(&mut wire, &[parse("a", "SELECT 'a'", &[])]).await;
    run(&mut wire, &[parse("", "DEALLOCATE a", &[]), bind("", "", &[]), execute("", 0)]).await;
    is_gone(&mut wire, "a").await;
    is_never_kept(&proxy).await;
}

#[tokio::test]
async fn d10_a_statement_prepared_in_a_transaction_that_is_undone_stays() {
    let (_pg, proxy) = two_servers().await;
    let mut elsewhere = Elsewhere::begin(&proxy).await;
    let mut wire = login(&proxy).await;
    wire.query("BEGIN").await;
    run(&mut wire, &[parse("s", "SELECT 'stays'", &[])]).await;
    wire.query("ROLLBACK").await;
    for _ in 0..2 {
        assert!(elsewhere.switch().await);
        assert_eq!(value(&run(&mut wire, &[bind("", "s", &[]), execute("", 0)]).await), "stays");
    }
}

#[tokio::test]
async fn d10_search_path_is_part_of_what_a_statement_means() {
    let pg = Postgres::start().await;
    pg.sql(
        "CREATE SCHEMA a; CREATE TABLE a.t AS SELECT 'in a'::text AS x; CREATE SCHEMA b; CREATE TABLE b.t AS SELECT 7 AS x;
         GRANT ALL ON SCHEMA a, b TO app; GRANT ALL ON a.t, b.t TO app",
    )
    .await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    for _ in 0..3 {
        for (path, expected) in [("a", "in a"), ("b", "7")] {
            let mut wire = Wire::connect(&proxy).await;
            wire.start(&[("user", "app"), ("database", "app"), ("search_path", path)]).await;
            wire.authenticate("app", "secret").await.unwrap();
            let answer = run(&mut wire, &[parse("s", "SELECT x FROM t", &[]), bind("", "s", &[]), execute("", 0)]).await;
            assert_eq!(value(&answer), expected);
        }
    }
}

#[tokio::test]
async fn d7_d11_what_a_server_keeps_is_bounded() {
    let pg = Postgres::start().await;
    pg.sql("CREATE FUNCTION statements() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM pg_prepared_statements'").await;
    let proxy = Proxy::new(&pg).max_connections(1).set("upstreams.main.prepared_statements", "16KiB").start().await;
    let mut wire = login(&proxy).await;
    for number in 0..300 {
        let name = format!("s{number}");
        run(&mut wire, &[parse(&name, &format!("SELECT {number}"), &[]), bind("", &name, &[]), execute("", 0)]).await;
    }
    let there: u32 = wire.value("SELECT statements()").await.parse().unwrap();
    assert!((10..=64).contains(&there), "{there} statements of 256 bytes and more are within 16 KiB");
    // All of them are still the client's.
    for number in [0, 7, 150, 299] {
        assert_eq!(value(&run(&mut wire, &[bind("", &format!("s{number}"), &[]), execute("", 0)]).await), number.to_string());
    }
    // An eviction in a pipeline that fails leaves what is believed of the server true.
    for number in 0..50 {
        let name = format!("t{number}");
        let text = format!("SELECT 1000 + {number}");
        wire.send(&[parse("bad", "SELECT nonsense", &[]), parse(&name, &text, &[]), bind("", &name, &[]), execute("", 0), sync()].concat())
            .await;
        wire.expect_error("42703").await;
        wire.until_ready().await;
        let back = format!("s{}", number * 5);
        assert_eq!(value(&run(&mut wire, &[bind("", &back, &[]), execute("", 0)]).await), (number * 5).to_string());
    }
    let there: u32 = wire.value("SELECT statements()").await.parse().unwrap();
    assert!(there <= 70, "{there} statements");
}

#[tokio::test]
async fn c10_an_unnamed_statement_is_there_in_the_next_transaction() {
    let (_pg, proxy) = two_servers().await;
    let mut elsewhere = Elsewhere::begin(&proxy).await;
    let mut wire = login(&proxy).await;
    // As lib/pq does: prepare, describe and sync; then bind.
    for number in 0..4 {
        let text = format!("SELECT {number} + $1::int");
        assert_eq!(tags(&run(&mut wire, &[parse("", &text, &[]), describe(b'S', "")]).await), "1tTZ");
        for add in [1, 2] {
            assert!(elsewhere.switch().await, "nothing is kept");
            let answer = run(&mut wire, &[bind("", "", &[Some(&add.to_string())]), execute("", 0)]).await;
            assert_eq!((tags(&answer).as_str(), value(&answer)), ("2DCZ", (number + add).to_string()));
        }
        assert!(elsewhere.switch().await);
    }
    wire.query("SELECT 'a query destroys it'").await;
    assert!(elsewhere.switch().await);
    wire.send(&[bind("", "", &[Some("1")]), sync()].concat()).await;
    wire.expect_error("26000").await;
    wire.until_ready().await;
    is_never_kept(&proxy).await;
}

#[tokio::test]
async fn b2_a_large_bind_of_a_statement_that_is_elsewhere_streams_through() {
    let (_pg, proxy) = two_servers().await;
    let mut elsewhere = Elsewhere::begin(&proxy).await;
    let mut wire = login(&proxy).await;
    let large = "x".repeat(3_000_000);
    run(&mut wire, &[parse("length", "SELECT length($1)", &[25])]).await;
    for _ in 0..3 {
        assert!(elsewhere.switch().await);
        let answer = run(&mut wire, &[bind("", "length", &[Some(&large)]), execute("", 0)]).await;
        assert_eq!(value(&answer), "3000000");
    }
    // A statement of many kilobytes is remembered whole, however it is cut.
    let long = format!("SELECT 'long' -- {}", "y".repeat(200_000));
    let batch = [parse("long", &long, &[]), sync()].concat();
    wire.send_in_pieces(&batch, 9_999).await;
    wire.until_ready().await;
    for _ in 0..2 {
        assert!(elsewhere.switch().await, "it is not kept");
        assert_eq!(value(&run(&mut wire, &[bind("", "long", &[]), execute("", 0)]).await), "long");
    }
}

#[tokio::test]
async fn d2_answers_of_the_proxy_keep_their_place() {
    let (_pg, proxy) = two_servers().await;
    let mut wire = login(&proxy).await;
    run(&mut wire, &[parse("s", "SELECT 's'", &[]), parse("t", "SELECT 't'", &[])]).await;
    run(&mut wire, &[close(b'S', "s"), close(b'S', "t")]).await;
    // The server has both: it is told nothing of these Parses and Closes.
    let batch = [
        bind("", "nothing", &[]),
        sync(),
        parse("s", "SELECT 's'", &[]),
        bind("", "s", &[]),
        close(b'S', "s"),
        execute("", 0),
        parse("t", "SELECT 't'", &[]),
        close(b'S', "nothing"),
        sync(),
        parse("u", "SELECT 't'", &[]),
        flush(),
    ];
    wire.send(&batch.concat()).await;
    let mut seen = tags(&wire.until_ready().await);
    seen += &tags(&wire.until_ready().await);
    seen.push(char::from(wire.read().await.tag));
    assert_eq!(seen, "EZ123DC13Z1");
    run(&mut wire, &[]).await;
}

#[tokio::test]
async fn e2_who_leaves_in_the_middle_of_a_pipeline_leaves_nothing_uncertain() {
    let (_pg, proxy) = two_servers().await;
    let texts: Vec<String> = (0..20).map(|number| format!("SELECT {number}, pg_sleep(0.001)")).collect();
    let mut honest = login(&proxy).await;
    for round in 0..20 {
        let mut leaver = login(&proxy).await;
        let batch: Vec<Vec<u8>> = texts
            .iter()
            .enumerate()
            .flat_map(|(at, text)| [parse(&format!("s{at}"), text, &[]), bind("", &format!("s{at}"), &[])])
            .collect();
        leaver.send(&batch.concat()[..50 * (round + 1)]).await;
        drop(leaver);
        let name = format!("mine{round}");
        let answer = run(&mut honest, &[parse(&name, "SELECT 'mine'", &[]), bind("", &name, &[]), execute("", 0)]).await;
        assert_eq!(value(&answer), "mine");
        honest.query("SELECT 1").await;
    }
    eventually("both servers are idle", PATIENCE, async || {
        (proxy.metric(r#"pgweir_server_connections{upstream="main",state="leased"}"#).await).abs() < 0.5
    })
    .await;
    honest.send(&query("SELECT 1")).await;
    honest.until_ready().await;
}

#[tokio::test]
async fn what_a_pipeline_leaves_open_is_bounded() {
    let (_pg, proxy) = two_servers().await;
    let mut wire = login(&proxy).await;
    run(&mut wire, &[parse("s", "SELECT 's'", &[])]).await;
    // Behind a Bind that the server answers only when it is told to, thousands of answers that are the proxy's: it goes on without a Sync.
    let closes: Vec<u8> = (0..6_000).flat_map(|number| close(b'S', &format!("nobody{number}"))).collect();
    wire.send(&[bind("", "s", &[]), closes].concat()).await;
    assert_eq!(wire.read().await.tag, b'2');
    for _ in 0..6_000 {
        assert_eq!(wire.read().await.tag, b'3');
    }
    assert_eq!(value(&run(&mut wire, &[execute("", 0)]).await), "s");
}

#[tokio::test]
async fn what_is_remembered_of_a_client_is_bounded() {
    let (_pg, proxy) = two_servers().await;
    let mut elsewhere = Elsewhere::begin(&proxy).await;
    let mut wire = login(&proxy).await;
    let long = "x".repeat(200_000);
    for number in 0..21 {
        run(&mut wire, &[parse(&format!("s{number}"), &format!("SELECT '{number}' -- {long}"), &[])]).await;
        assert!(elsewhere.switch().await, "{number}: what is remembered keeps nothing");
    }
    // One more, and its client stays where that is.
    run(&mut wire, &[parse("more", "SELECT 'more'", &[])]).await;
    let pinned = r#"pgweir_pinned{tenant="default",reason="statement"}"#;
    eventually("it is kept", PATIENCE, async || (proxy.metric(pinned).await - 1.0).abs() < 0.1).await;
    for (name, expected) in [("more", "more"), ("s0", "0"), ("s20", "20")] {
        assert_eq!(value(&run(&mut wire, &[bind("", name, &[]), execute("", 0)]).await), expected);
    }
    // So do settings beyond all measure.
    let mut setter = login(&proxy).await;
    drop(wire);
    for number in 0..8 {
        setter.query(&format!("SET app.large{number} = '{}'", "y".repeat(10_000))).await;
    }
    let pinned = r#"pgweir_pinned{tenant="default",reason="setting"}"#;
    eventually("it is kept", PATIENCE, async || (proxy.metric(pinned).await - 1.0).abs() < 0.1).await;
    assert_eq!(setter.value("SELECT length(current_setting('app.large0'))").await, "10000");
    setter.query("RESET ALL").await;
    eventually("it is let go", PATIENCE, async || proxy.metric(pinned).await.abs() < 0.1).await;
}

#[tokio::test]
async fn d8_nobody_runs_or_drops_anothers_statement_by_the_servers_name_for_it() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let mut one = Wire::login(&proxy, "app", "secret", "app").await.unwrap();
    let mut other = Wire::login(&proxy, "app", "secret", "app").await.unwrap();
    for text in ["EXECUTE NAME", "EXECUTE NAME; SELECT '\\'", "EXECUTE U&\"NAME\"", "EXPLAIN EXECUTE NAME", "DEALLOCATE NAME; SELECT '\\'"]
    {
        let name = format!("mine {text}");
        one.send(&[parse(&name, "SELECT 'private'", &[]), bind("", &name, &[]), execute("", 0), sync()].concat()).await;
        assert!(one.until_ready().await.iter().any(|frame| frame.tag == b'D'), "{}", one.transcript());
        for number in 1..8 {
            let error = other.try_query(&text.replace("NAME", &format!("weir_{number}"))).await.unwrap_err();
            assert_eq!(error.code(), "26000", "{text} {number}");
        }
    }
}

/// What must be prepared before a text that lists statements may be more than a socket takes at once.
#[tokio::test]
async fn many_long_statements_are_all_listed_wherever_their_client_is() {
    let pg = Postgres::start().await;
    let net = Faulty::of_small_segments_to(pg.address()).await;
    let proxy = Proxy::before_faulty(&net)
        .max_connections(2)
        .set("process.workers", 1)
        .set("upstreams.main.prepared_statements", "16MiB")
        .start()
        .await;
    let mut elsewhere = Elsewhere::begin(&proxy).await;
    let mut wire = login(&proxy).await;
    for number in 0..900 {
        run(&mut wire, &[parse(&format!("s{number}"), &format!("SELECT {number}, '{}'", "x".repeat(4000)), &[])]).await;
    }
    assert!(elsewhere.switch().await);
    net.stall(Way::Onward);
    wire.send(&query("SELECT count(*) FROM pg_prepared_statements")).await;
    eventually("it is on its way", PATIENCE, async || {
        proxy.metric(r#"pgweir_server_connections{upstream="main",state="leased"}"#).await > 1.5
    })
    .await;
    net.heal();
    let listed = harness::in_time("the list", wire.until_ready()).await;
    assert_eq!(value(&listed), "900");
}

#[tokio::test]
async fn d5_who_loses_its_unnamed_statement_in_a_failing_batch_does_not_find_its_neighbours() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let mut neighbour = Wire::login(&proxy, "app", "secret", "app").await.unwrap();
    let mut client = Wire::login(&proxy, "app", "secret", "app").await.unwrap();
    for lost in [parse("", "SELECT 'mine'", &[]), [parse("", "SELECT 'mine'", &[]), close(b'S', ""), parse("", "SELECT 2", &[])].concat()] {
        neighbour.send(&[parse("", "SELECT 'his'", &[]), bind("", "", &[]), execute("", 0), sync()].concat()).await;
        neighbour.until_ready().await;
        // The Parse is discarded with the batch; that is not known yet when what follows is sent.
        let batches = [execute("nobody's", 0), lost, sync(), bind("", "", &[]), execute("", 0), sync(), describe(b'S', ""), sync()];
        client.send(&batches.concat()).await;
        for code in ["34000", "26000", "26000"] {
            client.expect_error(code).await;
            client.expect_ready(b'I').await;
        }
    }
}

/// How the batch ends is for the server's version to say: PostgreSQL 18 goes on with its transaction up to a Sync.
#[tokio::test]
async fn d8_what_a_batch_sets_holds_where_an_execute_follows_it_without_a_sync() {
    let (_pg, proxy) = two_servers().await;
    let mut elsewhere = Elsewhere::begin(&proxy).await;
    let mut wire = login(&proxy).await;
    run(&mut wire, &[parse("two", "SELECT 2", &[])]).await;
    for size in ["9MB", "10MB", "11MB"] {
        assert!(elsewhere.switch().await, "the server connection is let go");
        let set = parse("", &format!("SET work_mem = '{size}'"), &[]);
        wire.send(&[set, bind("", "", &[]), execute("", 0), query("EXECUTE two")].concat()).await;
        let answer = wire.until_ready().await;
        assert_eq!(tags(&answer), "12CTDCZ", "{}", wire.transcript());
        assert_eq!(value(&answer), "2");
        let answer = run(&mut wire, &[parse("", "SHOW work_mem", &[]), bind("", "", &[]), execute("", 0)]).await;
        assert_eq!(value(&answer), size);
        assert!(elsewhere.switch().await, "the server connection is let go");
        assert_eq!(wire.value("SHOW work_mem").await, size);
    }
}
