//! What operators see over HTTP agrees with itself, with the documentation and with PostgreSQL; and one variable of the environment is a complete set-up.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]
#![allow(clippy::float_cmp, reason = "what is counted is whole, however it is published")]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStderr, Command, Stdio};

use harness::frames::query;
use harness::{PATIENCE, Postgres, Proxy, Stop, Wire, eventually};
use serde_json::Value;

/// The page that the metrics are documented on, generated from the code's own table.
const METRICS: &str = include_str!("../docs/reference/metrics.md");

async fn login(proxy: &Proxy) -> Wire {
    Wire::login(proxy, "app", "secret", "app").await.unwrap()
}

/// Families by name, with their types, as a page of `/metrics` has them.
fn families(page: &str) -> BTreeMap<String, String> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
}

/// Families by name, with their types, as the documentation has them.
fn documented() -> BTreeMap<String, String> {
    let rows = METRICS.lines().filter_map(|line| line.strip_prefix("| [`"));
    let families = rows.map(|row| {
        let (name, rest) = row.split_once('`').expect("a name");
        (name.to_owned(), rest.split('|').nth(1).expect("a type").trim().to_owned())
    });
    families.collect()
}

#[tokio::test]
async fn every_documented_metric_is_published_and_every_published_one_documented() {
    let pg = Postgres::start().await;
    let proxy =
        Proxy::new(&pg).max_connections(1).set("upstreams.main.limit", "adaptive").set("defaults.queue_timeout", "1s").start().await;
    let (mut pinning, mut refused) = (login(&proxy).await, login(&proxy).await);
    // One client that holds a server connection beyond its transaction, and one that is refused for it.
    pinning.query("CREATE TEMP TABLE scratch (id int)").await;
    assert_eq!(refused.try_query("SELECT 1").await.unwrap_err().code(), "53300");

    let documented = documented();
    assert!(documented.len() > 20, "{documented:?}");
    let page = proxy.http_get("/metrics").await.body;
    let mut published = families(&page);
    // A budget that is shared has no adaptive limit.
    let sharing = Proxy::new(&pg).set("upstreams.main.share_budget", true).set("upstreams.main.share_dbname", "app").start().await;
    published.extend(families(&sharing.http_get("/metrics").await.body));
    // Those that wait may be absent while nobody does; here nobody may.
    published.entry("pgweir_queue_depth".to_owned()).or_insert_with(|| "gauge".to_owned());
    assert_eq!(published, documented);
    let unknown: BTreeSet<&str> = page.lines().filter(|line| !line.starts_with('#')).filter(|line| !line.starts_with("pgweir_")).collect();
    assert_eq!(unknown, BTreeSet::new());
}

#[tokio::test]
async fn counters_and_gauges_say_what_has_happened() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(2).set("defaults.queue_timeout", "60s").start().await;
    let (mut idle, mut active, mut other) = (login(&proxy).await, login(&proxy).await, login(&proxy).await);
    assert!(Wire::login(&proxy, "app", "wrong", "app").await.is_err());
    for _ in 0..5 {
        idle.query("SELECT 1").await;
    }
    let mut waiting = login(&proxy).await;
    active.query("BEGIN").await;
    other.query("BEGIN").await;
    waiting.send(&query("SELECT 1")).await;
    let expected = [
        ("pgweir_clients{tenant=\"default\",state=\"idle\"}", 1.0),
        ("pgweir_clients{tenant=\"default\",state=\"active\"}", 2.0),
        ("pgweir_clients{tenant=\"default\",state=\"waiting\"}", 1.0),
        ("pgweir_queue_depth{tenant=\"default\",upstream=\"main\"}", 1.0),
        ("pgweir_client_logins_total{tenant=\"default\",outcome=\"ok\"}", 4.0),
        ("pgweir_server_connections{upstream=\"main\",state=\"leased\"}", 2.0),
        ("pgweir_server_connects_total{upstream=\"main\",outcome=\"ok\"}", 2.0),
        ("pgweir_upstream_limit{upstream=\"main\"}", 2.0),
        ("pgweir_upstream_up{upstream=\"main\"}", 1.0),
        ("pgweir_queries_total{tenant=\"default\"}", 7.0),
        ("pgweir_transactions_total{tenant=\"default\"}", 5.0),
        ("pgweir_query_seconds_count{tenant=\"default\"}", 7.0),
    ];
    for (sample, value) in expected {
        let mut last = 0.0;
        // The counters are added up where an answer ends, which its client may have seen a moment before.
        let reached = tokio::time::timeout(PATIENCE, async {
            while last != value {
                last = proxy.metric(sample).await;
            }
        });
        assert!(reached.await.is_ok(), "{sample} is {last}, not {value}");
    }
    assert!(proxy.metric("pgweir_bytes_total{tenant=\"default\",direction=\"out\"}").await > 0.0);
    active.query("ROLLBACK").await;
    waiting.until_ready().await;
}

