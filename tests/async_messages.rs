//! What a server says without being asked, and how it ends: nothing of it is mistaken for an answer, and between transactions no client notices. Checklist G1-G5.

mod harness;

use std::sync::Arc;
use std::time::Duration;

use harness::frames::{bind, execute, flush, parse, query, server, sync};
use harness::{Golden, PATIENCE, Postgres, Proxy, Script, ServerError, Stop, Wire, eventually};
use tokio::sync::Notify;

async fn login(proxy: &Proxy) -> Wire {
    Wire::login(proxy, "app", "secret", "app").await.expect("a login")
}

/// The answer to a query that has no rows.
fn done() -> Vec<u8> {
    [server::complete("SELECT 0"), server::ready(b'I')].concat()
}

#[tokio::test]
async fn g1_notices_settings_and_notifications_are_no_answers() {
    let golden = Golden::start().await;
    golden
        .pg
        .sql("CREATE FUNCTION chatty() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; RETURN 3; END $$")
        .await;
    golden
        .same(async |wire| {
            wire.query("SELECT chatty(); DROP TABLE IF EXISTS none").await;
            let chatty = [parse("", "SELECT chatty()", &[]), bind("", "", &[]), execute("", 0)].concat();
            wire.send(&[&chatty[..], &chatty, &flush(), &chatty, &sync(), &query("SELECT chatty()"), &chatty, &sync()].concat()).await;
            for _ in 0..3 {
                wire.until_ready().await;
            }
            wire.send(
                &[query("BEGIN"), query("SET LOCAL TimeZone = 'Asia/Tokyo'"), query("SET LOCAL DateStyle = 'SQL'"), query("ROLLBACK")]
                    .concat(),
            )
            .await;
            for _ in 0..4 {
                wire.until_ready().await;
            }
        })
        .await;
    golden
        .same_pinned(async |wire| {
            wire.query("LISTEN mine").await;
            wire.query("NOTIFY mine, 'to myself'").await;
            wire.query("BEGIN; NOTIFY mine, 'first'; NOTIFY mine, 'second'; SELECT 1").await;
            wire.query("COMMIT").await;
            wire.query("UNLISTEN *").await;
        })
        .await;
}

#[tokio::test]
async fn g1_what_the_server_says_unasked_reaches_its_client_at_once() {
    let unasked = [
        server::notice("WARNING", "01000", "the weather changes"),
        server::parameter("TimeZone", "Asia/Tokyo"),
        harness::frames::message(b'A', b"\0\0\0\x2achannel\0payload\0"),
    ]
    .concat();
    let script = Script::start(move |mut peer| {
        let unasked = unasked.clone();
        async move {
            peer.accept_login(42, &[1, 2, 3, 4]).await;
            peer.expect(b'Q').await;
            peer.send(&[server::complete("BEGIN"), server::ready(b'T'), unasked.clone()].concat()).await;
            peer.expect(b'Q').await;
            // Before the answer, within it, and behind it.
            peer.send(&[&unasked[..], &server::complete("COMMIT"), &unasked, &server::ready(b'I')].concat()).await;
            peer.expect(b'Q').await;
            peer.send(&done()).await;
            peer.until_closed().await;
        }
    })
    .await;
    let proxy = Proxy::before_script(&script).max_connections(1).start().await;
    let mut wire = login(&proxy).await;
    wire.send(&query("BEGIN")).await;
    wire.expect(b'C').await;
    wire.expect_ready(b'T').await;
    for tag in *b"NSA" {
        wire.expect(tag).await;
    }
    wire.send(&query("COMMIT")).await;
    for tag in *b"NSACNSAZ" {
        wire.expect(tag).await;
    }
    let mut other = login(&proxy).await;
    other.send(&query("SELECT")).await;
    assert_eq!(other.until_ready().await.len(), 2);
}

#[tokio::test]
async fn g2_what_an_idle_server_says_is_noted_and_told_to_no_client() {
    let (speak, spoken) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let script = Script::start({
        let (speak, spoken) = (Arc::clone(&speak), Arc::clone(&spoken));
        move |mut peer| {
            let (speak, spoken) = (Arc::clone(&speak), Arc::clone(&spoken));
            async move {
                peer.accept_login(42, &[1, 2, 3, 4]).await;
                for _ in 0..3 {
                    peer.expect(b'Q').await;
                    peer.send(&done()).await;
                    let unasked = [
                        server::notice("WARNING", "01000", "for nobody"),
                        harness::frames::message(b'A', b"\0\0\0\x2achannel\0for nobody\0"),
                        server::parameter("TimeZone", "Asia/Tokyo"),
                    ];
                    speak.notified().await;
                    peer.send(&unasked.concat()).await;
                    spoken.notify_one();
                }
                peer.until_closed().await;
            }
        }
    })
    .await;
    let proxy = Proxy::before_script(&script).max_connections(1).set("process.workers", 1).start().await;
    let (mut first, mut second) = (login(&proxy).await, login(&proxy).await);
    for wire in [&mut first, &mut second] {
        wire.send(&query("SELECT")).await;
        assert_eq!(wire.until_ready().await.len(), 2, "{}", wire.transcript());
        speak.notify_one();
        harness::in_time("the server speaks", spoken.notified()).await;
        harness::ping(wire).await;
    }
    first.send(&query("SELECT")).await;
    assert_eq!(first.until_ready().await.len(), 2, "{}", first.transcript());
    speak.notify_one();
    assert_eq!(script.accepted(), 1, "none of it was a reason to close the connection");
}

