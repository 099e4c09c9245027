//! `pgweir check-compat`: which statements of a program would keep a server connection, or cost a question, and why.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write};

use crate::session::HELD;
use crate::wire::sql::{self, PinReason};

/// What a transaction pool makes of a statement, beside running it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Verdict {
    /// Its client keeps the server connection, for these reasons.
    Keeps(Vec<&'static str>),
    /// The session is asked afterwards what was left.
    Asked,
    /// The session is reset afterwards: the statement is too long to be read whole.
    Reset,
    /// These settings follow their client.
    Follows(String),
    /// It is heard by way of a connection that all share.
    Listens,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keeps(reasons) => write!(f, "keeps its server connection ({})", reasons.join(", ")),
            Self::Asked => f.write_str("is looked into afterwards: a part of it is hidden"),
            Self::Reset => f.write_str("is reset afterwards: too long to be read whole"),
            Self::Listens => f.write_str("is listened to by one server connection for all clients of its database and user"),
            Self::Follows(names) => write!(f, "follows its client (settings: {names})"),
        }
    }
}

/// One shape of statement.
#[derive(Debug)]
struct Finding {
    line: usize,
    times: usize,
    verdict: Verdict,
    /// Its beginning, on one line.
    excerpt: String,
}

/// Reads statements, of a PostgreSQL log or as SQL, and reports on those that are more to a transaction pool than a statement. The answer is the exit code: 1 where
/// one would keep its server connection, else 0.
///
/// # Errors
/// When the report cannot be written.
pub fn check(input: &[u8], out: &mut dyn Write) -> io::Result<u8> {
    let statements = if is_log(input) { of_log(input) } else { of_sql(input) };
    let mut findings: Vec<Finding> = Vec::new();
    let mut known: HashMap<(u64, Verdict), usize> = HashMap::new();
    for (line, text) in &statements {
        let Some(verdict) = judge(text) else { continue };
        let at = *known.entry((sql::digest(text), verdict.clone())).or_insert_with(|| {
            findings.push(Finding { line: *line, times: 0, verdict, excerpt: excerpt(text) });
            findings.len() - 1
        });
        findings[at].times += 1;
    }
    for Finding { line, times, verdict, excerpt } in &findings {
        writeln!(out, "line {line}, {times} x: {verdict}\n    {excerpt}")?;
    }
    let kept = findings.iter().filter(|finding| matches!(finding.verdict, Verdict::Keeps(_))).count();
    writeln!(out, "{} statements read; of {} shapes to know of, {kept} keep a server connection", statements.len(), findings.len())?;
    Ok(u8::from(kept > 0))
}

fn judge(text: &[u8]) -> Option<Verdict> {
    let effects = sql::session_state(text);
    let settings = effects.changes_settings().then(|| sql::settings(text));
    let follows = settings.as_ref().is_some_and(|touched| !touched.is_unknown);
    let stays = |reason: &PinReason| !(follows && *reason == PinReason::Setting || *reason == PinReason::Listen);
    let reasons: Vec<_> = effects.pins().filter(stays).map(PinReason::name).collect();
    if !reasons.is_empty() {
        return Some(Verdict::Keeps(reasons));
    }
    if text.len() > HELD {
        return Some(Verdict::Reset);
    }
    if effects.is_opaque() {
        return Some(Verdict::Asked);
    }
    if effects.may_leave(PinReason::Listen) {
        return Some(Verdict::Listens);
    }
    let touched = settings.filter(|touched| touched.resets_all || !touched.set.is_empty() || !touched.reset.is_empty())?;
    let names = touched.set.iter().chain(&touched.reset).map(|name| String::from_utf8_lossy(name).into_owned());
    let all = touched.resets_all.then(|| "all".to_owned());
    Some(Verdict::Follows(names.chain(all).collect::<Vec<_>>().join(", ")))
}

/// What stands before a statement in a log of `log_statement` or `log_min_duration_statement`: by the simple protocol, and by the extended one, whose name follows.
const MARKS: [&str; 2] = ["statement: ", "execute "];

/// The statement that begins in a line of a log, if one does.
fn begin_of_statement(line: &[u8]) -> Option<&[u8]> {
    let after_level = memchr::memmem::find(line, b"LOG:  ").map(|at| &line[at + 6..])?;
    let after_duration = match after_level.strip_prefix(b"duration: ") {
        Some(rest) => &rest[memchr::memmem::find(rest, b" ms  ")? + 5..],
        None => after_level,
    };
    if let Some(text) = after_duration.strip_prefix(MARKS[0].as_bytes()) {
        return Some(text);
    }
    let named = after_duration.strip_prefix(MARKS[1].as_bytes())?;
    Some(&named[memchr::memmem::find(named, b": ")? + 2..])
}

