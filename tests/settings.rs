//! Settings in transaction mode: a client sees its own on whichever server it gets, and nobody else's. Checklist I1-I6, I8, A9.
//!
//! That answers are PostgreSQL's own, message for message, is shown by `tests/conversations` (`settings_*`); here is what takes two clients, another user's rights or
//! a metric.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod harness;

use harness::frames::{bind, execute, parse, query, sync};
use harness::{Elsewhere, Endpoint, Faulty, PATIENCE, Postgres, Proxy, ServerError, Way, Wire, eventually, in_time};

async fn login(proxy: &Proxy) -> Wire {
    Wire::login(proxy, "app", "secret", "app").await.expect("a login")
}

async fn login_with(to: impl Into<Endpoint>, parameters: &[(&str, &str)]) -> Wire {
    let mut wire = Wire::connect(to).await;
    wire.start(&[&[("user", "app"), ("database", "app")], parameters].concat()).await;
    wire.authenticate("app", "secret").await.unwrap();
    wire
}

async fn start() -> (Postgres, Proxy) {
    let pg = Postgres::start().await;
    pg.sql(
        "CREATE ROLE reader; GRANT reader TO app;
         CREATE FUNCTION set_inside() RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM set_config(''work_mem'', ''5MB'', false); END';
         CREATE PROCEDURE set_in_procedure() LANGUAGE plpgsql AS 'BEGIN SET work_mem = ''6MB''; END'",
    )
    .await;
    let proxy = Proxy::new(&pg).max_connections(2).set("process.workers", 1).start().await;
    (pg, proxy)
}

/// Every way to change a setting for the session, the question for it, and what it then is.
fn ways() -> Vec<(&'static str, &'static str, &'static str)> {
    vec![
        ("SET work_mem = '3MB'", "SHOW work_mem", "3MB"),
        ("SET SESSION statement_timeout TO 12345", "SHOW statement_timeout", "12345ms"),
        ("SET app.tenant = '7'", "SELECT current_setting('app.tenant', true)", "7"),
        ("SET search_path = \"My Schema\", public, pg_catalog", "SHOW search_path", "\"My Schema\", public, pg_catalog"),
        ("SET search_path TO ''", "SHOW search_path", "\"\""),
        ("SET TIME ZONE 'Asia/Tokyo'", "SHOW TimeZone", "Asia/Tokyo"),
        ("SET NAMES 'LATIN1'", "SHOW client_encoding", "LATIN1"),
        ("SET DateStyle = 'German'", "SHOW DateStyle", "German, DMY"),
        ("SET application_name = 'it''s \\ mine'", "SHOW application_name", "it's \\ mine"),
        ("SET ROLE reader", "SELECT current_user", "reader"),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "SHOW transaction_read_only", "on"),
        ("SELECT set_config('work_mem', '2MB', false)", "SHOW work_mem", "2MB"),
        ("SELECT 1; SET work_mem = '7MB'; SELECT 2", "SHOW work_mem", "7MB"),
        ("BEGIN; SET work_mem = '8MB'; COMMIT", "SHOW work_mem", "8MB"),
        ("DO $$ BEGIN PERFORM set_config('work_mem', '9MB', false); END $$", "SHOW work_mem", "9MB"),
        ("CALL set_in_procedure()", "SHOW work_mem", "6MB"),
    ]
}

