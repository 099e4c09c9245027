//! The admin database: what operators see there, and what they can do.

#![allow(clippy::float_cmp, reason = "what is counted is whole, however it is published")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod harness;

use harness::frames::{bind, execute, parse, sync};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::{Admin, PATIENCE, PgBouncer, Postgres, Proxy, ProxyOptions, Stop, Wire, eventually, free_port};
use tokio::time::timeout;

fn options(pg: &Postgres) -> ProxyOptions {
    let options = Proxy::new(pg).user("ops", "secret").user("grafana", "secret");
    options.raw_toml("[console]\nadmin_users = [\"ops\"]\nstats_users = [\"grafana\"]")
}

async fn ops(proxy: &Proxy) -> Admin {
    Admin::login(proxy.port(), "ops", "pgweir").await.unwrap()
}

async fn client(proxy: &Proxy) -> Wire {
    Wire::login(proxy, "app", "secret", "app").await.unwrap()
}

fn number(row: &harness::AdminRow, column: &str) -> i64 {
    row.get(column).unwrap_or_else(|| panic!("no {column} in {row:?}")).parse().unwrap()
}

#[tokio::test]
async fn every_column_of_pgbouncers_is_there_in_its_order() {
    let pg = Postgres::start().await;
    let (proxy, bouncer) = (options(&pg).start().await, PgBouncer::start(&pg).await);
    let ours = Admin::login(proxy.port(), "ops", "pgbouncer").await.unwrap();
    let theirs = Admin::login(bouncer.port(), "app", "pgbouncer").await.unwrap();
    let mut compared = 0;
    for what in [
        "POOLS",
        "CLIENTS",
        "SERVERS",
        "DATABASES",
        "USERS",
        "STATS",
        "STATS_TOTALS",
        "STATS_AVERAGES",
        "LISTS",
        "CONFIG",
        "MEM",
        "ACTIVE_SOCKETS",
        "SOCKETS",
        "STATE",
        "VERSION",
    ] {
        let (columns, _) = ours.table(&format!("SHOW {what}")).await.unwrap();
        let Ok((wanted, _)) = theirs.table(&format!("SHOW {what}")).await else {
            assert_eq!(what, "STATE", "which PgBouncer has since 1.19");
            continue;
        };
        let mut left = columns.iter();
        for column in &wanted {
            if column == "reserve_pool" {
                // It has another name since 1.24, and an other place: the old one is behind all others.
                assert!(columns.contains(column));
                continue;
            }
            assert!(left.any(|ours| ours == column), "SHOW {what}: {column} is missing, or out of order, in {columns:?}");
            compared += 1;
        }
    }
    assert!(compared > 100, "only {compared} columns were compared");
    let lists = theirs.rows("SHOW LISTS").await;
    for list in lists {
        ours.row("SHOW LISTS", "list", &list["list"]).await;
    }
}

#[tokio::test]
async fn the_connection_that_listens_for_all_is_shown() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).max_connections(4).start().await;
    let ops = ops(&proxy).await;
    let login = async || Wire::login(&proxy, "app", "secret", "app").await.unwrap();
    let mut listeners = [login().await, login().await];
    for wire in &mut listeners {
        wire.query("LISTEN news").await;
    }
    eventually("both listen by way of one", PATIENCE, async || {
        let pool = ops.row("SHOW POOLS", "database", "app").await;
        (number(&pool, "sv_listening"), number(&pool, "cl_listening"), number(&pool, "sv_active")) == (1, 2, 0)
    })
    .await;
    assert_eq!(ops.row("SHOW SERVERS", "state", "listening").await["database"], "app");
    assert_eq!(number(&ops.row("SHOW UPSTREAMS", "upstream", "main").await, "sv_listening"), 1);
}

