//! `pgweir storm` on a real server, through the proxy and straight: what it counts is what happened, and what it does to the proxy is over when it is.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what fails here fails the test")]

mod harness;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use harness::{Ca, PATIENCE, Postgres, Proxy, Wire, eventually, in_time};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// A storm, and the folder of its files.
struct Storm {
    child: Child,
    folder: TempDir,
}

/// How a storm ended.
struct Ended {
    code: Option<i32>,
    table: String,
    notes: String,
    report: Value,
    picture: String,
}

impl Storm {
    /// Begins one, at this URL where the scenario's tenants name no other.
    fn start(url: &str, scenario: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("scenario.toml");
        fs::write(&file, scenario).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_pgweir"))
            .args([Path::new("storm"), &file])
            .args([Path::new("--json"), &folder.path().join("report.json")])
            .args([Path::new("--svg"), &folder.path().join("picture.svg")])
            .env("DATABASE_URL", url)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, folder }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    async fn end(self) -> Ended {
        let Self { child, folder } = self;
        let waited = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
        let Output { status, stdout, stderr } = in_time("the storm ends", waited).await.unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap_or_default();
        Ended {
            code: status.code(),
            table: String::from_utf8(stdout).unwrap(),
            notes: String::from_utf8(stderr).unwrap(),
            report: serde_json::from_str(&read("report.json")).unwrap_or_default(),
            picture: read("picture.svg"),
        }
    }
}

impl Ended {
    /// One tenant's part of the report.
    fn tenant(&self, name: &str) -> &Value {
        let tenants = self.report["tenants"].as_array().unwrap_or_else(|| panic!("{}\n{}", self.table, self.notes));
        tenants.iter().find(|tenant| tenant["name"] == name).unwrap()
    }

    /// One of a tenant's counts, by the path of its keys.
    fn count(&self, tenant: &str, path: &str) -> u64 {
        let value = path.split('/').fold(self.tenant(tenant), |value, key| &value[key]);
        value.as_u64().unwrap_or_default()
    }
}

async fn storm(url: &str, scenario: &str) -> Ended {
    Storm::start(url, scenario).end().await
}

/// A table that says how often something was done.
async fn jobs(pg: &Postgres) {
    pg.sql("CREATE TABLE jobs (by text NOT NULL); GRANT ALL ON jobs TO app").await;
}

/// Waits until nothing of a storm is left at the proxy and the server.
async fn settles(pg: &Postgres, proxy: &Proxy) {
    let at_work = "SELECT count(*)::text FROM pg_stat_activity WHERE datname = 'app' AND usename = 'app' AND state <> 'idle'";
    eventually("nothing of it is left", PATIENCE, || async {
        pg.value(at_work).await == "0" && proxy.metric("pgweir_client_connections").await == 0.0
    })
    .await;
    let mut wire = Wire::login(proxy, "app", "secret", "app").await.unwrap();
    assert_eq!(wire.value("SELECT 1").await, "1");
}

#[tokio::test]
async fn a_burst_over_few_connections_is_answered_to_the_last() {
    let pg = Postgres::start().await;
    jobs(&pg).await;
    let proxy = Proxy::new(&pg).max_connections(4).start().await;
    let scenario = r#"
        duration = "2s"
        [tenants.connecting]
        rate = 100
        burst = 300
        burst_at = "500ms"
        work = "20ms"
        statements = ["BEGIN", "INSERT INTO jobs VALUES ('connecting')", "COMMIT"]
        [tenants.keeping]
        rate = 50
        keep_connection = true
        protocol = "prepared"
        statements = ["INSERT INTO jobs VALUES ('keeping')"]
    "#;
    let (ended, most) = pg.most_backends("app", storm(&proxy.url("app"), scenario)).await;
    assert_eq!(ended.code, Some(0), "{}", ended.table);
    assert!(most <= 4, "{most} server connections");
    for (name, least) in [("connecting", 400), ("keeping", 50)] {
        let came = ended.count(name, "invocations");
        assert!(came >= least, "{came} of {name}");
        assert_eq!(ended.count(name, "answered"), came, "{}", ended.table);
        assert_eq!(ended.count(name, "runs"), came, "{}", ended.table);
        let done = pg.value(&format!("SELECT count(*)::text FROM jobs WHERE by = '{name}'")).await;
        assert_eq!(done, came.to_string());
    }
    assert!(ended.count("keeping", "cold_starts") < ended.count("keeping", "runs"), "warm ones are used again");
    // Each of its own work took 20 ms at least.
    assert!(ended.tenant("connecting")["latency"]["p50"].as_f64().unwrap() >= 20.0);
    assert!(ended.picture.starts_with("<svg") && ended.picture.contains("keeping p99"), "{}", ended.picture);
    assert!(ended.notes.contains(" came, "), "progress: {}", ended.notes);
    settles(&pg, &proxy).await;
}

