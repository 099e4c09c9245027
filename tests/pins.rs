//! What a client leaves on a session beyond its transaction is kept for it, counted by its reason, and never seen by another. Checklist I3, I7.

mod harness;

use harness::frames::{bind, execute, parse, query, sync, terminate};
use harness::{PATIENCE, Postgres, Proxy, ServerError, Wire, eventually};

async fn login(proxy: &Proxy) -> Wire {
    Wire::login(proxy, "app", "secret", "app").await.expect("a login")
}

/// Waits until a number is this: it is counted once the answer has been sent.
async fn is(proxy: &Proxy, metric: &str, value: f64) {
    eventually(&format!("{metric} is {value}"), PATIENCE, || async { (proxy.metric(metric).await - value).abs() < 0.1 }).await;
}

/// What a session would show of another's doings.
const TRACES: &str = "SELECT (SELECT count(*) FROM pg_prepared_statements) AS statements,
    current_setting('work_mem') AS setting, coalesce(current_setting('app.tenant', true), '') AS own_setting, current_user AS role,
    (SELECT count(*) FROM pg_class WHERE relpersistence = 't') AS temporary,
    (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory') AS locks,
    (SELECT count(*) FROM pg_listening_channels()) AS channels,
    (SELECT count(*) FROM pg_cursors) AS cursors,
    now() = statement_timestamp() AS fresh";

/// The reason, how a client comes by it, and a question whose answer is `t` only on the very session.
fn pins() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let long = |name: &str, bytes: usize| [parse(name, &format!("SELECT '{}'", "x".repeat(bytes)), &[]), sync()].concat();
    let owns = |sql: &str| query(sql);
    vec![
        ("statement", long("mine", 300_000), "SELECT count(*) = 1 FROM pg_prepared_statements WHERE length(statement) > 300000"),
        ("prepare", owns("PREPARE mine AS SELECT 1"), "SELECT count(*) = 1 FROM pg_prepared_statements WHERE name = 'mine'"),
        ("setting", owns("SELECT set_config('work_' || 'mem', '3MB', false)"), "SELECT current_setting('work_mem') = '3MB'"),
        ("temp", owns("CREATE TEMP TABLE mine (x int)"), "SELECT to_regclass('pg_temp.mine') IS NOT NULL"),
        (
            "advisory_lock",
            owns("SELECT pg_advisory_lock(7)"),
            "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
        ),
        ("listen", owns("LISTEN mine"), "SELECT count(*) = 1 FROM pg_listening_channels()"),
        ("cursor", owns("DECLARE mine CURSOR WITH HOLD FOR SELECT 1"), "SELECT count(*) = 1 FROM pg_cursors WHERE name = 'mine'"),
    ]
}

#[tokio::test]
async fn what_outlives_a_transaction_keeps_its_server_and_is_gone_with_its_client() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let mut next = login(&proxy).await;
    let pid = next.value("SELECT pg_backend_pid()").await;
    let untouched = next.query(TRACES).await;
    for (reason, request, still_there) in pins() {
        for polite in [true, false] {
            let pinned = format!(r#"pgweir_pinned{{tenant="default",reason="{reason}"}}"#);
            let pins = format!(r#"pgweir_pins_total{{tenant="default",reason="{reason}"}}"#);
            let before = proxy.metric(&pins).await;
            let mut owner = login(&proxy).await;
            owner.send(&request).await;
            assert!(owner.until_ready().await.iter().all(|frame| frame.tag != b'E'), "{}", owner.transcript());
            is(&proxy, &pinned, 1.0).await;
            is(&proxy, &pins, before + 1.0).await;
            // Transactions later it is there, as it would be without a proxy.
            owner.query("BEGIN; SELECT 1; COMMIT").await;
            assert_eq!(owner.value(still_there).await, "t", "{reason}");
            if polite {
                owner.send(&terminate()).await;
            }
            drop(owner);
            assert_eq!(next.value("SELECT pg_backend_pid()").await, pid, "{reason}");
            assert_eq!(next.query(TRACES).await, untouched, "{reason}");
            is(&proxy, &pinned, 0.0).await;
        }
    }
}

#[tokio::test]
async fn what_a_transaction_that_is_abandoned_has_left_is_gone_too() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let mut next = login(&proxy).await;
    let pid = next.value("SELECT pg_backend_pid()").await;
    let untouched = next.query(TRACES).await;
    for (reason, request, _) in pins() {
        for failed in [false, true] {
            let mut owner = login(&proxy).await;
            // WITH HOLD and advisory locks outlive even a rollback; that of the rest is undone.
            owner.query("BEGIN").await;
            owner.send(&request).await;
            owner.until_ready().await;
            if failed {
                owner.try_query("SELECT 1/0").await.unwrap_err();
            }
            drop(owner);
            assert_eq!(next.value("SELECT pg_backend_pid()").await, pid, "{reason}");
            assert_eq!(next.query(TRACES).await, untouched, "{reason}");
        }
    }
}

