//! What a client may say: messages at random, in any order and in any pieces.

use super::harness::frames;
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;

/// What a client says in one go.
#[derive(Clone, Debug)]
pub enum Said {
    Query(&'static str),
    /// A COPY from the client, what is copied, and its end: PostgreSQL closes the connection of who says anything else meanwhile.
    CopyIn(Box<Said>, Vec<Piece>, Piece),
    /// With a Describe of it, or without. Elsewhere a server that has no such statement could not prepare it in a transaction that has failed.
    Parse(&'static str, &'static str, bool),
    Bind(&'static str, &'static str, &'static [Option<&'static str>]),
    /// Of a portal.
    Describe(&'static str),
    /// Of a portal with a name: a server dies of one without that a failed transaction has left.
    Execute(&'static str, u32),
    /// Bind and Execute, once more and once more.
    Run(&'static str, &'static [u32]),
    Close(u8, &'static str),
    /// Parse, Bind, Describe and Execute, as drivers say them.
    Whole(&'static str),
    Call(u32, &'static [&'static str]),
    Flush,
    Sync,
    Stray(Piece),
}

#[derive(Clone, Debug)]
pub enum Piece {
    Data(&'static [u8]),
    Done,
    Fail,
}

impl Piece {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Data(data) => frames::copy_data(data),
            Self::Done => frames::copy_done(),
            Self::Fail => frames::copy_fail("at random"),
        }
    }
}

impl Said {
    /// Whether it is, or begins with, a Query or a FunctionCall.
    fn is_simple(&self) -> bool {
        match self {
            Self::CopyIn(said, ..) => said.is_simple(),
            Self::Query(_) | Self::Call(..) => true,
            _ => false,
        }
    }

    /// As one of several clients says it ([`own`]).
    fn bytes(&self, who: &str) -> Vec<u8> {
        match self {
            Self::Query(sql) => frames::query(&own(sql, who)),
            Self::CopyIn(said, pieces, end) => {
                let pieces: Vec<u8> = pieces.iter().chain([end]).flat_map(Piece::bytes).collect();
                [said.bytes(who), pieces].concat()
            }
            Self::Parse(name, sql, false) => frames::parse(name, &own(sql, who), &[]),
            Self::Parse(name, sql, true) => [frames::parse(name, &own(sql, who), &[]), frames::describe(b'S', name)].concat(),
            Self::Bind(portal, statement, values) => frames::bind(portal, statement, values),
            Self::Describe(portal) => frames::describe(b'P', portal),
            Self::Execute(portal, rows) => frames::execute(portal, *rows),
            Self::Run(name, rows) => {
                let executes = rows.iter().map(|rows| frames::execute("", *rows));
                [frames::bind("", name, &[])].into_iter().chain(executes).collect::<Vec<_>>().concat()
            }
            Self::Close(kind, name) => frames::close(*kind, name),
            Self::Whole(sql) => {
                [frames::parse("", &own(sql, who), &[]), frames::bind("", "", &[]), frames::describe(b'P', ""), frames::execute("", 0)]
                    .concat()
            }
            Self::Call(function, arguments) => frames::function_call(*function, arguments),
            Self::Flush => frames::flush(),
            Self::Sync => frames::sync(),
            Self::Stray(piece) => piece.bytes(),
        }
    }
}

/// The text about what is this client's own in the database: a table and advisory locks that no other waits for, channels that no other speaks in.
pub fn own(sql: &str, who: &str) -> String {
    let locks = sql.replace("_lock(", &format!("_lock({who}")).replace("_unlock(", &format!("_unlock({who}"));
    let called = locks.replace("locks()", &format!("locks{who}()")).replace("ends()", &format!("ends{who}()"));
    called.replace("kept", &format!("kept{who}")).replace("numbers", &format!("numbers{who}")).replace("chan_", &format!("chan{who}_"))
}

const READS: &[&str] = &[
    "SELECT 1",
    "SELECT x, y FROM kept ORDER BY x",
    "SELECT count(*), max(y) FROM kept",
    "SELECT g FROM generate_series(1, 5) g",
    "VALUES (1, 'one'), (2, NULL)",
    "SELECT repeat('x', 3000)",
    "SELECT 1/(3-g) FROM generate_series(1, 5) g",
    "SELECT 1/0",
    "SELECT nonsense",
    "SELEC 1",
    "SELECT $1::int + 1",
    "SHOW work_mem",
    "SHOW application_name",
    "SHOW TimeZone",
    "SHOW transaction_isolation",
    "SHOW transaction_read_only",
    "SHOW search_path",
    "SELECT coalesce(current_setting('app.mine', true), ''), current_setting('work_mem')",
    "SELECT '2026-01-31 12:00:00Z'::timestamptz",
    "SELECT '2026-01-31'::date",
    "SELECT current_user, session_user",
    "SELECT 1 /* deadline_ms=600000 */",
    "EXPLAIN (COSTS OFF) SELECT * FROM kept",
    "COPY kept TO STDOUT",
    "COPY (SELECT 1/(3-g) FROM generate_series(1, 5) g) TO STDOUT",
];

const WRITES: &[&str] = &[
    "INSERT INTO kept VALUES (1, 'a') RETURNING x",
    "INSERT INTO kept SELECT g, 'b' FROM generate_series(1, 3) g",
    "UPDATE kept SET y = y || '!'",
    "DELETE FROM kept WHERE x = 1",
    "INSERT INTO kept VALUES (NULL, NULL)",
    "TRUNCATE kept",
    "LOCK TABLE kept",
    "CALL ends()",
    "DO $$ BEGIN INSERT INTO kept VALUES (8, 'committed'); COMMIT; INSERT INTO kept VALUES (9, 'undone'); ROLLBACK; END $$",
    "DO $$ BEGIN RAISE NOTICE 'heard'; END $$",
    "DO $$ BEGIN RAISE WARNING 'heard'; PERFORM 1/0; END $$",
    "SELECT nextval('numbers')",
    "WITH new AS (INSERT INTO kept VALUES (5, 'new') RETURNING x) SELECT x FROM new",
    "ALTER TABLE kept ALTER y SET DEFAULT 'by default'",
    "INSERT INTO kept (x) VALUES (6) RETURNING y",
    // What nothing may stand in front of in its transaction.
    "VACUUM kept",
    "CREATE DATABASE kept",
    "ALTER SYSTEM RESET work_mem",
    "SELECT pg_cancel_backend(pg_backend_pid())",
];

const TRANSACTIONS: &[&str] = &[
    "BEGIN",
    "BEGIN READ ONLY",
    "BEGIN ISOLATION LEVEL SERIALIZABLE",
    "START TRANSACTION",
    "COMMIT",
    "END",
    "ROLLBACK",
    "ABORT",
    "COMMIT AND CHAIN",
    "ROLLBACK AND CHAIN",
    "SAVEPOINT s",
    "SAVEPOINT \"T\"",
    "ROLLBACK TO s",
    "ROLLBACK TO SAVEPOINT \"T\"",
    "RELEASE s",
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "PREPARE TRANSACTION 'two phases'",
    "COMMIT PREPARED 'two phases'",
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ WRITE NOT DEFERRABLE",
    "SET TRANSACTION READ ONLY",
    "SET CONSTRAINTS ALL DEFERRED",
];

const SETTINGS: &[&str] = &[
    "SET work_mem = '5MB'",
    "SET work_mem = '6MB'",
    "SET LOCAL work_mem = '7MB'",
    "SET work_mem TO DEFAULT",
    "RESET work_mem",
    "RESET ALL",
    "SET application_name = 'somebody'",
    "SET LOCAL application_name = 'locally'",
    "RESET application_name",
    "SET TIME ZONE 'Asia/Tokyo'",
    "SET TimeZone = 'UTC'",
    "SET datestyle = 'German'",
    "SET DateStyle TO ISO, MDY",
    "SET search_path = other, public",
    "SET app.mine = 'mine'",
    "SELECT set_config('app.mine', 'set', false)",
    "SELECT set_config('app.mine', 'local', true)",
    "SELECT set_config('work_mem', '8MB', false)",
    "SET app.began = 'two'",
    "RESET app.began",
    "SET cursor_tuple_fraction = 0.25",
    "RESET cursor_tuple_fraction",
    "SET cursor_tuple_fraction TO DEFAULT",
    "SET nonsense = 1",
    "SET work_mem = 'nonsense'",
    "SET ROLE app",
    "SET ROLE reader",
    "SET ROLE NONE",
    "SET LOCAL ROLE reader",
    "RESET ROLE",
    "SET SESSION AUTHORIZATION app",
    "SET SESSION AUTHORIZATION reader",
    "RESET SESSION AUTHORIZATION",
    "SELECT set_config('role', 'reader', false)",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    "SET default_transaction_isolation = 'repeatable read'",
    "SET client_encoding = 'LATIN1'",
    "SET client_encoding = 'UTF8'",
    "SET NAMES 'UTF8'",
    "DISCARD ALL",
    "DISCARD PLANS",
    "DISCARD SEQUENCES",
    "SET pgweir.deadline_ms = 600000",
    "SET pgweir.deadline_at = '4102444800000'",
    "SET pgweir.deadline_ms TO DEFAULT",
    "RESET pgweir.deadline_ms",
];

const STATEMENTS: &[&str] = &[
    "PREPARE a AS SELECT 'a of SQL'",
    "PREPARE b (int) AS SELECT $1 + 1",
    "PREPARE c AS INSERT INTO kept VALUES (7, 'c') RETURNING x",
    "EXECUTE a",
    "EXECUTE b (1)",
    "EXECUTE b",
    "EXECUTE c",
    "DEALLOCATE a",
    "DEALLOCATE PREPARE b",
    "DEALLOCATE ALL",
    "EXPLAIN (COSTS OFF) EXECUTE a",
];

const CURSORS: &[&str] = &[
    "DECLARE cur CURSOR FOR SELECT g FROM generate_series(1, 5) g",
    "DECLARE cur SCROLL CURSOR FOR SELECT x FROM kept ORDER BY x",
    "FETCH 2 cur",
    "FETCH ALL FROM cur",
    "FETCH BACKWARD 1 cur",
    "MOVE 1 cur",
    "CLOSE cur",
    "CLOSE ALL",
    "FETCH 1 p",
];

/// What a session keeps, what ends that, and what tells of it.
const KEPT: &[&str] = &[
    "CREATE TEMP TABLE t (x int)",
    "CREATE TEMP TABLE IF NOT EXISTS t (x int) ON COMMIT DROP",
    "CREATE TEMP TABLE u AS SELECT 1 AS x",
    "SELECT 1 AS x INTO TEMP u",
    "INSERT INTO t VALUES (1)",
    "SELECT count(*) FROM t",
    // A temporary table has another number each time, which a column of its own would tell.
    "SELECT x + 0 FROM u",
    "DROP TABLE t",
    "DROP TABLE IF EXISTS t, u",
    "DISCARD TEMP",
    "SELECT pg_advisory_lock(7)",
    "SELECT pg_try_advisory_lock(7)",
    "SELECT pg_advisory_xact_lock(8)",
    "SELECT pg_advisory_unlock(7)",
    "SELECT pg_advisory_unlock_all()",
    "SELECT locktype, objid FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() ORDER BY 2",
    "DECLARE h CURSOR WITH HOLD FOR SELECT g FROM generate_series(1, 5) g",
    "FETCH 1 h",
    "CLOSE h",
    "SELECT name, is_holdable FROM pg_cursors WHERE name <> '' ORDER BY 1",
    "SELECT sets('by a function')",
    "SELECT sets(NULL)",
    "SELECT locks()",
    "SELECT makes()",
    "DO $$ BEGIN CREATE TEMP TABLE IF NOT EXISTS t (x int); END $$",
    "DO $$ BEGIN PERFORM set_config('work_mem', '13MB', false); END $$",
    "DO $$ BEGIN EXECUTE 'SET TimeZone = ''Asia/Tokyo'''; END $$",
    "DO $$ BEGIN EXECUTE 'SET ROLE reader'; END $$",
];

/// What one listens to, and hears of oneself.
const CHANNELS: &[&str] = &[
    "LISTEN chan_a",
    "LISTEN chan_a",
    "LISTEN chan_b",
    "UNLISTEN chan_a",
    "UNLISTEN *",
    "NOTIFY chan_a",
    "NOTIFY chan_a, 'said'",
    "SELECT pg_notify('chan_b', 'noted')",
    "DO $$ BEGIN PERFORM pg_notify('chan_a', 'done'); END $$",
    "SELECT pg_listening_channels() ORDER BY 1",
];

const TOGETHER: &[&str] = &[
    "SELECT 1; SELECT 2",
    "INSERT INTO kept VALUES (3, 'lost'); SELECT 1/0; SELECT 'never'",
    "BEGIN; SELECT 1",
    "BEGIN; INSERT INTO kept VALUES (4, 'kept'); COMMIT; SELECT 1/0",
    "SELECT 1; COMMIT; SELECT 2",
    "COMMIT; BEGIN",
    "ROLLBACK; SELECT 1",
    "BEGIN; SET work_mem = '9MB'; ROLLBACK",
    "SET work_mem = '10MB'; SELECT 1/0",
    "SET work_mem = '11MB'; SHOW work_mem",
    "SET app.mine = 'one'; BEGIN; SET app.mine = 'two'; ROLLBACK; SHOW app.mine",
    "SAVEPOINT s; SELECT 1",
    "BEGIN; SAVEPOINT s; SET work_mem = '12MB'; ROLLBACK TO s; COMMIT; SHOW work_mem",
    "PREPARE a AS SELECT 'together'; EXECUTE a",
    "DEALLOCATE ALL; SELECT 1",
    "COPY kept TO STDOUT; SELECT 1",
    "RESET ALL; SHOW work_mem",
    "RESET app.began; SET cursor_tuple_fraction TO DEFAULT",
    "BEGIN; RESET cursor_tuple_fraction; COMMIT",
    // Not with RESET ROLE: behind SET ROLE NONE the server is the same, whether that was undone or not.
    "BEGIN; RESET ALL; ROLLBACK",
    "RESET cursor_tuple_fraction; COMMIT; BEGIN; SET cursor_tuple_fraction = 0.25; ROLLBACK",
    "SET ROLE reader; RESET ALL; SHOW role",
    "RESET ROLE; SET app.mine = 'three'; SET ROLE reader; SET work_mem = '15MB'",
    "BEGIN; SET ROLE reader; SET work_mem = '16MB'; ROLLBACK",
    "SET pgweir.deadline_ms = 600000; SELECT 1",
    "SET pgweir.deadline_ms = 600000; RESET pgweir.deadline_ms; SET work_mem = '14MB'",
    "SELECT 1; SELEC 2",
    "LISTEN chan_a; NOTIFY chan_a, 'together'",
    "NOTIFY chan_b, 'last'; UNLISTEN *",
    "BEGIN; NOTIFY chan_a, 'undone'; ROLLBACK",
    "BEGIN; SELECT nextval('numbers'); SELECT currval('numbers'); COMMIT",
    "SET work_mem = '17MB'; VACUUM kept",
];

const COPIES: &[&str] = &["COPY kept FROM STDIN", "COPY kept (x) FROM STDIN WITH (FORMAT csv)", "SELECT 1; COPY kept FROM STDIN; SELECT 2"];

/// What is copied, whole lines and not.
const LINES: &[&[u8]] = &[b"1\tone\n", b"2\ttwo\n3\t", b"three\n", b"4\n", b"nonsense\n", b"\\.\n", b""];

const VALUES: &[&[Option<&str>]] = &[&[], &[], &[], &[Some("41")], &[None], &[Some("nonsense")], &[Some("1"), Some("2")]];

/// How many rows each Execute of a portal asks for.
const ROWS: &[&[u32]] = &[&[0], &[0], &[1], &[1, 1, 0], &[2, 0], &[0, 0]];

/// `int4pl`, with all of its arguments and without, and no function.
const CALLS: &[(u32, &[&str])] = &[(177, &["1", "2"]), (177, &["1"]), (1, &[])];

fn texts() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        6 => select(READS),
        3 => select(WRITES),
        5 => select(TRANSACTIONS),
        4 => select(SETTINGS),
        3 => select(STATEMENTS),
        2 => select(CURSORS),
        4 => select(KEPT),
        2 => select(CHANNELS),
    ]
}