#[tokio::test]
async fn status_and_metrics_agree() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).max_connections(3).start().await;
    let (mut idle, mut active) = (login(&proxy).await, login(&proxy).await);
    active.query("BEGIN").await;
    idle.query("SELECT 1").await;
    // What is counted is counted once the answer has been sent; then nothing moves any more.
    let at_rest = [
        (r#"pgweir_transactions_total{tenant="default"}"#, 1.0),
        (r#"pgweir_server_connections{upstream="main",state="opening"}"#, 0.0),
        (r#"pgweir_server_connections{upstream="main",state="leased"}"#, 1.0),
    ];
    for (sample, value) in at_rest {
        eventually(sample, PATIENCE, async || (proxy.metric(sample).await - value).abs() < 0.1).await;
    }

    let page = proxy.http_get("/status").await;
    assert_eq!(page.status, 200);
    let status: Value = serde_json::from_str(&page.body).unwrap_or_else(|error| panic!("{error}: {}", page.body));
    let named = |list: &str, name: &str| {
        let found = status[list].as_array().and_then(|all| all.iter().find(|one| one["name"] == name));
        found.unwrap_or_else(|| panic!("no {name} among {list} in {}", page.body)).clone()
    };
    let (tenant, upstream) = (named("tenants", "default"), named("upstreams", "main"));
    for state in ["login", "idle", "waiting", "active", "pinned"] {
        let sample = format!("pgweir_clients{{tenant=\"default\",state=\"{state}\"}}");
        assert_eq!(tenant["clients"][state].as_f64(), Some(proxy.metric(&sample).await), "{sample}");
    }
    for state in ["opening", "idle", "leased", "mending", "closing"] {
        let sample = format!("pgweir_server_connections{{upstream=\"main\",state=\"{state}\"}}");
        assert_eq!(upstream["connections"][state].as_f64(), Some(proxy.metric(&sample).await), "{sample}");
    }
    assert_eq!(upstream["connections"]["leased"], 1);
    assert_eq!((&upstream["limit"], &upstream["up"]), (&Value::from(3), &Value::from(true)));
    assert_eq!(tenant["queries"].as_f64(), Some(proxy.metric("pgweir_queries_total{tenant=\"default\"}").await));
    assert_eq!(tenant["transactions"].as_f64(), Some(proxy.metric("pgweir_transactions_total{tenant=\"default\"}").await));
    let pools: Vec<_> = upstream["pools"].as_array().into_iter().flatten().map(|pool| (&pool["database"], &pool["user"])).collect();
    assert_eq!(pools, [(&Value::from("app"), &Value::from("app"))]);
    assert!(!page.body.contains("secret"), "{}", page.body);
}

#[tokio::test]
async fn readyz_says_no_while_every_upstream_is_down_and_yes_again_afterwards() {
    let mut pg = Postgres::start().await;
    // Nobody asks for a connection: the proxy finds out by itself.
    let proxy = Proxy::new(&pg).start().await;
    let client = login(&proxy).await;
    for _ in 0..2 {
        pg.stop(Stop::Fast);
        eventually("/readyz says which upstream is down", PATIENCE, async || {
            let answer = proxy.http_get("/readyz").await;
            answer.status == 503 && answer.body.contains("down") && answer.body.contains("main")
        })
        .await;
        assert_eq!(proxy.metric("pgweir_upstream_up{upstream=\"main\"}").await, 0.0);
        assert_eq!(proxy.http_get("/healthz").await.status, 200, "to restart the proxy would help nobody");
        pg.start_again().await;
        eventually("/readyz says yes", PATIENCE, async || proxy.http_get("/readyz").await.status == 200).await;
        assert_eq!(proxy.metric("pgweir_upstream_up{upstream=\"main\"}").await, 1.0);
    }
    drop(client);
}

#[tokio::test]
async fn readyz_says_yes_while_one_of_two_upstreams_is_there() {
    let mut pg = Postgres::start().await;
    let other = Postgres::start().await;
    let second = format!("[upstreams.second]\nhost = \"127.0.0.1\"\nport = {}\n[databases.elsewhere]\nupstream = \"second\"", other.port());
    let proxy = Proxy::new(&pg).raw_toml(&second).set("databases.elsewhere.dbname", "app").start().await;
    pg.stop(Stop::Fast);
    let up = async |name: &str| proxy.metric(&format!("pgweir_upstream_up{{upstream=\"{name}\"}}")).await;
    eventually("one is down", PATIENCE, async || up("main").await < 0.5).await;
    assert_eq!(up("second").await, 1.0);
    assert_eq!(proxy.http_get("/readyz").await.status, 200);
    let mut client = Wire::login(&proxy, "app", "secret", "elsewhere").await.unwrap();
    assert_eq!(client.value("SELECT 'served'").await, "served");
}

/// A proxy without any file, killed when it is dropped.
struct Bare {
    process: Child,
    log: std::io::Lines<BufReader<ChildStderr>>,
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Bare {
    /// Starts it with nothing but the upstream's URL, and answers where it listens. It is given addresses too: they would be 0.0.0.0:6432 and :9632 otherwise,
    /// which other tests and programs may have.
    fn start(url: &str) -> (Self, SocketAddr) {
        Self::start_until("ready", url, &[])
    }

    /// The same, but answers as soon as this has been logged.
    fn start_until(stage: &str, url: &str, more: &[(&str, &str)]) -> (Self, SocketAddr) {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_pgweir"), "serve"]);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("PGWEIR_UPSTREAM", url);
        command.envs(more.iter().copied());
        command.env("PGWEIR_LISTEN__POSTGRES", "127.0.0.1:0").env("PGWEIR_LISTEN__HTTP", "127.0.0.1:0").env("PGWEIR_LOG__FORMAT", "json");
        let mut process = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("setpriv starts");
        let log = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut bare = Self { process, log };
        let mut found = None;
        // Its own end ends the lines, so that this does not wait for ever.
        for line in bare.log.by_ref().map_while(Result::ok) {
            let event: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            if event["message"] == "listening" && event["kind"] == "postgres" {
                found = event["address"].as_str().and_then(|address| address.parse().ok());
            }
            if event["message"] == stage {
                break;
            }
        }
        (bare, found.expect("an address for clients"))
    }
}

#[tokio::test]
async fn the_upstreams_url_in_the_environment_is_a_complete_set_up() {
    let pg = Postgres::start().await;
    let (_bare, address) = Bare::start(&pg.url("app", "secret"));
    let mut client = Wire::login(address, "app", "secret", "app").await.unwrap();
    assert_eq!(client.value("SELECT current_user || '@' || current_database()").await, "app@app");
    assert_eq!(pg.backends("app").await, 1);
    for (user, password) in [("app", "wrong"), ("postgres", "postgres")] {
        let refusal = Wire::login(address, user, password, "app").await.err().expect("a refusal");
        assert_eq!((refusal.severity(), refusal.code()), ("FATAL", "28P01"), "{user}");
    }
}

#[tokio::test]
async fn a_log_that_nobody_reads_any_more_ends_no_session() {
    let pg = Postgres::start().await;
    let (mut bare, address) = Bare::start(&pg.url("app", "secret"));
    let mut client = Wire::login(address, "app", "secret", "app").await.unwrap();
    // What reads the log goes away: each further line fails to be written.
    let (nothing, _) = std::io::pipe().unwrap();
    drop(std::mem::replace(&mut bare.log, BufReader::new(ChildStderr::from(OwnedFd::from(nothing))).lines()));
    for _ in 0..3 {
        let refusal = Wire::login(address, "app", "wrong", "app").await.err().expect("a refusal");
        assert_eq!(refusal.code(), "28P01");
        assert_eq!(client.value("SELECT 'served'").await, "served");
    }
}

#[tokio::test]
async fn a_client_that_connects_while_the_proxy_starts_is_served() {
    let pg = Postgres::start().await;
    for _ in 0..5 {
        // Many workers, whose start takes a moment.
        let (_bare, address) = Bare::start_until("listening", &pg.url("app", "secret"), &[("PGWEIR_PROCESS__WORKERS", "64")]);
        let mut client = Wire::login(address, "app", "secret", "app").await.unwrap();
        assert_eq!(client.value("SELECT 'served'").await, "served");
    }
}
