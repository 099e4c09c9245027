//! What a scraper reads, what the reference page says, and what `/status` says.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::metrics::table::{FAMILIES, Values};

/// Numbers of which every family has at least one sample.
fn busy() -> Arc<Metrics> {
    let metrics = metrics(&["acme", "globex"]);
    let acme = shard(&metrics, 1, "acme");
    acme.refused[0].add(2);
    acme.pins[1].add(4);
    acme.pinned[1].add(1);
    acme.login.observe(Duration::from_millis(7));
    shard(&metrics, 0, "globex").login.observe(Duration::from_millis(7));
    metrics
}

#[test]
fn every_family_is_published_as_the_table_says() {
    let text = published(&busy());
    let names: BTreeSet<&str> = FAMILIES.iter().map(|family| family.name).collect();
    assert_eq!(names.len(), FAMILIES.len(), "a name comes twice");
    assert_eq!(text.families.keys().map(String::as_str).collect::<BTreeSet<_>>(), names);
    for family in FAMILIES {
        let found = &text.families[family.name];
        assert_eq!((found.kind.as_str(), found.help.as_str()), (family.kind.word(), family.help));
        for sample in &found.samples {
            let mut labels = sample.labels.clone();
            assert_eq!(labels.remove("le").is_some(), sample.name.ends_with("_bucket"), "{sample:?}");
            assert_eq!(labels.len(), family.labels.len(), "{sample:?}");
            for label in family.labels {
                let value = labels.get(label.name).unwrap_or_else(|| panic!("no {} in {sample:?}", label.name));
                if let Values::Words(words) = label.values {
                    assert!(words().iter().any(|(word, _)| word == value), "{sample:?}");
                }
            }
        }
    }
}

#[test]
fn names_keep_the_rules_of_prometheus() {
    for family in FAMILIES {
        let Some(base) = family.name.strip_prefix("pgweir_") else { panic!("{} lacks the prefix", family.name) };
        assert_eq!(base.ends_with("_total"), family.kind.word() == "counter", "{base}");
        if family.kind.word() == "histogram" {
            assert!(base.ends_with("_seconds"), "{base}");
        }
        assert!(family.help.ends_with('.') && !family.unit.is_empty(), "{base}");
    }
}

#[test]
fn every_word_of_a_label_is_published_from_the_start() {
    let text = published(&metrics(&["acme"]));
    for state in ClientState::ALL {
        assert!(text.find("pgweir_clients", &[("tenant", "acme"), ("state", state.label())]).is_some());
    }
    for cause in CancelCause::ALL {
        assert!(text.find("pgweir_cancelled_total", &[("tenant", "acme"), ("cause", cause.label())]).is_some());
    }
    // What has many values appears with its first number.
    for family in ["pgweir_refused_total", "pgweir_pinned", "pgweir_pins_total"] {
        assert!(!text.families.contains_key(family), "{family}");
    }
}

#[test]
fn values_are_those_that_were_counted() {
    let metrics = busy();
    metrics.upstream("main").connected(ConnectOutcome::Ok, Duration::from_millis(2));
    let text = published(&metrics);
    let acme = ("tenant", "acme");
    assert!((text.value("pgweir_refused_total", &[acme, ("fault", "queue_full")]) - 2.0).abs() < 1e-9);
    assert!((text.value("pgweir_pins_total", &[acme, ("reason", "advisory_lock")]) - 4.0).abs() < 1e-9);
    assert!((text.value("pgweir_login_seconds_count", &[]) - 2.0).abs() < 1e-9, "logins are counted over all tenants");
    assert!((text.value("pgweir_server_connections", &[("upstream", "main"), ("state", "leased")]) - 5.0).abs() < 1e-9);
    assert!((text.value("pgweir_server_connects_total", &[("upstream", "main"), ("outcome", "ok")]) - 1.0).abs() < 1e-9);
    assert!((text.value("pgweir_upstream_limit", &[("upstream", "main")]) - 40.0).abs() < 1e-9);
    assert!((text.value("pgweir_upstream_up", &[("upstream", "main")]) - 1.0).abs() < 1e-9);
    assert!((text.value("pgweir_queue_depth", &[acme, ("upstream", "main")]) - 7.0).abs() < 1e-9);
    assert!((text.value("pgweir_process_start_time_seconds", &[]) - 1_700_000_000.5).abs() < 1e-3);
    assert!((text.value("pgweir_build_info", &[("version", env!("CARGO_PKG_VERSION"))]) - 1.0).abs() < 1e-9);
}