fn copies() -> impl Strategy<Value = Said> {
    let said = prop_oneof![select(COPIES).prop_map(Said::Query), select(COPIES).prop_map(Said::Whole)];
    let end = select(&[Piece::Done, Piece::Done, Piece::Fail][..]);
    (said, vec(select(LINES).prop_map(Piece::Data), 0..5), end).prop_map(|(said, pieces, end)| Said::CopyIn(Box::new(said), pieces, end))
}

fn pieces() -> impl Strategy<Value = Piece> {
    prop_oneof![
        3 => select(LINES).prop_map(Piece::Data),
        2 => Just(Piece::Done),
        1 => Just(Piece::Fail),
    ]
}

fn names() -> impl Strategy<Value = &'static str> {
    select(&["", "", "", "a", "a", "b", "b", "c", "d"][..])
}

fn portals() -> impl Strategy<Value = &'static str> {
    select(&["", "", "", "p", "cur"][..])
}

/// Whether a Parse is one of those that are answered alike. A server dies of a statement that executes itself; what drops a statement is taken to do so once it is
/// parsed; and what is prepared or executed by a statement that is executed by its name only the server knows.
fn parses_alike((name, sql): &(&'static str, &'static str)) -> bool {
    match *name {
        "" => !sql.starts_with("DEALLOCATE"),
        "d" => !sql.contains("PREPARE"),
        _ => !["PREPARE", "EXECUTE", "DEALLOCATE"].iter().any(|word| sql.contains(word)),
    }
}