#[tokio::test]
async fn what_a_text_hides_is_found_and_kept_for_its_client() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let mut next = login(&proxy).await;
    let untouched = next.query(TRACES).await;
    let hidden = [
        ("temp", "DO $$ BEGIN EXECUTE 'CREATE TEMP TABLE mine (x int)'; END $$", "SELECT to_regclass('pg_temp.mine') IS NOT NULL"),
        (
            "advisory_lock",
            "DO $$ BEGIN PERFORM pg_advisory_lock(7); END $$",
            "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory'",
        ),
        (
            "listen",
            "DO $$ BEGIN EXECUTE 'LISTEN mine'; EXECUTE 'SET work_mem = 777'; END $$",
            "SELECT count(*) = 1 FROM pg_listening_channels()",
        ),
    ];
    for (reason, sql, still_there) in hidden {
        // Through the extended protocol, and in a text that is too long to be read whole.
        let long = format!("{sql} -- {}", "x".repeat(60_000));
        for message in [query(sql), [parse("", sql, &[]), bind("", "", &[]), execute("", 0), sync()].concat(), query(&long)] {
            let mut owner = login(&proxy).await;
            owner.send(&message).await;
            assert!(owner.until_ready().await.iter().all(|frame| frame.tag != b'E'), "{}", owner.transcript());
            is(&proxy, &format!(r#"pgweir_pinned{{tenant="default",reason="{reason}"}}"#), 1.0).await;
            assert_eq!(owner.value(still_there).await, "t", "{sql}");
            drop(owner);
            assert_eq!(next.query(TRACES).await, untouched, "{sql}");
        }
    }
    // What leaves nothing keeps nothing, and nothing is reset for it.
    let mut owner = login(&proxy).await;
    owner.query("DO $$ BEGIN PERFORM 1; END $$").await;
    assert_eq!(next.query(TRACES).await, untouched);
    // Of a text that is too long to be read whole nobody knows.
    let behind = format!("SELECT '{}'; SET work_mem = '3MB'", "x".repeat(60_000));
    owner.query(&behind).await;
    assert_eq!(next.query(TRACES).await, untouched);
}

#[tokio::test]
async fn i7_a_server_is_let_go_when_nothing_is_left_on_it() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).set("defaults.queue_timeout", "15s").start().await;
    let mut next = login(&proxy).await;
    let untouched = next.query(TRACES).await;
    let mut owner = login(&proxy).await;
    let ends: [(&str, &[&str], &[&str]); 12] = [
        ("listen", &["LISTEN a", "LISTEN b"], &["UNLISTEN a", "UNLISTEN b"]),
        ("listen", &["LISTEN a"], &["UNLISTEN *"]),
        ("temp", &["CREATE TEMP TABLE mine (x int)"], &["DROP TABLE mine"]),
        ("temp", &["CREATE TEMP SEQUENCE mine", "CREATE TEMP VIEW seen AS SELECT 1"], &["DROP SEQUENCE mine", "DISCARD TEMP"]),
        (
            "advisory_lock",
            &["SELECT pg_advisory_lock(7)", "SELECT pg_advisory_lock(7)"],
            &["SELECT pg_advisory_unlock(7)", "SELECT pg_advisory_unlock(7)"],
        ),
        ("advisory_lock", &["SELECT pg_try_advisory_lock_shared(7)"], &["SELECT pg_advisory_unlock_all()"]),
        ("cursor", &["DECLARE mine CURSOR WITH HOLD FOR SELECT 1"], &["CLOSE mine"]),
        ("prepare", &["PREPARE mine AS SELECT 1", "PREPARE more AS SELECT 2"], &["DEALLOCATE mine", "DEALLOCATE more"]),
        ("prepare", &["PREPARE mine AS SELECT 1"], &["DEALLOCATE ALL"]),
        ("temp", &["CREATE TEMP TABLE mine (x int)", "LISTEN a"], &["DISCARD ALL"]),
        ("listen", &["BEGIN", "LISTEN a"], &["ROLLBACK"]),
        ("temp", &["BEGIN", "SAVEPOINT a", "CREATE TEMP TABLE mine (x int)", "ROLLBACK TO a"], &["COMMIT"]),
    ];
    for (reason, begins, ends) in ends {
        let pinned = format!(r#"pgweir_pinned{{tenant="default",reason="{reason}"}}"#);
        for statement in begins {
            owner.query(statement).await;
        }
        is(&proxy, &pinned, 1.0).await;
        for (at, statement) in ends.iter().enumerate() {
            owner.query(statement).await;
            is(&proxy, &pinned, if at + 1 < ends.len() { 1.0 } else { 0.0 }).await;
        }
        assert_eq!(next.query(TRACES).await, untouched, "{reason}");
        assert_eq!(owner.query(TRACES).await, untouched, "{reason}");
    }
    // A statement that fails has left nothing.
    owner.try_query("CREATE TEMP TABLE mine (x nonsense)").await.unwrap_err();
    assert_eq!(next.query(TRACES).await, untouched);
}