#[tokio::test]
async fn the_killed_the_frozen_and_the_late_leave_nothing_behind() {
    let pg = Postgres::start().await;
    jobs(&pg).await;
    let proxy =
        Proxy::new(&pg).max_connections(6).tenant("all", "match = { user = \"app\" }\nidle_transaction_timeout = \"200ms\"").start().await;
    let scenario = r#"
        duration = "3s"
        [tenants.killed]
        rate = 60
        kills = 0.5
        kill_within = "40ms"
        statements = ["BEGIN", "INSERT INTO jobs VALUES ('killed')", "SELECT pg_sleep(0.05)", "COMMIT"]
        [tenants.frozen]
        rate = 10
        freezes = 0.5
        freeze_for = "1s"
        statements = ["BEGIN", "INSERT INTO jobs VALUES ('frozen')", "COMMIT"]
        [tenants.late]
        rate = 2
        timeout = "300ms"
        statements = ["SELECT pg_sleep(60)"]
        [tenants.warned]
        rate = 2
        timeout = "2s"
        tell_deadline = true
        statements = ["SELECT pg_sleep(60)"]
    "#;
    let ended = storm(&proxy.url("app"), scenario).await;
    assert_eq!(ended.code, Some(0), "{}", ended.table);
    settles(&pg, &proxy).await;

    for name in ["killed", "frozen", "late", "warned"] {
        let sum: u64 = ended.tenant(name)["gave_up"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
        assert_eq!(ended.count(name, "answered") + sum, ended.count(name, "invocations"), "{}", ended.table);
    }
    assert!(ended.count("killed", "killed") > 30 && ended.count("killed", "answered") > 30, "{}", ended.table);
    // Whoever was frozen in a transaction for longer than it may be idle has lost it, and hears of it.
    assert!(ended.count("frozen", "refused/25P03") > 5 && ended.count("frozen", "answered") > 5, "{}", ended.table);
    assert_eq!(ended.count("late", "timed_out"), ended.count("late", "invocations"), "{}", ended.table);
    // Who tells its deadline is told in time.
    assert_eq!(ended.count("warned", "refused/57014"), ended.count("warned", "invocations"), "{}", ended.table);
    for name in ["killed", "frozen"] {
        let done = pg.value(&format!("SELECT count(*)::text FROM jobs WHERE by = '{name}'")).await.parse::<u64>().unwrap();
        // A COMMIT may be done although its caller was gone before the answer.
        let bounds = ended.count(name, "answered")..=ended.count(name, "answered") + ended.count(name, "killed");
        assert!(bounds.contains(&done), "{name}: {done} of {bounds:?}");
    }
}

#[tokio::test]
async fn straight_at_a_server_that_is_full_the_refused_come_again() {
    let pg = Postgres::options().max_connections(10).start().await;
    let scenario = r#"
        duration = "1s"
        [tenants.direct]
        burst = 60
        burst_at = "100ms"
        work = "100ms"
        retries = 15
        backoff = "50ms"
    "#;
    let ended = storm(&pg.url("app", "secret"), scenario).await;
    assert_eq!(ended.code, Some(0), "{}", ended.table);
    assert_eq!(ended.count("direct", "answered"), 60, "{}", ended.table);
    assert!(ended.count("direct", "refused/53300") > 20, "{}", ended.table);
    assert!(ended.count("direct", "runs") > 80, "{}", ended.table);
}

#[tokio::test]
async fn there_are_only_so_many_environments() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).start().await;
    let scenario = r#"
        duration = "1s"
        [tenants.few]
        burst = 20
        burst_at = "100ms"
        environments = 5
        statements = ["SELECT pg_sleep(0.3)"]
        [tenants.slow]
        burst = 20
        burst_at = "100ms"
        new_environments = 8
        statements = ["SELECT pg_sleep(0.3)"]
    "#;
    let ended = storm(&proxy.url("app"), scenario).await;
    assert_eq!(ended.code, Some(0), "{}", ended.table);
    for (name, ran) in [("few", 5), ("slow", 8)] {
        assert_eq!((ended.count(name, "answered"), ended.count(name, "throttled")), (ran, 20 - ran), "{}", ended.table);
        assert_eq!(ended.count(name, "gave_up/throttled"), 20 - ran);
    }
}