#[tokio::test]
async fn i1_i3_what_a_client_sets_it_sees_on_every_server_and_nobody_else_does() {
    let (_pg, proxy) = start().await;
    let mut other = login(&proxy).await;
    for (way, question, expected) in ways() {
        let untouched = other.value(question).await;
        assert_ne!(untouched, expected, "{way}");
        let mut elsewhere = Elsewhere::begin(&proxy).await;
        let mut wire = login(&proxy).await;
        wire.query(way).await;
        for _ in 0..4 {
            assert!(elsewhere.switch().await, "{way} keeps its server");
            assert_eq!(wire.value(question).await, expected, "{way}");
            assert!(elsewhere.switch().await, "{way} keeps its server");
            assert_eq!(other.value(question).await, untouched, "{way}");
        }
    }
    let pins = proxy.metric(r#"pgweir_pins_total{tenant="default",reason="setting"}"#).await;
    assert!(pins < 0.5, "a setting kept a server");
}

#[tokio::test]
async fn i3_a_setting_of_no_list_that_a_text_hides_is_nobodys() {
    let (pg, proxy) = start().await;
    pg.sql(
        "CREATE SCHEMA evil; CREATE FUNCTION evil.never(text, text) RETURNS bool LANGUAGE sql AS 'SELECT false';
            CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.never); GRANT USAGE ON SCHEMA evil TO app",
    )
    .await;
    let (mut wire, mut other) = (login(&proxy).await, login(&proxy).await);
    wire.query("SET work_mem = '3MB'; SET TIME ZONE 'Asia/Tokyo'").await;
    wire.query("DO $$ BEGIN PERFORM set_config('app.hidden', 'secret', false); END $$").await;
    assert_eq!(other.value("SELECT coalesce(current_setting('app.hidden', true), '')").await, "");
    assert_eq!(wire.value("SHOW work_mem").await, "3MB", "what it has set otherwise it keeps");
    assert_eq!(wire.value("SHOW TimeZone").await, "Asia/Tokyo");
    wire.query("DO $$ BEGIN EXECUTE 'SET ROLE reader'; END $$").await;
    assert_eq!(other.value("SELECT current_user").await, "app");
    assert_eq!(wire.value("SELECT current_user").await, "reader");
    wire.query("RESET ROLE").await;
    // An operator of the client's own changes nothing of what the server is asked.
    wire.query("SET search_path = evil, pg_catalog, public").await;
    wire.query("DO $$ BEGIN PERFORM set_config('work_mem', '7MB', false); EXECUTE 'CREATE TEMP TABLE mine (x int)'; END $$").await;
    assert_ne!(other.value("SHOW work_mem").await, "7MB");
    assert_eq!(wire.value("SHOW work_mem").await, "7MB");
    assert_eq!(wire.value("SELECT to_regclass('pg_temp.mine') IS NOT NULL").await, "t");
    assert_eq!(other.value("SELECT to_regclass('pg_temp.mine') IS NULL").await, "t");
}

#[tokio::test]
async fn i3_a_setting_by_parameter_or_by_a_prepared_statement() {
    let (_pg, proxy) = start().await;
    let mut elsewhere = Elsewhere::begin(&proxy).await;
    let mut wire = login(&proxy).await;
    let run = async |wire: &mut Wire, batch: &[Vec<u8>]| {
        wire.send(&[batch.concat(), sync()].concat()).await;
        assert!(wire.until_ready().await.iter().all(|frame| frame.tag != b'E'), "{}", wire.transcript());
    };
    run(&mut wire, &[parse("set", "SELECT set_config('app.tenant', $1, false)", &[])]).await;
    for tenant in ["7", "8"] {
        assert!(elsewhere.switch().await);
        run(&mut wire, &[bind("", "set", &[Some(tenant)]), execute("", 0)]).await;
        assert!(elsewhere.switch().await);
        assert_eq!(wire.value("SELECT current_setting('app.tenant')").await, tenant);
    }
    run(&mut wire, &[parse("", "SET work_mem = '3MB'", &[]), bind("", "", &[]), execute("", 0)]).await;
    assert!(elsewhere.switch().await);
    assert_eq!(wire.value("SHOW work_mem").await, "3MB");
}

#[tokio::test]
async fn i2_what_is_undone_was_never_set() {
    let (_pg, proxy) = start().await;
    let mut elsewhere = Elsewhere::begin(&proxy).await;
    let mut wire = login(&proxy).await;
    wire.query("SET work_mem = '3MB'").await;
    for undone in [
        "BEGIN; SET work_mem = '5MB'; ROLLBACK",
        "BEGIN; RESET work_mem; ROLLBACK",
        "BEGIN; RESET ALL; ROLLBACK",
        "BEGIN; SAVEPOINT a; SET work_mem = '5MB'; ROLLBACK TO a; COMMIT",
        "BEGIN; SET LOCAL work_mem = '5MB'; COMMIT",
    ] {
        for statement in undone.split("; ") {
            wire.query(statement).await;
        }
        for _ in 0..2 {
            assert!(elsewhere.switch().await, "{undone}");
            assert_eq!(wire.value("SHOW work_mem").await, "3MB", "{undone}");
        }
        // And in one text.
        wire.query(undone).await;
        assert!(elsewhere.switch().await, "{undone}");
        assert_eq!(wire.value("SHOW work_mem").await, "3MB", "{undone}");
    }
    wire.try_query("SET work_mem = '5MB'; SELECT 1/0").await.unwrap_err();
    assert!(elsewhere.switch().await);
    assert_eq!(wire.value("SHOW work_mem").await, "3MB");
    wire.try_query("SET work_mem = 'nonsense'").await.unwrap_err();
    assert!(elsewhere.switch().await);
    assert_eq!(wire.value("SHOW work_mem").await, "3MB");
}

