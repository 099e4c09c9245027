//! What a database's own functions leave in the session that calls them, which no text tells. Checklist I3, I7.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod harness;

use std::time::Duration;

use harness::frames::{bind, execute, parse, sync};
use harness::{Elsewhere, PATIENCE, Postgres, Proxy, Wire, eventually, in_time};

async fn login(proxy: &Proxy) -> Wire {
    Wire::login(proxy, "app", "secret", "app").await.expect("a login")
}

/// Functions that set something, and what calls them without a word of it.
const SCHEMA: &str = r"
    CREATE FUNCTION set_tenant(t text) RETURNS text LANGUAGE sql AS $$ SELECT set_config('app.tenant', t, false) $$;
    CREATE FUNCTION enter(t text) RETURNS void LANGUAGE plpgsql AS $$
        DECLARE found text; -- the zone, too
        BEGIN IF t IS NOT NULL THEN SET TimeZone = 'Asia/Tokyo'; END IF; PERFORM public.Set_Tenant(t); END $$;
    CREATE FUNCTION enter_all(t text) RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM enter(t); END';
    CREATE FUNCTION enter_by_name(setting text, t text) RETURNS void LANGUAGE plpgsql AS $$
        BEGIN EXECUTE format('SET %s = %L', setting, t); END $$;
    CREATE FUNCTION in_one(t text) RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT set_config('app.tenant', t, false); END;
    CREATE VIEW entrance AS SELECT in_one('of the view') AS tenant;
    CREATE VIEW hall AS SELECT tenant FROM entrance;
    CREATE TABLE visits (tenant text); CREATE TABLE plain (tenant text);
    CREATE FUNCTION visited() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM enter(NEW.tenant); RETURN NEW; END';
    CREATE TRIGGER visited BEFORE INSERT ON visits FOR EACH ROW EXECUTE FUNCTION visited();
    CREATE FUNCTION make_notes() RETURNS void LANGUAGE plpgsql AS 'BEGIN CREATE TEMP TABLE notes (x int); END';
    CREATE FUNCTION take_lock() RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_lock(7); END';
    CREATE FUNCTION for_now(t text) RETURNS text LANGUAGE plpgsql AS $$
        BEGIN SET LOCAL work_mem = '1MB'; UPDATE plain
        SET tenant = t; RETURN set_config('app.tenant', t, true); END $$;
    CREATE TABLE filled (tenant text DEFAULT set_tenant('of the default'));
    CREATE TABLE checked (tenant text CHECK (set_tenant(tenant) IS NOT NULL));
    CREATE TABLE guarded AS SELECT 1 AS x; ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
    CREATE POLICY guard ON guarded USING (set_tenant('of the policy') IS NOT NULL);
    GRANT ALL ON filled, checked, guarded TO app;
    GRANT ALL ON visits, plain TO app; GRANT SELECT ON entrance, hall TO app;";

async fn start() -> (Postgres, Proxy) {
    let pg = Postgres::start().await;
    pg.sql(SCHEMA).await;
    let proxy = Proxy::new(&pg).max_connections(2).set("process.workers", 1).start().await;
    (pg, proxy)
}

const TENANT: &str = "SELECT coalesce(current_setting('app.tenant', true), '')";

#[tokio::test]
async fn i3_what_a_function_sets_follows_its_client() {
    let (_pg, proxy) = start().await;
    let mut other = login(&proxy).await;
    for (way, tenant) in [
        ("SELECT set_tenant('a')", "a"),
        ("SELECT enter('b')", "b"),
        ("SELECT count(*) FROM enter_all('c')", "c"),
        ("SELECT enter_by_name('app.tenant', 'd')", ""),
        ("SELECT enter_by_name('work_mem', '3MB')", ""),
        ("SELECT \"in_one\"('e')", "e"),
        ("SELECT * FROM entrance", "of the view"),
        ("TABLE hall", "of the view"),
        ("INSERT INTO visits VALUES ('f')", "f"),
        ("INSERT INTO filled DEFAULT VALUES", "of the default"),
        ("INSERT INTO checked VALUES ('h')", "h"),
        ("SELECT * FROM guarded", "of the policy"),
        ("DO $$ BEGIN PERFORM set_config('app.tenant', 'g', false); END $$", "g"),
    ] {
        let mut elsewhere = Elsewhere::begin(&proxy).await;
        let mut wire = login(&proxy).await;
        wire.query(way).await;
        for _ in 0..3 {
            assert!(elsewhere.switch().await, "{way} keeps its server");
            assert_eq!(other.value(TENANT).await, "", "{way}");
            assert_ne!(other.value("SHOW work_mem").await, "3MB", "{way}");
            assert_ne!(other.value("SHOW TimeZone").await, "Asia/Tokyo", "{way}");
            assert!(elsewhere.switch().await, "{way} keeps its server");
            // What is set under a name that is in no list and in no text ends with its transaction.
            assert_eq!(wire.value(TENANT).await, tenant, "{way}");
        }
    }
}