fn parses() -> impl Strategy<Value = Said> {
    let texts = prop_oneof![8 => texts(), 1 => select(TOGETHER)];
    let parses = (names(), texts).prop_filter("it is answered alike", parses_alike);
    (parses, any::<bool>()).prop_map(|((name, sql), described)| Said::Parse(name, sql, described))
}

fn said() -> impl Strategy<Value = Said> {
    prop_oneof![
        8 => texts().prop_map(Said::Query),
        3 => select(TOGETHER).prop_map(Said::Query),
        1 => copies(),
        5 => parses(),
        5 => (portals(), names(), select(VALUES)).prop_map(|(portal, name, values)| Said::Bind(portal, name, values)),
        1 => portals().prop_map(Said::Describe),
        2 => (select(&["p", "cur"][..]), select(&[0, 1, 2][..])).prop_map(|(portal, rows)| Said::Execute(portal, rows)),
        5 => (names(), select(ROWS)).prop_map(|(name, rows)| Said::Run(name, rows)),
        2 => (select(&b"SP"[..]), prop_oneof![names(), portals()]).prop_map(|(kind, name)| Said::Close(kind, name)),
        6 => texts().prop_map(Said::Whole),
        1 => select(CALLS).prop_map(|(function, arguments)| Said::Call(function, arguments)),
        2 => Just(Said::Flush),
        4 => Just(Said::Sync),
        1 => pieces().prop_map(Said::Stray),
    ]
}