#[tokio::test]
async fn i4_reset_goes_back_to_the_clients_own_startup() {
    let (_pg, proxy) = start().await;
    let mut elsewhere = Elsewhere::begin(&proxy).await;
    let parameters = [("options", "-c work_mem=2MB -c statement_timeout=1111"), ("TimeZone", "Asia/Tokyo"), ("application_name", "mine")];
    let mut wire = login_with(&proxy, &parameters).await;
    for reset in [
        "RESET ALL",
        "DISCARD ALL",
        "RESET work_mem; RESET TimeZone; RESET app.x",
        "SET work_mem TO DEFAULT; SET TIME ZONE DEFAULT; RESET app.x",
    ] {
        wire.query("SET work_mem = '9MB'; SET TIME ZONE 'UTC'; SET app.x = 'y'").await;
        assert!(elsewhere.switch().await);
        wire.clear_transcript();
        wire.query(reset).await;
        for _ in 0..2 {
            assert!(elsewhere.switch().await, "{reset}");
            assert_eq!(wire.value("SHOW work_mem").await, "2MB", "{reset}");
            assert_eq!(wire.value("SHOW TimeZone").await, "Asia/Tokyo", "{reset}");
            assert_eq!(wire.value("SHOW statement_timeout").await, "1111ms", "{reset}");
            assert_eq!(wire.value("SHOW application_name").await, "mine", "{reset}");
            assert_eq!(wire.value("SELECT coalesce(current_setting('app.x', true), '')").await, "", "{reset}");
        }
        let told = wire.transcript();
        let last = told.lines().rev().find(|line| line.contains("ParameterStatus \"TimeZone")).unwrap_or_default();
        assert!(last.contains("Asia/Tokyo"), "{reset}: the client was last told {last}");
    }
    // Inside a transaction, as PostgreSQL.
    wire.query("BEGIN").await;
    assert_eq!(wire.try_query("DISCARD ALL").await.unwrap_err().code(), "25001");
    wire.query("ROLLBACK").await;
    assert_eq!(wire.value("SHOW work_mem").await, "2MB");
}

/// Says these: as Queries, or each prepared by a name, as a driver does, and executed in a batch of its own.
async fn say_all(wire: &mut Wire, texts: &[&str], are_prepared: bool) {
    for (at, text) in texts.iter().enumerate() {
        if !are_prepared || text.contains(';') && !text.starts_with("DO") {
            wire.query(text).await;
            continue;
        }
        let name = format!("s{at}");
        wire.send(&[parse(&name, text, &[]), sync()].concat()).await;
        wire.until_ready().await;
        wire.send(&[bind("", &name, &[]), execute("", 0), sync()].concat()).await;
        wire.until_ready().await;
    }
}

