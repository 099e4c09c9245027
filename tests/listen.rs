//! LISTEN in transaction mode: however many clients listen, one server connection does it for all, and each hears what it would hear alone. Checklist G1, G2, I7.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod harness;

use std::time::Duration;

use harness::frames::{bind, execute, parse, query, sync};
use harness::{Admin, Endpoint, Frame, Golden, PATIENCE, Postgres, Proxy, Wire, compare_leniently, eventually, in_time};

const LISTENING: &str = r#"pgweir_server_connections{upstream="main",state="listening"}"#;
const LEASED: &str = r#"pgweir_server_connections{upstream="main",state="leased"}"#;
const CLIENTS: &str = r#"pgweir_listening_clients{upstream="main"}"#;
const PINNED: &str = r#"pgweir_pinned{tenant="default",reason="listen"}"#;
const PINS: &str = r#"pgweir_pins_total{tenant="default",reason="listen"}"#;

async fn login(proxy: &Proxy) -> Wire {
    Wire::login(proxy, "app", "secret", "app").await.expect("a login")
}

async fn is(proxy: &Proxy, metric: &str, value: f64) {
    eventually(&format!("{metric} is {value}"), PATIENCE, async || (proxy.metric(metric).await - value).abs() < 0.5).await;
}

const CHANNELS: &str = "SELECT c FROM pg_listening_channels() c ORDER BY c";

/// What clients say to themselves, one statement after the other.
const SCRIPTS: &[&[&str]] = &[
    // What one says to oneself comes before the end of the answer.
    &["LISTEN a", "NOTIFY a, '1'", "SELECT pg_notify('a', '2')", "NOTIFY b", "NOTIFY a"],
    &["LISTEN jobs", "INSERT INTO jobs VALUES (1), (2)", "BEGIN", "INSERT INTO jobs VALUES (3)", "SELECT 1", "COMMIT", "SELECT 2"],
    &["LISTEN a; NOTIFY a, 'at once'", "LISTEN a", "NOTIFY a", "LISTEN b; NOTIFY b", "NOTIFY a; NOTIFY b; NOTIFY a"],
    // As transactions have it.
    &["BEGIN", "LISTEN a", "NOTIFY a", "COMMIT", "NOTIFY a", CHANNELS],
    &["BEGIN", "LISTEN a", "ROLLBACK", "NOTIFY a", CHANNELS],
    &["LISTEN a", "BEGIN", "UNLISTEN a", "NOTIFY a", "ROLLBACK", "NOTIFY a", CHANNELS],
    &["LISTEN a", "LISTEN b", "BEGIN", "UNLISTEN a", "COMMIT", "NOTIFY a; NOTIFY b", CHANNELS],
    &[
        "LISTEN a",
        "LISTEN b",
        "BEGIN",
        "SAVEPOINT s",
        "UNLISTEN *",
        "ROLLBACK TO s",
        "UNLISTEN b",
        "LISTEN c",
        "COMMIT",
        CHANNELS,
        "NOTIFY a; NOTIFY b; NOTIFY c",
    ],
    &["LISTEN a", "BEGIN", "UNLISTEN a", "SELECT 1/0", "UNLISTEN *", "ROLLBACK", CHANNELS, "NOTIFY a"],
    &["LISTEN a", "BEGIN; UNLISTEN a; LISTEN b; COMMIT", CHANNELS, "NOTIFY a; NOTIFY b"],
    &["LISTEN a", "BEGIN; UNLISTEN a; LISTEN b; SELECT 1/0", "ROLLBACK", CHANNELS, "NOTIFY a; NOTIFY b"],
    // All of it ends.
    &["LISTEN a", "LISTEN b", "UNLISTEN *", CHANNELS, "NOTIFY a; NOTIFY b"],
    &["LISTEN a", "DISCARD ALL", CHANNELS, "NOTIFY a"],
    &["LISTEN a", "UNLISTEN *; RESET ALL; SELECT 1", CHANNELS, "NOTIFY a", "LISTEN a", "NOTIFY a"],
    // Beside other things that stay, and go.
    &[
        "CREATE TEMP TABLE mine (x int)",
        "LISTEN a",
        "NOTIFY a",
        "LISTEN b",
        "UNLISTEN a",
        "DROP TABLE mine",
        CHANNELS,
        "NOTIFY a; NOTIFY b",
    ],
    &[
        "LISTEN a",
        "CREATE TEMP TABLE mine (x int)",
        "NOTIFY a",
        "UNLISTEN a",
        "NOTIFY a",
        "LISTEN c",
        "NOTIFY c",
        "DROP TABLE mine",
        CHANNELS,
        "NOTIFY c",
    ],
    &["LISTEN a", "SET work_mem = '3MB'", "NOTIFY a", "SHOW work_mem", "SET TimeZone = 'Asia/Tokyo'", "NOTIFY a", "RESET ALL", "NOTIFY a"],
    // Names of every kind.
    &[
        "LISTEN \"A \"\"quoted\"\" one\"",
        "LISTEN größe",
        CHANNELS,
        "NOTIFY \"A \"\"quoted\"\" one\", 'x'",
        "NOTIFY größe, 'y'",
        "UNLISTEN größe",
        CHANNELS,
    ],
    // Where no text tells.
    &[
        "CREATE OR REPLACE FUNCTION hush() RETURNS void LANGUAGE plpgsql AS $$ BEGIN UNLISTEN a; END $$",
        "CREATE OR REPLACE FUNCTION hush_all() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'UNLISTEN *'; PERFORM hush(); END $$",
        "LISTEN a",
        "LISTEN b",
        "SELECT hush()",
        CHANNELS,
        "NOTIFY a; NOTIFY b",
        "LISTEN a",
        "BEGIN",
        "SELECT hush_all()",
        "ROLLBACK",
        "NOTIFY a; NOTIFY b",
        "SELECT hush_all()",
        CHANNELS,
        "NOTIFY a; NOTIFY b",
    ],
    &["DO $$ BEGIN EXECUTE 'LISTEN hidden'; END $$", "NOTIFY hidden", CHANNELS, "UNLISTEN hidden", "NOTIFY hidden"],
];