/// Messages that are sent together before anything is read, and the size of the pieces that they are sent in.
#[derive(Clone, Debug)]
pub struct Round {
    said: Vec<Said>,
    /// How many bytes go out at once.
    pub piece: usize,
}

/// What is prepared before anything else, as by drivers that do so, to be executed in later rounds.
fn prepared() -> impl Strategy<Value = Round> {
    let texts = prop_oneof![1 => select(READS), 2 => select(TRANSACTIONS), 3 => select(SETTINGS), 2 => select(KEPT)];
    let parses = (select(&["a", "b", "c"][..]), texts).prop_filter("it is answered alike", parses_alike);
    let said = vec(parses.prop_map(|(name, sql)| Said::Parse(name, sql, false)), 1..4);
    said.prop_map(|said| Round { said, piece: 4096 })
}

/// A conversation.
pub fn rounds() -> impl Strategy<Value = Vec<Round>> {
    let round = (vec(said(), 1..6), select(&[4096, 4096, 4096, 57, 7][..])).prop_map(|(said, piece)| Round { said, piece });
    (weighted(0.3, prepared()), vec(round, 1..8)).prop_map(|(first, rest)| first.into_iter().chain(rest).collect())
}

/// Ends whatever may be going on, and asks for an answer that nothing else has: an empty query's.
fn end() -> Vec<u8> {
    [frames::copy_fail("the end"), frames::sync(), frames::query("")].concat()
}

impl Round {
    /// What is said in it, as one of several clients says it. PostgreSQL 18 is in no state to go on once a Query has shared a transaction with what it followed without a
    /// Sync: there it follows one.
    pub fn bytes(&self, who: &str, syncs: bool) -> Vec<u8> {
        let before = |said: &Said| if syncs && said.is_simple() { frames::sync() } else { Vec::new() };
        self.said.iter().flat_map(|said| [before(said), said.bytes(who)]).flatten().chain(end()).collect()
    }
}