#[tokio::test]
async fn i4_in_a_session_pool_reset_goes_back_to_the_clients_own_startup_too() {
    const ASKED: [&str; 7] = [
        "SHOW DateStyle",
        "SHOW TimeZone",
        "SHOW work_mem",
        "SELECT coalesce(current_setting('app.mine', true), '')",
        "SHOW application_name",
        "SHOW extra_float_digits",
        // A transaction may be read-only, and what was left before stays.
        "SHOW transaction_read_only",
    ];
    let pg = Postgres::start().await;
    let before = |mode| Proxy::new(&pg).max_connections(1).pool_mode(mode).set("upstreams.main.application_name", "of the proxy");
    let (proxy, changing) = (before("session").start().await, before("transaction").start().await);
    let startup = [
        ("datestyle", "German"),
        ("TimeZone", "Asia/Tokyo"),
        ("application_name", "mine"),
        ("options", "-c app.mine=one -c work_mem=5MB -c extra_float_digits=2"),
    ];
    for ways in [
        &["RESET ALL"][..],
        &["DISCARD ALL"],
        &["SET DateStyle = 'ISO'", "RESET DateStyle", "SET work_mem = '6MB'", "SET work_mem TO DEFAULT", "RESET app.mine"],
        &["SET TimeZone = 'UTC'", "SET app.mine = 'two'", "BEGIN", "RESET TimeZone", "RESET app.mine", "ROLLBACK"],
        &["RESET ALL; SET TimeZone = 'UTC'", "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "RESET app.mine"],
        &["DO $$ BEGIN PERFORM set_config('app.mine', 'hidden', false); END $$", "RESET DateStyle"],
        &["RESET work_mem", "SELECT 1", "SET work_mem = '6MB'", "RESET ALL"],
        &["SET work_mem = '6MB'", "DO $$ BEGIN EXECUTE 'RESET work_mem'; END $$"],
        &["SET TimeZone = 'UTC'", "SELECT set_config('TimeZone', NULL, false)", "SELECT set_config('work_mem', NULL, false) WHERE false"],
    ] {
        let mut found = Vec::new();
        let everywhere = || [Endpoint::from(&pg), Endpoint::from(&proxy), Endpoint::from(&changing)];
        for (to, are_prepared) in everywhere().map(|to| (to, false)).into_iter().chain(everywhere().map(|to| (to, true))) {
            let mut wire = Wire::connect(to).await;
            wire.start(&[&[("user", "app"), ("database", "app")], &startup[..]].concat()).await;
            wire.authenticate("app", "secret").await.unwrap();
            say_all(&mut wire, ways, are_prepared).await;
            let mut values = Vec::new();
            for question in ASKED {
                values.push(wire.value(question).await);
            }
            found.push(values);
        }
        assert!(found.iter().all(|other| *other == found[0]), "{ways:?} {found:#?}");
    }
    // What is reported is told anew, and what the session listens to, or has prepared, is there as before.
    let mut wire = login_with(&proxy, &[("datestyle", "German")]).await;
    wire.query("LISTEN news").await;
    wire.send(&[parse("", "RESET TimeZone", &[]), bind("", "", &[]), execute("", 0), sync()].concat()).await;
    wire.until_ready().await;
    wire.send(&[bind("", "", &[]), execute("", 0), sync()].concat()).await;
    let again: Vec<u8> = wire.until_ready().await.iter().map(|frame| frame.tag).collect();
    assert_eq!(String::from_utf8_lossy(&again), "2CZ");
    let teller = pg.superuser("app").await.unwrap();
    let tell = async {
        for number in 0..200 {
            teller.batch_execute(&format!("NOTIFY news, '{number}'")).await.unwrap();
        }
    };
    let hear = Box::pin(async {
        while wire.transcript().matches("NotificationResponse").count() < 200 {
            wire.query("RESET DateStyle").await;
        }
    });
    in_time("every notification is heard", async { tokio::join!(tell, hear) }).await;
    wire.query("SET DateStyle = 'ISO'").await;
    wire.query("RESET DateStyle").await;
    assert_eq!(wire.value("SHOW DateStyle").await, "German, DMY");
    let told = wire.transcript();
    let last = told.lines().rev().find(|line| line.contains("ParameterStatus \"DateStyle")).unwrap_or_default();
    assert!(last.contains("German"), "the client was last told {last}");
}

#[tokio::test]
async fn i1_what_needs_rights_is_set_by_who_has_logged_in() {
    let pg = Postgres::start().await;
    pg.sql("ALTER USER app SUPERUSER; CREATE ROLE visitor; CREATE ROLE reader; GRANT reader TO visitor").await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let (mut one, mut two, mut other) = (login(&proxy).await, login(&proxy).await, login(&proxy).await);
    for (client, value, role) in [(&mut one, "on", "none"), (&mut two, "off", "reader")] {
        client.query(&format!("SET lo_compat_privileges = {value}")).await;
        client.query("SET SESSION AUTHORIZATION visitor").await;
        client.query(&format!("SET ROLE {role}")).await;
    }
    for _ in 0..2 {
        let asked = "SELECT current_setting('lo_compat_privileges') || ' ' || session_user || ' ' || current_user";
        assert_eq!(one.value(asked).await, "on visitor visitor");
        assert_eq!(other.value(asked).await, "off app app");
        assert_eq!(two.value(asked).await, "off visitor reader");
    }
    one.query("RESET SESSION AUTHORIZATION").await;
    one.query("SET lo_compat_privileges = off").await;
    assert_eq!(one.value("SELECT session_user").await, "app");
}

#[tokio::test]
async fn i1_what_a_role_may_set_is_set_by_that_role() {
    let pg = Postgres::start().await;
    pg.sql("CREATE ROLE boss SUPERUSER; GRANT boss TO app").await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let (mut one, mut two, mut other) = (login(&proxy).await, login(&proxy).await, login(&proxy).await);
    one.query("SET ROLE boss; SET lo_compat_privileges = on").await;
    two.query("SET app.mine = 'two'").await;
    two.query("SET ROLE boss").await;
    two.query("SET log_duration = on").await;
    two.query("SET app.mine = 'too'").await;
    let process = other.value("SELECT pg_backend_pid()").await;
    let asked = "SELECT concat_ws(' ', current_setting('lo_compat_privileges'), current_setting('log_duration'), \
                 current_setting('app.mine', true), current_user)";
    for _ in 0..2 {
        assert_eq!(one.value(asked).await.trim(), "on off  boss");
        assert_eq!(other.value(asked).await.trim(), "off off  app");
        assert_eq!(two.value(asked).await, "off on too boss");
        assert_eq!(one.value(asked).await.trim(), "on off  boss");
    }
    one.query("RESET ALL").await;
    assert_eq!(two.value(asked).await, "off on too boss");
    assert_eq!(one.value(asked).await.trim(), "off off  boss");
    assert_eq!(other.value("SELECT pg_backend_pid()").await, process, "no server connection was lost to it");
}

#[tokio::test]
async fn i4_what_a_client_began_with_is_there_again_behind_its_reset_its_role_too() {
    let pg = Postgres::start().await;
    pg.sql("CREATE ROLE reader; CREATE ROLE writer; GRANT reader, writer TO app").await;
    let proxies = ["transaction", "session"].map(|mode| Proxy::new(&pg).max_connections(1).pool_mode(mode));
    let [transaction, session] = proxies;
    let (transaction, session) = (transaction.start().await, session.start().await);
    for ways in [
        &["RESET ROLE"][..],
        &["DISCARD ALL"],
        &["RESET ALL"],
        &["SET ROLE writer", "RESET ALL"],
        &["SET ROLE NONE"],
        &["SET ROLE NONE", "RESET ALL"],
        &["SET ROLE NONE", "RESET TimeZone", "RESET ROLE"],
        &["SET ROLE writer", "SET app.mine = 'writer''s'", "DISCARD ALL"],
        &["RESET ROLE; SET ROLE writer", "RESET app.mine"],
        &["SET ROLE writer", "RESET app.mine"],
        &["RESET ROLE", "DO $$ BEGIN EXECUTE 'SET ROLE writer'; END $$", "RESET work_mem"],
        &["RESET ROLE; DO $$ BEGIN EXECUTE 'SET ROLE writer'; END $$"],
        &["BEGIN", "RESET ROLE", "ROLLBACK"],
        &["BEGIN", "SET LOCAL ROLE writer", "RESET ROLE", "COMMIT"],
        &["BEGIN", "RESET ROLE", "COMMIT"],
        &["BEGIN", "SET ROLE NONE", "RESET work_mem", "COMMIT"],
        &["BEGIN", "RESET app.mine", "COMMIT"],
        &["BEGIN", "RESET app.mine", "ROLLBACK"],
        &["BEGIN", "SET work_mem = '5MB'", "RESET work_mem", "SET app.other = 'other'", "COMMIT"],
        &["BEGIN", "SET work_mem = '5MB'", "RESET ALL", "COMMIT"],
        &["BEGIN", "RESET ALL", "SET work_mem = '5MB'", "COMMIT"],
        &["BEGIN", "SET work_mem = '5MB'", "SAVEPOINT a", "RESET ALL", "ROLLBACK TO a", "COMMIT"],
        &["BEGIN", "SET work_mem = '5MB'", "SAVEPOINT a", "RESET work_mem", "ROLLBACK TO a", "COMMIT"],
        &["BEGIN", "RESET work_mem", "SAVEPOINT a", "SET work_mem = '5MB'", "ROLLBACK TO a", "COMMIT"],
        &["BEGIN", "RESET app.mine", "SAVEPOINT a", "SET app.mine = 'undone'", "ROLLBACK TO a", "COMMIT"],
        &["RESET work_mem; COMMIT; BEGIN; SET work_mem = '5MB'; ROLLBACK"],
        &["RESET work_mem; COMMIT; BEGIN; SET work_mem = '5MB'; COMMIT"],
        &["RESET app.mine; COMMIT; BEGIN; SET app.mine = 'undone'; ROLLBACK"],
        &["RESET app.mine; COMMIT; BEGIN; SET app.mine = 'two'; COMMIT"],
        &["RESET ROLE; COMMIT; BEGIN; SET ROLE writer; ROLLBACK"],
        &["RESET ROLE; COMMIT; BEGIN; SET ROLE writer; COMMIT"],
        &["RESET ALL; COMMIT; BEGIN; SET work_mem = '5MB'; SET app.mine = 'undone'; ROLLBACK"],
    ] {
        // It keeps its server connection or not, for what that can be asked about or for what it cannot.
        for keeps in ["SELECT 1", "SELECT setseed(0.5)", "CREATE TEMP TABLE kept (x int)"] {
            let mut found = Vec::new();
            for to in [Endpoint::from(&pg), Endpoint::from(&transaction), Endpoint::from(&session)] {
                let mut wire = login_with(to, &[("options", "-c role=reader -c app.mine=mine -c work_mem=3MB")]).await;
                // What was prepared before is run behind it, in batches of their own.
                let reset = if ways.len() == 1 { "RESET work_mem" } else { "SELECT 1" };
                wire.send(&[parse("later", reset, &[]), parse("", "SET work_mem TO DEFAULT", &[]), sync()].concat()).await;
                wire.until_ready().await;
                for again in [bind("", "later", &[]), bind("", "", &[])] {
                    wire.send(&[again, execute("", 0), sync()].concat()).await;
                    wire.until_ready().await;
                }
                for said in [&[keeps], ways].concat() {
                    wire.query(said).await;
                }
                let asked = "SELECT concat_ws(' ', session_user, current_user, current_setting('role'), \
                         current_setting('app.mine'), current_setting('work_mem'))";
                found.push(wire.value(asked).await);
            }
            assert_eq!(found[1..], [found[0].clone(), found[0].clone()], "{keeps}: {ways:?}");
        }
    }
}

#[tokio::test]
async fn i6_what_a_server_does_not_take_any_more_only_its_client_hears() {
    let (pg, proxy) = start().await;
    let mut elsewhere = Elsewhere::begin(&proxy).await;
    let (mut wire, mut other) = (login(&proxy).await, login(&proxy).await);
    wire.query("SET ROLE reader").await;
    pg.sql("REVOKE reader FROM app").await;
    assert!(elsewhere.switch().await);
    let refused = wire.try_query("SELECT current_user").await.unwrap_err();
    assert_eq!(refused.code(), "42501", "{}", wire.transcript());
    assert_eq!(other.value("SELECT current_user").await, "app");
    pg.sql("GRANT reader TO app").await;
    assert_eq!(wire.value("SELECT current_user").await, "reader");
    assert!(elsewhere.switch().await);
}

/// What resets a setting that is set, or has been said to, in ways that do not do it: what was prepared need not be executed, nor in that order.
fn not_reset() -> Vec<Vec<u8>> {
    let resets = ["RESET work_mem", "SET work_mem TO DEFAULT", "SET SESSION work_mem = DEFAULT", "RESET ALL", "DISCARD ALL"];
    let mut all = vec![
        // Executed once more behind what has reset it.
        [
            [parse("", "SET work_mem = '3MB'", &[]), sync()].concat(),
            [parse("n", "RESET work_mem", &[]), bind("", "n", &[]), execute("", 0), sync()].concat(),
            [bind("", "", &[]), execute("", 0), sync()].concat(),
        ]
        .concat(),
    ];
    for reset in resets {
        all.extend([
            [parse("", reset, &[]), sync()].concat(),
            [parse("", reset, &[]), bind("", "", &[]), sync()].concat(),
            [parse("", reset, &[]), bind("p", "", &[]), sync()].concat(),
            [parse("", reset, &[]), parse("", "SELECT 1", &[]), bind("", "", &[]), execute("", 0), sync()].concat(),
            [parse("", reset, &[]), bind("", "", &[]), parse("o", "SELECT 1", &[]), bind("", "o", &[]), execute("", 0), sync()].concat(),
        ]);
        if !reset.starts_with("DISCARD") {
            all.push([parse("n", reset, &[]), bind("", "n", &[]), sync()].concat());
        }
    }
    all
}

#[tokio::test]
async fn i4_what_was_prepared_and_not_executed_has_reset_nothing() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let fresh = login(&proxy).await.value("SHOW work_mem").await;
    for said in not_reset() {
        let mut wire = login(&proxy).await;
        wire.query("SET work_mem = '3MB'").await;
        wire.send(&[said, query("SELECT 'the end'")].concat()).await;
        while wire.until_ready().await.iter().all(|frame| frame.tag != b'D' || frame.values()[0].as_deref() != Some(b"the end")) {}
        assert_eq!(login(&proxy).await.value("SHOW work_mem").await, fresh, "the next client's after\n{}", wire.transcript());
        assert_eq!(wire.value("SHOW work_mem").await, "3MB", "the client's own");
        drop(wire);
        assert_eq!(login(&proxy).await.value("SHOW work_mem").await, fresh);
    }
}