#[tokio::test]
async fn i7_what_was_prepared_and_not_executed_lets_no_server_go() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).set("defaults.queue_timeout", "15s").start().await;
    let mut next = login(&proxy).await;
    let untouched = next.query(TRACES).await;
    let ends = [
        ("temp", "DISCARD TEMP"),
        ("temp", "DISCARD ALL"),
        ("listen", "UNLISTEN *"),
        ("cursor", "CLOSE ALL"),
        ("prepare", "DEALLOCATE ALL"),
    ];
    for (reason, end) in ends {
        let (_, begin, still_there) = pins().into_iter().find(|(known, ..)| *known == reason).unwrap();
        for said in [[parse("", end, &[]), sync()].concat(), [parse("", end, &[]), bind("", "", &[]), sync()].concat()] {
            let mut owner = login(&proxy).await;
            owner.send(&begin).await;
            owner.until_ready().await;
            owner.send(&said).await;
            assert!(owner.until_ready().await.iter().all(|frame| frame.tag != b'E'), "{}", owner.transcript());
            assert_eq!(owner.value(still_there).await, "t", "{end}");
            drop(owner);
            assert_eq!(next.query(TRACES).await, untouched, "{end}");
        }
    }
}

#[tokio::test]
async fn a_client_that_takes_its_pin_back_shares_again_or_leaves_nothing() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).set("defaults.queue_timeout", "15s").start().await;
    let mut next = login(&proxy).await;
    let untouched = next.query(TRACES).await;
    let mut owner = login(&proxy).await;
    // An unnamed statement too long to be remembered waits for its Bind, until that is done or a Query destroys it.
    let long = format!("SELECT '{}'", "x".repeat(10_000));
    let pinned = r#"pgweir_pinned{tenant="default",reason="unnamed_statement"}"#;
    for end in [[bind("", "", &[]), execute("", 0), sync()].concat(), query("SELECT 1")] {
        owner.send(&[parse("", &long, &[]), sync()].concat()).await;
        owner.until_ready().await;
        is(&proxy, pinned, 1.0).await;
        owner.send(&end).await;
        assert!(owner.until_ready().await.iter().all(|frame| frame.tag != b'E'), "{}", owner.transcript());
        is(&proxy, pinned, 0.0).await;
        assert_eq!(next.query(TRACES).await, untouched);
    }
}

