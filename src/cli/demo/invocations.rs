//! A surge of simulated Lambda invocations: when each arrives, what it does, how it came out.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config, Error, NoTls};

use crate::cli::callers::words_of;
use crate::cli::random::SplitMix;

/// The invocations arrive evenly over this time, each with jitter within its share of it.
pub(super) const ARRIVE_WITHIN: Duration = Duration::from_secs(1);

/// How many come, what each does and how long it waits.
#[derive(Clone, Debug)]
pub(super) struct Surge {
    pub(super) invocations: u32,
    /// The handler's own work, with the connection open.
    pub(super) work: Duration,
    /// From arrival to giving up.
    pub(super) deadline: Duration,
    pub(super) seed: u64,
}

/// How an invocation came out.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// Its transaction committed, this long after its arrival.
    Answered(Duration),
    /// The server, or the proxy, said no.
    Refused(SqlState),
    /// Its deadline passed.
    TimedOut,
    /// The connection failed without a word of why.
    Lost(String),
}

impl From<Error> for Outcome {
    fn from(error: Error) -> Self {
        match error.code() {
            Some(state) => Self::Refused(state.clone()),
            None => Self::Lost(words_of(&error)),
        }
    }
}

impl Surge {
    /// When each invocation arrives, counted from the surge's start. The same seed gives the same moments.
    pub(super) fn arrivals(&self) -> impl Iterator<Item = Duration> {
        let slot = ARRIVE_WITHIN / self.invocations.max(1);
        let mut jitter = SplitMix::new(self.seed);
        (0..self.invocations).map(move |number| slot * number + slot.mul_f64(jitter.fraction()))
    }
}

/// One invocation: it sleeps until it arrives, then has until its deadline. Dropping the future cuts its connection.
pub(super) async fn invoke(client: Config, road: &'static str, number: i32, arrival: Instant, surge: Surge) -> Outcome {
    sleep_until(arrival).await;
    let handled = timeout_at(arrival + surge.deadline, Box::pin(handle(client, road, number, surge.work))).await;
    match handled {
        // From the moment it should have arrived: a late start of ours is part of what it waited.
        Ok(Ok(answered)) => Outcome::Answered(answered - arrival),
        Ok(Err(outcome)) => outcome,
        Err(_) => Outcome::TimedOut,
    }
}

/// Connects, works, runs one transaction, leaves; gives the moment of the answer.
async fn handle(config: Config, road: &'static str, number: i32, work: Duration) -> Result<Instant, Outcome> {
    let (client, connection) = config.connect(NoTls).await?;
    let mut connection = pin!(connection);
    let answered = tokio::select! {
        biased;
        // It ends before its client only by failing, and knows the reason.
        ended = &mut connection => {
            ended?;
            return Err(Outcome::Lost("the server closed the connection".to_owned()));
        }
        answered = transact(client, road, number, work) => answered?,
    };
    // The client is dropped by now: this says goodbye and closes.
    let _ = connection.await;
    Ok(answered)
}

async fn transact(client: Client, road: &str, number: i32, work: Duration) -> Result<Instant, Error> {
    sleep(work).await;
    client.batch_execute("BEGIN").await?;
    let insert = "INSERT INTO visits (road, invocation) VALUES ($1, $2) RETURNING id";
    // An unnamed statement: nothing of it outlives the transaction.
    client.query_typed_one(insert, &[(&road, Type::TEXT), (&number, Type::INT4)]).await?;
    client.batch_execute("COMMIT").await?;
    Ok(Instant::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surge(invocations: u32, seed: u64) -> Surge {
        Surge { invocations, work: Duration::ZERO, deadline: Duration::from_secs(1), seed }
    }

    #[test]
    fn arrivals_fill_the_second_in_order_each_in_its_slot() {
        let arrivals: Vec<Duration> = surge(1000, 1).arrivals().collect();
        assert_eq!(arrivals.len(), 1000);
        for (number, arrival) in arrivals.iter().enumerate() {
            assert_eq!(arrival.as_millis(), number as u128, "one in every millisecond");
        }
    }

    #[test]
    fn the_seed_decides_the_moments() {
        let moments = |seed| surge(50, seed).arrivals().collect::<Vec<_>>();
        assert_eq!(moments(7), moments(7));
        assert_ne!(moments(7), moments(8));
    }
}