/// What a notification says: its channel and its payload.
fn said(frame: &Frame) -> (String, String) {
    assert_eq!(char::from(frame.tag), 'A', "a notification was expected, not {frame:?}");
    let mut parts = frame.body[4..].split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned());
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

async fn hears(wire: &mut Wire, channel: &str, payload: &str) {
    let frame = in_time("a notification", wire.read()).await;
    assert_eq!(said(&frame), (channel.to_owned(), payload.to_owned()));
}

/// What an answer says beside rows: notifications, and where they stand.
async fn kinds(wire: &mut Wire, sql: &str) -> String {
    wire.send(&query(sql)).await;
    wire.until_ready().await.iter().map(|frame| char::from(frame.tag)).collect()
}

#[tokio::test]
async fn many_listeners_share_one_connection_and_each_hears_everything_once() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(4).start().await;
    let mut listeners = Vec::new();
    for number in 0..40 {
        let mut wire = login(&proxy).await;
        wire.query(&format!("LISTEN everybody; LISTEN \"number {number}\"")).await;
        listeners.push(wire);
    }
    is(&proxy, CLIENTS, 40.0).await;
    is(&proxy, LISTENING, 1.0).await;
    is(&proxy, LEASED, 0.0).await;
    is(&proxy, PINNED, 0.0).await;
    is(&proxy, PINS, 0.0).await;
    let mut speaker = login(&proxy).await;
    speaker.query("NOTIFY everybody, 'one'; NOTIFY everybody, 'two'; NOTIFY \"number 7\", 'seven'").await;
    speaker.query("NOTIFY everybody, 'three'; NOTIFY nobody, 'x'").await;
    for (number, wire) in listeners.iter_mut().enumerate() {
        hears(wire, "everybody", "one").await;
        hears(wire, "everybody", "two").await;
        if number == 7 {
            hears(wire, "number 7", "seven").await;
        }
        hears(wire, "everybody", "three").await;
        assert_eq!(wire.value("SELECT count(*) FROM pg_listening_channels()").await, "2");
    }
    is(&proxy, r#"pgweir_notifications_total{tenant="default"}"#, 121.0).await;
    // Each has its own, and the others theirs.
    listeners[0].query("UNLISTEN everybody").await;
    speaker.query("NOTIFY everybody, 'four'; NOTIFY \"number 0\", 'five'").await;
    hears(&mut listeners[0], "number 0", "five").await;
    hears(&mut listeners[1], "everybody", "four").await;
    // When the last has gone, however it goes, the connection is of use again.
    drop(listeners);
    is(&proxy, CLIENTS, 0.0).await;
    is(&proxy, LISTENING, 0.0).await;
    speaker.query("LISTEN everybody").await;
    is(&proxy, LISTENING, 1.0).await;
    speaker.query("UNLISTEN *").await;
    is(&proxy, LISTENING, 0.0).await;
    speaker.query("NOTIFY everybody").await;
    speaker.expect_silence(Duration::from_millis(100)).await;
}

