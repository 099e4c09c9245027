//! The examples of deploying say what the program understands: its settings, its metrics, its log.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use harness::{Postgres, Proxy, Wire};
use pgweir::config::Config;

fn example(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)).unwrap()
}

/// Every metric that a text names, without what a histogram's series have at their end.
fn metrics(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let names = text.match_indices("pgweir_").filter(|(at, _)| !text[..*at].ends_with(is_part));
    let whole = names.map(|(at, _)| text[at..].split(|c| !is_part(c)).next().unwrap());
    let base = |name: &str| ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name).to_owned();
    whole.map(base).collect()
}

/// What a configuration that the variables give, or the file with them, comes to.
fn load(file: Option<&Path>, variables: &[(&str, &str)]) -> Config {
    let variables: BTreeMap<String, String> = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let loaded = Config::load(file, None, &variables).unwrap_or_else(|mistakes| panic!("{}", mistakes[0]));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings[0]);
    loaded.config
}

#[test]
fn alerts_and_dashboard_name_metrics_that_there_are() {
    let known = metrics(&pgweir::metrics::reference());
    for file in ["prometheus/alerts.yml", "prometheus/alerts.test.yml", "grafana/pgweir.json"] {
        let named = metrics(&example(file));
        let unknown: Vec<_> = named.difference(&known).collect();
        assert!(unknown.is_empty() && named.len() >= 8, "{file}: {unknown:?} of {named:?}");
    }
    let alerts: BTreeSet<String> =
        example("prometheus/alerts.yml").lines().filter_map(|line| line.trim().strip_prefix("- alert: ").map(str::to_owned)).collect();
    let tested = example("prometheus/alerts.test.yml");
    assert!(alerts.iter().all(|alert| tested.contains(&format!("alertname: {alert}\n"))), "each alert has a test");
}

#[tokio::test]
async fn what_the_dashboard_asks_for_is_scraped_with_the_labels_that_it_uses() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).start().await;
    let mut client = Wire::login(&proxy, "app", "secret", "app").await.unwrap();
    client.query("SELECT 1").await;
    let page = proxy.http_get("/metrics").await.body;
    let dashboard: serde_json::Value = serde_json::from_str(&example("grafana/pgweir.json")).unwrap();
    let mut asked = 0;
    for target in dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap()) {
        let expression = target["expr"].as_str().unwrap();
        let by = expression.split_once(" by (").map_or("", |(_, rest)| rest.split(')').next().unwrap());
        let labels: Vec<&str> = by.split(',').map(str::trim).filter(|label| !label.is_empty()).collect();
        let at = expression.find("pgweir_").unwrap();
        let name = expression[at..].split('{').next().unwrap();
        // Nobody has been refused, has a pin, or waits: such series are absent until there is something to tell.
        if ["pgweir_refused_total", "pgweir_pinned", "pgweir_queue_depth"].contains(&name) {
            continue;
        }
        let line = page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} is not scraped"));
        for label in labels {
            assert!(line.contains(&format!("{label}=\"")), "{name} has no label {label}: {line}");
        }
        asked += 1;
    }
    assert!(asked > 15, "{asked}");
}

#[test]
fn the_compose_files_configuration_is_one() {
    let file: PathBuf = [env!("CARGO_MANIFEST_DIR"), "deploy", "compose", "pgweir.toml"].iter().collect();
    let compose = example("compose/compose.yml");
    let variables = ["APP_PASSWORD", "OPS_PASSWORD"];
    assert!(variables.iter().all(|name| compose.contains(&format!("{name}: "))));
    let config = load(Some(&file), &variables.map(|name| (name, "x")));
    assert_eq!(config.upstreams["main"].max_connections, 40);
}

