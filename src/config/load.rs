//! From a file, an upstream's URL and the environment to a checked [`Config`]. It reads the files that it is told of and nothing else: the environment
//! is handed in, so that the same input always gives the same answer.

use std::path::Path;

use super::compile::compile;
use super::environment::{self, Variables};
use super::findings::Findings;
use super::fit::fit;
use super::mistake::{Mistake, Place, Severity, Source};
use super::model::Config;
use super::settings::Settings;
use super::shape::Shape;
use super::tree::Table;
use super::url;

/// A configuration that can be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// What the program goes by.
    pub config: Config,
    /// What is allowed and probably not meant.
    pub warnings: Vec<Mistake>,
}

impl Config {
    /// Reads the configuration from the file, if one is named, the upstream's URL (else the variable `PGWEIR_UPSTREAM`) and the variables.
    /// Fails with every mistake that was found, warnings among them, in the order of the file.
    pub fn load(file: Option<&Path>, upstream_url: Option<&str>, variables: &Variables) -> Result<Loaded, Vec<Mistake>> {
        let Some(file) = file else {
            return load_text("the configuration", "", upstream_url, variables);
        };
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|error| vec![unreadable(&name, &error)])?;
        load_text(&name, &text, upstream_url, variables)
    }
}

fn unreadable(name: &str, error: &std::io::Error) -> Mistake {
    Mistake {
        severity: Severity::Error,
        place: Place::File(name.to_owned()),
        path: String::new(),
        what: format!("cannot be read: {error}"),
        remedy: Some("`pgweir config example` prints a file to begin with".to_owned()),
    }
}

/// Reads a configuration from its text alone: no variable is seen, though files that it names are looked for. Never panics, whatever the text.
pub fn parse_str(text: &str) -> Result<Loaded, Vec<Mistake>> {
    load_text("pgweir.toml", text, None, &Variables::new())
}

fn load_text(name: &str, text: &str, upstream_url: Option<&str>, variables: &Variables) -> Result<Loaded, Vec<Mistake>> {
    let source = Source { file: name, text };
    let shape = Shape::of_settings();
    let (mut tree, errors) = Table::parse(text);
    let syntax: Vec<Mistake> = errors.iter().map(|error| not_toml(&source, error)).collect();
    if !syntax.is_empty() {
        // What the parser could save of the rest is guesswork; judging it would add mistakes that nobody made.
        return Err(sorted(syntax));
    }
    let mut mistakes = Vec::new();
    let from_environment = variables.get("PGWEIR_UPSTREAM").map(|url| (url.as_str(), "PGWEIR_UPSTREAM"));
    if let Some((url, origin)) = upstream_url.map(|url| (url, "--upstream")).or(from_environment) {
        mistakes.extend(url::overlay(&mut tree, url, origin));
    }
    mistakes.extend(environment::overlay(&mut tree, &shape, variables));
    let url_is_wrong = mistakes.iter().any(|mistake| !mistake.path.is_empty());

    let mut findings = Findings::new(source, &tree, &shape);
    let fitting = fit(&tree, &shape, &mut findings);
    let compiled = match serde_json::from_value::<Settings>(fitting.clone()) {
        // Without the upstream that a mistyped URL was to give, everything else would seem wrong.
        Ok(_) if url_is_wrong => None,
        Ok(settings) => Some(compile(&settings, &fitting, variables, &mut findings)),
        Err(error) => {
            findings.error(&[], format!("the settings do not fit together: {error}"), "this is a fault of pgweir: please report it");
            None
        }
    };
    mistakes.append(&mut findings.mistakes);
    let mistakes = sorted(mistakes);
    match compiled {
        Some(config) if !mistakes.iter().any(Mistake::is_error) => Ok(Loaded { config, warnings: mistakes }),
        _ => Err(mistakes),
    }
}

fn sorted(mut mistakes: Vec<Mistake>) -> Vec<Mistake> {
    mistakes.sort_by_key(Mistake::position);
    mistakes.dedup();
    mistakes
}

fn not_toml(source: &Source<'_>, error: &toml::de::Error) -> Mistake {
    let message = error.message().lines().map(str::trim).collect::<Vec<_>>().join(", ");
    let remedy = if message.contains("duplicate key") { "keep one of them" } else { "see https://toml.io for how values are written" };
    Mistake {
        severity: Severity::Error,
        place: source.place(&error.span().unwrap_or(0..0), false),
        path: String::new(),
        what: message,
        remedy: Some(remedy.to_owned()),
    }
}
