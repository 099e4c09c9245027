//! The law of the house, read from the sources by the ordinary test run: a room names only rooms below it, what a client hears is written
//! in one place, what is published is named in one place, sockets live in one room, and every file says what it owns and stays short.
//!
//! Owns the checker; never runs outside tests. The floors are drawn in `docs/ARCHITECTURE.md`, which one test here compares with them.
//! The reading is lexical (comments and literals told apart, no macro expanded): enough for an honest mistake, not for a trick.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

mod source;
#[cfg(test)]
mod tests;

use source::{Source, named_after, named_by_super};

/// The rooms from the ground up. A room may name itself and whatever stands before it.
const FLOORS: [&str; 14] =
    ["wire", "config", "metrics", "net", "auth", "admission", "upstream", "pool", "fault", "session", "console", "http", "daemon", "cli"];

/// Files at the root that hold the rooms together and so stand on no floor.
const EXEMPT: [&str; 3] = ["main", "lib", "architecture"];

/// A file longer than this hides a second noun.
const MAX_LINES: usize = 600;

/// Functions of (state, event, now): these may reach no clock, socket, lock or log. A path with no trailing slash names one file.
const PURE: [&str; 4] = ["wire", "admission", "pool/ledger", "session/phase"];

/// What a pure room may not name, each a way to time, the world or another thread.
const IMPURE: [&str; 9] =
    ["Instant::now", "SystemTime::now", "tokio::", "tracing::", "parking_lot::", "std::net", "std::fs", "std::thread", "std::sync"];

/// Where SQLSTATEs have their names. The rooms below `fault` understand what a server says by them; what a client hears is `fault`'s own table.
const SQLSTATES: &str = "wire/sqlstate.rs";

/// The classes of PostgreSQL's appendix A, by which a five-character literal is known for a SQLSTATE.
const SQLSTATE_CLASSES: [&str; 44] = [
    "00", "01", "02", "03", "08", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "10", "20", "21", "22", "23", "24", "25", "26", "27", "28",
    "2B", "2D", "2F", "34", "38", "39", "3B", "3D", "3F", "40", "42", "44", "53", "54", "55", "57", "58", "72", "F0", "HV", "P0", "XX",
];

/// Every breach of the law in one file, each with its place.
fn offences(path: &str, text: &str) -> Vec<String> {
    let source = Source::read(path, text);
    let mut found = Vec::new();
    check_floors(&source, &mut found);
    check_literals(&source, &mut found);
    check_sockets(&source, &mut found);
    check_purity(&source, &mut found);
    check_shape(&source, &mut found);
    found
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|&name| name == room)
}

fn check_floors(source: &Source<'_>, found: &mut Vec<String>) {
    let room = source.room();
    if EXEMPT.contains(&room) {
        return;
    }
    let Some(own) = floor(room) else {
        found.push(source.offence(0, &format!("`{room}` stands on no floor; give it a place in FLOORS and in docs/ARCHITECTURE.md")));
        return;
    };
    let mut named = named_after(&source.code, "crate");
    named.extend(named_by_super(source));
    for (at, name) in named {
        if name == "*" {
            found.push(source.offence(at, "names every room at once"));
        } else if floor(&name).is_some_and(|other| other > own) {
            found.push(source.offence(at, &format!("`{room}` names `{name}`, which stands above it")));
        }
    }
}

fn check_literals(source: &Source<'_>, found: &mut Vec<String>) {
    let room = source.room();
    for range in &source.literals {
        if source.is_test(range.start) {
            continue;
        }
        let literal = &source.text[range.clone()];
        if is_sqlstate(literal) && source.path != SQLSTATES && !["fault", "cli"].contains(&room) {
            found.push(source.offence(range.start, &format!("the SQLSTATE {literal} is spelt out; name it as in {SQLSTATES}")));
        }
        if literal.contains("pgweir_") && !["metrics", "config", "architecture"].contains(&room) {
            found.push(source.offence(range.start, "a metric is named outside metrics.rs"));
        }
    }
}

fn is_sqlstate(literal: &str) -> bool {
    literal.len() == 5
        && literal.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase())
        && SQLSTATE_CLASSES.contains(&&literal[..2])
}

fn check_sockets(source: &Source<'_>, found: &mut Vec<String>) {
    for (at, name) in named_after(&source.code, "tokio") {
        if name == "net" && source.room() != "net" && !source.is_test(at) {
            found.push(source.offence(at, "tokio::net is named outside net/"));
        }
    }
}

fn check_purity(source: &Source<'_>, found: &mut Vec<String>) {
    let is_pure = PURE.iter().any(|pure| source.path.strip_prefix(pure).is_some_and(|rest| rest == ".rs" || rest.starts_with('/')));
    if !is_pure {
        return;
    }
    for impure in IMPURE {
        for (at, _) in source.code.match_indices(impure) {
            if !source.is_test(at) {
                found.push(source.offence(at, &format!("a pure room names {impure}")));
            }
        }
    }
    // Moments come from below, and with them the question what time it is.
    for (at, _) in source.code.match_indices("now()") {
        let is_own_word = !source.code[..at].ends_with(|before: char| before.is_alphanumeric() || "_.:".contains(before));
        if is_own_word && !source.is_test(at) {
            found.push(source.offence(at, "a pure room asks what time it is"));
        }
    }
}

fn check_shape(source: &Source<'_>, found: &mut Vec<String>) {
    if !source.text.starts_with("//!") {
        found.push(source.offence(0, "the file does not open with //!, saying what it owns and what it never does"));
    }
    let lines = source.text.lines().count();
    if lines > MAX_LINES {
        found.push(source.offence(0, &format!("{lines} lines, more than {MAX_LINES}: look for the second noun")));
    }
}

/// Every source file under `dir`, as paths relative to `src/` with their texts.
fn sources(root: &Path, dir: &Path, found: &mut Vec<(String, String)>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(root, &path, found)?;
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            found.push((name, fs::read_to_string(&path)?));
        }
    }
    Ok(())
}

fn list(lines: &[String]) -> String {
    lines.iter().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "  {line}");
        text
    })
}