#[tokio::test]
async fn tls_is_what_the_url_asks_for() {
    let (pg, ca) = (Postgres::start().await, Ca::new());
    let proxy = Proxy::new(&pg).tls("require", &ca.server()).start().await;
    let authority = proxy.folder().join("ca.pem");
    fs::write(&authority, ca.pem()).unwrap();
    let own = proxy.folder().join("own.pem");
    fs::write(&own, Ca::new().pem()).unwrap();
    let scenario = |file: &Path| {
        let url = format!("{}?sslmode=verify-full&sslrootcert={}", proxy.url("app"), file.display());
        format!("duration = \"200ms\"\n[tenants.a]\nburst = 20\nburst_at = \"0s\"\nurl = \"{url}\"")
    };
    let ended = storm("", &scenario(&authority)).await;
    assert_eq!((ended.code, ended.count("a", "answered")), (Some(0), 20), "{}", ended.table);

    let ended = storm("", &scenario(&own)).await;
    assert_eq!((ended.code, ended.count("a", "answered")), (Some(1), 0), "{}", ended.table);
    assert!(ended.table.contains("a: lost ") && ended.table.contains("certificate"), "{}", ended.table);

    // In plaintext the proxy says what it wants.
    let plain = format!("{}?sslmode=disable", proxy.url("app"));
    let ended = storm(&plain, "duration = \"200ms\"\n[tenants.a]\nburst = 1\nburst_at = \"0s\"").await;
    assert_eq!(ended.count("a", "refused/28000"), 1, "{}", ended.table);
}

#[tokio::test]
async fn the_same_storm_goes_over_http() {
    let (pg, ca) = (Postgres::start().await, Ca::new());
    jobs(&pg).await;
    let proxy = Proxy::new(&pg).api().tls("prefer", &ca.server()).max_connections(4).start().await;
    let authority = proxy.folder().join("authority.pem");
    fs::write(&authority, ca.pem()).unwrap();
    let port = proxy.api_address().port();
    let scenario = format!(
        r#"
        duration = "2s"
        [tenants.connecting]
        url = "https://app:secret@localhost:{port}/app?sslrootcert={}"
        rate = 50
        burst = 100
        burst_at = "500ms"
        statements = ["BEGIN", "INSERT INTO jobs VALUES ('connecting')", "COMMIT"]
        [tenants.keeping]
        rate = 50
        keep_connection = true
        tell_deadline = true
        statements = ["INSERT INTO jobs VALUES ('keeping')"]
        [tenants.killed]
        rate = 20
        kills = 1.0
        kill_within = "20ms"
        statements = ["SELECT pg_sleep(60)"]
    "#,
        authority.display()
    );
    let url = format!("http://app:secret@127.0.0.1:{port}/app");
    let (ended, most) = pg.most_backends("app", storm(&url, &scenario)).await;
    assert_eq!(ended.code, Some(0), "{}", ended.table);
    assert!(most <= 4, "{most} server connections");
    for name in ["connecting", "keeping"] {
        let came = ended.count(name, "invocations");
        assert_eq!(ended.count(name, "answered"), came, "{}", ended.table);
        let done = pg.value(&format!("SELECT count(*)::text FROM jobs WHERE by = '{name}'")).await;
        assert_eq!(done, came.to_string());
    }
    assert!(ended.count("keeping", "cold_starts") < ended.count("keeping", "runs"), "warm ones are used again");
    assert_eq!(ended.count("killed", "killed"), ended.count("killed", "invocations"), "{}", ended.table);
    settles(&pg, &proxy).await;
}

#[tokio::test]
async fn where_nobody_listens_all_are_lost() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ended = storm(&format!("postgres://a:b@{free}/c"), "duration = \"200ms\"\n[tenants.a]\nburst = 3\nburst_at = \"0s\"").await;
    assert_eq!((ended.code, ended.count("a", "answered")), (Some(1), 0), "{}", ended.table);
    assert!(ended.table.contains("Connection refused") && ended.table.contains("(3)"), "{}", ended.table);
    assert!(ended.picture.starts_with("<svg"));
}