#[test]
fn what_kubernetes_mounts_is_a_configuration() {
    let text = example("kubernetes/pgweir.yaml");
    let block = text.split_once("pgweir.toml: |\n").unwrap().1.split_once("---").unwrap().0;
    let folder = tempfile::tempdir().unwrap();
    for secret in ["app-password", "ops-password"] {
        assert!(text.contains(&format!("  {secret}: ")), "the Secret has {secret}");
        fs::write(folder.path().join(secret), "x").unwrap();
    }
    let file = folder.path().join("pgweir.toml");
    let lines: String = block.lines().map(|line| line.trim_start().to_owned() + "\n").collect();
    fs::write(&file, lines.replace("/run/secrets/pgweir", folder.path().to_str().unwrap())).unwrap();
    let config = load(Some(&file), &[]);
    assert_eq!(config.console.admin_users, ["ops"]);
    assert!(config.upstreams["main"].share.is_some());
    let sidecar = example("kubernetes/sidecar.yaml");
    for name in ["PGWEIR_LISTEN__POSTGRES", "PGWEIR_UPSTREAMS__MAIN__MAX_CONNECTIONS", "PGWEIR_UPSTREAMS__MAIN__SHARE_BUDGET"] {
        assert!(sidecar.contains(name));
    }
    let variables = [
        ("PGWEIR_LISTEN__POSTGRES", "127.0.0.1:6432"),
        ("PGWEIR_UPSTREAMS__MAIN__MAX_CONNECTIONS", "40"),
        ("PGWEIR_UPSTREAMS__MAIN__SHARE_BUDGET", "true"),
        ("PGWEIR_UPSTREAM", "postgres://app:x@db/app"),
    ];
    let upstream = &load(None, &variables).upstreams["main"];
    assert_eq!((upstream.max_connections, upstream.share.as_ref().map(|share| share.user.as_str())), (40, Some("app")));
}

#[test]
fn what_ecs_sets_is_a_configuration_and_its_alarm_reads_a_line_that_is_logged() {
    let text = example("ecs/pgweir.yaml");
    let named: Vec<&str> =
        text.lines().filter_map(|line| line.trim().strip_prefix("- { Name: PGWEIR_")).map(|rest| rest.split(',').next().unwrap()).collect();
    assert_eq!(named.len(), 10);
    let value = |name: &str| match name {
        "UPSTREAMS__MAIN__PORT" => "5432",
        "UPSTREAMS__MAIN__MAX_CONNECTIONS" => "40",
        "UPSTREAMS__MAIN__SHARE_BUDGET" => "true",
        "DATABASES__APP__UPSTREAM" => "main",
        "TLS__SERVER__MODE" => "require",
        "LOG__FORMAT" => "json",
        _ => "x",
    };
    let variables: Vec<(String, &str)> = named.iter().map(|name| (format!("PGWEIR_{name}"), value(name))).collect();
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let config = load(None, &variables);
    assert!(config.listen.api.is_none() && config.upstreams["main"].share.is_some());
    // With SQL over HTTP, whose TLS the load balancer ends.
    let more = [("PGWEIR_LISTEN__API", "0.0.0.0:8443"), ("PGWEIR_API__ALLOW_PLAINTEXT", "true")];
    for (name, value) in more {
        assert!(text.contains(&format!("!If [HasApi, {{ Name: {name}, Value: \"{value}\" }}")), "{name}");
    }
    assert_eq!(load(None, &[&variables[..], &more].concat()).listen.api.map(|api| api.port()), Some(8443));
    assert_eq!((config.upstreams["main"].max_connections, config.users["app"].server_user.as_str()), (40, "x"));
    let message = text.split_once("$.message = \"").unwrap().1.split('"').next().unwrap();
    let source = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pool/shared.rs")).unwrap();
    assert!(source.contains(&format!("\"{message}\"")), "{message}");
}

#[tokio::test]
async fn the_environment_alone_is_a_configuration() {
    let pg = Postgres::start().await;
    let port = pg.port().to_string();
    let variables = [
        ("PGWEIR_LISTEN__POSTGRES", "127.0.0.1:0"),
        ("PGWEIR_LISTEN__HTTP", "127.0.0.1:0"),
        ("PGWEIR_LOG__FORMAT", "json"),
        ("PGWEIR_UPSTREAMS__MAIN__HOST", "127.0.0.1"),
        ("PGWEIR_UPSTREAMS__MAIN__PORT", &port),
        ("PGWEIR_DATABASES__APP__UPSTREAM", "main"),
        ("PGWEIR_USERS__APP__PASSWORD", "secret"),
    ];
    let mut process = std::process::Command::new(env!("CARGO_BIN_EXE_pgweir"))
        .arg("serve")
        .envs(variables)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(process.stderr.take().unwrap()));
    let mut address = None;
    for line in lines.map_while(Result::ok) {
        let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
        if line["kind"] == "postgres" {
            address = line["address"].as_str().map(str::to_owned);
        }
        if line["message"] == "ready" {
            break;
        }
    }
    let address: std::net::SocketAddr = address.expect("it listens").parse().unwrap();
    let mut client = Wire::login(address, "app", "secret", "app").await.unwrap();
    assert_eq!(client.value("SELECT 1").await, "1");
    process.kill().unwrap();
    process.wait().unwrap();
}
