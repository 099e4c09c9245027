//! Adversarial neighbours: clients that do at random what leaves traces in a session, over fewer servers than they are, and leave at random. A model says what each must
//! see; what differs fails with its seed. Checklist groups D and I.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod harness;

use std::collections::BTreeMap;

use harness::frames::{bind, close, execute, parse, query, sync};
use harness::{Postgres, Proxy, Wire};

const CLIENTS: usize = 6;
const SERVERS: usize = 3;
const STEPS: usize = 250;

/// A random number generator that a seed says all of (splitmix64).
struct Luck(u64);

impl Luck {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(most).unwrap()).unwrap()
    }
}

/// What a session holds that ends with a rollback.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Undoable {
    work_mem: String,
    tenant: String,
    zone: String,
    table: bool,
    listens: bool,
}

#[derive(Debug)]
struct Model {
    now: Undoable,
    /// What it was when the transaction began, in one.
    before: Option<Undoable>,
    failed: bool,
    locks: usize,
    statements: BTreeMap<String, String>,
    /// It has set a setting that no list shows, in a text that hides it: while it keeps its server it may see that, and nobody else ever.
    has_hidden: bool,
}

impl Model {
    fn fresh() -> Self {
        let now = Undoable { work_mem: "4MB".into(), tenant: String::new(), zone: "UTC".into(), table: false, listens: false };
        Self { now, before: None, failed: false, locks: 0, statements: BTreeMap::new(), has_hidden: false }
    }

    /// Whether the client keeps a server now.
    fn holds(&self) -> bool {
        self.before.is_some() || self.locks > 0 || self.now.table
    }
}

struct Client {
    wire: Wire,
    /// What it says to itself goes to a channel of its own.
    channel: String,
    model: Model,
}

/// All traces of a session, as one row.
const TRACES: &str = "SELECT current_setting('work_mem'), coalesce(current_setting('app.tenant', true), ''), current_setting('TimeZone'),
    (to_regclass('pg_temp.mine') IS NOT NULL)::text,
    (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema() AND relkind = 'r')::text,
    (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())::text,
    coalesce(current_setting('app.hidden', true), '')";

impl Client {
    async fn login(proxy: &Proxy, channel: String) -> Self {
        Self { wire: Wire::login(proxy, "app", "secret", "app").await.unwrap(), channel, model: Model::fresh() }
    }

    /// Runs a statement that succeeds, unless its transaction has failed.
    async fn run(&mut self, sql: &str) -> bool {
        let outcome = self.wire.try_query(sql).await;
        match outcome {
            Ok(_) => assert!(!self.model.failed, "{sql} in a failed transaction"),
            Err(error) => assert!(self.model.failed && error.code() == "25P02", "{sql}: {error}"),
        }
        !self.model.failed
    }

    async fn look(&mut self) {
        if self.model.failed {
            return;
        }
        let now = &self.model.now;
        let table = now.table.to_string();
        let expected = [
            &now.work_mem,
            &now.tenant,
            &now.zone,
            &table,
            &usize::from(now.table).to_string(),
            &usize::from(self.model.locks > 0).to_string(),
            &String::new(),
        ]
        .map(|value| Some(value.clone()));
        self.wire.send(&query(TRACES)).await;
        let answer = self.wire.until_ready().await;
        let row = answer.iter().find(|frame| frame.tag == b'D').unwrap_or_else(|| panic!("{}", self.wire.transcript()));
        let seen: Vec<_> =
            row.values().iter().map(|value| value.as_ref().map(|value| String::from_utf8(value.to_vec()).unwrap())).collect();
        let compared = expected.len() - usize::from(self.model.has_hidden);
        assert_eq!(seen[..compared], expected[..compared]);
    }