/// What a client may say whose words go out behind its settings: the whole of it, and what the server's log shows of it.
fn words() -> Vec<(Vec<u8>, &'static str)> {
    let batch = |name: &str, sql: &str| [parse(name, sql, &[]), bind("", name, &[]), execute("", 0), sync()].concat();
    vec![
        (query("SELECT current_setting('work_mem'), 'plain'"), "'plain'"),
        (query("BEGIN"), "BEGIN"),
        (batch("", "SELECT current_setting('work_mem'), 'unnamed'"), "'unnamed'"),
        (batch("named", "SELECT current_setting('work_mem'), 'named'"), "'named'"),
        ([bind("", "named", &[]), execute("", 0), sync()].concat(), "'named'"),
    ]
}

#[tokio::test]
async fn i1_settings_travel_in_front_of_the_clients_words() {
    let pg = Postgres::options().conf("log_statement = 'all'").start().await;
    let faulty = Faulty::to(pg.address()).await;
    let proxy = Proxy::before_faulty(&faulty).max_connections(1).set("process.workers", 1).start().await;
    let (mut wire, mut other) = (login(&proxy).await, login(&proxy).await);
    let untouched = other.value("SHOW TimeZone").await;
    wire.query("SET work_mem = '3MB'; SET TIME ZONE 'Asia/Tokyo'").await;
    for (message, shows) in words() {
        other.query("SELECT 1").await;
        // Not a word comes back until all has arrived.
        faulty.stall(Way::Back);
        let before = statements(&pg).len();
        wire.clear_transcript();
        wire.send(&message).await;
        let arrived = || statements(&pg).split_off(before);
        eventually("the settings and the client's words arrive", PATIENCE, async || arrived().len() >= 2).await;
        let [settings, rest @ ..] = &arrived()[..] else { panic!("nothing has arrived") };
        assert!(settings.contains("set_config"), "{settings}");
        assert!(rest.iter().all(|line| line.contains(shows) && !line.contains("set_config")), "{rest:?}");
        faulty.heal();
        let frames = wire.until_ready().await;
        let values: Vec<_> = frames.iter().filter(|frame| frame.tag == b'D').map(|frame| frame.values()[0].clone()).collect();
        assert!(values.iter().all(|value| value.as_deref() == Some(&b"3MB"[..])), "{}", wire.transcript());
        let told = frames.iter().filter(|frame| frame.tag == b'S').count();
        assert_eq!(told, 0, "it has heard of its settings long ago: {}", wire.transcript());
        if shows == "BEGIN" {
            wire.query("COMMIT").await;
        }
    }
    assert_eq!(other.value("SHOW TimeZone").await, untouched);
}

