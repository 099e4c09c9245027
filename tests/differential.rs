//! Conversations that nobody thought of: messages of a client at random, in any order and in any pieces, played to PostgreSQL directly and through the proxy. What
//! differs is shrunk to the fewest messages that still differ. Checklist groups C, D, F and I.
//!
//! `DIFFERENTIAL_SEED=7 DIFFERENTIAL_CASES=1000` plays other conversations, and more of them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod harness;
#[path = "differential/said.rs"]
mod said;

use std::cell::Cell;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use harness::frames;
use harness::{
    Admin, Ca, Elsewhere, Endpoint, Golden, PATIENCE, Postgres, PostgresOptions, Proxy, ProxyOptions, Wire, compare_leniently, eventually,
    in_time,
};
use proptest::prelude::any;
use proptest::sample::Index;
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rustls::ClientConfig;
use said::{Round, own, rounds};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// The client's `application_name`, and that of the proxies' own connections.
const NAME: &str = "at random";

/// What a client's startup packet says beside its user and database.
const STARTUP: [(&str, &str); 2] = [("application_name", NAME), ("options", "-c app.began=one -c cursor_tuple_fraction=0.5 -c role=app")];

/// What has become of it. A transaction that resets it would see what the server connection began with, up to its end, so that nothing else asks.
const BEGAN: &str = "SELECT current_setting('app.began'), current_setting('cursor_tuple_fraction'), current_setting('role')";

/// Functions that leave something in the session that calls them.
const FUNCTIONS: &str = "
    CREATE FUNCTION sets(value text) RETURNS text LANGUAGE sql AS $$ SELECT set_config('app.mine', coalesce(value, ''), false) $$;
    CREATE FUNCTION makes() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CREATE TEMP TABLE IF NOT EXISTS t (x int); END $$;";

/// What everybody has of its own ([`own`]).
const OWN: &str = "
    CREATE TABLE kept (x int, y text);
    ALTER TABLE kept OWNER TO app;
    GRANT SELECT ON kept TO reader;
    CREATE SEQUENCE numbers;
    GRANT ALL ON SEQUENCE numbers TO app;
    CREATE PROCEDURE ends() LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO kept VALUES (10, 'committed'); PERFORM set_config('app.mine', 'by a procedure', false); COMMIT;
        INSERT INTO kept VALUES (11, 'undone'); PERFORM set_config('app.mine', 'undone', false); ROLLBACK;
    END $$;
    CREATE FUNCTION locks() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_lock(9); END $$;";

/// Ends all server connections, and waits until they have ended.
const END_ALL: &str = "SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity WHERE usename = 'app'";

/// Who speaks where several do; "" is who speaks alone.
const EVERYBODY: [&str; 5] = ["", "1", "2", "3", "4"];

/// PostgreSQL, with what conversations are about, and whether a Sync goes before each Query ([`Round::bytes`]).
async fn server(options: PostgresOptions) -> (Postgres, bool) {
    let pg = options.start().await;
    pg.sql(FUNCTIONS).await;
    pg.sql("CREATE ROLE reader; GRANT reader TO app; CREATE SCHEMA other; GRANT ALL ON SCHEMA other TO app").await;
    for who in EVERYBODY {
        pg.sql(&own(OWN, who)).await;
    }
    let syncs = pg.value("SELECT current_setting('server_version_num')::int >= 180000").await == "t";
    (pg, syncs)
}

/// What one of [`EVERYBODY`] says.
struct Conversation<'a> {
    pg: &'a Postgres,
    syncs: bool,
    who: &'a str,
    rounds: &'a [Round],
}

impl Conversation<'_> {
    /// Says it all; `between` is called behind each round, where no transaction is open. False where the session has ended.
    async fn say(&self, wire: &mut Wire, mut between: impl AsyncFnMut()) -> bool {
        self.pg.sql(&own("TRUNCATE kept; ALTER TABLE kept ALTER y DROP DEFAULT; ALTER SEQUENCE numbers RESTART", self.who)).await;
        for round in self.rounds {
            wire.send_in_pieces(&round.bytes(self.who, self.syncs), round.piece).await;
            match until_the_end(wire).await {
                Some(b'I') => between().await,
                Some(_) => {}
                None => return false,
            }
        }
        true
    }

    /// The same, after which nothing is left, and nothing keeps the server connection.
    async fn play(&self, wire: &mut Wire, between: impl AsyncFnMut()) {
        if self.say(wire, between).await {
            for last in ["ROLLBACK", BEGAN, "DISCARD ALL", BEGAN] {
                wire.send(&frames::query(last)).await;
                wire.until_ready().await;
            }
        }
    }

    /// What comes of it at this address.
    async fn played(&self, to: impl Into<Endpoint>) -> String {
        let mut wire = client(to, None).await;
        self.play(&mut wire, async || {}).await;
        wire.transcript()
    }
}