#[tokio::test]
async fn tables_tell_of_real_clients_and_servers() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).max_connections(2).tenant("main", "match = { user = \"app\" }").start().await;
    let ops = ops(&proxy).await;
    let mut busy = Wire::connect(&proxy).await;
    busy.start(&[("user", "app"), ("database", "app"), ("application_name", "billing")]).await;
    busy.authenticate("app", "secret").await.unwrap();
    busy.query("BEGIN").await;
    let pid = busy.value("SELECT pg_backend_pid()").await;

    let row = ops.row("SHOW CLIENTS", "application_name", "billing").await;
    assert_eq!((row["state"].as_str(), row["tenant"].as_str(), row["addr"].as_str()), ("active", "main", "127.0.0.1"));
    assert_eq!(row["id"], busy.pid.to_string(), "the first word of its cancel key");
    let server = ops.row("SHOW SERVERS", "remote_pid", &pid).await;
    assert_eq!((server["state"].as_str(), &server["link"], &row["link"]), ("active", &row["ptr"], &server["ptr"]));
    assert_eq!(server["port"], pg.port().to_string());

    busy.query("SET application_name = 'renamed'").await;
    busy.query("COMMIT").await;
    eventually("its new name is known", PATIENCE, async || {
        let row = ops.row("SHOW CLIENTS", "database", "app").await;
        row["application_name"] == "renamed" && row["state"] == "idle" && row["link"].is_empty()
    })
    .await;
    let pool = ops.row("SHOW POOLS", "database", "app").await;
    assert_eq!((number(&pool, "cl_active"), number(&pool, "sv_idle"), number(&pool, "sv_active")), (1, 1, 0));
    let stats = ops.row("SHOW STATS", "database", "app").await;
    assert_eq!((number(&stats, "total_xact_count"), number(&stats, "total_query_count")), (1, 4));
    assert!(number(&stats, "total_xact_time") > 0 && number(&stats, "avg_xact_time") > 0);
    assert_eq!(number(&ops.row("SHOW TENANTS", "tenant", "main").await, "xact_count"), 1);
    assert_eq!(number(&ops.row("SHOW LISTS", "list", "used_clients").await, "items"), 1, "an operator is no client");
}

#[tokio::test]
async fn a_client_that_waits_is_seen_waiting() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).max_connections(1).start().await;
    let ops = ops(&proxy).await;
    let (mut holder, mut waiter) = (client(&proxy).await, client(&proxy).await);
    holder.query("BEGIN").await;
    waiter.send(&harness::frames::query("SELECT 1")).await;
    eventually("it waits", PATIENCE, async || {
        let pool = ops.row("SHOW POOLS", "database", "app").await;
        number(&pool, "cl_waiting") == 1 && number(&pool, "maxwait") * 1_000_000 + number(&pool, "maxwait_us") > 10_000
    })
    .await;
    let queue = ops.row("SHOW QUEUES", "upstream", "main").await;
    assert_eq!((number(&queue, "waiting"), queue["tenant"].as_str()), (1, "default"));
    holder.query("COMMIT").await;
    waiter.until_ready().await;
    assert_eq!(number(&ops.row("SHOW POOLS", "database", "app").await, "cl_waiting"), 0);
}

#[tokio::test]
async fn who_may_look_may_not_steer_and_others_do_not_come_in() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).start().await;
    let stats = Admin::login(proxy.port(), "grafana", "pgweir").await.unwrap();
    stats.rows("SHOW POOLS").await;
    for command in ["PAUSE", "RELOAD", "SHUTDOWN", "KILL app", "SET log.level = 'debug'", "KILL_CLIENT 1"] {
        assert_eq!(stats.refused(command).await, ("42501".into(), "admin access needed".into()), "{command}");
    }
    let mut wire = Wire::connect(&proxy).await;
    wire.start(&[("user", "app"), ("database", "pgweir")]).await;
    let denied = wire.authenticate("app", "secret").await.unwrap_err();
    assert_eq!(denied.code(), "42501", "{denied:?}");
    let mut wire = Wire::connect(&proxy).await;
    wire.start(&[("user", "ops"), ("database", "pgweir")]).await;
    assert_eq!(wire.authenticate("ops", "wrong").await.unwrap_err().code(), "28P01");
}