#[tokio::test]
async fn a_sequence_lets_go_although_something_has_failed_before_or_was_only_prepared() {
    let pg = Postgres::start().await;
    pg.sql("CREATE SEQUENCE numbers; GRANT ALL ON SEQUENCE numbers TO app").await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let mut next = login(&proxy).await;
    let failing = query("SELECT 1/0");
    let prepared = [parse("", "DISCARD ALL", &[]), sync()].concat();
    for (before, end) in [(&failing, "DISCARD ALL"), (&failing, "DISCARD SEQUENCES"), (&prepared, "DISCARD ALL")] {
        let mut owner = login(&proxy).await;
        owner.query("SELECT nextval('numbers'); SELECT currval('numbers')").await;
        owner.send(before).await;
        owner.until_ready().await;
        is(&proxy, r#"pgweir_pinned{tenant="default",reason="sequence"}"#, 1.0).await;
        owner.query(end).await;
        assert_eq!(next.value("SELECT 'served'").await, "served");
    }
}

#[tokio::test]
async fn what_no_reset_ends_costs_the_server_connection() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let mut owner = login(&proxy).await;
    let pid = owner.value("SELECT pg_backend_pid()").await;
    // The seed of random() outlives even DISCARD ALL: who knows it knows what the next client draws.
    owner.query("SELECT setseed(0.5)").await;
    is(&proxy, r#"pgweir_pinned{tenant="default",reason="session"}"#, 1.0).await;
    assert_eq!(owner.value("SELECT pg_backend_pid()").await, pid);
    drop(owner);
    let mut next = login(&proxy).await;
    assert_ne!(next.value("SELECT pg_backend_pid()").await, pid);
}

#[tokio::test]
async fn every_reason_is_counted_and_told_while_it_lasts() {
    let pg = Postgres::start().await;
    // Others may not load what they like.
    pg.sql("ALTER ROLE app SUPERUSER; CREATE SEQUENCE numbers").await;
    let proxy = Proxy::new(&pg).max_connections(16).set("upstreams.main.share_listen", false).start().await;
    let mut provoked = pins();
    provoked.extend([
        ("sequence", query("SELECT nextval('numbers'); SELECT currval('numbers')"), ""),
        ("load", query("LOAD 'plpgsql'"), ""),
        ("session", query("SELECT setseed(0.5)"), ""),
        ("unnamed_statement", [parse("", &format!("SELECT '{}'", "x".repeat(10_000)), &[]), sync()].concat(), ""),
    ]);
    let mut known = pgweir::session::PIN_LABELS.to_vec();
    let mut shown: Vec<_> = provoked.iter().map(|(reason, ..)| *reason).collect();
    known.sort_unstable();
    shown.sort_unstable();
    assert_eq!(shown, known);
    let mut owners = Vec::new();
    for (reason, request, _) in provoked {
        let mut owner = login(&proxy).await;
        owner.send(&request).await;
        assert!(owner.until_ready().await.iter().all(|frame| frame.tag != b'E'), "{}", owner.transcript());
        for metric in ["pinned", "pins_total"] {
            is(&proxy, &format!(r#"pgweir_{metric}{{tenant="default",reason="{reason}"}}"#), 1.0).await;
        }
        owners.push(owner);
    }
    let status: serde_json::Value = serde_json::from_str(&proxy.http_get("/status").await.body).unwrap();
    let tenant = status["tenants"].as_array().unwrap().iter().find(|tenant| tenant["name"] == "default").unwrap().clone();
    for reason in known {
        assert_eq!((&tenant["pinned"][reason], &tenant["pins"][reason]), (&1.into(), &1.into()), "{reason}: {tenant}");
    }
}

#[tokio::test]
async fn a_strict_database_refuses_what_would_keep_its_server() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).set("databases.app.strict", true).start().await;
    let (mut wire, mut next) = (login(&proxy).await, login(&proxy).await);
    for sql in ["LISTEN mine", "CREATE TEMP TABLE mine (x int)", "SELECT pg_advisory_lock(7)", "PREPARE mine AS SELECT 1"] {
        let refused = wire.try_query(sql).await.unwrap_err();
        assert_eq!((refused.severity(), refused.code()), ("ERROR", "0A000"), "{sql}");
        // Among other messages, and as a statement with a name.
        for name in ["", "named"] {
            wire.send(&[parse(name, sql, &[]), bind("", name, &[]), execute("", 0), sync()].concat()).await;
            let answer = wire.until_ready().await;
            let errors: Vec<_> = answer.iter().filter(|frame| frame.tag == b'E').map(|frame| ServerError::read(&frame.body)).collect();
            assert_eq!(errors.iter().map(ServerError::code).collect::<Vec<_>>(), ["0A000"], "{sql}");
        }
        assert_eq!(next.value("SELECT 'served'").await, "served");
        wire.send(&[harness::frames::close(b'S', "named"), sync()].concat()).await;
        wire.until_ready().await;
    }
    // A transaction fails with it, as with any error.
    wire.query("BEGIN").await;
    wire.try_query("LISTEN mine").await.unwrap_err();
    assert_eq!(wire.try_query("SELECT 1").await.unwrap_err().code(), "25P02");
    wire.query("ROLLBACK").await;
    // What follows its client is no reason.
    wire.query("SET work_mem = '3MB'").await;
    wire.query("SELECT pg_advisory_xact_lock(7)").await;
    is(&proxy, r#"pgweir_refused_total{tenant="default",fault="strict"}"#, 13.0).await;
}

#[tokio::test]
async fn a_tenant_keeps_no_more_servers_than_it_may() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(5).set("defaults.max_pinned", 2).set("upstreams.main.share_listen", false).start().await;
    let mut owners = [login(&proxy).await, login(&proxy).await];
    let mut third = login(&proxy).await;
    for owner in &mut owners {
        owner.query("LISTEN mine").await;
        owner.query("CREATE TEMP TABLE mine (x int)").await;
    }
    let refused = third.try_query("LISTEN mine").await.unwrap_err();
    assert_eq!((refused.severity(), refused.code()), ("ERROR", "53300"));
    assert!(refused.hint().starts_with("retry after"), "{refused}");
    assert_eq!(third.value("SELECT 'served'").await, "served");
    let [first, _second] = &mut owners;
    let let_go = async |times: usize| {
        let lines = || proxy.log_lines().iter().filter(|line| line.contains("has let its server connection go")).count();
        eventually("there is room again", PATIENCE, || async { lines() >= times }).await;
    };
    first.query("UNLISTEN *; DROP TABLE mine").await;
    let_go(1).await;
    third.query("LISTEN mine").await;
    is(&proxy, r#"pgweir_pinned{tenant="default",reason="listen"}"#, 2.0).await;
    first.try_query("LISTEN mine").await.unwrap_err();
    // Who leaves makes room.
    drop(third);
    let_go(2).await;
    first.query("LISTEN mine").await;
    // A statement that fails keeps no place.
    for round in 3..6 {
        first.query("UNLISTEN *").await;
        let_go(2 * round - 3).await;
        first.try_query("CREATE TEMP TABLE mine (x nonsense)").await.unwrap_err();
        let_go(2 * round - 2).await;
        first.query("LISTEN mine").await;
    }
}