#[tokio::test]
async fn it_is_as_it_would_be_alone() {
    let golden = Golden::start().await;
    golden.pg.sql("CREATE TABLE jobs (x int); GRANT ALL ON jobs TO app").await;
    golden.pg.sql("CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('jobs', NEW.x::text); RETURN NEW; END $$").await;
    golden.pg.sql("CREATE TRIGGER tell AFTER INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION tell()").await;
    for script in SCRIPTS {
        golden
            .same(async |wire| {
                for sql in *script {
                    let _ = wire.try_query(sql).await;
                }
                wire.query("UNLISTEN *").await;
                wire.query("DROP TABLE IF EXISTS mine").await;
            })
            .await;
    }
    golden
        .same(async |wire| {
            wire.query("LISTEN a").await;
            let run = |name: &str| [bind("", name, &[]), execute("", 0)].concat();
            wire.send(&[parse("off", "UNLISTEN a", &[]), parse("say", "SELECT pg_notify('a', 'x')", &[]), sync()].concat()).await;
            wire.until_ready().await;
            wire.send(&[run("say"), run("say"), sync()].concat()).await;
            wire.until_ready().await;
            wire.send(&[run("off"), sync()].concat()).await;
            wire.until_ready().await;
            wire.send(&[run("say"), sync()].concat()).await;
            wire.until_ready().await;
            wire.query("DEALLOCATE ALL").await;
        })
        .await;
}

/// Everything that is said while clients come and go: no gap, and nothing twice.
/// What clients who listen to `a` and `b` say behind a statement that is not answered yet, all at once.
const BEHIND: &[&[&str]] = &[
    &["UNLISTEN a", CHANNELS],
    &[CHANNELS, "UNLISTEN a", CHANNELS],
    &["SELECT 1", "BEGIN; UNLISTEN a; COMMIT", "SELECT 2", CHANNELS],
    &["BEGIN", "UNLISTEN a", "ROLLBACK", CHANNELS],
    &["SELECT 1/0", "UNLISTEN *", CHANNELS],
    &["DISCARD ALL", CHANNELS],
];