#[tokio::test]
async fn over_a_unix_socket_the_proxys_own_user_needs_no_password() {
    let pg = Postgres::start().await;
    let sockets = tempfile::tempdir().unwrap();
    let listen = vec!["127.0.0.1:0".to_owned(), format!("unix:{}", sockets.path().display())];
    let proxy = options(&pg).set("listen.postgres", listen).start().await;
    let file = sockets.path().join(format!(".s.PGSQL.{}", proxy.port()));
    let mut wire = Wire::connect(file.clone()).await;
    wire.start(&[("user", "pgbouncer"), ("database", "pgbouncer")]).await;
    wire.until_ready().await;
    assert_eq!(wire.query("SHOW VERSION").await[0][0].as_deref(), Some(concat!("pgweir ", env!("CARGO_PKG_VERSION"))));
    let mut other = Wire::connect(file).await;
    other.start(&[("user", "ops"), ("database", "pgweir")]).await;
    assert_eq!(other.authenticate("ops", "wrong").await.unwrap_err().code(), "28P01", "another name proves itself");
}

#[tokio::test]
async fn a_pause_waits_for_transactions_and_those_who_come_wait_for_its_end() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).set("defaults.queue_timeout", "300ms").start().await;
    let ops = ops(&proxy).await;
    let mut long = client(&proxy).await;
    long.query("BEGIN").await;
    let pausing = Admin::login(proxy.port(), "ops", "pgweir").await.unwrap();
    let pause = tokio::spawn(async move { pausing.rows("PAUSE app").await });
    eventually("it is paused", PATIENCE, async || ops.row("SHOW POOLS", "database", "app").await["paused"] == "1").await;
    assert!(!pause.is_finished(), "a transaction is open");
    assert_eq!(long.value("SELECT 1").await, "1", "which goes on");
    long.query("COMMIT").await;
    timeout(PATIENCE, pause).await.expect("PAUSE ends with the last transaction").unwrap();
    eventually("all server connections are closed", PATIENCE, async || pg.backends("app").await == 0).await;

    // Who comes waits, for longer than it may wait otherwise; a login too.
    long.send(&harness::frames::query("SELECT 2")).await;
    long.expect_silence(Duration::from_millis(900)).await;
    assert_eq!(ops.refused("PAUSE app").await.1, "already paused");
    ops.rows("RESUME app").await;
    long.until_ready().await;
    assert_eq!(long.value("SELECT 3").await, "3");
    assert_eq!(ops.refused("RESUME app").await.1, "database app is not paused");
    assert_eq!(ops.refused("PAUSE pgweir").await.0, "22023");

    ops.rows("PAUSE").await;
    assert_eq!(ops.row("SHOW STATE", "key", "paused").await["value"], "yes");
    let mut new = Wire::connect(&proxy).await;
    new.start(&[("user", "app"), ("database", "app")]).await;
    ops.rows("RESUME").await;
    new.authenticate("app", "secret").await.unwrap();
    assert_eq!(new.value("SELECT 4").await, "4");
}

#[tokio::test]
async fn a_server_can_be_restarted_during_a_pause_and_nobody_notices() {
    let mut pg = Postgres::start().await;
    let proxy = options(&pg).set("upstreams.main.failover_window", "0").start().await;
    let ops = ops(&proxy).await;
    let (mut idle, mut waits) = (client(&proxy).await, client(&proxy).await);
    idle.query("SELECT 1").await;
    ops.rows("PAUSE").await;
    pg.stop(Stop::Fast);
    waits.send(&harness::frames::query("SELECT 2")).await;
    waits.expect_silence(Duration::from_millis(300)).await;
    pg.start_again().await;
    waits.expect_silence(Duration::from_millis(100)).await;
    ops.rows("RESUME").await;
    waits.until_ready().await;
    assert_eq!((waits.value("SELECT 3").await, idle.value("SELECT 4").await), ("3".into(), "4".into()));
}