    /// Uses a prepared statement, by the protocol or by SQL: the client has it or has it not.
    async fn use_statement(&mut self, name: &str, messages: &[u8]) {
        self.wire.send(messages).await;
        let answer = self.wire.until_ready().await;
        let value = answer
            .iter()
            .find(|frame| frame.tag == b'D')
            .map(|frame| String::from_utf8(frame.values()[0].as_ref().unwrap().to_vec()).unwrap());
        let expected = self.model.statements.get(name).filter(|_| !self.model.failed);
        assert_eq!(value.as_ref(), expected, "{name}\n{}", self.wire.transcript());
        if value.is_none() && self.model.before.is_some() {
            self.model.failed = true;
        }
    }

    /// Its own statements are all that it is shown.
    async fn list_statements(&mut self) {
        if self.model.failed {
            return;
        }
        self.wire
            .send(&query("SELECT coalesce(string_agg(name || '=' || statement, ';' ORDER BY name), '') FROM pg_prepared_statements"))
            .await;
        let answer = self.wire.until_ready().await;
        let row = answer.iter().find(|frame| frame.tag == b'D').unwrap_or_else(|| panic!("{}", self.wire.transcript()));
        let seen = String::from_utf8(row.values()[0].as_ref().unwrap().to_vec()).unwrap();
        let mut expected: Vec<_> = self.model.statements.iter().map(|(name, value)| format!("{name}=SELECT '{value}'::text")).collect();
        expected.sort();
        assert_eq!(seen, expected.join(";"), "{}", self.wire.transcript());
    }

    async fn prepare(&mut self, name: &str, value: &str) {
        self.wire.send(&[parse(name, &format!("SELECT '{value}'::text"), &[]), sync()].concat()).await;
        let is_done = self.wire.until_ready().await.iter().any(|frame| frame.tag == b'1');
        let may = !self.model.failed && !self.model.statements.contains_key(name);
        assert_eq!(is_done, may, "{name}\n{}", self.wire.transcript());
        if may {
            self.model.statements.insert(name.to_owned(), value.to_owned());
        } else if self.model.before.is_some() {
            self.model.failed = true;
        }
    }

    async fn step(&mut self, what: usize, value: usize, may_hold: bool) {
        let name = ["a", "b", "c"][value % 3];
        let in_transaction = self.model.before.is_some();
        match what {
            0 if self.run(&format!("SET work_mem = '{}MB'", 5 + value)).await => self.model.now.work_mem = format!("{}MB", 5 + value),
            1 if self.run(&format!("SELECT set_config('app.tenant', '{value}', false)")).await => self.model.now.tenant = value.to_string(),
            2 => {
                let zone = ["UTC", "Asia/Tokyo", "Europe/Paris"][value % 3];
                if self.run(&format!("SET TIME ZONE '{zone}'")).await {
                    zone.clone_into(&mut self.model.now.zone);
                }
            }
            3 if !in_transaction => {
                assert!(self.run("BEGIN; SET work_mem = '99MB'; SET app.tenant = 'undone'; ROLLBACK").await);
            }
            4 if !in_transaction => {
                assert!(self.run("BEGIN; SET LOCAL work_mem = '98MB'; COMMIT").await);
            }
            5 if self.run("RESET ALL").await => {
                let fresh = Model::fresh().now;
                self.model.now = Undoable { table: self.model.now.table, listens: self.model.now.listens, ..fresh };
            }
            6 if !in_transaction && self.run("DISCARD ALL").await => self.model = Model::fresh(),
            7 if self.run(&format!("DO $$ BEGIN PERFORM set_config('work_mem', '{}MB', false); END $$", 50 + value)).await => {
                self.model.now.work_mem = format!("{}MB", 50 + value);
            }
            8 => self.use_statement(name, &[bind("", name, &[]), execute("", 0), sync()].concat()).await,
            9 => self.use_statement(name, &query(&format!("EXECUTE {name}"))).await,
            10 => self.prepare(name, &format!("{name} {value}")).await,
            11 => {
                self.wire.send(&[close(b'S', name), sync()].concat()).await;
                self.wire.until_ready().await;
                self.model.statements.remove(name);
            }
            12 if self.run("DEALLOCATE ALL").await => self.model.statements.clear(),
            13 if !in_transaction && may_hold && self.run("BEGIN").await => self.model.before = Some(self.model.now.clone()),
            14 if in_transaction => {
                let undone = self.model.before.take();
                self.wire.query(if value.is_multiple_of(2) { "COMMIT" } else { "ROLLBACK" }).await;
                if (self.model.failed || value % 2 == 1)
                    && let Some(undone) = undone
                {
                    self.model.now = undone;
                }
                self.model.failed = false;
            }
            15 => {
                let error = self.wire.try_query("SELECT 1/0").await.unwrap_err();
                assert_eq!(error.code(), if self.model.failed { "25P02" } else { "22012" });
                self.model.failed = in_transaction;
            }
            16 if may_hold && !self.model.now.table && self.run("CREATE TEMP TABLE mine (x int)").await => self.model.now.table = true,
            17 if self.model.now.table && self.run("DROP TABLE mine").await => self.model.now.table = false,
            18 if may_hold && self.run(&format!("SELECT pg_advisory_lock({value}), pg_advisory_lock_shared(1000)")).await => {
                // The locks are the session's, whatever becomes of the transaction; each client has numbers of its own.
                self.run("SELECT pg_advisory_unlock_all(), pg_advisory_lock_shared(1000)").await;
                self.model.locks = 1;
            }
            19 if self.model.locks > 0 && self.run("SELECT pg_advisory_unlock_all()").await => self.model.locks = 0,
            20 if self.run(&format!("LISTEN {}", self.channel)).await => self.model.now.listens = true,
            21 if self.run("UNLISTEN *").await => self.model.now.listens = false,
            22 if !in_transaction => {
                self.model.has_hidden = true;
                assert!(self.run("DO $$ BEGIN PERFORM set_config('app.hidden', 'x', false); END $$").await);
            }
            23 if !in_transaction => self.say().await,
            24 => self.list_statements().await,
            _ => self.look().await,
        }
    }