/// Reads up to the end of a round: what state the session is in then, or none where it has ended.
async fn until_the_end(wire: &mut Wire) -> Option<u8> {
    loop {
        match wire.try_read().await {
            Ok(Some(frame)) if frame.tag == b'I' => break,
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return None,
        }
    }
    wire.until_ready().await.last().map(|ready| ready.body[0])
}

/// A client that has logged in, over TLS where `tls` says so.
async fn client(to: impl Into<Endpoint>, tls: Option<Arc<ClientConfig>>) -> Wire {
    let mut wire = Wire::connect(to).await;
    if let Some(tls) = tls {
        assert_eq!(wire.ask(&frames::ssl_request()).await, b'S');
        wire = Box::pin(wire.tls(tls)).await.unwrap();
    }
    wire.start(&[&[("user", "app"), ("database", "app")], &STARTUP[..]].concat()).await;
    wire.authenticate("app", "secret").await.unwrap();
    wire.clear_transcript();
    wire
}

/// A proxy whose server connections are called what its clients are.
fn named(pg: &Postgres) -> ProxyOptions {
    Proxy::new(pg).set("upstreams.main.application_name", NAME)
}

/// The same, and whoever has another name waits in vain where a server connection is kept.
fn beside_impatient(pg: &Postgres) -> ProxyOptions {
    let patient = format!("match = {{ application_name = \"{NAME}\" }}\nqueue_timeout = \"20s\"");
    named(pg).set("defaults.queue_timeout", "50ms").tenant("patient", &patient)
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Plays so many of these, unless the environment says otherwise.
fn for_each<S: Strategy>(spoken: &S, cases: u32, same: impl Fn(S::Value)) {
    let asked = |name, otherwise| std::env::var(name).map_or(otherwise, |value| value.parse().unwrap());
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&u32::to_le_bytes(asked("DIFFERENTIAL_SEED", 0)));
    let cases = Config::with_cases(asked("DIFFERENTIAL_CASES", cases));
    let config = Config { failure_persistence: None, max_shrink_iters: 400, ..cases };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let outcome = runner.run(spoken, |spoken| {
        same(spoken);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn what_a_client_says_at_random_is_answered_as_by_postgresql() {
    let runtime = runtime();
    let (golden, syncs) = runtime.block_on(async {
        let (pg, syncs) = server(Postgres::options()).await;
        (Golden { is_lenient: true, ..Box::pin(Golden::named(pg, NAME)).await }, syncs)
    });
    for_each(&rounds(), 150, |rounds| {
        let conversation = Conversation { pg: &golden.pg, syncs, who: "", rounds: &rounds };
        let playing = golden.same_for(&STARTUP, async |wire| conversation.play(wire, async || {}).await);
        runtime.block_on(playing);
    });
}

/// A proxy that gives a client another server connection for each transaction, with TLS on both legs and two workers.
struct Changing {
    proxy: Proxy,
    ca: Ca,
    // It keeps the connection that listens for all.
    _listener: Wire,
}

impl Changing {
    async fn before(pg: &Postgres) -> Self {
        let ca = Ca::new();
        let options = beside_impatient(pg).max_connections(3).set("process.workers", 2);
        let proxy = options.tls("prefer", &ca.server()).set("tls.server.mode", "require").start().await;
        let mut listener = client(&proxy, None).await;
        listener.query("LISTEN nothing").await;
        eventually("one listens for all", PATIENCE, async || {
            proxy.metric(r#"pgweir_server_connections{upstream="main",state="listening"}"#).await > 0.5
        })
        .await;
        Self { proxy, ca, _listener: listener }
    }

    /// What comes of it; fails where the server connection is still kept at the end.
    async fn played(&self, conversation: &Conversation<'_>) -> String {
        let mut elsewhere = Elsewhere::begin(&self.proxy).await;
        let mut wire = client(&self.proxy, Some(self.ca.client_config(None))).await;
        let switch = async || {
            elsewhere.switch().await;
        };
        conversation.play(&mut wire, switch).await;
        in_time("the server connection is let go", async { while !elsewhere.switch().await {} }).await;
        wire.transcript()
    }
}

#[test]
fn it_is_answered_alike_by_another_server_connection_each_time_and_in_a_session_pool() {
    let runtime = runtime();
    let (pg, syncs, changing, sessions) = runtime.block_on(async {
        let (pg, syncs) = server(Postgres::options().ssl()).await;
        let changing = Box::pin(Changing::before(&pg)).await;
        // Whoever speaks has the connection that the one before has left.
        let sessions = named(&pg).max_connections(1).pool_mode("session").start().await;
        (pg, syncs, changing, sessions)
    });
    for_each(&rounds(), 100, |rounds| {
        let conversation = Conversation { pg: &pg, syncs, who: "", rounds: &rounds };
        runtime.block_on(async {
            let direct = conversation.played(&pg).await;
            compare_leniently("another server connection each time", &direct, &changing.played(&conversation).await);
            compare_leniently("sessions", &direct, &conversation.played(&sessions).await);
        });
    });
}

#[test]
fn each_of_several_who_speak_at_once_is_answered_as_if_it_were_alone() {
    let runtime = runtime();
    let (pg, syncs, proxy) = runtime.block_on(async {
        let (pg, syncs) = server(Postgres::options()).await;
        // Hardly any statement is still there when its client comes again.
        let few = named(&pg).max_connections(3).set("upstreams.main.prepared_statements", "600B");
        let proxy = few.set("process.workers", 2).set("defaults.queue_timeout", "20s").start().await;
        (pg, syncs, proxy)
    });
    for_each(&[(); 4].map(|()| rounds()), 60, |spoken| {
        let everybody = [1, 2, 3, 4].map(|at| Conversation { pg: &pg, syncs, who: EVERYBODY[at], rounds: &spoken[at - 1] });
        runtime.block_on(async {
            let [first, second, third, fourth] = everybody.each_ref();
            let alone = [first.played(&pg).await, second.played(&pg).await, third.played(&pg).await, fourth.played(&pg).await];
            let together = tokio::join!(first.played(&proxy), second.played(&proxy), third.played(&proxy), fourth.played(&proxy));
            for (alone, together) in alone.iter().zip(<[String; 4]>::from(together)) {
                compare_leniently("three others at once", alone, &together);
            }
        });
    });
}

/// What whoever comes next would see of the one before.
const LEFT: &str = "SELECT name, setting FROM pg_settings WHERE name NOT LIKE 'plpgsql.%'
    UNION ALL SELECT 'app.mine', coalesce(current_setting('app.mine', true), '')
    UNION ALL SELECT 'user', current_user
    UNION ALL SELECT 'transaction', pg_current_xact_id_if_assigned()::text
    UNION ALL SELECT 'statements before', (now() <> statement_timestamp())::text
    UNION ALL SELECT 'temporary', relname FROM pg_class WHERE relnamespace = pg_my_temp_schema()
    UNION ALL SELECT 'lock', objid::text FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()
    UNION ALL SELECT 'cursor', name FROM pg_cursors WHERE name <> ''
    UNION ALL SELECT 'statement of SQL', name FROM pg_prepared_statements WHERE from_sql
    UNION ALL SELECT 'channel', pg_listening_channels()";

/// What somebody else finds now that is not there for a client of a fresh server connection; none where no connection is to be had in time.
async fn left(proxy: &Proxy, nothing: &[Vec<Option<String>>]) -> Option<Vec<Vec<Option<String>>>> {
    let mut wire = Wire::login(proxy, "app", "secret", "app").await.unwrap();
    match wire.try_query(LEFT).await {
        Ok(found) => Some(found.into_iter().filter(|row| !nothing.contains(row)).collect()),
        Err(refused) if refused.code() == "53300" => None,
        Err(refused) => panic!("{refused}"),
    }
}

#[test]
fn nothing_of_it_is_left_to_others_not_even_where_its_client_vanishes_or_its_server_connection_is_ended_in_the_middle() {
    let runtime = runtime();
    let (pg, syncs, proxies) = runtime.block_on(async {
        let (pg, syncs) = server(Postgres::options()).await;
        let proxy = |mode| Box::pin(beside_impatient(&pg).max_connections(1).pool_mode(mode).start());
        // Nobody is let in between where a client keeps its connection for good.
        let proxies = [(proxy("transaction").await, true), (proxy("session").await, false)];
        (pg, syncs, proxies)
    });
    let nothing = runtime.block_on(async { Wire::login(&proxies[0].0, "app", "secret", "app").await.unwrap().query(LEFT).await });
    let is_clean = Cell::new(true);
    for_each(&(rounds(), any::<Index>(), any::<bool>()), 80, |(mut rounds, cut, vanishes)| {
        let last = rounds.pop().unwrap().bytes("", syncs);
        let conversation = Conversation { pg: &pg, syncs, who: "", rounds: &rounds };
        runtime.block_on(async {
            // What one conversation has left is not found once more after the next.
            if !is_clean.replace(false) {
                pg.sql(END_ALL).await;
            }
            for (proxy, lets_in) in &proxies {
                let look = async || {
                    let left = left(proxy, &nothing).await;
                    assert!(left.as_ref().is_none_or(Vec::is_empty), "{left:?} is left");
                    left.is_some()
                };
                let mut wire = client(proxy, None).await;
                let look_in_between = async || {
                    if *lets_in {
                        let _ = look().await;
                    }
                };
                conversation.say(&mut wire, look_in_between).await;
                let (said, rest) = last.split_at(cut.index(last.len()));
                wire.try_send(said).await.ok();
                if !vanishes {
                    pg.sql(END_ALL).await;
                    // It is answered to the end, or hears that there is none.
                    wire.try_send(rest).await.ok();
                    until_the_end(&mut wire).await;
                }
                drop(wire);
                in_time("somebody else is served", Box::pin(async { while !look().await {} })).await;
            }
            is_clean.set(true);
        });
    });
}

#[test]
fn it_is_answered_alike_where_every_server_connection_is_lost_between_transactions() {
    let runtime = runtime();
    let (pg, syncs, proxy) = runtime.block_on(async {
        let (pg, syncs) = server(Postgres::options()).await;
        let proxy = named(&pg).max_connections(2).set("process.workers", 1).start().await;
        (pg, syncs, proxy)
    });
    let idle = async || {
        let in_state = async |state| proxy.metric(&format!(r#"pgweir_server_connections{{upstream="main",state="{state}"}}"#)).await;
        in_state("leased").await + in_state("mending").await + in_state("listening").await < 0.5
    };
    let lose = async || {
        // Who keeps its connection, or listens, loses with it what it has it for.
        for _ in 0..20 {
            if idle().await {
                pg.sql(END_ALL).await;
                return;
            }
        }
    };
    for_each(&rounds(), 40, |rounds| {
        let conversation = Conversation { pg: &pg, syncs, who: "", rounds: &rounds };
        runtime.block_on(async {
            let direct = conversation.played(&pg).await;
            let mut wire = client(&proxy, None).await;
            conversation.play(&mut wire, lose).await;
            compare_leniently("lost connections", &direct, &wire.transcript());
        });
    });
}

/// What operators do meanwhile, over and over.
const OPERATED: [&str; 8] = [
    "RECONNECT",
    "RELOAD",
    "SET upstreams.main.max_connections = 2",
    "SET upstreams.main.prepared_statements = '600B'",
    "RECONNECT app",
    "SET upstreams.main.max_connections = 3",
    "SET upstreams.main.prepared_statements = '1MiB'",
    "SHOW CLIENTS",
];

#[test]
fn it_is_answered_alike_while_operators_are_at_work() {
    let runtime = runtime();
    let (pg, syncs, proxy, operators) = runtime.block_on(async {
        let (pg, syncs) = server(Postgres::options()).await;
        let options = named(&pg).max_connections(3).set("process.workers", 2).set("defaults.queue_timeout", "20s");
        let proxy = options.set("console.admin_users", vec!["app"]).start().await;
        let login = async || Admin::login(proxy.port(), "app", "pgweir").await.unwrap();
        let operators = [login().await, login().await];
        (pg, syncs, proxy, operators)
    });
    let [one, other] = &operators;
    for_each(&rounds(), 60, |rounds| {
        let conversation = Conversation { pg: &pg, syncs, who: "", rounds: &rounds };
        runtime.block_on(async {
            let direct = conversation.played(&pg).await;
            let is_over = Cell::new(false);
            let operate = async {
                while !is_over.get() {
                    for command in OPERATED {
                        one.rows(command).await;
                    }
                    // It waits for all that is in use, and who listens may have to be served before it is; a RESUME may come before it has begun.
                    let mut pause = pin!(one.table("PAUSE"));
                    while timeout(Duration::from_millis(1), &mut pause).await.is_err() {
                        other.table("RESUME").await.ok();
                    }
                    other.table("RESUME").await.ok();
                }
            };
            let play = async {
                let played = conversation.played(&proxy).await;
                is_over.set(true);
                played
            };
            let ((), played) = tokio::join!(operate, play);
            compare_leniently("operators at work", &direct, &played);
        });
    });
}