#[tokio::test]
async fn g2_a_setting_that_a_reload_changes_disturbs_nobody_and_is_told_to_new_clients() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let mut wire = login(&proxy).await;
    assert_eq!(wire.parameters["TimeZone"], "UTC");
    let pid = wire.value("SELECT pg_backend_pid()").await;
    pg.append_conf("timezone = 'Asia/Tokyo'");
    pg.sql("SELECT pg_reload_conf()").await;
    // PostgreSQL reads its configuration when it is told to, and a command comes.
    eventually("the server has changed", PATIENCE, || async { login(&proxy).await.value("SHOW timezone").await == "Asia/Tokyo" }).await;
    assert_eq!(login(&proxy).await.parameters["TimeZone"], "Asia/Tokyo", "new clients are told");
    assert_eq!(wire.value("SHOW timezone").await, "Asia/Tokyo");
    assert_eq!(wire.value("SELECT pg_backend_pid()").await, pid);
}

#[tokio::test]
async fn g2_a_server_that_ends_between_transactions_is_noticed_by_no_client() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(3).start().await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(login(&proxy).await);
    }
    for _ in 0..5 {
        // All three server connections are open, and idle.
        for wire in &mut clients[..3] {
            wire.query("BEGIN").await;
        }
        for wire in &mut clients[..3] {
            wire.query("COMMIT").await;
        }
        assert_eq!(pg.end_backends("app").await, 3);
        eventually("they are gone", PATIENCE, || async { pg.backends("app").await == 0 }).await;
        for wire in &mut clients {
            assert_eq!(wire.value("SELECT 'unharmed'").await, "unharmed");
        }
    }
}

/// A server that answers so many requests, each with this value, and ends the session in the same breath.
async fn answers_and_ends(requests: usize) -> Script {
    Script::start(move |mut peer| async move {
        peer.accept_login(42, &[1, 2, 3, 4]).await;
        let mut answered = 0;
        while answered < requests {
            let mut answer = match peer.read().await.map(|frame| frame.tag) {
                Some(b'Q') => [server::columns(&["value"]), server::row(&[Some("unharmed")]), server::complete("SELECT 1")].concat(),
                Some(b'P') => {
                    peer.expect(b'S').await;
                    vec![b'1', 0, 0, 0, 4]
                }
                other => return assert_eq!(other, None, "a Query, or a Parse and a Sync, was expected"),
            };
            answer.extend(server::ready(b'I'));
            answered += 1;
            if answered == requests {
                answer.extend(server::error("FATAL", "57P01", "terminating connection due to administrator command"));
            }
            peer.send(&answer).await;
        }
    })
    .await
}

#[tokio::test]
async fn g2_a_server_that_ends_behind_its_answer_is_noticed_by_no_client() {
    let script = answers_and_ends(1).await;
    let proxy = Proxy::before_script(&script).max_connections(1).start().await;
    let mut clients = [login(&proxy).await, login(&proxy).await];
    for round in 0..3 {
        for wire in &mut clients {
            assert_eq!(wire.value("SELECT").await, "unharmed");
            // The same where answers are gone through, for statements follow their client.
            wire.send(&[parse(&format!("s{round}"), &format!("SELECT {round}"), &[]), sync()].concat()).await;
            wire.until_ready().await;
        }
    }
}

#[tokio::test]
async fn g2_a_server_that_ends_behind_an_answer_to_the_proxy_is_noticed_by_no_client() {
    // The second question is the proxy's own: what the functions do.
    let script = answers_and_ends(2).await;
    let proxy = Proxy::before_script(&script).set("upstreams.main.follow_functions", true).max_connections(1).start().await;
    let mut clients = [login(&proxy).await, login(&proxy).await];
    for wire in &mut clients {
        assert_eq!(wire.value("SELECT").await, "unharmed");
    }
}

