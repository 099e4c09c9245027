//! How the pool of `auth_query` comes by its connections.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use deadpool_postgres::Connect;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, Error};

use crate::pool::adopted::adopt;
use crate::pool::shared::Upstream;
use crate::upstream::Login;

/// What every connection is set to before it is used: no setting of the role's or the database's may change what the question means or how long it takes.
/// `pg_temp` is named so that it is searched last, not first.
fn settings(limit: std::time::Duration) -> String {
    format!(
        "SET search_path = pg_catalog, pg_temp; SET client_encoding = 'UTF8'; SET application_name = 'pgweir auth_query'; \
         SET statement_timeout = {limit}; SET lock_timeout = {limit}",
        limit = limit.as_millis()
    )
}

/// Opens connections to one upstream as the role that asks.
pub(super) struct Opener {
    pub(super) upstream: Arc<Upstream>,
    pub(super) login: Login,
    /// How long a question may take.
    pub(super) limit: std::time::Duration,
}

impl Connect for Opener {
    fn connect(&self, _: &Config) -> Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), Error>> + Send + '_>> {
        Box::pin(async move { adopt(&self.upstream, &self.login, &settings(self.limit), drop).await })
    }
}
