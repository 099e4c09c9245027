//! Golden conversations: one script is played to PostgreSQL directly and through the proxy, and the transcripts must be equal.
//!
//! Through the proxy a [`Neighbour`] asks for a server connection all the while, so that one which is let go too early is taken at once: the neighbour then
//! finds itself in somebody's transaction, and the script finds its portals, its unnamed statement and its locks gone.

use std::pin::Pin;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Endpoint, Postgres, Proxy, Wire, frames, in_time};

/// PostgreSQL, and two proxies in front of it: one that has a single server connection, one that has two.
pub struct Golden {
    /// The server.
    pub pg: Postgres,
    /// A proxy with one server connection.
    pub narrow: Proxy,
    /// A proxy with two server connections.
    pub wide: Proxy,
    /// It makes no difference where a `ParameterStatus` comes in front of the next `ReadyForQuery`, nor what is wrong with a message in a transaction that has failed,
    /// nor by which name an error about a Bind's parameters gives the statement, nor when in a conversation a notification comes, as long as those of a channel come in their order.
    pub is_lenient: bool,
}

/// A script at work.
pub type Playing<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

impl Golden {
    /// All three.
    pub async fn start() -> Self {
        Box::pin(Self::before(Postgres::start().await)).await
    }

    /// Both proxies in front of a server that is there already.
    pub async fn before(pg: Postgres) -> Self {
        Box::pin(Self::named(pg, "pgweir")).await
    }

    /// The same with proxies whose server connections have this `application_name`: it is what a RESET goes back to.
    pub async fn named(pg: Postgres, application_name: &str) -> Self {
        let proxy = |servers| {
            let one_worker = Proxy::new(&pg).max_connections(servers).set("process.workers", 1);
            Box::pin(one_worker.set("upstreams.main.application_name", application_name).start())
        };
        let (narrow, wide) = (proxy(1).await, proxy(2).await);
        Self { pg, narrow, wide, is_lenient: false }
    }

    /// Plays `script` directly and through both proxies; fails where a proxy's transcript is another than PostgreSQL's, or where the server connection is still
    /// kept when the script has come to its end.
    pub fn same<'a>(&'a self, script: impl AsyncFn(&mut Wire) + 'a) -> Playing<'a> {
        Box::pin(self.play_everywhere(&[], true, script))
    }

    /// The same for clients with these startup parameters.
    pub fn same_for<'a>(&'a self, parameters: &'a [(&'a str, &'a str)], script: impl AsyncFn(&mut Wire) + 'a) -> Playing<'a> {
        Box::pin(self.play_everywhere(parameters, true, script))
    }

    /// The same for a script that may keep its server connection: one that pins it.
    pub fn same_pinned<'a>(&'a self, script: impl AsyncFn(&mut Wire) + 'a) -> Playing<'a> {
        Box::pin(self.play_everywhere(&[], false, script))
    }

    /// The same for clients with these startup parameters.
    pub fn same_pinned_for<'a>(&'a self, parameters: &'a [(&'a str, &'a str)], script: impl AsyncFn(&mut Wire) + 'a) -> Playing<'a> {
        Box::pin(self.play_everywhere(parameters, false, script))
    }

    async fn play_everywhere(&self, parameters: &[(&str, &str)], lets_go: bool, script: impl AsyncFn(&mut Wire)) {
        let (direct, _) = play(&self.pg, parameters, &script).await;
        for (name, proxy) in [("one server connection", &self.narrow), ("two server connections", &self.wide)] {
            let neighbour = Neighbour::move_in(proxy).await;
            let (through, wire) = play(proxy, parameters, &script).await;
            if self.is_lenient {
                compare_leniently(name, &direct, &through);
            } else {
                compare(name, &direct, &through);
            }
            if lets_go {
                neighbour.is_served().await;
            }
            drop(wire);
            neighbour.move_out().await;
        }
    }
}

async fn play(to: impl Into<Endpoint>, parameters: &[(&str, &str)], script: &impl AsyncFn(&mut Wire)) -> (String, Wire) {
    let mut wire = Wire::connect(to).await;
    wire.start(&[&[("user", "app"), ("database", "app")], parameters].concat()).await;
    wire.authenticate("app", "secret").await.unwrap();
    wire.clear_transcript();
    script(&mut wire).await;
    (wire.transcript(), wire)
}

/// The same transcript with every `ParameterStatus` just before the next `ReadyForQuery`, and without what is wrong with a message in a transaction that has failed:
/// a server that does not have its statement yet says only that. Nor does it matter which of its names for the same text a client hears of its wrong parameters.
fn leniently(transcript: &str) -> String {
    let (mut lines, mut reported, mut notified, mut has_failed) = (Vec::new(), Vec::new(), Vec::new(), false);
    for line in transcript.lines() {
        if line.starts_with("<- NotificationResponse") {
            notified.push(line);
            continue;
        }
        if line.starts_with("<- ParameterStatus") {
            reported.push(line);
            continue;
        }
        if line.starts_with("<- ReadyForQuery") {
            has_failed = line.ends_with("\"E\"");
            lines.append(&mut reported);
        }
        if has_failed && line.starts_with("<- ErrorResponse") {
            lines.push("<- ErrorResponse");
        } else if let Some((before, behind)) = around_name(line) {
            lines.extend([before, behind]);
        } else {
            lines.push(line);
        }
    }
    // Those of one channel in their order.
    notified.sort_by_key(|line| line.split("\\0").next());
    [lines, reported, notified].concat().join("\n")
}

/// What an error about a Bind's parameters says before the statement's name, and behind it.
fn around_name(line: &str) -> Option<(&str, &str)> {
    let (before, named) = line.split_once("but prepared statement \\\"")?;
    let (_, behind) = named.split_once("\\\"")?;
    Some((before, behind))
}