/// What comes of it for a client of this address, and of what is notified afterwards.
async fn heard_behind(to: impl Into<Endpoint>, pg: &Postgres, said: &[Vec<u8>]) -> String {
    const WAITING: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
    let to = to.into();
    let login = async |to: Endpoint| Wire::login(to, "app", "secret", "app").await.unwrap();
    let (mut wire, mut other, mut holder) = (login(to.clone()).await, login(to).await, login(pg.into()).await);
    wire.query("LISTEN a; LISTEN b").await;
    holder.query("SELECT pg_advisory_lock(5)").await;
    wire.clear_transcript();
    wire.send(&query("SELECT pg_advisory_xact_lock(5)")).await;
    eventually("it waits", PATIENCE, async || pg.value(WAITING).await == "1").await;
    wire.send(&said.concat()).await;
    // The worker that serves this has seen what came before it.
    other.query("SELECT 1").await;
    holder.query("SELECT pg_advisory_unlock(5)").await;
    for _ in 0..=said.len() {
        wire.until_ready().await;
    }
    holder.query("NOTIFY a; NOTIFY b").await;
    wire.query("NOTIFY a, 'mine'; NOTIFY b, 'mine'").await;
    wire.transcript()
}

#[tokio::test]
async fn what_is_said_behind_an_answer_that_is_still_to_come_is_about_the_clients_own_channels() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).set("process.workers", 1).start().await;
    for said in BEHIND {
        let simple: Vec<Vec<u8>> = said.iter().map(|sql| query(sql)).collect();
        let is_single = |sql: &&&str| !sql.contains(';');
        let extended = |sql: &&str| [parse("", sql, &[]), bind("", "", &[]), execute("", 0), sync()].concat();
        // What comes in pieces has such words anywhere.
        let long = query(&format!("SELECT length('{}')", "listen ".repeat(20_000)));
        let behind_long = [&[long][..], &simple].concat();
        for said in [simple, behind_long, said.iter().filter(is_single).map(extended).collect()] {
            let (direct, through) = (heard_behind(&pg, &pg, &said).await, heard_behind(&proxy, &pg, &said).await);
            compare_leniently("an answer still to come", &direct, &through);
        }
    }
}

#[tokio::test]
async fn who_joins_in_the_middle_misses_nothing_and_hears_nothing_twice() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(6).set("process.workers", 2).start().await;
    let address = proxy.address();
    let speak = tokio::spawn(async move {
        let mut wire = Wire::login(address, "app", "secret", "app").await.expect("a login");
        for number in 0..6000 {
            wire.query(&format!("NOTIFY news, '{number}'")).await;
        }
        wire.query("NOTIFY news, 'end'").await;
    });
    let listen = |number: u64| async move {
        let mut wire = Wire::login(address, "app", "secret", "app").await.expect("a login");
        tokio::time::sleep(Duration::from_millis(number * 40)).await;
        let mut heard = Vec::new();
        // Something else to listen to, now and then, changes nothing.
        for sql in ["LISTEN news".to_owned(), format!("LISTEN other_{number}"), "SELECT 1".to_owned(), format!("UNLISTEN other_{number}")] {
            wire.send(&query(&sql)).await;
            heard.extend(wire.until_ready().await.iter().filter(|frame| frame.tag == b'A').map(|frame| said(frame).1));
        }
        while heard.last().is_none_or(|last| last != "end") {
            heard.push(said(&in_time("the next one", wire.read()).await).1);
        }
        heard.pop();
        heard.iter().map(|number| number.parse().unwrap()).collect::<Vec<u64>>()
    };
    let listeners: Vec<_> = (0..24).map(|number| tokio::spawn(listen(number))).collect();
    let mut joined_late = 0;
    for listener in listeners {
        let heard = in_time("a listener", listener).await.unwrap();
        let Some(first) = heard.first().copied() else { continue };
        assert_eq!(heard, (first..6000).collect::<Vec<_>>());
        joined_late += usize::from(first > 0);
    }
    assert!(joined_late > 8, "only {joined_late} came while there was something to be heard");
    in_time("the speaker", speak).await.unwrap();
}

