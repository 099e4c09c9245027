//! The words between the ledger and its callers: who and what is meant, what was decided, what is to be done.

use std::time::Duration;

use crate::admission::{TenantId, Ticket};

/// A server connection of this upstream, from before it is opened until after it is closed. Ids are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(pub u32);

/// A pool of this upstream: one (database, user).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolId(pub u32);

/// What the ledger knows of a connection's state; the names are those of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// It is being connected and logged in to.
    Opening,
    /// It waits for a client.
    Idle,
    /// A client holds it.
    Leased(TenantId),
    /// Its client has gone and it is being put in order, on that tenant's account.
    Mending(TenantId),
    /// It listens for all clients of its pool, on nobody's account.
    Listening,
    /// It is being closed.
    Closing,
}

/// How a pool's connections live.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// An idle connection is closed after this.
    pub idle: Option<Duration>,
    /// A connection is closed after about this, when it is next idle.
    pub lifetime: Option<Duration>,
    /// So many are kept idle, however long.
    pub min_idle: u32,
    /// A connection serves one client and is closed (replication).
    pub once: bool,
}

/// What the caller must do after the lock is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Give this connection, which worker `at` has, to the waiter.
    Hand {
        /// The connection; its state is `Leased` already.
        server: ServerId,
        /// The worker that has it.
        at: u16,
        /// The waiter.
        to: Waiter,
    },
    /// Connect and log in; then say `opened` or `open_failed`.
    Open {
        /// The connection to be.
        server: ServerId,
        /// Its pool.
        pool: PoolId,
        /// The worker that shall have it.
        worker: u16,
    },
    /// Close this idle connection, which worker `at` has; then say `closed`.
    Close {
        /// The connection; its state is `Closing` already.
        server: ServerId,
        /// The worker that has it.
        at: u16,
    },
    /// Ask for more of a budget that is shared: somebody waits.
    Ask,
}

/// What a client asks with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Whose client it is.
    pub tenant: TenantId,
    /// Its rank among the clients of its tenant, by the server time that it has had lately.
    pub level: u8,
    /// How much time its deadline leaves, where it has one.
    pub within: Option<Duration>,
}

/// Why an opening has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Nobody is there, or nobody that may be used: as for all pools.
    Unreachable,
    /// The server has no room for one more: for now.
    Full,
    /// The server lets nobody in as this user, or not into this database.
    Refused,
}

/// What a failure means to those who wait, and to the upstream.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Aftermath {
    /// Those for whom there is no hope, and who wait no more.
    pub dismissed: Vec<Waiter>,
    /// The upstream answers no more, which is news.
    pub is_down: bool,
    /// The upstream answers again, which is news.
    pub is_back: bool,
}

/// What is to be known of a client beside what it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It has logged in.
    Came,
    /// It has left.
    Went,
    /// It has waited for as long as it may.
    WaitedInVain,
}

/// Where a waiting client is to be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Waiter {
    /// The worker that it lives on.
    pub worker: u16,
    /// Where that worker keeps it.
    pub slot: u32,
}

/// The answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// This idle connection of the caller's own worker is the client's.
    Take(ServerId),
    /// The client waits; a `Hand` step will come, perhaps at once.
    Wait(Ticket),
}

/// What a connection that is given back is for next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A waiter's.
    Hand(Waiter),
    /// Keep it idle.
    Keep,
    /// Close it; then say `closed`.
    Close,
}