    /// Says something to itself, which it hears if it listens, before anything else.
    async fn say(&mut self) {
        self.wire.send(&query(&format!("NOTIFY {}, 'said'", self.channel))).await;
        let heard = self.wire.until_ready().await.iter().filter(|frame| frame.tag == b'A').count();
        assert_eq!(heard, usize::from(self.model.now.listens), "{}", self.wire.transcript());
    }
}

async fn play(proxy: &Proxy, seed: u64) {
    let mut luck = Luck(seed);
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        clients.push(Client::login(proxy, format!("mine_{number}")).await);
    }
    for step in 0..STEPS {
        let (who, what, value) = (luck.below(CLIENTS), luck.below(26), luck.below(20));
        // One server at least is for all who keep none.
        let holding = clients.iter().filter(|client| client.model.holds()).count();
        let may_hold = holding + 1 < SERVERS || clients[who].model.holds();
        #[expect(clippy::print_stdout, reason = "shown where the test fails: with it, the failure can be played again")]
        {
            println!("seed {seed} step {step}: client {who} does {what} with {value}");
        }
        if what == 25 {
            // It leaves in the middle of something, and somebody else comes.
            clients[who].wire.send(&[query("SELECT pg_sleep(0.01)"), parse("half", "SELECT 'half'", &[])].concat()).await;
            clients[who] = Client::login(proxy, format!("again_{step}")).await;
        } else {
            clients[who].step(what, value, may_hold).await;
        }
        clients[who].look().await;
    }
}

#[tokio::test]
async fn nobody_sees_what_a_neighbour_does_and_everybody_what_he_did_himself() {
    let pg = Postgres::start().await;
    // One of them listens for all.
    let proxy = Proxy::new(&pg)
        .max_connections(u32::try_from(SERVERS).unwrap() + 1)
        .set("upstreams.main.prepared_statements", "1KiB")
        .start()
        .await;
    for seed in 0..12 {
        Box::pin(play(&proxy, seed)).await;
    }
}