#[tokio::test]
async fn who_listens_again_before_the_server_has_let_go_is_heard() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(3).set("console.admin_users", vec!["app"]).start().await;
    let (mut stays, mut again, mut other) = (login(&proxy).await, login(&proxy).await, login(&proxy).await);
    stays.query("LISTEN stays").await;
    again.query("LISTEN again").await;
    is(&proxy, CLIENTS, 2.0).await;
    is(&proxy, LEASED, 0.0).await;
    let admin = Admin::login(proxy.port(), "app", "pgweir").await.unwrap();
    let pid = admin.row("SHOW SERVERS", "state", "listening").await["remote_pid"].clone();
    let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    let shared = |signal| rustix::process::kill_process(pid, signal).unwrap();

    // The shared connection does not answer: it still listens for who has just left, and then is told to let go and to listen anew.
    shared(rustix::process::Signal::STOP);
    again.query("UNLISTEN again").await;
    let before = other.value("SELECT clock_timestamp()").await;
    again.query("LISTEN again").await;
    let asked = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle' AND query_start > '{before}' \
         AND query LIKE '%pg_listening_channels() AS channel%' AND query NOT LIKE '%pg_stat_activity%'"
    );
    in_time("its own server connection listens, and the shared one is asked to", async { while other.value(&asked).await == "0" {} }).await;
    shared(rustix::process::Signal::CONT);
    is(&proxy, LEASED, 0.0).await;
    other.query("NOTIFY again, 'heard'").await;
    hears(&mut again, "again", "heard").await;
    other.query("NOTIFY stays, 'too'").await;
    hears(&mut stays, "stays", "too").await;
}

#[tokio::test]
async fn in_a_transaction_nothing_is_heard_and_between_two_at_once() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(4).start().await;
    let (mut listener, mut speaker) = (login(&proxy).await, login(&proxy).await);
    listener.query("LISTEN a").await;
    assert_eq!(kinds(&mut listener, "BEGIN").await, "CZ");
    speaker.query("NOTIFY a, 'during'").await;
    assert_eq!(kinds(&mut listener, "SELECT 1").await, "TDCZ");
    listener.expect_silence(Duration::from_millis(100)).await;
    assert_eq!(kinds(&mut listener, "COMMIT").await, "CAZ");
    // One that keeps its server connection for another reason hears at once, too.
    listener.query("SELECT pg_advisory_lock(7)").await;
    speaker.query("NOTIFY a, 'pinned'").await;
    hears(&mut listener, "a", "pinned").await;
    listener.query("SELECT pg_advisory_unlock(7)").await;
    speaker.query("NOTIFY a, 'free'").await;
    hears(&mut listener, "a", "free").await;
}

#[tokio::test]
async fn when_the_connection_is_lost_those_who_listen_hear_of_it_and_others_do_not() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(4).start().await;
    let mut listeners = Vec::new();
    for _ in 0..3 {
        let mut wire = login(&proxy).await;
        wire.query("LISTEN a").await;
        listeners.push(wire);
    }
    let mut other = login(&proxy).await;
    is(&proxy, LISTENING, 1.0).await;
    is(&proxy, LEASED, 0.0).await;
    assert!(pg.end_backends("app").await >= 1);
    for wire in &mut listeners {
        wire.expect_error("08006").await;
        assert_eq!(wire.until_closed().await.len(), 0);
    }
    is(&proxy, r#"pgweir_server_connections{upstream="main",state="idle"}"#, 0.0).await;
    assert_eq!(other.value("SELECT 1").await, "1");
    let mut again = login(&proxy).await;
    again.query("LISTEN a").await;
    is(&proxy, LISTENING, 1.0).await;
    other.query("NOTIFY a, 'again'").await;
    hears(&mut again, "a", "again").await;
}