#[tokio::test]
async fn a_storm_that_is_broken_off_says_what_it_has() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).start().await;
    let scenario =
        "duration = \"10m\"\n[tenants.a]\nrate = 20\n[tenants.b]\nburst = 3\nburst_at = \"0s\"\nstatements = [\"SELECT pg_sleep(60)\"]";
    let storm = Storm::start(&proxy.url("app"), scenario);
    let asleep = "SELECT count(*)::text FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND state = 'active' AND usename = 'app'";
    eventually("it is under way", PATIENCE, || async { pg.value(asleep).await == "3" }).await;
    storm.signal(Signal::INT);
    let ended = storm.end().await;
    assert_eq!(ended.code, Some(130), "{}\n{}", ended.table, ended.notes);
    assert_eq!(ended.count("b", "under_way"), 3, "{}", ended.table);
    assert!(ended.table.contains("b: 3 were still under way when the storm was broken off"), "{}", ended.table);
    settles(&pg, &proxy).await;
}

#[tokio::test]
async fn a_slip_of_the_pen_starts_no_storm() {
    for (scenario, part) in [
        ("[tenants.a]\nrate = 1\nkeep_conection = true", "unknown field `keep_conection`"),
        ("[tenants.a]\nurl = \"postgres://a:secret@h:port/d\"\nrate = 1", "the URL is not one of PostgreSQL's"),
    ] {
        let ended = storm("postgres://a:b@127.0.0.1:1/c", scenario).await;
        assert_eq!((ended.code, ended.table.as_str()), (Some(1), ""));
        assert!(ended.notes.contains(part) && !ended.notes.contains("secret"), "{}", ended.notes);
    }
}

/// All callers at once, and whoever is refused comes back with all others after the same time, three times.
#[tokio::test]
async fn a_storm_of_retries_settles() {
    let pg = Postgres::start().await;
    jobs(&pg).await;
    let proxy = Proxy::new(&pg)
        .max_connections(4)
        .tenant("all", "match = { user = \"app\" }\nmax_queue = 30\nqueue_timeout = \"500ms\"")
        .start()
        .await;
    // The environments' logins are over when the second burst comes.
    let scenario = r#"
        duration = "8s"
        [tenants.stubborn]
        burst = 400
        burst_at = "0s"
        burst_every = "7s"
        keep_connection = true
        statements = ["INSERT INTO jobs SELECT 'stubborn' FROM pg_sleep(0.02)"]
        retries = 3
        backoff = "700ms"
        jitter = false
    "#;
    let ended = storm(&proxy.url("app"), scenario).await;
    assert_eq!(ended.code, Some(0), "{}", ended.table);
    let (answered, refused) = (ended.count("stubborn", "answered"), ended.count("stubborn", "refused/53300"));
    assert_eq!(answered + ended.count("stubborn", "gave_up/refused 53300"), 800, "{}", ended.table);
    assert_eq!(answered + refused, ended.count("stubborn", "runs"), "{}", ended.table);
    assert!(refused > 400, "it is a storm: {}", ended.table);
    assert_eq!(pg.value("SELECT count(*)::text FROM jobs").await, answered.to_string());
    // Waves come at 7, 7.7, 9.1 and 11.9 s, and none of them finds the pool out of breath: as many as it can have are answered of each, 4 at once and 30 in line
    // for 20 ms each, which are over in a fifth of a second.
    let served = |from: f64, to: f64| -> u64 {
        let series = ended.tenant("stubborn")["series"].as_array().unwrap();
        let of_it = series.iter().filter(|point| (from..to).contains(&point["at_s"].as_f64().unwrap()));
        of_it.map(|point| point["answered"].as_u64().unwrap()).sum()
    };
    for wave in [6.9, 7.6, 9.0, 11.8, 60.0].windows(2) {
        assert!(served(wave[0], wave[1]) >= 30, "{wave:?}: {} of {}", served(wave[0], wave[1]), ended.table);
    }
    eventually("the pressure is gone", PATIENCE, || async {
        let page: Value = serde_json::from_str(&proxy.http_get("/pressure").await.body).unwrap();
        page["upstreams"]["main"]["state"] == "ok"
    })
    .await;
    settles(&pg, &proxy).await;
}
