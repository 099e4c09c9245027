//! The pages made from the doc comments are those that are checked in.

use std::path::Path;

use pgweir::config::{self, Config, diff, example, parse_str};

use super::{config, variables};

/// Compares a page with what the code generates; with `REGENERATE=1` it writes the page instead.
fn is_current(file: &str, generated: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("REGENERATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, generated).unwrap();
    }
    let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        checked_in == generated,
        "{file} is not what the doc comments say: run `REGENERATE=1 cargo test --test config pages` and commit it"
    );
}

#[test]
fn the_reference_page_is_current() {
    is_current("docs/reference/config.md", &config::reference());
}

#[test]
fn the_json_schema_is_current() {
    is_current("docs/reference/config.schema.json", &config::schema());
}

#[test]
fn the_complete_example_is_current() {
    is_current("config/complete.toml", &config::example());
}

/// What the example sets, and nothing else.
const LEAST_OF_EXAMPLE: &str = r#"
[upstreams.main]
host = "db.internal"
[databases.app]
upstream = "main"
[users.app]
password = "change-me"
[tenants.acme]
match = { user = "app" }
"#;

#[test]
fn the_example_is_accepted_and_gives_the_defaults() {
    let loaded = parse_str(&example()).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
    assert_eq!(loaded.warnings, []);
    assert_eq!(diff(&config(LEAST_OF_EXAMPLE), &loaded.config), []);
}

#[test]
fn taking_the_comment_signs_away_changes_nothing() {
    let uncommented = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.starts_with(' ') && setting.contains(" = ") => setting.to_owned(),
        _ => line.to_owned(),
    };
    let example = example();
    let lines: Vec<String> = example.lines().map(uncommented).collect();
    let changed = lines.iter().zip(example.lines()).filter(|(after, before)| after != before).count();
    assert!(changed > 50, "only {changed} settings are shown at their default");
    let loaded = parse_str(&lines.join("\n")).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
    assert_eq!(diff(&config(LEAST_OF_EXAMPLE), &loaded.config), []);
}

#[test]
fn the_hand_written_examples_are_accepted_without_a_warning_about_a_mistake() {
    let environment = variables(&[
        ("APP_PASSWORD", "a"),
        ("ACME_PASSWORD", "b"),
        ("GLOBEX_PASSWORD", "c"),
        ("BATCH_PASSWORD", "d"),
        ("OPS_PASSWORD", "e"),
    ]);
    for file in ["config/minimal.toml", "config/multi-tenant.toml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let loaded = Config::load(Some(&path), None, &environment).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
        assert!(loaded.warnings.is_empty(), "{file}: {:#?}", loaded.warnings);
    }
}
