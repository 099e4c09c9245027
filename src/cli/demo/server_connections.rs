//! How many connections PostgreSQL serves, asked of PostgreSQL itself over a connection that is kept free for its
//! superuser; that one is not counted.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::bail;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_postgres::{Client, Statement};

use super::cluster::Cluster;
use super::tenants::DATABASE;

/// How often it is asked during a round.
const SAMPLE_EVERY: Duration = Duration::from_millis(10);
const LEAVING_TIMEOUT: Duration = Duration::from_secs(10);

// While a backend is still logging in it has no user name.
const COUNT: &str = "SELECT count(*)::int4 FROM pg_stat_activity \
    WHERE backend_type = 'client backend' AND usename IS DISTINCT FROM current_user";

/// The view of `pg_stat_activity`.
pub(super) struct ServerConnections {
    client: Client,
    count: Statement,
}

impl ServerConnections {
    pub(super) async fn watch(cluster: &Cluster) -> anyhow::Result<Self> {
        let client = cluster.connect(DATABASE).await?;
        let count = client.prepare(COUNT).await?;
        Ok(Self { client, count })
    }

    async fn count(&self) -> anyhow::Result<u32> {
        let count: i32 = self.client.query_one(&self.count, &[]).await?.try_get(0)?;
        Ok(u32::try_from(count)?)
    }

    /// Raises `most` to the highest number seen, until dropped. Ends only by an error.
    pub(super) async fn sample(&self, most: &AtomicU32) -> anyhow::Result<Infallible> {
        let mut tick = interval(SAMPLE_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            most.fetch_max(self.count().await?, Ordering::Relaxed);
        }
    }

    /// Waits until every backend of the last round has gone, so that none is counted in the next.
    pub(super) async fn wait_until_none(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + LEAVING_TIMEOUT;
        loop {
            let left = self.count().await?;
            if left == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{left} server connections are still open, {} s after their clients left", LEAVING_TIMEOUT.as_secs());
            }
            sleep(SAMPLE_EVERY).await;
        }
    }
}