#[tokio::test]
async fn i6_where_its_settings_are_refused_nothing_of_the_clients_words_is_done() {
    let (pg, proxy) = start().await;
    pg.sql("CREATE TABLE done (what text); GRANT ALL ON done TO app, reader").await;
    let batch = |sql: &str| [parse("", sql, &[]), bind("", "", &[]), execute("", 0), sync()].concat();
    let harmful = "INSERT INTO done VALUES ('harm')";
    for words in [
        query(harmful),
        query(&format!("{harmful}; SELECT 1")),
        query(&format!("ROLLBACK; {harmful}")),
        batch(harmful),
        [parse("", "ROLLBACK", &[]), bind("", "", &[]), execute("", 0), batch(harmful)].concat(),
        [batch("ROLLBACK"), batch(harmful)].concat(),
        [batch("SELECT 1"), batch("ROLLBACK"), batch(harmful)].concat(),
    ] {
        pg.sql("GRANT reader TO app").await;
        let mut elsewhere = Elsewhere::begin(&proxy).await;
        let (mut wire, mut other) = (login(&proxy).await, login(&proxy).await);
        wire.query("SET ROLE reader").await;
        pg.sql("REVOKE reader FROM app").await;
        assert!(elsewhere.switch().await);
        let syncs = words.windows(5).filter(|bytes| bytes == &sync()).count().max(1);
        wire.clear_transcript();
        wire.send(&words).await;
        for _ in 0..syncs {
            let frames = wire.until_ready().await;
            assert!(
                frames.iter().any(|frame| frame.tag == b'E' && ServerError::read(&frame.body).code() == "42501"),
                "{}",
                wire.transcript()
            );
        }
        assert_eq!(pg.value("SELECT count(*) FROM done").await, "0", "{}", wire.transcript());
        assert_eq!(other.value("SELECT current_user").await, "app");
        pg.sql("GRANT reader TO app").await;
        assert_eq!(wire.value("SELECT current_user").await, "reader", "the session has outlived it");
    }
}

