//! The statement reader's table is true: each of its statements, run on a fresh session of a real PostgreSQL, leaves there what
//! the table says, and nothing else.

#[path = "../src/wire/sql/tests/statements.rs"]
mod statements;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output};

use statements::{Row, SCHEMA, STATEMENTS, Truth};
use tempfile::TempDir;

/// What the session holds, in the words of the table. After SET TRANSACTION the view goes on to name the session as the source
/// of `transaction_isolation`, though the next transaction starts from the default. `setseed(0.5)` shows in what `random()` says next.
const HOLDS: &str = r"
SELECT concat_ws(' ',
  CASE WHEN EXISTS (SELECT FROM pg_settings WHERE source = 'session' AND name NOT LIKE 'transaction\_%')
         OR current_setting('role') <> 'none' OR session_user <> 'postgres'
         OR concat(current_setting('a.b', true), current_setting('local.a', true),
                   current_setting('transaction.a', true), current_setting('constraints.a', true)) <> ''
       THEN 'setting' END,
  CASE WHEN EXISTS (SELECT FROM pg_listening_channels()) THEN 'listen' END,
  CASE WHEN EXISTS (SELECT FROM pg_class WHERE relnamespace = pg_my_temp_schema())
         OR EXISTS (SELECT FROM pg_proc WHERE pronamespace = pg_my_temp_schema())
         OR EXISTS (SELECT FROM pg_type WHERE typnamespace = pg_my_temp_schema()) THEN 'temp' END,
  CASE WHEN EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) THEN 'advisory_lock' END,
  CASE WHEN EXISTS (SELECT FROM pg_cursors WHERE is_holdable) THEN 'cursor' END,
  CASE WHEN EXISTS (SELECT FROM pg_prepared_statements) THEN 'prepare' END,
  CASE WHEN EXISTS (SELECT FROM pg_settings WHERE name LIKE 'auto_explain.%') THEN 'load' END,
  CASE WHEN random() = (SELECT next FROM public.after_seed)
         OR EXISTS (SELECT FROM pg_replication_slots WHERE temporary AND active_pid = pg_backend_pid()) THEN 'session' END)
";

/// Whether a `nextval` left something to read; each leaves it, so only `lastval` and `currval` count as a reason.
const HOLDS_SEQUENCE: &str = "SELECT public.has_lastval()";

const PROBES: &str = r"
SELECT setseed(0.5);
CREATE TABLE after_seed AS SELECT random() AS next;
CREATE FUNCTION has_lastval() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  PERFORM lastval();
  RETURN 'sequence';
EXCEPTION WHEN object_not_in_prerequisite_state THEN
  RETURN '';
END $$;
GRANT ALL ON ALL TABLES IN SCHEMA public TO other;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO other;
";

/// One statement of each kind.
const EVERYTHING: &str = r"
SET work_mem = '1MB';
LISTEN c;
CREATE TEMP TABLE a (x int);
SELECT pg_advisory_lock(1);
DECLARE c CURSOR WITH HOLD FOR SELECT 1;
PREPARE a AS SELECT 1;
LOAD 'auto_explain';
SELECT pg_create_physical_replication_slot('held_' || pg_backend_pid(), false, true);
SELECT nextval('s');
SET ROLE other;
";

const EVERY_KIND: [&str; 9] = [
    "setting",
    "listen",
    "temp",
    "advisory_lock",
    "cursor",
    "prepare",
    "load",
    "session",
    "sequence",
];

/// A private cluster, reached by its socket only.
struct Cluster {
    folder: TempDir,
    programs: PathBuf,
}

impl Cluster {
    fn start() -> Self {
        let cluster = Self {
            folder: tempfile::tempdir().unwrap(),
            programs: programs(),
        };
        let folder = cluster.folder.path();
        if rustix::process::geteuid().is_root() {
            succeed(Command::new("chown").arg("postgres").arg(folder));
        }
        let data = folder.join("data");
        succeed(
            cluster
                .command("initdb")
                .args(["-A", "trust", "-U", "postgres", "-N", "-D"])
                .arg(&data),
        );
        let options = format!(
            "-c listen_addresses='' -c fsync=off -k {}",
            folder.display()
        );
        succeed(
            cluster
                .command("pg_ctl")
                .args(["start", "-w", "-o", &options, "-l"])
                .arg(folder.join("log"))
                .arg("-D")
                .arg(&data),
        );
        for sql in [
            SCHEMA,
            PROBES,
            "GRANT ALL ON ALL TABLES IN SCHEMA public TO other",
        ] {
            assert_eq!(error_of(&cluster.run([sql], false)), "");
        }
        cluster
    }

