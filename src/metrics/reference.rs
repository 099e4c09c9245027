//! The reference page of all metrics, from the table of families.

use std::fmt::Write as _;

use super::fold::{NAMED_TENANTS, OTHER_TENANTS};
use super::table::{FAMILIES, Family, Kind, Values};

impl Kind {
    /// As Prometheus calls it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// The page `docs/reference/metrics.md`.
pub fn reference() -> String {
    let mut page = String::from("<!-- Generated from the table in src/metrics/table.rs; a test compares. -->\n# Metrics\n\n");
    page.push_str(&introduction());
    page.push_str("\n| metric | type | labels |\n|---|---|---|\n");
    // Writing to a String does not fail.
    for Family { name, kind, labels, .. } in FAMILIES {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{}`", label.name)).collect();
        let _ = writeln!(page, "| [`{name}`](#{name}) | {} | {} |", kind.word(), labels.join(", "));
    }
    page.extend(FAMILIES.iter().map(section));
    page
}

fn introduction() -> String {
    format!(
        "`GET /metrics` of the operations address (`listen.http`) says all of this in Prometheus' text format. `GET /status` is the same moment as JSON, with \
         every pool beside it.\n\n\
         Labels are configured names or one of few words. With more than {NAMED_TENANTS} tenants, the {NAMED_TENANTS} that had the most transactions have series \
         of their own, and what happens in the others is counted for `{OTHER_TENANTS}`. Durations are histograms in seconds, from 100 microseconds to a minute.\n"
    )
}

fn section(family: &Family) -> String {
    let Family { name, kind, unit, labels, help, .. } = family;
    let mut text = format!("\n### `{name}`\n\n{help}\n\n{} ({unit}).\n", capitalised(kind.word()));
    if !labels.is_empty() {
        text.push('\n');
    }
    for label in *labels {
        match label.values {
            Values::Named(what) => {
                let _ = writeln!(text, "- `{}`: {what}", label.name);
            }
            Values::Words(words) => {
                let _ = writeln!(text, "- `{}`:", label.name);
                for (word, meaning) in words() {
                    let _ = writeln!(text, "  - `{word}`: {}", meaning.trim());
                }
            }
        }
    }
    text
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