#[tokio::test]
async fn who_gives_up_waiting_for_a_pause_leaves_it_in_force() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).start().await;
    let mut long = client(&proxy).await;
    long.query("BEGIN").await;
    let mut impatient = Wire::login(&proxy, "ops", "secret", "pgweir").await.unwrap();
    impatient.send(&harness::frames::query("PAUSE")).await;
    impatient.expect_silence(Duration::from_millis(100)).await;
    drop(impatient);
    let ops = ops(&proxy).await;
    assert_eq!(ops.row("SHOW STATE", "key", "paused").await["value"], "yes");
    ops.rows("RESUME").await;
    assert_eq!(long.value("SELECT 1").await, "1");
}

#[tokio::test]
async fn a_pause_that_somebody_ends_is_over_for_who_waits_for_it_too() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).start().await;
    let (ops, pausing) = (ops(&proxy).await, ops(&proxy).await);
    let mut long = client(&proxy).await;
    long.query("BEGIN").await;
    for (pause, resume) in [("PAUSE", "RESUME"), ("PAUSE app", "RESUME app"), ("PAUSE app", "RESUME")] {
        let resume = async {
            eventually("it is paused", PATIENCE, async || ops.row("SHOW POOLS", "database", "app").await["paused"] == "1").await;
            ops.rows(resume).await;
        };
        let (refused, ()) = tokio::join!(pausing.refused(pause), resume);
        assert_eq!(refused, ("22023".into(), "resumed before the last server connection was closed".into()));
    }
    assert_eq!(long.value("SELECT 1").await, "1");
}

#[tokio::test]
async fn kill_ends_sessions_and_what_they_run() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).start().await;
    let ops = ops(&proxy).await;
    let (mut one, mut other) = (client(&proxy).await, client(&proxy).await);
    one.query("BEGIN").await;
    ops.rows(&format!("KILL_CLIENT {}", one.pid)).await;
    assert_eq!(one.expect_error("57P01").await.severity(), "FATAL");
    assert_eq!(other.value("SELECT 1").await, "1", "which is somebody else");
    assert_eq!(ops.refused(&format!("KILL_CLIENT {}", one.pid)).await.1, "client not found");

    other.send(&harness::frames::query("SELECT pg_sleep(600)")).await;
    eventually("it runs", PATIENCE, async || {
        pg.value("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'").await == "1"
    })
    .await;
    ops.rows("KILL app").await;
    other.expect_error("57P01").await;
    eventually("its query is over too", PATIENCE, async || pg.backends("app").await == 0).await;
    assert_eq!(ops.row("SHOW DATABASES", "name", "app").await["paused"], "1", "as with PgBouncer");
    ops.rows("RESUME app").await;
    assert_eq!(client(&proxy).await.value("SELECT 1").await, "1");
    assert!(proxy.metric("pgweir_refused_total{tenant=\"default\",fault=\"killed\"}").await >= 2.0);
}

#[tokio::test]
async fn a_disabled_database_takes_no_new_clients() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).start().await;
    let ops = ops(&proxy).await;
    let mut old = client(&proxy).await;
    ops.rows("DISABLE app").await;
    let Err(refused) = Wire::login(&proxy, "app", "secret", "app").await else { panic!("it is disabled") };
    assert_eq!(refused.code(), "57P03");
    assert_eq!(old.value("SELECT 1").await, "1", "those that are there stay");
    ops.rows("ENABLE app").await;
    client(&proxy).await;
}

