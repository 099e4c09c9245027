//! The configuration as its writer meets it: what is accepted, what each mistake is told as, what the environment and the URL give, what a reload finds changed,
//! and that the generated pages are those of the code.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's helpers fail the test")]

#[path = "config/mistakes.rs"]
mod mistakes;
#[path = "config/pages.rs"]
mod pages;
#[path = "config/reload.rs"]
mod reload;
#[path = "config/sources.rs"]
mod sources;

use pgweir::config::{Config, Loaded, Mistake, Variables};

/// The least that works.
const LEAST: &str = r#"
[upstreams.main]
host = "db.internal"
[databases.app]
upstream = "main"
[users.app]
password = "hunter2"
"#;

fn variables(pairs: &[(&str, &str)]) -> Variables {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Loads a text as a file called `pgweir.toml` in a folder of its own.
fn load(text: &str, environment: &[(&str, &str)]) -> Result<Loaded, Vec<Mistake>> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pgweir.toml");
    std::fs::write(&file, text).unwrap();
    Config::load(Some(&file), None, &variables(environment))
}

fn config(text: &str) -> Config {
    match load(text, &[]) {
        Ok(loaded) => loaded.config,
        Err(mistakes) => panic!("refused: {mistakes:#?}"),
    }
}

/// The least that works, and more.
fn with(more: &str) -> String {
    format!("{LEAST}{more}")
}