#[tokio::test]
async fn g3_the_last_words_of_a_server_reach_its_client_unchanged() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    for busy in [true, false] {
        let mut wire = login(&proxy).await;
        wire.query("BEGIN").await;
        let pid = wire.value("SELECT pg_backend_pid()").await;
        if busy {
            wire.send(&query("SELECT pg_sleep(600)")).await;
            let running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'";
            eventually("the query runs", PATIENCE, || async { pg.value(running).await == "1" }).await;
        }
        wire.clear_transcript();
        pg.sql(&format!("SELECT pg_terminate_backend({pid})")).await;
        let said = wire.until_closed().await;
        let errors: Vec<_> = said.iter().filter(|frame| frame.tag == b'E').map(|frame| ServerError::read(&frame.body)).collect();
        assert_eq!(errors.len(), 1, "{}", wire.transcript());
        let last = &errors[0];
        assert_eq!((last.severity(), last.code()), ("FATAL", "57P01"));
        assert_eq!(last.message(), "terminating connection due to administrator command");
        assert_eq!(last.field('R'), "ProcessInterrupts", "in the server's own words");
        assert!(said.iter().all(|frame| frame.tag != b'Z'), "{}", wire.transcript());
        let mut next = login(&proxy).await;
        assert_ne!(next.value("SELECT pg_backend_pid()").await, pid);
    }
}

#[tokio::test]
async fn g4_a_server_that_ends_without_a_word_is_08006_to_whoever_waits_for_it() {
    for in_transaction in [false, true] {
        for reset in [false, true] {
            let script = Script::start(move |mut peer| async move {
                peer.accept_login(42, &[1, 2, 3, 4]).await;
                if in_transaction {
                    peer.expect(b'Q').await;
                    peer.send(&[server::complete("BEGIN"), server::ready(b'T')].concat()).await;
                }
                peer.expect(b'Q').await;
                if reset {
                    peer.reset();
                }
            })
            .await;
            let proxy = Proxy::before_script(&script).max_connections(1).start().await;
            let mut wire = login(&proxy).await;
            if in_transaction {
                wire.query("BEGIN").await;
            }
            wire.send(&query("SELECT 1")).await;
            let said = wire.until_closed().await;
            assert_eq!(said.len(), 1, "{}", wire.transcript());
            let error = ServerError::read(&said[0].body);
            assert_eq!((error.severity(), error.code()), ("FATAL", "08006"));
        }
    }
}

#[tokio::test]
async fn g4_nothing_is_put_into_the_middle_of_an_answer_that_breaks_off() {
    let script = Script::start(|mut peer| async move {
        peer.accept_login(42, &[1, 2, 3, 4]).await;
        peer.expect(b'Q').await;
        let row = server::row(&[Some("half of this is all there is")]);
        peer.send(&[&server::columns(&["value"]), &row[..20]].concat()).await;
    })
    .await;
    let proxy = Proxy::before_script(&script).max_connections(1).start().await;
    let mut wire = login(&proxy).await;
    wire.send(&query("SELECT")).await;
    wire.expect(b'T').await;
    // A client that read an error here would take it for the rest of the row.
    let broken = wire.try_read().await.expect_err("half a row");
    assert_eq!(broken.kind(), std::io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn g5_a_restart_between_transactions_is_noticed_by_no_client() {
    let mut pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(2).start().await;
    let (mut first, mut second) = (login(&proxy).await, login(&proxy).await);
    for how in [Stop::Fast, Stop::Immediate] {
        first.query("BEGIN").await;
        second.query("SELECT 1").await;
        first.query("COMMIT").await;
        pg.restart(how).await;
        assert_eq!(first.value("SELECT 'back'").await, "back", "{how:?}");
        assert_eq!(second.value("SELECT 'back'").await, "back", "{how:?}");
    }
}

#[tokio::test]
async fn g5_a_server_that_is_down_is_an_error_that_the_session_survives() {
    let mut pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).set("upstreams.main.failover_window", "0s").max_connections(2).start().await;
    let (mut idle, mut busy) = (login(&proxy).await, login(&proxy).await);
    idle.query("SELECT 1").await;
    busy.query("BEGIN").await;
    // A backend that has not come to reading yet would leave without a word.
    let reading = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND wait_event = 'ClientRead'";
    eventually("the busy one waits for its client", PATIENCE, || async { pg.value(reading).await == "1" }).await;
    pg.stop(Stop::Immediate);
    let said: Vec<_> = busy.until_closed().await.iter().map(|frame| ServerError::read(&frame.body)).collect();
    let said: Vec<_> = said.iter().map(|last| (last.severity(), last.code())).collect();
    // PostgreSQL leaves it at a warning.
    assert_eq!(said, [("WARNING", "57P01"), ("FATAL", "08006")]);
    let error = idle.try_query("SELECT 1").await.unwrap_err();
    assert_eq!((error.severity(), error.code()), ("ERROR", "57P03"));
    pg.start_again().await;
    harness::in_time("it comes back", async {
        while idle.try_query("SELECT 1").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}
