//! One invocation in its environment: it connects, works, runs its statements, and is answered, refused, killed, or runs out of time.

#![expect(clippy::large_futures, reason = "an invocation is a task of its own, on the heap as a whole")]

use std::future::pending;
use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Connection, Error, Socket, Statement};

use super::over_http::Line;
use super::scenario::{Behaviour, Protocol, Tenant, Way};
use super::target::{Inside, Target};
use crate::cli::callers::words_of;
use crate::cli::random::SplitMix;

/// How much sooner than its time limit an invocation wants its answer: what it needs to make something of it.
pub(super) const TOLD_EARLIER: Duration = Duration::from_millis(200);

/// How an invocation came out.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Outcome {
    /// All its statements were answered.
    Answered,
    /// The server, or the proxy, said no.
    Refused(SqlState),
    /// Its time limit passed.
    TimedOut,
    /// Its environment was killed, as the scenario wants.
    Killed,
    /// The connection failed without a word of why.
    Lost(String),
}

/// What is bound to happen to an invocation, beside its work.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Fate {
    /// Killed while this statement (by its index) runs, so long after it was sent.
    pub(super) killed: Option<(usize, Duration)>,
    pub(super) frozen: bool,
}

/// A connection that an environment has open. It is only served while an invocation runs: between two, the environment is frozen, and so is this.
pub(super) enum Kept {
    Session(Box<Session>),
    Line(Line),
}

/// One to the database.
pub(super) struct Session {
    client: Client,
    connection: Pin<Box<Connection<Socket, Inside>>>,
    /// Of the statements in their order, when they are prepared.
    prepared: Vec<Statement>,
}

impl Fate {
    pub(super) fn draw(behaviour: &Behaviour, random: &mut SplitMix) -> Self {
        let killed = random.happens(behaviour.kills).then(|| {
            let index = usize::try_from(random.next() % behaviour.statements.len().max(1) as u64).unwrap_or(0);
            (index, behaviour.kill_within.0.mul_f64(random.fraction()))
        });
        Self { killed, frozen: random.happens(behaviour.freezes) }
    }
}

impl From<Error> for Outcome {
    fn from(error: Error) -> Self {
        match error.code() {
            Some(state) => Self::Refused(state.clone()),
            None => Self::Lost(words_of(&error)),
        }
    }
}

/// Runs one invocation to its end. The environment outlives it unless it was killed or ran out of time, and with it the session where it is kept.
pub(super) async fn invoke(tenant: &Tenant, kept: Option<Kept>, fate: Fate) -> (Outcome, Option<Kept>) {
    let deadline = Instant::now() + tenant.behaviour.timeout.0;
    let handled = timeout_at(deadline, Box::pin(handle(tenant, kept, fate, deadline))).await;
    handled.unwrap_or((Outcome::TimedOut, None))
}

async fn handle(tenant: &Tenant, kept: Option<Kept>, fate: Fate, deadline: Instant) -> (Outcome, Option<Kept>) {
    let behaviour = &tenant.behaviour;
    let opened = match (kept, &tenant.way) {
        (Some(kept), _) => Ok(kept),
        (None, Way::Postgres(target)) => Session::open(target).await.map(|session| Kept::Session(Box::new(session))).map_err(Outcome::from),
        (None, Way::Http(endpoint)) => endpoint.open().await.map(Kept::Line),
    };
    let mut kept = match opened {
        Ok(kept) => kept,
        Err(outcome) => return (outcome, None),
    };
    let ran = match (&mut kept, &tenant.way) {
        (Kept::Session(session), _) => session.run(behaviour, fate, deadline).await,
        (Kept::Line(line), Way::Http(endpoint)) => endpoint.run(line, behaviour, fate, deadline).await,
        (Kept::Line(_), Way::Postgres(_)) => unreachable!("what a tenant keeps is of its own way"),
    };
    let outcome = ran.err().unwrap_or(Outcome::Answered);
    match outcome {
        Outcome::Answered | Outcome::Refused(_) if behaviour.keep_connection && kept.is_open() => (outcome, Some(kept)),
        Outcome::Answered | Outcome::Refused(_) => {
            kept.close().await;
            (outcome, None)
        }
        // Whoever is killed says no goodbye.
        Outcome::Killed | Outcome::TimedOut | Outcome::Lost(_) => (outcome, None),
    }
}

impl Kept {
    fn is_open(&self) -> bool {
        match self {
            Self::Session(session) => !session.client.is_closed(),
            Self::Line(line) => line.is_open(),
        }
    }

    /// Says goodbye, where that is done, and closes.
    async fn close(self) {
        if let Self::Session(session) = self {
            session.close().await;
        }
    }
}

impl Session {
    async fn open(target: &Target) -> Result<Self, Error> {
        let (client, connection) = target.config.connect(target.tls.clone()).await?;
        Ok(Self { client, connection: Box::pin(connection), prepared: Vec::new() })
    }

    async fn run(&mut self, behaviour: &Behaviour, fate: Fate, deadline: Instant) -> Result<(), Outcome> {
        if behaviour.tell_deadline {
            let left = deadline.saturating_duration_since(Instant::now()).saturating_sub(TOLD_EARLIER).as_millis();
            let told = format!("SET pgweir.deadline_ms = {left}");
            serve(&mut self.connection, self.client.batch_execute(&told)).await?;
        }
        // Its own work: timers run, and so does the connection.
        serve(&mut self.connection, async {
            sleep(behaviour.work.0).await;
            Ok(())
        })
        .await?;
        let last = behaviour.statements.len().saturating_sub(1);
        for (index, text) in behaviour.statements.iter().enumerate() {
            if fate.frozen && index == last {
                // Nothing of it runs meanwhile.
                sleep(behaviour.freeze_for.0).await;
            }
            let kill = fate.killed.filter(|(at, _)| *at == index).map(|(_, after)| after);
            let ran = tokio::select! {
                ran = self.statement(behaviour.protocol, index, text) => ran,
                () = after(kill) => Err(Outcome::Killed),
            };
            if kill.is_some() {
                return Err(Outcome::Killed);
            }
            if let Err(outcome) = ran {
                if matches!(outcome, Outcome::Refused(_)) && index > 0 && !self.client.is_closed() {
                    serve(&mut self.connection, self.client.batch_execute("ROLLBACK")).await?;
                }
                return Err(outcome);
            }
        }
        Ok(())
    }

    async fn statement(&mut self, protocol: Protocol, index: usize, text: &str) -> Result<(), Outcome> {
        let Self { client, connection, prepared } = self;
        match protocol {
            Protocol::Simple => serve(connection, client.batch_execute(text)).await,
            Protocol::Extended => serve(connection, client.query_typed(text, &[])).await.map(drop),
            Protocol::Prepared => {
                if prepared.len() <= index {
                    prepared.push(serve(connection, client.prepare(text)).await?);
                }
                serve(connection, client.query(&prepared[index], &[])).await.map(drop)
            }
        }
    }

    /// Says goodbye and closes.
    async fn close(self) {
        drop((self.client, self.prepared));
        let _ = self.connection.await;
    }
}

/// Waits for an answer while the connection is served.
async fn serve<T>(
    connection: &mut Pin<Box<Connection<Socket, Inside>>>,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, Outcome> {
    let answer = pin!(answer);
    tokio::select! {
        biased;
        // It ends before its client only by failing, and knows the reason.
        ended = connection.as_mut() => {
            ended?;
            Err(Outcome::Lost("the server closed the connection".to_owned()))
        }
        answer = answer => Ok(answer?),
    }
}

/// This much later, or never.
pub(super) async fn after(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => pending().await,
    }
}