/// Fails where two transcripts differ in more than makes no difference ([`Golden::is_lenient`]).
pub fn compare_leniently(name: &str, direct: &str, through: &str) {
    compare(name, &leniently(direct), &leniently(through));
}

fn compare(name: &str, direct: &str, through: &str) {
    let differs = direct.lines().zip(through.lines()).position(|(direct, through)| direct != through);
    let line = differs.unwrap_or(direct.lines().count().min(through.lines().count()));
    assert!(direct == through, "line {} differs\n---- directly\n{direct}\n---- through the proxy with {name}\n{through}", line + 1);
}

/// A client that asks one query after the other, and expects to find itself alone on a server connection that has its own settings and statements each time.
pub struct Neighbour {
    leave: watch::Sender<bool>,
    rounds: watch::Receiver<u64>,
    living: JoinHandle<()>,
}

impl Neighbour {
    /// Logs in and has its first answer.
    pub async fn move_in(proxy: &Proxy) -> Self {
        let mut wire = Wire::login(proxy, "app", "secret", "app").await.unwrap();
        for (name, value) in OF_NEIGHBOUR {
            wire.query(&format!("SET {name} = '{value}'")).await;
        }
        // Names that scripts have for their own.
        for name in ["a", "b"] {
            wire.send(&[frames::parse(name, &format!("SELECT '{name} of the neighbour'"), &[]), frames::sync()].concat()).await;
            wire.expect(b'1').await;
            wire.expect_ready(b'I').await;
        }
        live(&mut wire).await;
        let (leave, left) = watch::channel(false);
        let (round, rounds) = watch::channel(0);
        let living = tokio::spawn(async move {
            while !*left.borrow() {
                live(&mut wire).await;
                round.send_modify(|count| *count += 1);
                // It is there to be in the way, not to keep the processor busy.
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        });
        Self { leave, rounds, living }
    }

    /// Waits until it has been served once more, from the first byte on.
    pub async fn is_served(&self) {
        let mut rounds = self.rounds.clone();
        let now = *rounds.borrow();
        let served = in_time("the neighbour is served", rounds.wait_for(|count| *count >= now + 2)).await;
        assert!(served.is_ok(), "the neighbour was refused: the server connection was kept");
    }

    /// Stops it; fails if it was ever disturbed.
    pub async fn move_out(self) {
        self.leave.send_replace(true);
        if let Err(error) = self.living.await {
            panic!("the neighbour was disturbed: {error}");
        }
    }
}

/// Hands a client another server connection for each of its transactions, at a proxy that has two: one of them is always in the hands of a client of its own.
pub struct Elsewhere {
    /// Who holds a connection inside a transaction, and who holds none.
    holders: [Wire; 2],
}

impl Elsewhere {
    /// Takes one of the two connections.
    pub async fn begin(proxy: &Proxy) -> Self {
        let mut first = Wire::login(proxy, "app", "secret", "app").await.unwrap();
        let second = Wire::login(proxy, "app", "secret", "app").await.unwrap();
        // Who waits little may be refused while connections are put in order.
        in_time("a server connection is free", async { while first.try_query("BEGIN").await.is_err() {} }).await;
        Self { holders: [first, second] }
    }

    /// Takes the connection that was used last and lets go the other: false where it is not to be had.
    pub async fn switch(&mut self) -> bool {
        let [holding, free] = &mut self.holders;
        if free.try_query("BEGIN").await.is_err() {
            return false;
        }
        holding.query("COMMIT").await;
        self.holders.swap(0, 1);
        true
    }
}

/// Settings of the neighbour's own.
const OF_NEIGHBOUR: [(&str, &str); 3] = [("work_mem", "3MB"), ("TimeZone", "America/Lima"), ("app.mine", "of the neighbour")];

async fn live(wire: &mut Wire) {
    wire.clear_transcript();
    let settings = OF_NEIGHBOUR.map(|(name, _)| format!("current_setting('{name}')")).join(", ");
    wire.send(&frames::query(&format!("SELECT now() = statement_timestamp(), {settings}"))).await;
    wire.expect(b'T').await;
    let row = wire.expect(b'D').await.values();
    assert_eq!(row[0].as_deref(), Some(&b"t"[..]), "in somebody else's transaction");
    for ((name, own), found) in OF_NEIGHBOUR.iter().zip(&row[1..]) {
        assert_eq!(found.as_deref(), Some(own.as_bytes()), "{name} is somebody else's");
    }
    wire.expect(b'C').await;
    wire.expect_ready(b'I').await;
    for name in ["a", "b"] {
        wire.send(&[frames::bind("", name, &[]), frames::execute("", 0), frames::sync()].concat()).await;
        wire.expect(b'2').await;
        let row = wire.expect(b'D').await.values();
        assert_eq!(row[0].as_deref(), Some(format!("{name} of the neighbour").as_bytes()));
        wire.expect(b'C').await;
        wire.expect_ready(b'I').await;
    }
    // It leaves its unnamed statement behind, which is nobody else's.
    wire.send(&[frames::parse("", "SELECT 'of the neighbour'", &[]), frames::sync()].concat()).await;
    wire.expect(b'1').await;
    wire.expect_ready(b'I').await;
}

/// Returns when a proxy with one worker has dealt with all that was sent to it before, by whomever: `wire`, an idle client, has two Syncs answered in turn.
pub async fn ping(wire: &mut Wire) {
    for _ in 0..2 {
        wire.send(&frames::sync()).await;
        wire.expect_ready(b'I').await;
    }
}