fn is_log(input: &[u8]) -> bool {
    input.split(|byte| *byte == b'\n').any(|line| begin_of_statement(line).is_some())
}

/// The statements of a log: a line that begins with a tab goes on with the one before.
fn of_log(input: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let mut statements: Vec<(usize, Vec<u8>)> = Vec::new();
    let mut is_open = false;
    for (at, line) in input.split(|byte| *byte == b'\n').enumerate() {
        match (begin_of_statement(line), line.strip_prefix(b"\t")) {
            (Some(text), _) => {
                statements.push((at + 1, text.to_vec()));
                is_open = true;
            }
            (None, Some(more)) if is_open => {
                if let Some((_, text)) = statements.last_mut() {
                    text.push(b'\n');
                    text.extend_from_slice(more);
                }
            }
            (None, _) => is_open = false,
        }
    }
    statements
}

/// The statements of a file of SQL, each up to its semicolon.
fn of_sql(input: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let (mut line, mut counted) = (1, 0);
    let statements = sql::statements(input).map(|range| {
        line += memchr::memchr_iter(b'\n', &input[counted..range.start]).count();
        counted = range.start;
        (line, input[range].to_vec())
    });
    statements.collect()
}

fn excerpt(text: &[u8]) -> String {
    const MOST: usize = 100;
    let line = String::from_utf8_lossy(text).split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}..", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(input: &str) -> (u8, String) {
        let mut out = Vec::new();
        let code = check(input.as_bytes(), &mut out).unwrap();
        (code, String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_file_of_sql_is_read_statement_by_statement() {
        let (code, told) = report(
            "SELECT 1;\nSET work_mem = '3MB';\n\n-- why\nLISTEN jobs; LISTEN jobs;\nLOAD 'x';\nDO $$ BEGIN; END $$;\nSELECT ';LISTEN x'",
        );
        assert_eq!(code, 1);
        assert_eq!(
            told,
            "line 2, 1 x: follows its client (settings: work_mem)\n    SET work_mem = '3MB'\n\
             line 5, 2 x: is listened to by one server connection for all clients of its database and user\n    LISTEN jobs\n\
             line 6, 1 x: keeps its server connection (load)\n    LOAD 'x'\n\
             line 7, 1 x: is looked into afterwards: a part of it is hidden\n    DO $$ BEGIN; END $$\n\
             7 statements read; of 4 shapes to know of, 1 keep a server connection\n"
        );
    }

    #[test]
    fn a_log_is_read_as_postgresql_writes_it() {
        let log = "2026-11-27 10:00:00 UTC [7] app@app LOG:  statement: SELECT 1\n\
                   2026-11-27 10:00:00 UTC [7] app@app LOG:  execute s1: CREATE TEMP TABLE t\n\t(x int)\n\
                   2026-11-27 10:00:00 UTC [7] app@app DETAIL:  parameters: $1 = 'LISTEN x'\n\
                   2026-11-27 10:00:01 UTC [7] app@app LOG:  duration: 1.234 ms  statement: SELECT pg_advisory_lock(1)\n\
                   2026-11-27 10:00:01 UTC [7] app@app LOG:  duration: 1.234 ms  execute <unnamed>: SELECT pg_advisory_lock(2)\n\
                   2026-11-27 10:00:02 UTC [7] app@app LOG:  connection received\n";
        let (code, told) = report(log);
        assert_eq!(code, 1);
        assert_eq!(
            told,
            "line 2, 1 x: keeps its server connection (temp)\n    CREATE TEMP TABLE t (x int)\n\
             line 5, 2 x: keeps its server connection (advisory_lock)\n    SELECT pg_advisory_lock(1)\n\
             4 statements read; of 2 shapes to know of, 2 keep a server connection\n"
        );
    }

    #[test]
    fn what_keeps_nothing_is_no_failure() {
        assert_eq!(report("SELECT 1; RESET ALL").0, 0);
        assert_eq!(report("").1, "0 statements read; of 0 shapes to know of, 0 keep a server connection\n");
        let (code, told) = report(&format!("INSERT INTO t VALUES ('{}')", "x".repeat(40_000)));
        assert!(code == 0 && told.contains("is reset afterwards"), "{told}");
    }
}