#[tokio::test]
async fn who_does_not_read_is_cut_and_holds_up_nobody() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(4).start().await;
    let (mut deaf, mut listener, mut speaker) = (login(&proxy).await, login(&proxy).await, login(&proxy).await);
    deaf.query("LISTEN a").await;
    listener.query("LISTEN a").await;
    is(&proxy, CLIENTS, 2.0).await;
    // Far more than what the sockets on the way hold. Who reads has all of it, and is never so far behind that it is taken for one who does not.
    for _ in 0..60 {
        speaker.query("SELECT count(pg_notify('a', n || repeat('x', 7000))) FROM generate_series(1, 100) n").await;
        for number in 1..=100 {
            let (_, payload) = said(&in_time("the next one", listener.read()).await);
            assert_eq!(payload.trim_end_matches('x'), number.to_string());
        }
    }
    speaker.query("NOTIFY a, 'end'").await;
    assert_eq!(said(&in_time("the end", listener.read()).await).1, "end");
    is(&proxy, CLIENTS, 1.0).await;
    let mut told = 0;
    while let Ok(Some(_)) = deaf.try_read().await {
        told += 1;
    }
    assert!(told < 6000, "{told} of 6000 came");
    proxy.logged("a client that does not take its notifications is cut").await;
}

#[tokio::test]
async fn where_it_cannot_be_shared_the_listener_keeps_its_own_connection() {
    let pg = Postgres::start().await;
    for proxy in [Proxy::new(&pg).max_connections(1), Proxy::new(&pg).max_connections(4).set("upstreams.main.share_listen", false)] {
        let proxy = proxy.start().await;
        let mut wire = login(&proxy).await;
        wire.query("LISTEN a").await;
        is(&proxy, PINNED, 1.0).await;
        wire.query("NOTIFY a, 'x'").await;
        wire.query("UNLISTEN a").await;
        is(&proxy, PINNED, 0.0).await;
    }
    // Half of the connections are for work; each user's clients share one of their own.
    pg.sql("CREATE ROLE second LOGIN PASSWORD 'secret'; CREATE ROLE third LOGIN PASSWORD 'secret'").await;
    let proxy = Proxy::new(&pg).max_connections(4).user("second", "secret").user("third", "secret").start().await;
    let mut wires = Vec::new();
    // A client has its answer before its channels are settled.
    for (user, metric, value) in [("app", LISTENING, 1.0), ("second", LISTENING, 2.0), ("third", PINNED, 1.0)] {
        let mut wire = Wire::login(&proxy, user, "secret", "app").await.expect("a login");
        wire.query("LISTEN a").await;
        is(&proxy, metric, value).await;
        wires.push(wire);
    }
    let mut latin = Wire::connect(&proxy).await;
    latin.start(&[("user", "app"), ("database", "app"), ("client_encoding", "LATIN1")]).await;
    latin.authenticate("app", "secret").await.unwrap();
    wires.pop();
    is(&proxy, PINNED, 0.0).await;
    latin.query("LISTEN a").await;
    is(&proxy, PINNED, 1.0).await;
    // One that comes to another encoding later listens by itself from then on.
    latin.query("UNLISTEN *").await;
    wires[0].query("SET client_encoding = 'LATIN1'").await;
    is(&proxy, PINNED, 1.0).await;
    latin.query("SELECT pg_notify('a', 'gr' || chr(252) || 'n')").await;
    let frame = in_time("a notification", wires[0].read()).await;
    assert_eq!(&frame.body[4..], b"a\0gr\xfcn\0");
    hears(&mut wires[1], "a", "grün").await;
    // And with the others again once it has begun anew.
    wires[0].query("UNLISTEN *; SET client_encoding = 'UTF8'").await;
    is(&proxy, PINNED, 0.0).await;
    wires[0].query("LISTEN a").await;
    latin.query("NOTIFY a, 'again'").await;
    hears(&mut wires[0], "a", "again").await;
    is(&proxy, PINNED, 0.0).await;
}

#[tokio::test]
async fn the_strict_and_those_who_may_not_be_pinned_may_listen() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(4).set("databases.app.strict", true).set("defaults.max_pinned", 1).start().await;
    let (mut one, mut two) = (login(&proxy).await, login(&proxy).await);
    one.query("LISTEN a").await;
    two.query("LISTEN a").await;
    one.try_query("CREATE TEMP TABLE mine (x int)").await.unwrap_err();
    one.query("NOTIFY a, 'x'").await;
    hears(&mut two, "a", "x").await;
}
