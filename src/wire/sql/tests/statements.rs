//! Statements and what the reader must say of each: the table that the unit tests read, and that `tests/statement_reader.rs`
//! proves against a real PostgreSQL.
//!
//! What the reader says is written as words: the names of the reasons in their order, then `-name` for what is cleared, then
//! `opaque`, `clears_all`, `resets_settings`.

/// One statement text.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub sql: &'static str,
    /// What the reader says.
    pub reads: &'static str,
    #[allow(dead_code, reason = "the unit tests need no server")]
    pub truth: Truth,
    /// The server reads it with `standard_conforming_strings = off`.
    pub backslash_escapes: bool,
}

/// How a server proves the row, on a fresh session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Truth {
    /// Afterwards the session holds exactly the reasons named.
    Leaves,
    /// Afterwards the session holds nothing, though the reader is cautious.
    Cautious,
    /// It fails, because it needs what an earlier statement was to leave.
    Needs,
    /// After a statement of each kind, it ends exactly the kinds named.
    Clears,
    /// No query shows it; the reason why.
    Unshown(&'static str),
}

const fn row(sql: &'static str, reads: &'static str, truth: Truth) -> Row {
    Row { sql, reads, truth, backslash_escapes: false }
}

const fn quiet(sql: &'static str) -> Row {
    row(sql, "", Truth::Leaves)
}

const fn leaves(sql: &'static str, reads: &'static str) -> Row {
    row(sql, reads, Truth::Leaves)
}

const fn cautious(sql: &'static str, reads: &'static str) -> Row {
    row(sql, reads, Truth::Cautious)
}

const fn needs(sql: &'static str, reads: &'static str) -> Row {
    row(sql, reads, Truth::Needs)
}

const fn clears(sql: &'static str, reads: &'static str) -> Row {
    row(sql, reads, Truth::Clears)
}

const fn unshown(sql: &'static str, reads: &'static str, why: &'static str) -> Row {
    row(sql, reads, Truth::Unshown(why))
}

const fn escaping(mut row: Row) -> Row {
    row.backslash_escapes = true;
    row
}

/// What must be there before any row runs.
#[allow(dead_code, reason = "the unit tests need no server")]
pub const SCHEMA: &str = r#"
CREATE TABLE t (x int, y text, "set" int, pg_advisory_lock int);
CREATE TABLE temp (x int);
CREATE TABLE "listen; load" (x int);
CREATE SEQUENCE s;
CREATE ROLE other;
CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE p() LANGUAGE sql AS 'SELECT 1';
CREATE SCHEMA app;
CREATE FUNCTION "a""set_config"(text) RETURNS text LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION "SET_CONFIG"(text) RETURNS text LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION app.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS 'SELECT $1';
"#;