#[tokio::test]
async fn reconnect_brings_new_server_connections_without_anybody_noticing() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).start().await;
    let ops = ops(&proxy).await;
    let (mut idle, mut open) = (client(&proxy).await, client(&proxy).await);
    open.query("BEGIN").await;
    let kept = open.value("SELECT pg_backend_pid()").await;
    let before = idle.value("SELECT pg_backend_pid()").await;
    ops.rows("RECONNECT app").await;
    assert_ne!(idle.value("SELECT pg_backend_pid()").await, before);
    assert_eq!(open.value("SELECT pg_backend_pid()").await, kept, "not inside its transaction");
    let waiting = Admin::login(proxy.port(), "ops", "pgweir").await.unwrap();
    let closed = tokio::spawn(async move { waiting.rows("WAIT_CLOSE app").await });
    assert_eq!(open.value("SELECT 1").await, "1");
    assert!(!closed.is_finished(), "one of the old connections is still in use");
    open.query("COMMIT").await;
    timeout(PATIENCE, closed).await.expect("the last one is closed").unwrap();
    assert_ne!(open.value("SELECT pg_backend_pid()").await, kept);
}

#[tokio::test]
async fn settings_change_by_set_until_the_process_ends_and_by_reload() {
    let pg = Postgres::start().await;
    let mut proxy = options(&pg).start().await;
    let ops = ops(&proxy).await;
    let budget = async || ops.row("SHOW CONFIG", "key", "upstreams.main.max_connections").await;
    assert_eq!((budget().await["value"].as_str(), budget().await["changeable"].as_str()), ("10", "yes"));
    ops.rows("SET upstreams.main.max_connections = 3").await;
    assert_eq!(budget().await["value"], "3");
    assert_eq!(proxy.metric("pgweir_upstream_limit{upstream=\"main\"}").await, 3.0);

    let (code, why) = ops.refused("SET upstreams.main.max_conections = 3").await;
    assert!(code == "22023" && why.contains("max_connections") || why.contains("MAX_CONNECTIONS"), "{why}");
    let (_, why) = ops.refused("SET defaults.queue_timeout = 'soon'").await;
    assert!(why.contains("soon"), "{why}");
    let (_, why) = ops.refused("SET process.workers = 7").await;
    assert!(why.contains("restart"), "{why}");
    assert_eq!(budget().await["value"], "3", "none of which has changed anything");

    proxy.rewrite_config(|options| options.max_connections(7).set("defaults.max_queue", 77));
    ops.rows("RELOAD").await;
    assert_eq!(budget().await["value"], "3", "what was set stays");
    assert_eq!(ops.row("SHOW CONFIG", "key", "defaults.max_queue").await["value"], "77");
    proxy.write_config_text("nonsense");
    assert_eq!(ops.refused("RELOAD").await.0, "22023");
    assert_eq!(client(&proxy).await.value("SELECT 1").await, "1");
    let secrets = ops.rows("SHOW CONFIG").await;
    assert!(secrets.iter().all(|row| row["key"] == "log.format" || !row["value"].contains("secret")), "a password is shown");
}

#[tokio::test]
async fn prepared_statements_are_counted_as_clients_and_as_servers_see_them() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).max_connections(1).start().await;
    let ops = ops(&proxy).await;
    for _ in 0..3 {
        let mut client = client(&proxy).await;
        client.send(&[parse("p", "SELECT 1", &[]), sync()].concat()).await;
        client.until_ready().await;
        for _ in 0..2 {
            client.send(&[bind("", "p", &[]), execute("", 0), sync()].concat()).await;
            client.until_ready().await;
        }
        client.send(&[parse("", "SELECT 2", &[]), bind("", "", &[]), execute("", 0), sync()].concat()).await;
        client.until_ready().await;
    }
    let stats = ops.row("SHOW STATS", "database", "app").await;
    let seen = ["total_client_parse_count", "total_server_parse_count", "total_bind_count"].map(|column| number(&stats, column));
    assert_eq!(seen, [3, 1, 6], "what has no name is not counted");
    for (step, count) in [("prepared", 3.0), ("parsed", 1.0), ("bound", 6.0)] {
        let name = format!(r#"pgweir_prepared_statements_total{{step="{step}",tenant="default"}}"#);
        assert!((proxy.metric(&name).await - count).abs() < 0.1, "{step}");
    }
}

