//! What CloudWatch reads: lines of its embedded metric format on standard output, each of which says what it holds.

mod harness;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use harness::{Postgres, Wire};
use serde_json::Value;

/// A proxy that writes metrics every so often, killed when it is dropped.
struct Telling {
    process: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    address: std::net::SocketAddr,
}

impl Drop for Telling {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Telling {
    fn start(url: &str) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_pgweir"), "serve"]);
        let settings = [
            ("PGWEIR_UPSTREAM", url),
            ("PGWEIR_LISTEN__POSTGRES", "127.0.0.1:0"),
            ("PGWEIR_LISTEN__HTTP", "127.0.0.1:0"),
            ("PGWEIR_LOG__FORMAT", "json"),
            ("PGWEIR_CLOUDWATCH__INTERVAL", "100ms"),
            ("PGWEIR_CLOUDWATCH__NAMESPACE", "Shop/Database"),
            ("PGWEIR_CLOUDWATCH__PROXY_NAME", "orders"),
        ];
        command.envs(settings).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("setpriv starts");
        let log = BufReader::new(process.stderr.take().expect("its log")).lines().map_while(Result::ok);
        let found = log.map(|line| serde_json::from_str::<Value>(&line).expect("a line is JSON")).find(|event| event["kind"] == "postgres");
        let address = found.and_then(|event| event["address"].as_str()?.parse().ok()).expect("an address for clients");
        let lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        Self { process, lines, address }
    }

    /// The next line that is about this, `None` for the whole proxy. Every line must hold what it declares, and nothing else.
    fn next(&mut self, about: Option<(&str, &str)>) -> Value {
        loop {
            let line: Value = serde_json::from_str(&self.lines.next().expect("a line").expect("text")).expect("a line is JSON");
            let directive = &line["_aws"]["CloudWatchMetrics"][0];
            assert!(line["_aws"]["Timestamp"].as_u64().is_some_and(|at| at > 1_700_000_000_000), "{line}");
            assert_eq!((&directive["Namespace"], &line["ProxyName"]), (&"Shop/Database".into(), &"orders".into()));
            let dimensions: Vec<&str> =
                directive["Dimensions"][0].as_array().expect("dimensions").iter().filter_map(Value::as_str).collect();
            let declared = directive["Metrics"].as_array().expect("metrics");
            assert!(declared.iter().all(|metric| line[metric["Name"].as_str().expect("a name")].is_number()), "{line}");
            assert_eq!(line.as_object().expect("an object").len(), declared.len() + dimensions.len() + 1, "{line}");
            if dimensions.get(1).copied() == about.map(|(dimension, _)| dimension)
                && about.is_none_or(|(dimension, name)| line[dimension] == name)
            {
                return line;
            }
        }
    }
}

#[tokio::test]
async fn what_happens_is_told_once_under_the_names_of_rds_proxy() {
    let pg = Postgres::start().await;
    let mut telling = Telling::start(&pg.url("app", "secret"));
    let address = telling.address;
    let mut wire = Wire::login(address, "app", "secret", "app").await.expect("a login");
    for _ in 0..5 {
        wire.query("SELECT pg_sleep(0.01)").await;
    }
    wire.query("CREATE TEMP TABLE mine (x int)").await;
    assert!(Wire::login(address, "app", "wrong", "app").await.is_err());
    drop(Wire::login(address, "app", "secret", "app").await.expect("a login"));

    let wanted: BTreeMap<&str, u64> = [
        ("ClientConnectionsReceived", 3),
        ("ClientConnectionsSetupSucceeded", 2),
        ("ClientConnectionsSetupFailedAuth", 1),
        ("ClientConnectionsClosed", 1),
        ("QueryRequests", 6),
    ]
    .into();
    let mut told: BTreeMap<&str, u64> = wanted.keys().map(|name| (*name, 0)).collect();
    let mut most = 0;
    while told.iter().any(|(name, sum)| *sum < wanted[name]) {
        let line = telling.next(None);
        for (name, sum) in &mut told {
            *sum += line[*name].as_u64().expect("a count");
        }
        most = most.max(line["QueryDatabaseResponseLatency"].as_u64().unwrap_or(0));
    }
    assert_eq!(told, wanted, "each once");
    assert!((3_000..5_000_000).contains(&most), "{most} microseconds");
    let line = telling.next(None);
    assert_eq!((&line["ClientConnections"], &line["DatabaseConnectionsCurrentlySessionPinned"]), (&1.into(), &1.into()), "{line}");
    assert_eq!(
        (&line["QueryRequests"], line.get("QueryResponseLatency")),
        (&0.into(), None),
        "what has not happened is not averaged: {line}"
    );
    let line = telling.next(Some(("Target", "main")));
    assert_eq!((&line["AvailabilityPercentage"], &line["DatabaseConnectionsCurrentlyBorrowed"]), (&100.0.into(), &1.into()), "{line}");
    let line = telling.next(Some(("Tenant", "default")));
    assert_eq!((&line["ClientConnections"], &line["Refused"]), (&1.into(), &0.into()), "{line}");
}
