//! What threads tell each other about server connections. All of it is cold: steady traffic stays on its own worker.

use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::astray::Post;
use super::ledger::{ServerId, Waiter};
use super::shared::{Pool, Upstream};
use crate::auth::Secret;
use crate::config::Config;
use crate::upstream::{Broken, Card, Travelling};

/// A message to a worker.
#[derive(Debug)]
pub enum Mail {
    /// A connection that was opened for a pool of this worker's.
    Opened {
        /// Its pool.
        pool: Arc<Pool>,
        /// Its id.
        server: ServerId,
        /// The connection.
        travelling: Travelling,
    },
    /// A connection for this waiter.
    Hand {
        /// Its pool.
        pool: Arc<Pool>,
        /// Its id.
        server: ServerId,
        /// The connection.
        travelling: Travelling,
        /// The waiter's slot.
        slot: u32,
    },
    /// Give the idle connection that this worker has to that waiter.
    GiveAway {
        /// The upstream.
        upstream: Arc<Upstream>,
        /// The connection.
        server: ServerId,
        /// The waiter.
        to: Waiter,
    },
    /// Close the idle connection that this worker has.
    Close {
        /// The upstream.
        upstream: Arc<Upstream>,
        /// The connection.
        server: ServerId,
    },
    /// The pool cannot be had: these waiters must hear it.
    Fail {
        /// The waiters' slots.
        slots: Vec<u32>,
        /// Why.
        why: Arc<Broken>,
    },
    /// A cancel has been delivered, or has failed: the connection that it was for may move on.
    CancelDone {
        /// The connection's card.
        card: Arc<Card>,
    },
}

/// A job for the control thread.
#[derive(Debug)]
pub enum Job {
    /// Open a connection.
    Open {
        /// Its pool.
        pool: Arc<Pool>,
        /// Its id.
        server: ServerId,
        /// The worker that shall have it.
        worker: u16,
    },
    /// Cancel what a connection runs.
    Cancel {
        /// The upstream.
        upstream: Arc<Upstream>,
        /// Where and with which key.
        card: Arc<Card>,
        /// How many requests it had finished when the cancel was asked for: if there are more by now, what was meant is over.
        finished: u64,
        /// The worker that waits for the end of it.
        worker: u16,
    },
    /// Hold the slots of a budget that is shared.
    Share {
        /// The upstream.
        upstream: Arc<Upstream>,
        /// What connects them with those who have clients.
        post: Post,
    },
    /// Ask the server for a user's password.
    AuthQuery {
        /// The upstream.
        upstream: Arc<Upstream>,
        /// What to ask, and as whom.
        config: Arc<Config>,
        /// The user.
        user: Box<str>,
        /// Who wants to know.
        reply: oneshot::Sender<Result<Option<Arc<Secret>>, Arc<Broken>>>,
    },
}

/// Where mail for a worker is put.
pub type Mailbox = UnboundedSender<Mail>;
/// Where a worker finds its mail.
pub type Inbox = UnboundedReceiver<Mail>;
/// Where jobs for the control thread are put.
pub type Jobs = UnboundedSender<Job>;

/// A mailbox and its inbox. Unbounded in form; what is in it is bounded by connections and waiters, which are.
pub fn mailbox() -> (Mailbox, Inbox) {
    unbounded_channel()
}
