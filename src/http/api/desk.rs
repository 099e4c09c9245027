//! What all requests share.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::data::{Retries, Transactions};
use super::reply::{Reply, outcome};
use super::trouble::Trouble;
use crate::config::Config;
use crate::fault::Fault;
use crate::metrics::Api;
use crate::net::{Moment, now};
use crate::session::{Believed, Keyring, Worker};

/// So many large bodies may be on their way at once.
const LARGE: usize = 64;

/// What all requests share.
#[derive(Debug)]
pub(super) struct Desk {
    /// The worker whose clients the callers are.
    pub(super) worker: Rc<Worker>,
    tokens: Arc<Keyring>,
    pub(super) transactions: Rc<Transactions>,
    pub(super) retries: Rc<Retries>,
    /// Places for large bodies that are on their way.
    pub(super) large: Semaphore,
}

/// A connection that counts; dropping it counts it out.
#[derive(Debug)]
pub(super) struct Opened(Rc<Worker>);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.house.metrics.api.connections.add(-1);
    }
}

impl Desk {
    pub(super) fn new(worker: Rc<Worker>) -> Rc<Self> {
        Rc::new(Self {
            tokens: Arc::default(),
            transactions: Transactions::new(Arc::clone(&worker.house)),
            retries: Rc::default(),
            large: Semaphore::new(LARGE),
            worker,
        })
    }

    pub(super) fn config(&self) -> Arc<Config> {
        self.worker.house.config.load_full()
    }

    /// Whose token this is.
    ///
    /// # Errors
    /// When it does not hold, or no tokens are taken here. The log says why.
    pub(super) async fn believe(&self, token: &str, config: &Config) -> Result<Believed, Trouble> {
        let Some(settings) = &config.api.tokens else {
            return Err(Fault::NotBelieved("tokens are not taken here").into());
        };
        self.tokens.believe(token, settings).await.map_err(|why| {
            tracing::info!(why, "a token was not believed");
            // All callers hear the same, whatever is wrong.
            Fault::NotBelieved("the token does not hold").into()
        })
    }

    /// One more connection.
    pub(super) fn opened(&self) -> Opened {
        self.worker.house.metrics.api.connections.add(1);
        Opened(Rc::clone(&self.worker))
    }

    /// A request that came at `began` has this reply.
    pub(super) fn count(&self, api: Api, reply: &Reply, began: Moment) {
        self.worker.house.metrics.api.answered(api, outcome(reply), now().saturating_duration_since(began));
    }

    /// The proxy is stopping: what is held between calls ends.
    pub(super) fn dismiss(&self) {
        self.transactions.end_all();
    }
}