#[tokio::test]
async fn i6_who_cancels_while_its_settings_are_under_way_is_not_served_all_the_same() {
    let (pg, proxy) = start().await;
    pg.sql("CREATE TABLE done (what text); GRANT ALL ON done TO app, reader").await;
    let mut elsewhere = Elsewhere::begin(&proxy).await;
    let mut wire = login(&proxy).await;
    wire.query("SET ROLE reader").await;
    assert!(elsewhere.switch().await);
    // To look a role up takes a lock that another session holds.
    let mut locker = pg.superuser("app").await.unwrap();
    let lock = locker.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE pg_authid IN ACCESS EXCLUSIVE MODE; LOCK TABLE pg_auth_members IN ACCESS EXCLUSIVE MODE").await.unwrap();
    wire.send(&query("INSERT INTO done VALUES ('harm')")).await;
    eventually("the settings wait for the lock", PATIENCE, async || {
        lock.query_one("SELECT count(*) FROM pg_locks WHERE NOT granted", &[]).await.unwrap().get::<_, i64>(0) > 0
    })
    .await;
    wire.cancel(&proxy).await;
    wire.expect_error("57014").await;
    lock.rollback().await.unwrap();
    wire.expect_ready(b'I').await;
    assert_eq!(pg.value("SELECT count(*) FROM done").await, "0");
    assert_eq!(wire.value("SELECT current_user").await, "reader");
}