    /// A program of PostgreSQL's, under an account that may run it.
    fn command(&self, program: &str) -> Command {
        let path = self.programs.join(program);
        let mut command = if rustix::process::geteuid().is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
            command.arg(path);
            command
        } else {
            Command::new(path)
        };
        command.current_dir(self.folder.path());
        command
    }

    /// Sends each text as one Query of the same fresh session; stops at the first that fails.
    fn run<T: AsRef<OsStr>>(
        &self,
        texts: impl IntoIterator<Item = T>,
        backslash_escapes: bool,
    ) -> Output {
        let mut psql = self.command("psql");
        psql.args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "postgres",
            "-h",
        ]);
        psql.arg(self.folder.path()).env("PGCLIENTENCODING", "UTF8");
        if backslash_escapes {
            psql.env("PGOPTIONS", "-c standard_conforming_strings=off");
        }
        for text in texts {
            psql.arg("-c").arg(text);
        }
        psql.output().unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let data = self.folder.path().join("data");
        let stop = self
            .command("pg_ctl")
            .args(["stop", "-m", "immediate", "-D"])
            .arg(data)
            .output();
        drop(stop);
    }
}

/// Where PostgreSQL's programs are: `PG_BIN`, the usual folders, or `PATH`.
fn programs() -> PathBuf {
    if let Some(folder) = std::env::var_os("PG_BIN") {
        return folder.into();
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let newest = versions
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|folder| folder.join("initdb").exists())
        .max();
    newest.unwrap_or_else(|| {
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .find(|folder| folder.join("initdb").exists())
            .expect("PostgreSQL's programs: name their folder in PG_BIN")
    })
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

/// The first error the server sent.
fn error_of(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = said
        .lines()
        .find(|line| line.contains("ERROR") || line.contains("FATAL"));
    match line {
        Some(line) => line.to_owned(),
        None if output.status.success() => String::new(),
        None => said,
    }
}

fn last_line(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.lines().last().unwrap_or_default().trim().to_owned()
}

/// What is wrong with a row, if something is.
fn objection(cluster: &Cluster, row: &Row) -> Option<String> {
    let expected = match row.truth {
        Truth::Unshown(_) => return None,
        Truth::Clears => return clears_objection(cluster, row),
        Truth::Needs => {
            let error = error_of(&cluster.run([row.sql], row.backslash_escapes));
            let is_missing = error.contains("does not exist")
                || error.contains("is not yet defined in this session");
            return (!is_missing)
                .then(|| format!("{:?} should miss something: {error:?}", row.sql));
        }
        Truth::Cautious => String::new(),
        Truth::Leaves => {
            let names = row.reads.split(' ').filter(|word| !word.starts_with('-'));
            names.collect::<Vec<_>>().join(" ")
        }
    };
    let output = cluster.run([row.sql, HOLDS], row.backslash_escapes);
    let (error, held) = (error_of(&output), last_line(&output));
    if error.is_empty() && held == expected {
        return None;
    }
    Some(format!(
        "{:?} left {held:?}, not {expected:?} {error}",
        row.sql
    ))
}

fn clears_objection(cluster: &Cluster, row: &Row) -> Option<String> {
    let before: Vec<&str> = EVERYTHING.trim().split('\n').collect();
    let then = [row.sql, HOLDS, HOLDS_SEQUENCE];
    let output = cluster.run(before.into_iter().chain(then), row.backslash_escapes);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = said.lines().collect();
    let held = match lines.as_slice() {
        [.., others, sequence] => format!("{others} {sequence}").trim().to_owned(),
        _ => String::from("no answer"),
    };
    let is_left = |kind: &&str| {
        !row.reads
            .split(' ')
            .any(|word| word.strip_prefix('-') == Some(kind))
    };
    let expected: Vec<&str> = EVERY_KIND.into_iter().filter(is_left).collect();
    let error = error_of(&output);
    if error.is_empty() && held == expected.join(" ") {
        return None;
    }
    Some(format!(
        "{:?} kept {held:?}, not {expected:?} {error}",
        row.sql
    ))
}

/// A probe that saw nothing would agree with any quiet statement.
fn probe_objection(cluster: &Cluster) -> Option<String> {
    let texts = EVERYTHING.trim().split('\n').chain([HOLDS, HOLDS_SEQUENCE]);
    let output = cluster.run(texts, false);
    let said = String::from_utf8_lossy(&output.stdout).replace('\n', " ");
    (!said.trim().ends_with(&EVERY_KIND.join(" ")))
        .then(|| format!("the probe saw {said:?} {}", error_of(&output)))
}

#[test]
fn a_real_server_agrees_with_the_table() {
    let cluster = Cluster::start();
    let rows = STATEMENTS.iter().filter_map(|row| objection(&cluster, row));
    let wrong: Vec<String> = probe_objection(&cluster).into_iter().chain(rows).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
