//! The statement reader's table is true: each of its statements, run on a fresh session of a real PostgreSQL, leaves there what
//! the table says, and nothing else.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod harness;
#[path = "../src/wire/sql/tests/statements.rs"]
mod statements;

use harness::Postgres;
use pgweir::wire::sql::{PinReason, session_state};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use statements::{Row, SCHEMA, STATEMENTS, Truth};
use tokio_postgres::{Client, Config, Error, NoTls, SimpleQueryMessage};

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

const EVERY_KIND: [&str; 9] = ["setting", "listen", "temp", "advisory_lock", "cursor", "prepare", "load", "session", "sequence"];

/// A fresh session of the superuser's.
async fn session(pg: &Postgres, backslash_escapes: bool) -> Client {
    let mut config: Config = pg.superuser_url().parse().unwrap();
    if backslash_escapes {
        config.options("-c standard_conforming_strings=off");
    }
    let (client, connection) = Box::pin(config.connect(NoTls)).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The one value that a text answers, sent as one Query.
async fn value(client: &Client, sql: &str) -> Result<String, Error> {
    let answer = client.simple_query(sql).await?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(row.unwrap_or_default().to_owned())
}

/// What the session holds, that of sequences too.
async fn holds(client: &Client) -> Result<String, Error> {
    let others = value(client, HOLDS).await?;
    Ok(format!("{others} {}", value(client, HOLDS_SEQUENCE).await?).trim().to_owned())
}

/// What a session holds after each of these texts.
async fn held_after(pg: &Postgres, texts: impl IntoIterator<Item = &str>) -> Result<String, Error> {
    let client = session(pg, false).await;
    for text in texts {
        client.simple_query(text).await?;
    }
    holds(&client).await
}

/// What is wrong with a row, if something is.
async fn objection(pg: &Postgres, row: &Row) -> Option<String> {
    let words = row.reads.split(' ');
    let (held, expected) = match row.truth {
        Truth::Unshown(_) => return None,
        Truth::Needs => return needs_objection(pg, row).await,
        Truth::Cautious => (leaves(pg, row).await, String::new()),
        Truth::Leaves => (leaves(pg, row).await, words.filter(|word| !word.starts_with('-')).collect::<Vec<_>>().join(" ")),
        Truth::Clears => {
            let is_left = |kind: &&str| !words.clone().any(|word| word.strip_prefix('-') == Some(kind));
            let expected = EVERY_KIND.into_iter().filter(is_left).collect::<Vec<_>>().join(" ");
            (held_after(pg, EVERYTHING.trim().lines().chain([row.sql])).await, expected)
        }
    };
    match held {
        Ok(held) if held == expected => None,
        Ok(held) => Some(format!("{:?} left {held:?}, not {expected:?}", row.sql)),
        Err(error) => Some(format!("{:?} failed: {error:?}", row.sql)),
    }
}

async fn leaves(pg: &Postgres, row: &Row) -> Result<String, Error> {
    let client = session(pg, row.backslash_escapes).await;
    client.simple_query(row.sql).await?;
    value(&client, HOLDS).await
}

async fn needs_objection(pg: &Postgres, row: &Row) -> Option<String> {
    let answer = session(pg, row.backslash_escapes).await.simple_query(row.sql).await.map(|_| ());
    let code = answer.as_ref().err().and_then(Error::code).map(tokio_postgres::error::SqlState::code);
    // No such prepared statement; no value of a sequence in this session.
    (!matches!(code, Some("26000" | "55000"))).then(|| format!("{:?} should miss something: {answer:?}", row.sql))
}

#[tokio::test]
async fn a_real_server_agrees_with_the_table() {
    let pg = Postgres::start().await;
    for sql in [SCHEMA, PROBES] {
        pg.sql(sql).await;
    }
    // A probe that saw nothing would agree with any quiet statement.
    assert_eq!(held_after(&pg, EVERYTHING.trim().lines()).await.unwrap(), EVERY_KIND.join(" "));

    let mut wrong = Vec::new();
    for row in STATEMENTS {
        wrong.extend(objection(&pg, row).await);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Literals, names and comments with everything inside that might end them, and a statement that is hidden in them or stands between.
fn puzzle() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "'",
        "''",
        "\"",
        "\"\"",
        "\\",
        "\\'",
        "\\\\",
        "$",
        "$$",
        "$a$",
        "$a",
        "$1",
        "/*",
        "*/",
        "--",
        "\n",
        "\r",
        " ",
        "a",
        "\u{e9}",
        "1",
        "E'",
        "; LISTEN c; ",
        " LISTEN c ",
    ]);
    let inside = prop::collection::vec(piece, 0..5).prop_map(|pieces| pieces.concat());
    let frame = prop::sample::select(vec![
        ("'", "'"),
        ("E'", "'"),
        ("e'", "'\n'b'"),
        ("E'a' -- b\n '", "'"),
        ("N'", "'"),
        ("U&'", "'"),
        ("$$", "$$"),
        ("$a$", "$a$"),
        ("$\u{e9}1$", "$\u{e9}1$"),
        ("1 AS \"b", "\""),
        ("1 /* ", " */"),
        ("1 -- ", "\n"),
        ("1 AS b$a", " "),
        ("1 + ", "1"),
    ]);
    let part = prop_oneof![
        4 => (frame, inside).prop_map(|((open, close), inside)| format!("SELECT {open}{inside}{close}")),
        1 => Just("LISTEN c".to_owned()),
    ];
    prop::collection::vec(part, 1..4).prop_map(|parts| parts.join(";"))
}

#[tokio::test]
async fn a_real_server_sees_the_same_statements_between_quotes_and_comments() {
    let pg = Postgres::start().await;
    let mut runner = TestRunner::deterministic();
    let (mut valid, mut heard) = (0, 0);
    for backslash_escapes in [false, true] {
        let client = session(&pg, backslash_escapes).await;
        for _ in 0..2000 {
            let sql = puzzle().new_tree(&mut runner).unwrap().current();
            client.simple_query("UNLISTEN *").await.unwrap();
            if client.simple_query(&sql).await.is_err() {
                continue;
            }
            let listens = value(&client, "SELECT count(*) FROM pg_listening_channels()").await.unwrap() == "1";
            let effects = session_state(sql.as_bytes());
            let reads = effects.may_leave(PinReason::Listen);
            assert!(reads || effects.is_opaque() || !listens, "missed in {sql:?}");
            // Where a backslash stands, the reader has to think of both meanings.
            assert!(listens || !reads || sql.contains('\\'), "imagined in {sql:?}");
            valid += 1;
            heard += usize::from(listens);
        }
    }
    assert!(valid > 1000 && heard > 200 && valid - heard > 200, "{valid} valid texts, {heard} of them heard: too few to say anything");
}