/// Somebody's `statement_timeout` holds on its server connection until the next client's is in force there.
#[tokio::test]
async fn i1_a_neighbours_short_time_is_nobody_elses() {
    for words in ["SELECT current_user", "EXPLAIN (COSTS OFF) SELECT 1"] {
        let (pg, proxy) = start().await;
        let mut elsewhere = Elsewhere::begin(&proxy).await;
        let (mut wire, mut other) = (login(&proxy).await, login(&proxy).await);
        wire.query("SET ROLE reader").await;
        assert!(elsewhere.switch().await);
        other.query("SET statement_timeout = 1").await;
        // To look a role up takes longer than that while another session has its lock.
        let mut locker = pg.superuser("app").await.unwrap();
        let lock = locker.transaction().await.unwrap();
        lock.batch_execute("LOCK TABLE pg_authid IN ACCESS EXCLUSIVE MODE; LOCK TABLE pg_auth_members IN ACCESS EXCLUSIVE MODE")
            .await
            .unwrap();
        let cut = || pg.log().matches("canceling statement due to statement timeout").count();
        let before = cut();
        wire.send(&query(words)).await;
        eventually("an attempt is over", PATIENCE, async || cut() > before).await;
        lock.rollback().await.unwrap();
        let frames = harness::in_time("an answer", wire.until_ready()).await;
        assert!(frames.iter().all(|frame| frame.tag != b'E'), "{words}: {}", wire.transcript());
        assert_eq!(wire.value("SELECT current_user").await, "reader");
        assert!(elsewhere.switch().await);
    }
}

#[tokio::test]
async fn i1_who_leaves_while_its_settings_are_under_way_leaves_nothing() {
    let pg = Postgres::start().await;
    let faulty = Faulty::to(pg.address()).await;
    let proxy = Proxy::before_faulty(&faulty).max_connections(1).set("process.workers", 1).start().await;
    let mut other = login(&proxy).await;
    let untouched = other.value("SHOW work_mem").await;
    for _ in 0..3 {
        let mut wire = login(&proxy).await;
        wire.query("SET work_mem = '3MB'").await;
        assert_eq!(other.value("SHOW work_mem").await, untouched);
        faulty.stall(Way::Back);
        wire.send(&query("SELECT pg_sleep(600), 'left alone'")).await;
        let running =
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%left alone%' AND state = 'active' AND pid <> pg_backend_pid()";
        eventually("it runs", PATIENCE, async || pg.value(running).await == "1").await;
        drop(wire);
        faulty.heal();
        assert_eq!(harness::in_time("the next client's turn", other.value("SHOW work_mem")).await, untouched);
        assert_eq!(pg.value(running).await, "0", "nobody waits for it");
    }
}

#[tokio::test]
async fn i8_a_clean_server_costs_nothing() {
    let pg = Postgres::options().conf("log_statement = 'all'").start().await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let (mut one, mut other) = (login(&proxy).await, login(&proxy).await);
    one.query("SET work_mem = '3MB'").await;
    other.query("SET work_mem = '3MB'").await;
    one.query("SELECT 1").await;
    let before = statements(&pg);
    for _ in 0..5 {
        one.query("SELECT 'counted'").await;
        other.query("SELECT 'counted'").await;
    }
    // Both want the same: nothing is said between their transactions.
    let log = statements(&pg);
    assert_eq!(log.len() - before.len(), 10, "{:?}", &log[before.len()..]);
}

/// The statements that clients of the pool have run, as the server has logged them.
fn statements(pg: &Postgres) -> Vec<String> {
    pg.log().lines().filter(|line| line.contains("statement:") || line.contains("execute ")).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_pipeline_goes_on_behind_a_set() {
    let (_pg, proxy) = start().await;
    let mut elsewhere = Elsewhere::begin(&proxy).await;
    let mut wire = login(&proxy).await;
    let ask = |sql: &str| [parse("", sql, &[]), bind("", "", &[]), execute("", 0), sync()].concat();
    wire.send(&[ask("SET work_mem = '3MB'"), ask("SHOW work_mem"), ask("SET work_mem = '4MB'"), ask("SHOW work_mem")].concat()).await;
    let mut shown = Vec::new();
    for _ in 0..4 {
        shown.extend(
            wire.until_ready().await.iter().filter(|frame| frame.tag == b'D').map(|frame| frame.values()[0].as_ref().unwrap().to_vec()),
        );
    }
    assert_eq!(shown, [b"3MB", b"4MB"]);
    assert!(elsewhere.switch().await);
    assert_eq!(wire.value("SHOW work_mem").await, "4MB");
}

#[tokio::test]
async fn who_leaves_right_after_a_set_leaves_nothing() {
    let (_pg, proxy) = start().await;
    let mut other = login(&proxy).await;
    let untouched = other.value("SHOW work_mem").await;
    for _ in 0..20 {
        let mut wire = login(&proxy).await;
        wire.send(&query("SET work_mem = '3MB'")).await;
        drop(wire);
        for _ in 0..3 {
            assert_eq!(other.value("SHOW work_mem").await, untouched);
        }
    }
    eventually("no server is kept", PATIENCE, async || {
        proxy.metric(r#"pgweir_server_connections{upstream="main",state="leased"}"#).await < 0.5
    })
    .await;
}