pub const STATEMENTS: &[Row] = &[
    // Everyday statements.
    quiet(""),
    quiet(";"),
    quiet("SELECT 1"),
    quiet("SELECT x FROM t WHERE x = 12345"),
    quiet("UPDATE t SET x = 1"),
    quiet("UPDATE t SET x = 1, y = 'b' WHERE x = 2 RETURNING x"),
    quiet("INSERT INTO t (x) VALUES (1), (2)"),
    quiet("INSERT INTO temp VALUES (1)"),
    quiet("INSERT INTO temp SELECT 1"),
    quiet("WITH a AS (INSERT INTO temp VALUES (1) RETURNING x) SELECT * FROM a"),
    quiet("MERGE INTO temp USING t ON t.x = temp.x WHEN MATCHED THEN DO NOTHING"),
    quiet("INSERT INTO t (x) VALUES (1) ON CONFLICT DO NOTHING"),
    quiet("DELETE FROM t WHERE x = 1"),
    quiet("SELECT \"set\" FROM t"),
    quiet("SELECT pg_advisory_lock FROM t"),
    quiet("SELECT x AS listen, y AS load FROM t"),
    quiet("SELECT * FROM \"listen; load\""),
    quiet("SELECT x FROM t FOR UPDATE OF t NOWAIT; SELECT 1"),
    quiet("SELECT nextval('s')"),
    quiet("SELECT 5 - -3, 8 / 2, 2 * -1"),
    quiet("SELECT f()"),
    quiet("NOTIFY c, 'x'"),
    quiet("CREATE TABLE made (x int)"),
    quiet("CREATE TABLE pg_temperature (x int)"),
    quiet("CREATE TABLE made_as AS SELECT 1 AS x"),
    quiet("SELECT 1 AS x INTO made_into"),
    quiet("CREATE OR REPLACE VIEW made_view AS SELECT x FROM t"),
    quiet("CREATE FUNCTION made_f() RETURNS int LANGUAGE sql SET work_mem = '1MB' AS 'SELECT 1'"),
    quiet("ALTER ROLE other SET work_mem = '1MB'"),
    quiet("ALTER TABLE t ALTER COLUMN x SET DEFAULT 1"),
    quiet("COPY (SELECT 1) TO '/dev/null'"),
    quiet("EXPLAIN ANALYZE SELECT 1"),
    quiet("SELECT set_bit(B'1010'::bit(4), 1, 1)"),
    quiet("VALUES (1), (2)"),
    quiet("TABLE t"),
    quiet("(SELECT 1) UNION ALL (SELECT 2)"),
    quiet("SHOW work_mem"),
    // Transactions, and what ends with them.
    quiet("BEGIN; SELECT 1; COMMIT"),
    quiet("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY; ROLLBACK"),
    quiet("START TRANSACTION; SAVEPOINT a; RELEASE a; COMMIT"),
    quiet("BEGIN; SET LOCAL work_mem = '1MB'; COMMIT"),
    quiet("BEGIN; set /* session */ local work_mem to '1MB'; COMMIT"),
    quiet("BEGIN; SET LOCAL TIME ZONE 'UTC'; SET LOCAL ROLE other; COMMIT"),
    quiet("BEGIN; SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; COMMIT"),
    quiet("BEGIN; SET CONSTRAINTS ALL DEFERRED; COMMIT"),
    quiet("SELECT set_config('work_mem', '1MB', true)"),
    quiet("SELECT pg_catalog.set_config('work_mem', '1MB', TRUE)"),
    quiet("SELECT set_config('work_mem', concat('1', 'MB'), true), set_config('a.b', 'c', true)"),
    quiet("SELECT pg_advisory_xact_lock(1)"),
    quiet("SELECT pg_try_advisory_xact_lock(1, 2), pg_advisory_xact_lock_shared(3)"),
    quiet("SELECT pg_advisory_unlock(1)"),
    quiet("SELECT pg_advisory_unlock_all()"),
    quiet("BEGIN; DECLARE c CURSOR FOR SELECT 1; FETCH c; CLOSE c; COMMIT"),
    quiet("BEGIN; DECLARE c CURSOR WITHOUT HOLD FOR SELECT 1; COMMIT"),
    quiet("BEGIN; DECLARE c CURSOR FOR WITH hold AS (SELECT 1) SELECT * FROM hold; COMMIT"),
    quiet("CREATE TEMP TABLE a (x int) ON COMMIT DROP"),
    quiet("CREATE TEMPORARY TABLE a ON COMMIT DROP AS SELECT 1"),
    quiet("create local temp table a (x int) on/**/commit\n-- at last\ndrop"),
    quiet("CREATE TABLE pg_temp.a (x int) ON COMMIT DROP"),
    quiet("CREATE TEMP TABLE a (x int) ON COMMIT DROP; SELECT 1"),
    unshown("PREPARE TRANSACTION 'a'", "", "it needs a setting that is off by default"),
    unshown("PREPARE TRANSACTION $$a$$", "", "it needs a setting that is off by default"),
    unshown("ROLLBACK PREPARED 'a'", "", "it needs a setting that is off by default"),
    // Settings.
    leaves("SET work_mem = '1MB'", "setting"),
    leaves("set Work_Mem TO '1MB'", "setting"),
    leaves("  \n\t SET work_mem = '1MB' ;", "setting"),
    leaves("SELECT 1; SET work_mem = '1MB'", "setting"),
    leaves("SET SESSION work_mem = '1MB'", "setting"),
    leaves("/* a */ SET -- b\n work_mem = '1MB'", "setting"),
    leaves("SET/**/work_mem/**/=/**/'1MB'", "setting"),
    leaves("SET a.b = 'c'", "setting"),
    leaves("SET local.a = 'c'", "setting"),
    leaves("SET local /* a */ . a = 'c'", "setting"),
    leaves("SET transaction.a = 'c'", "setting"),
    leaves("SET constraints.a = 'c'", "setting"),
    leaves("SET ROLE other", "setting"),
    leaves("SET SESSION AUTHORIZATION other", "setting"),
    leaves("SET SESSION ROLE other", "setting"),
    leaves("SET TIME ZONE 'Asia/Tokyo'", "setting"),
    leaves("SET NAMES 'LATIN1'", "setting"),
    leaves("SET SCHEMA 'app'", "setting"),
    leaves("SET XML OPTION DOCUMENT", "setting"),
    leaves("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "setting"),
    leaves("SET \"work_mem\" = '1MB'", "setting"),
    leaves("BEGIN; SET work_mem = '1MB'; COMMIT", "setting"),
    leaves("SELECT set_config('work_mem', '1MB', false)", "setting"),
    leaves("SELECT pg_catalog.set_config('work_mem', '1MB', false)", "setting"),
    leaves("SELECT SET_CONFIG ('work_mem', '1MB', FALSE)", "setting"),
    leaves("SELECT \"set_config\"('work_mem', '1MB', false)", "setting"),
    leaves("SELECT pg_catalog . \"set_config\" /* a */ ('work_mem', '1MB', false)", "setting"),
    leaves("SELECT set_config('work_mem', '1MB', NOT true)", "setting"),
    leaves("SELECT set_config('work_mem', '1MB', true IS NULL)", "setting"),
    leaves("SELECT set_config('work_mem', '1MB', (SELECT false))", "setting"),
    leaves("SELECT set_config('a.b', set_config('a.b', 'c', false), true)", "setting"),
    leaves("SELECT set_config('a.b', set_config('local.a', '', true) || 'c', false)", "setting"),
    leaves("SELECT set_config('a.b', 'c', true), set_config('work_mem', '1MB', false)", "setting"),
    leaves("WITH a AS (SELECT set_config('work_mem', '1MB', false)) SELECT * FROM a", "setting"),
    leaves("EXPLAIN ANALYZE SELECT set_config('work_mem', '1MB', x > 1) FROM generate_series(1, 1) x", "setting"),
    leaves("VALUES (set_config('work_mem', '1MB', false))", "setting"),
    leaves("INSERT INTO t (y) SELECT set_config('work_mem', '1MB', false)", "setting"),
    leaves("COPY (SELECT set_config('work_mem', '1MB', false)) TO '/dev/null'", "setting"),
    leaves("SELECT 'a'\n'b', set_config('work_mem', '1MB', false)", "setting"),
    cautious("SELECT set_config('work_mem', '1MB', 't')", "setting"),
    cautious("SELECT set_config('work_mem', '1MB', (true))", "setting"),
    cautious("SELECT app.set_config('work_mem', '1MB', false)", "setting"),
    cautious("BEGIN; SET work_mem = '1MB'; ROLLBACK", "setting"),
    cautious("RESET work_mem", "setting"),
    cautious("RESET ROLE", "setting"),
    cautious("RESET SESSION AUTHORIZATION", "setting"),
    cautious("RESET TIME ZONE", "setting"),
    cautious("SET work_mem TO DEFAULT", "setting"),
    cautious("EXPLAIN SELECT set_config('work_mem', '1MB', false)", "setting"),
    // Listening.
    leaves("LISTEN c", "listen"),
    leaves("listen \"C\"", "listen"),
    leaves("BEGIN; LISTEN c; COMMIT", "listen"),
    leaves("SELECT 1;LISTEN c;SELECT 2", "listen"),
    quiet("UNLISTEN c"),
    // Temporary objects.
    leaves("CREATE TEMP TABLE a (x int)", "temp"),
    leaves("CREATE TEMPORARY TABLE IF NOT EXISTS a (x int)", "temp"),
    leaves("CREATE GLOBAL TEMP TABLE a (x int)", "temp"),
    leaves("CREATE LOCAL TEMPORARY TABLE a (x int)", "temp"),
    leaves("CREATE TEMP TABLE a (x int) ON COMMIT PRESERVE ROWS", "temp"),
    leaves("CREATE TEMP TABLE a (x int) ON COMMIT DELETE ROWS", "temp"),
    leaves("CREATE TEMP TABLE a AS SELECT 'ON COMMIT DROP' AS x", "temp"),
    leaves("CREATE TEMP TABLE a AS SELECT 1 AS x /* ON COMMIT DROP */", "temp"),
    leaves("CREATE TEMP TABLE a (x int) ON COMMIT DROP; CREATE TEMP TABLE b (x int)", "temp"),
    leaves("CREATE TEMP TABLE a (x int); CREATE TEMP TABLE b (x int) ON COMMIT DROP", "temp"),
    leaves("CREATE TEMP SEQUENCE a", "temp"),
    leaves("CREATE TEMP VIEW a AS SELECT 1", "temp"),
    leaves("CREATE OR REPLACE TEMP VIEW a AS SELECT 1", "temp"),
    leaves("CREATE OR REPLACE LOCAL TEMPORARY VIEW a AS SELECT 1", "temp"),
    leaves("CREATE TEMP RECURSIVE VIEW a (n) AS SELECT 1", "temp"),
    leaves("CREATE TABLE pg_temp.a (x int)", "temp"),
    leaves("CREATE TABLE \"pg_temp\".a (x int)", "temp"),
    leaves("CREATE FUNCTION pg_temp.a() RETURNS int LANGUAGE sql AS 'SELECT 1'", "temp"),
    leaves("CREATE TYPE pg_temp.a AS ENUM ('b')", "temp"),
    leaves("SELECT 1 AS x INTO TEMP a", "temp"),
    leaves("SELECT 1 AS x INTO TEMPORARY TABLE a", "temp"),
    leaves("SELECT 1 AS x INTO LOCAL TEMP a", "temp"),
    leaves("SELECT x INTO /* b */ TEMP a FROM t WHERE x = 1", "temp"),
    leaves("SELECT 1 AS x INTO pg_temp.a", "temp"),
    leaves("(SELECT 1 AS x INTO TEMP a)", "temp"),
    leaves("WITH b AS (SELECT 1 AS x) SELECT x INTO TEMP a FROM b", "temp"),
    leaves("EXPLAIN ANALYZE CREATE TEMP TABLE a AS SELECT 1 AS x", "temp"),
    leaves("EXPLAIN (ANALYZE, COSTS off) CREATE TEMP TABLE a AS SELECT 1 AS x", "temp"),
    quiet("EXPLAIN (ANALYZE) CREATE TEMP TABLE a ON COMMIT DROP AS SELECT 1 AS x"),
    cautious("SELECT 1 AS x INTO temporary FROM t", "temp"),
    cautious("BEGIN; CREATE TEMP TABLE a (x int); ROLLBACK", "temp"),
    // Advisory locks.
    leaves("SELECT pg_advisory_lock(1)", "advisory_lock"),
    leaves("SELECT pg_advisory_lock(1, 2)", "advisory_lock"),
    leaves("SELECT pg_advisory_lock_shared(1)", "advisory_lock"),
    leaves("SELECT pg_try_advisory_lock(11)", "advisory_lock"),
    leaves("SELECT pg_try_advisory_lock_shared(12)", "advisory_lock"),
    leaves("SELECT pg_catalog.PG_ADVISORY_LOCK(1)", "advisory_lock"),
    leaves("SELECT 1 WHERE pg_try_advisory_lock(13)", "advisory_lock"),
    leaves("BEGIN; SELECT pg_advisory_lock(1); ROLLBACK", "advisory_lock"),
    leaves("WITH a AS MATERIALIZED (SELECT pg_advisory_lock(1)) SELECT * FROM a", "advisory_lock"),
    cautious("SELECT pg_advisory_lock(1), pg_advisory_unlock(1)", "advisory_lock"),
    quiet("SELECT 'pg_advisory_lock(1)'"),
    // Cursors.
    leaves("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "cursor"),
    leaves("BEGIN; declare c binary no scroll cursor with hold for select 1; COMMIT", "cursor"),
    cautious("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; CLOSE c; COMMIT", "cursor"),
    // Prepared statements of SQL.
    leaves("PREPARE a AS SELECT 1", "prepare"),
    leaves("PREPARE a (int) AS SELECT $1", "prepare"),
    leaves("PREPARE transaction AS SELECT 1", "prepare"),
    leaves("PREPARE transaction (int) AS SELECT $1", "prepare"),
    leaves("BEGIN; PREPARE a AS SELECT 1; ROLLBACK", "prepare"),
    leaves("PREPARE a AS SELECT 1; EXECUTE a; EXPLAIN EXECUTE a", "prepare"),
    leaves("PREPARE a AS SELECT 1 AS x; CREATE TEMP TABLE b AS EXECUTE a", "temp prepare"),
    needs("EXECUTE a", "prepare"),
    needs("EXECUTE a (1, 2)", "prepare"),
    needs("EXPLAIN ANALYZE EXECUTE a", "prepare"),
    needs("EXPLAIN (ANALYZE) EXECUTE a", "prepare"),
    needs("CREATE TABLE never AS EXECUTE a", "prepare"),
    // Libraries.
    leaves("LOAD 'auto_explain'", "load"),
    leaves("load $$auto_explain$$", "load"),
    // Sequences.
    needs("SELECT lastval()", "sequence"),
    needs("SELECT currval('s')", "sequence"),
    needs("INSERT INTO t (x) VALUES (pg_catalog.currval('s'))", "sequence"),
    // Other state of a session.
    leaves("SELECT setseed(0.5)", "session"),
    leaves("SELECT pg_create_physical_replication_slot('a', false, true)", "session"),
    unshown("SELECT pg_backup_start('a')", "session", "no view shows it"),
    unshown("SELECT dblink_connect('a', 'dbname=b')", "session", "it needs an extension"),
    // Hidden from the reader.
    cautious("DO $$ BEGIN END $$", "opaque"),
    cautious("CALL p()", "opaque"),
    cautious("SELECT query_to_xml('SELECT 1', true, false, '')", "opaque"),
    cautious("SELECT * FROM ts_stat('SELECT ''a''::tsvector')", "opaque"),
    cautious("SELECT U&\"\\0066\"()", "opaque"),
    // Clearing.
    clears("DISCARD ALL", "-setting -listen -temp -advisory_lock -cursor -prepare -sequence clears_all resets_settings"),
    clears("discard /* a */ temp", "-temp"),
    clears("DISCARD TEMPORARY", "-temp"),
    clears("DISCARD SEQUENCES", "-sequence"),
    clears("DISCARD PLANS", ""),
    clears("RESET ALL", "resets_settings"),
    clears("DEALLOCATE ALL", "-prepare"),
    clears("DEALLOCATE PREPARE ALL", "-prepare"),
    clears("UNLISTEN *", "-listen"),
    clears("CLOSE ALL", "-cursor"),
    clears("BEGIN; CLOSE ALL; UNLISTEN *; COMMIT", "-listen -cursor"),
    leaves("UNLISTEN *; LISTEN c", "listen -listen"),
    // Words that are none.
    quiet("SELECT 'SET x = 1; LISTEN c'"),
    quiet("SELECT '''; SET work_mem = 1; --'"),
    quiet("SELECT $$; SET work_mem = 1; $$"),
    quiet("SELECT $a$; SET work_mem = 1; $b$; $$ $a$"),
    quiet("SELECT 1 AS a$b$, 2 AS c$b$"),
    quiet("SELECT 1 -- ; SET work_mem = '1MB'"),
    quiet("SELECT 1 /* ; SET work_mem = 1 */"),
    quiet("SELECT 1 /* /* */ ; SET work_mem = 1 */"),
    quiet("SELECT 1 /*/**/; SET work_mem = 1 */"),
    quiet("SELECT \"y\" AS \"; SET work_mem = 1; \"\"; LISTEN c; \" FROM t"),
    quiet("SELECT \"a\"\"set_config\"('a')"),
    quiet("SELECT \"SET_CONFIG\"('a')"),
    quiet("SELECT E'\\'; SET work_mem = 1; --'"),
    quiet("SELECT E'a''\\'; SET work_mem = 1; --'"),
    quiet("SELECT e'a'\n'\\'; SET work_mem = 1; --'"),
    quiet("SELECT E'a' -- b\n  -- c\n '\\'; SET work_mem = 1; --'"),
    quiet("SELECT U&'\\0061'"),
    quiet("SELECT N'; SET work_mem = 1; '"),
    quiet("SELECT B'101', X'1f', 1e5, .5, 0.5e-3"),
    quiet("SELECT 1 AS \u{e9}set, 2 AS set\u{e9}"),
    // Words in spite of what stands before them.
    leaves("SELECT ''; SET work_mem = '1MB'", "setting"),
    leaves("SELECT ''''; SET work_mem = '1MB'", "setting"),
    leaves("SELECT $$'$$; SET work_mem = '1MB'; SELECT $$'$$", "setting"),
    leaves("SELECT $a$ $a $$ $a$; SET work_mem = '1MB'", "setting"),
    leaves("SELECT 1 AS a$b$; SET work_mem = '1MB'; SELECT 1 AS c$b$", "setting"),
    leaves("SELECT 1 /* /* */ */; SET work_mem = '1MB'", "setting"),
    leaves("SELECT 1 /*'*/; SET work_mem = '1MB'; --'", "setting"),
    leaves("SELECT 1 --'\n; SET work_mem = '1MB' --'", "setting"),
    leaves("SELECT 1 --'\r; SET work_mem = '1MB' --'", "setting"),
    leaves("SELECT E'\\\\'; SET work_mem = '1MB' --'", "setting"),
    leaves("SELECT U&'\\\\'; SET work_mem = '1MB' --'", "setting"),
    leaves("SELECT B'1' ; SET work_mem = '1MB' --'", "setting"),
    leaves("SELECT \"x\"\"\" FROM (SELECT 1 AS \"x\"\"\") a; SET work_mem = '1MB' --\"", "setting"),
    // Where a literal ends depends on a setting.
    leaves("SELECT 'a\\'; SET work_mem = '1MB' --'", "setting"),
    escaping(cautious("SELECT 'a\\'; SET work_mem = 1 --'", "setting")),
    escaping(leaves("SELECT 'a\\'' ; SET work_mem = '1MB' --'", "setting")),
    quiet("SELECT 'C:\\dir\\'"),
    quiet("SELECT 'C:\\dir\\' || 'a'"),
];