#[tokio::test]
async fn a_client_that_keeps_its_server_connection_is_shown_with_why() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).start().await;
    let ops = ops(&proxy).await;
    let mut keeps = client(&proxy).await;
    let reason = async || {
        let row = ops.row("SHOW CLIENTS", "database", "app").await;
        (row["pinned"].clone(), row["pin_reason"].clone())
    };
    assert_eq!(reason().await, ("0".into(), String::new()));
    for (take, why, release) in [
        ("CREATE TEMP TABLE t (a int)", "temp", "DROP TABLE t"),
        ("SELECT pg_advisory_lock(1)", "advisory_lock", "SELECT pg_advisory_unlock(1)"),
    ] {
        keeps.query(take).await;
        eventually(why, PATIENCE, async || reason().await == ("1".into(), why.into())).await;
        keeps.query(release).await;
        eventually("it keeps nothing", PATIENCE, async || reason().await == ("0".into(), String::new())).await;
    }
}

#[tokio::test]
async fn it_answers_while_the_proxy_is_full_and_while_it_drains() {
    let pg = Postgres::start().await;
    let mut proxy = options(&pg).set("clients.max_clients", 1).start().await;
    let mut only = client(&proxy).await;
    assert!(Wire::login(&proxy, "app", "secret", "app").await.is_err(), "it is full");
    let ops = ops(&proxy).await;
    assert_eq!(ops.rows("SHOW CLIENTS").await.len(), 1);
    only.query("BEGIN").await;
    ops.rows("SHUTDOWN WAIT_FOR_CLIENTS").await;
    eventually("it drains", PATIENCE, async || ops.row("SHOW STATE", "key", "lifecycle").await["value"] == "draining").await;
    eventually("nobody new comes in", PATIENCE, async || Wire::try_connect(&proxy).await.is_err()).await;
    assert_eq!(only.value("SELECT 1").await, "1", "who is there may stay");
    only.query("COMMIT").await;
    drop(only);
    assert!(timeout(PATIENCE, proxy.wait_exit()).await.expect("with the last client it ends").success());
}

#[tokio::test]
async fn shutdown_ends_it_at_once() {
    let pg = Postgres::start().await;
    let mut proxy = options(&pg).set("process.shutdown_timeout", "10m").start().await;
    let mut busy = client(&proxy).await;
    busy.send(&harness::frames::query("SELECT pg_sleep(600)")).await;
    eventually("it runs", PATIENCE, async || {
        pg.value("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'").await == "1"
    })
    .await;
    // Its connection ends with the process, perhaps before the answer.
    let _ = ops(&proxy).await.table("SHUTDOWN").await;
    assert!(timeout(PATIENCE, proxy.wait_exit()).await.expect("at once").success());
    busy.expect_error("57P01").await;
    eventually("what ran is cancelled", PATIENCE, async || pg.backends("app").await == 0).await;
}

#[tokio::test]
async fn the_extended_protocol_works_with_types_and_portals() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).start().await;
    let ops = ops(&proxy).await;
    let rows = ops.client().query("SHOW LISTS", &[]).await.unwrap();
    let users: i32 = rows.iter().find(|row| row.get::<_, &str>("list") == "users").unwrap().get("items");
    assert_eq!(users, 3);
    let upstream = ops.client().query_one("SHOW UPSTREAMS", &[]).await.unwrap();
    assert!(upstream.get::<_, f64>("pressure") < 0.5);
    assert!(ops.client().query("SELECT 1", &[]).await.unwrap_err().as_db_error().unwrap().message().contains("SHOW HELP"));
    ops.client().execute("RELOAD", &[]).await.unwrap();

    // A row limit: the rest comes with the next Execute.
    let mut wire = Wire::login(&proxy, "ops", "secret", "pgweir").await.unwrap();
    let batch = [parse("", "SHOW LISTS", &[]), bind("", "", &[]), execute("", 10), execute("", 10), sync()].concat();
    wire.send(&batch).await;
    let frames = wire.until_ready().await;
    let kinds: String = frames.iter().map(|frame| char::from(frame.tag)).collect();
    assert_eq!(kinds, format!("12{}s{}CZ", "D".repeat(10), "D".repeat(6)));
}