#[test]
fn buckets_are_cumulative_and_end_in_the_count() {
    let metrics = metrics(&["acme"]);
    let acme = shard(&metrics, 0, "acme");
    for micros in [50, 100, 101, 1_000, 90_000_000] {
        acme.lease.observe(Duration::from_micros(micros));
    }
    let text = published(&metrics);
    let bucket = |bound| text.value("pgweir_lease_seconds_bucket", &[("tenant", "acme"), ("le", bound)]);
    let expected = [("0.0001", 2.0), ("0.00025", 3.0), ("0.0005", 3.0), ("0.001", 4.0), ("60", 4.0), ("+Inf", 5.0)];
    for (bound, count) in expected {
        assert!((bucket(bound) - count).abs() < 1e-9, "up to {bound}: {}", bucket(bound));
    }
    let samples = &text.families["pgweir_lease_seconds"].samples;
    let buckets: Vec<f64> = samples.iter().filter(|sample| sample.name.ends_with("_bucket")).map(|sample| sample.value).collect();
    assert_eq!(buckets.len(), BUCKETS);
    assert!(buckets.is_sorted());
    assert!((text.value("pgweir_lease_seconds_count", &[("tenant", "acme")]) - 5.0).abs() < 1e-9);
    assert!((text.value("pgweir_lease_seconds_sum", &[("tenant", "acme")]) - 90.001_251).abs() < 1e-6);
}

#[test]
fn a_name_may_hold_whatever_the_configuration_allows() {
    let name = "a \"b\\c\nd} ü";
    let metrics = metrics(&[name]);
    shard(&metrics, 0, name).transactions.add(3);
    assert!((published(&metrics).value("pgweir_transactions_total", &[("tenant", name)]) - 3.0).abs() < 1e-9);
}

#[test]
fn the_process_is_measured() {
    let text = published(&metrics(&[]));
    assert!(text.value("pgweir_process_resident_memory_bytes", &[]) > 1e6);
    assert!(text.value("pgweir_process_open_fds", &[]) >= 3.0);
    assert!(text.value("pgweir_process_cpu_seconds_total", &[]) > 0.0);
}

#[test]
fn json_says_the_same_moment() {
    let metrics = busy();
    let snapshot = metrics.collect(process(), vec![main_upstream()]);
    let json: serde_json::Value = serde_json::from_str(&snapshot.json()).unwrap();
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(json["state"], "ready");
    assert_eq!(json["uptime_seconds"], 2.5);
    assert_eq!(json["process"]["started"], 1_700_000_000.5);
    assert_eq!(json["bounds_seconds"].as_array().unwrap().len(), BOUNDS_MICROS.len());
    let [acme, globex] = &json["tenants"].as_array().unwrap()[..] else { panic!("{json}") };
    assert_eq!((&acme["name"], &globex["name"]), (&"acme".into(), &"globex".into()));
    assert_eq!(acme["refused"], serde_json::json!({ "queue_full": 2 }));
    assert_eq!(acme["clients"], serde_json::json!({ "login": 0, "idle": 0, "waiting": 0, "active": 0, "pinned": 0 }));
    assert_eq!(acme["login"]["count"], 1);
    assert_eq!(acme["login"]["buckets"].as_array().unwrap().len(), BUCKETS);
    let main = &json["upstreams"][0];
    assert_eq!((&main["name"], &main["limit"], &main["up"]), (&"main".into(), &40.into(), &true.into()));
    assert_eq!(main["queue"], serde_json::json!([{ "tenant": "acme", "depth": 7 }]));
    assert_eq!(main["connections"]["leased"], 5);
    assert_eq!(main["pools"][1]["database"], "reports");
    assert_eq!(main["pools"][0]["connections"]["leased"], 5);
}

/// Compares the page with what the code generates; with `REGENERATE=1` it writes the page instead.
#[test]
fn the_reference_page_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/metrics.md");
    let generated = reference();
    if std::env::var_os("REGENERATE").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        checked_in == generated,
        "docs/reference/metrics.md is not what the table says: run `REGENERATE=1 cargo test the_reference_page_is_current` and commit it"
    );
}

#[test]
fn the_reference_page_names_every_metric_and_word() {
    let page = reference();
    for family in FAMILIES {
        assert!(page.contains(&format!("\n### `{}`\n\n{}\n", family.name, family.help)), "{}", family.name);
    }
    assert!(page.contains("  - `client_gone`: The client has gone.\n"));
}