#[tokio::test]
async fn i3_a_prepared_statement_may_call_one() {
    let (_pg, proxy) = start().await;
    let (mut wire, mut other) = (login(&proxy).await, login(&proxy).await);
    let mut elsewhere = Elsewhere::begin(&proxy).await;
    let run = async |wire: &mut Wire, batch: &[Vec<u8>]| {
        wire.send(&[batch.concat(), sync()].concat()).await;
        assert!(wire.until_ready().await.iter().all(|frame| frame.tag != b'E'), "{}", wire.transcript());
    };
    run(&mut wire, &[parse("enter", "SELECT enter($1)", &[])]).await;
    for (name, tenant) in [("enter", "a"), ("", "b"), ("enter", "c")] {
        let again = if name.is_empty() { vec![parse("", "SELECT enter_all($1)", &[])] } else { Vec::new() };
        assert!(elsewhere.switch().await);
        run(&mut wire, &[again.concat(), bind("", name, &[Some(tenant)]), execute("", 0)]).await;
        assert!(elsewhere.switch().await);
        assert_eq!(other.value(TENANT).await, "");
        assert_eq!(wire.value(TENANT).await, tenant);
    }
}

#[tokio::test]
async fn i7_what_a_function_makes_keeps_its_server() {
    let (_pg, proxy) = start().await;
    let mut other = login(&proxy).await;
    for (way, reason) in [("SELECT make_notes()", "temp"), ("SELECT take_lock()", "advisory_lock")] {
        let mut wire = login(&proxy).await;
        wire.query(way).await;
        let pinned = format!(r#"pgweir_pinned{{tenant="default",reason="{reason}"}}"#);
        eventually("the server connection is kept", PATIENCE, async || (proxy.metric(&pinned).await - 1.0).abs() < 0.1).await;
        assert_eq!(other.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()").await, "0");
        assert_eq!(other.value("SELECT to_regclass('pg_temp.notes') IS NULL").await, "t");
    }
}

#[tokio::test]
async fn what_is_made_meanwhile_counts_at_once() {
    let (_pg, proxy) = start().await;
    let (mut one, mut two, mut other) = (login(&proxy).await, login(&proxy).await, login(&proxy).await);
    assert_eq!(two.value("SELECT 1").await, "1");
    one.query(
        "CREATE FUNCTION later(t text) RETURNS text LANGUAGE sql AS $$ SELECT set_config('app.tenant', t, false) $$; SELECT later('one')",
    )
    .await;
    assert_eq!(two.value("SELECT later('two')").await, "two");
    let mut elsewhere = Elsewhere::begin(&proxy).await;
    for _ in 0..2 {
        assert_eq!(other.value(TENANT).await, "");
        assert_eq!(two.value(TENANT).await, "two");
        assert_eq!(one.value(TENANT).await, "one");
        assert!(elsewhere.switch().await);
    }
}

#[tokio::test]
async fn i8_what_leaves_nothing_costs_nothing() {
    let pg = Postgres::options().conf("log_statement = 'all'").start().await;
    pg.sql(SCHEMA).await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let mut wire = login(&proxy).await;
    // The second has the one server connection once all is known.
    wire.query("SELECT for_now('x')").await;
    wire.query("SELECT for_now('x')").await;
    let before = statements(&pg).len();
    for _ in 0..5 {
        wire.query("SELECT for_now('x')").await;
        wire.query("SELECT count(*) FROM visits").await;
    }
    let log = statements(&pg);
    assert_eq!(log.len() - before, 10, "{:?}", &log[before..]);
}

#[tokio::test]
async fn a_catalogue_that_does_not_answer_ends_no_session() {
    let pg = Postgres::start().await;
    pg.sql(SCHEMA).await;
    let locker = pg.superuser("app").await.unwrap();
    locker.batch_execute("BEGIN; LOCK TABLE pg_catalog.pg_policy").await.unwrap();
    let proxy = Proxy::new(&pg).set("upstreams.main.settle_timeout", "1s").start().await;
    let mut wire = login(&proxy).await;
    assert_eq!(wire.value("SELECT 'here'").await, "here");
    proxy.logged("does not tell what its functions leave").await;
    // It is asked again when some time has passed, and not at every transaction.
    for _ in 0..3 {
        assert_eq!(wire.value("SELECT 'still here'").await, "still here");
    }
    let complaints = proxy.log_lines().iter().filter(|line| line.contains("does not tell what its functions leave")).count();
    assert!((1..4).contains(&complaints), "{complaints}");
    locker.batch_execute("COMMIT").await.unwrap();
}

#[tokio::test]
async fn who_has_touched_settings_meanwhile_keeps_its_session_too_and_the_catalogue_is_asked_again_soon() {
    let pg = Postgres::start().await;
    pg.sql("REVOKE SELECT ON pg_catalog.pg_proc FROM public").await;
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let mut wire = login(&proxy).await;
    wire.query("SET work_mem = '3MB'").await;
    wire.query("CREATE FUNCTION enter(t text) RETURNS text LANGUAGE sql AS $$ SELECT set_config('app.tenant', t, false) $$").await;
    proxy.logged("does not tell what its functions leave").await;
    assert_eq!(wire.value("SHOW work_mem").await, "3MB");
    pg.sql("GRANT SELECT ON pg_catalog.pg_proc TO public").await;
    let until_then = Box::pin(async {
        wire.query("SELECT enter('mine')").await;
        // Whoever it is that asks has what is there then.
        while !login(&proxy).await.value(TENANT).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
            wire.query("SELECT enter('mine')").await;
        }
    });
    in_time("what the function sets is its caller's", until_then).await;
    assert_eq!(wire.value(TENANT).await, "mine");
}

#[tokio::test]
async fn a_function_whose_table_somebody_changes_is_known_by_what_it_calls() {
    let pg = Postgres::start().await;
    pg.sql(
        "CREATE TABLE changed (x int); GRANT ALL ON changed TO app;
        CREATE FUNCTION counts() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM changed; END;
        CREATE FUNCTION enter(t text) RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT set_config('app.tenant', t, false); END;
        CREATE FUNCTION calls(t text) RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT enter(t); END",
    )
    .await;
    let locker = pg.superuser("app").await.unwrap();
    locker.batch_execute("BEGIN; ALTER TABLE changed ADD y int").await.unwrap();
    let proxy = Proxy::new(&pg).max_connections(1).start().await;
    let (mut wire, mut other) = (login(&proxy).await, login(&proxy).await);
    wire.query("SET work_mem = '3MB'").await;
    for (way, tenant) in [("SELECT enter('one')", "one"), ("SELECT calls('two')", "two")] {
        assert_eq!(wire.value(way).await, tenant);
        assert_eq!(other.value(TENANT).await, "", "{way}");
        // All that it has is asked for, and a setting of a program's own is in no list.
        assert_eq!(wire.value("SHOW work_mem").await, "3MB", "{way}");
    }
    let lines = proxy.log_lines();
    assert!(!lines.iter().any(|line| line.contains("does not tell what its functions leave")), "{lines:?}");
    locker.batch_execute("COMMIT").await.unwrap();
}

#[tokio::test]
async fn the_catalogue_is_read_alike_where_backslashes_escape() {
    let (_pg, proxy) = start().await;
    let (mut wire, mut other) = (login(&proxy).await, login(&proxy).await);
    // The first transaction of all is the one behind which it is asked.
    wire.query("SET standard_conforming_strings = off").await;
    for (way, tenant) in [("SELECT enter('a')", "a"), ("SELECT count(*) FROM enter_all('b')", "b")] {
        wire.query(way).await;
        let mut elsewhere = Elsewhere::begin(&proxy).await;
        assert_eq!(other.value(TENANT).await, "", "{way}");
        assert_eq!(wire.value(TENANT).await, tenant, "{way}");
        assert!(elsewhere.switch().await);
    }
}

/// The statements that the server has been asked for.
fn statements(pg: &Postgres) -> Vec<String> {
    pg.log().lines().filter(|line| line.contains("statement:") || line.contains("execute ")).map(str::to_owned).collect()
}