#[tokio::test]
async fn an_exporter_for_pgbouncer_finds_what_it_reads() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).start().await;
    let mut busy = client(&proxy).await;
    for _ in 0..7 {
        busy.query("SELECT 1").await;
    }
    let port = free_port();
    let mut exporter = Command::new("prometheus-pgbouncer-exporter")
        .args(["--host", "127.0.0.1", "--port", &port.to_string(), "--pgbouncer-host", "127.0.0.1", "--pgbouncer-user", "grafana"])
        .args(["--pgbouncer-port", &proxy.port().to_string()])
        .env("PGPASSWORD", "secret")
        .stderr(Stdio::null())
        .spawn()
        .expect("the exporter, which tests/setup installs");
    eventually("the exporter listens", PATIENCE, async || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
    let answer = harness::http_get(([127, 0, 0, 1], port).into(), "/metrics").await;
    exporter.kill().unwrap();
    exporter.wait().unwrap();
    let page = answer.unwrap().body;
    for line in [
        "pgbouncer_requests_total{database=\"app\"} 7.0",
        "pgbouncer_active_clients{database=\"app\",user=\"app\"} 1.0",
        "pgbouncer_used_servers 1.0",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in {page}");
    }
}

#[tokio::test]
async fn psql_watches_it() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).start().await;
    let url = format!("postgres://ops:secret@{}/pgweir", proxy.address());
    let mut psql = Command::new("psql").args(["-X", "-A", "-t", &url]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = psql.stdin.take().unwrap();
    input.write_all(b"SHOW VERSION \\watch 0.05\n").unwrap();
    let output = BufReader::new(psql.stdout.take().unwrap());
    let three = move || output.lines().map_while(Result::ok).filter(|line| line.starts_with("pgweir ")).take(3).count();
    let seen = timeout(PATIENCE, tokio::task::spawn_blocking(three)).await;
    psql.kill().unwrap();
    psql.wait().unwrap();
    assert_eq!(seen.expect("the third look").unwrap(), 3);
}

#[tokio::test]
async fn bad_bytes_end_only_their_own_session() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).start().await;
    let mut wire = Wire::login(&proxy, "ops", "secret", "pgweir").await.unwrap();
    wire.send(&[b'Q', 0x3f, 0xff, 0xff, 0xff]).await;
    wire.expect_error("08P01").await;
    wire.until_closed().await;
    let mut wire = Wire::login(&proxy, "ops", "secret", "pgweir").await.unwrap();
    wire.send(&[b'B', 0, 0, 0, 6, 0, 9]).await;
    wire.send(&harness::frames::sync()).await;
    wire.expect_error("08P01").await;
    wire.until_ready().await;
    assert!(!wire.query("SHOW STATE").await.is_empty());
}

#[tokio::test]
async fn it_has_a_limit_of_its_own_and_room_again_when_a_session_ends() {
    let pg = Postgres::start().await;
    let proxy = options(&pg).start().await;
    let mut all = Vec::new();
    for _ in 0..64 {
        all.push(Wire::login(&proxy, "ops", "secret", "pgweir").await.unwrap());
    }
    let Err(refused) = Wire::login(&proxy, "ops", "secret", "pgweir").await else { panic!("there are 64") };
    assert_eq!((refused.severity(), refused.code()), ("FATAL", "53300"));
    all.pop();
    eventually("there is room again", PATIENCE, async || Wire::login(&proxy, "ops", "secret", "pgweir").await.is_ok()).await;
}
