//! The numbers of one tenant on one worker, and those of one upstream.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::{CancelCause, Cells, ClientState, ConnectOutcome, Counter, Gauge, Histogram, LoginOutcome, StatementStep};

/// One worker's numbers of one tenant. The default one is published nowhere.
#[derive(Debug, Default)]
pub struct TenantShard {
    /// Clients, by `ClientState`.
    pub clients: [Gauge; ClientState::ALL.len()],
    /// Logins, by `LoginOutcome`.
    pub logins: [Counter; LoginOutcome::ALL.len()],
    /// From accept to the end of the login.
    pub login: Histogram,
    /// From the wish for a server connection to having it; zero waits count.
    pub queue_wait: Histogram,
    /// From having a server connection to giving it back.
    pub lease: Histogram,
    /// From a request to the end of its answer.
    pub query: Histogram,
    /// Transactions.
    pub transactions: Counter,
    /// Requests that were answered.
    pub queries: Counter,
    /// Bytes from clients.
    pub bytes_in: Counter,
    /// Bytes to clients.
    pub bytes_out: Counter,
    /// Notifications that clients heard by way of a shared connection.
    pub notifications: Counter,
    /// Statements with names, by `StatementStep`.
    pub statements: [Counter; StatementStep::ALL.len()],
    /// Refusals, by the fault's number.
    pub refused: Cells<Counter>,
    /// Cancelled queries, by `CancelCause`.
    pub cancelled: [Counter; CancelCause::ALL.len()],
    /// Clients that are pinned now, by the reason's number.
    pub pinned: Cells<Gauge>,
    /// Pins so far, by the reason's number.
    pub pins: Cells<Counter>,
}

impl TenantShard {
    pub(super) fn new(faults: usize, reasons: usize) -> Self {
        Self { refused: Cells::new(faults), pinned: Cells::new(reasons), pins: Cells::new(reasons), ..Self::default() }
    }

    /// What became of statements with names.
    #[inline]
    pub fn count_statements(&self, steps: [u32; StatementStep::ALL.len()]) {
        for (counter, count) in self.statements.iter().zip(steps).filter(|(_, count)| *count > 0) {
            counter.add(count.into());
        }
    }

    /// A client goes from one state to another.
    #[inline]
    pub fn moved(&self, from: ClientState, to: ClientState) {
        self.clients[from.index()].add(-1);
        self.clients[to.index()].add(1);
    }
}

/// One upstream's numbers, written by any thread.
#[derive(Debug, Default)]
pub struct UpstreamNumbers {
    connects: [AtomicU64; ConnectOutcome::ALL.len()],
    /// How long openings took, whatever came of them.
    pub connect: Histogram,
    down: AtomicBool,
    retired: AtomicU64,
}

impl UpstreamNumbers {
    /// An opening has ended.
    pub fn connected(&self, outcome: ConnectOutcome, took: Duration) {
        self.connects[outcome.index()].fetch_add(1, Relaxed);
        self.connect.observe_shared(took);
    }

    /// How many openings ended so.
    pub fn connects(&self, outcome: ConnectOutcome) -> u64 {
        self.connects[outcome.index()].load(Relaxed)
    }

    /// Whether the upstream answers, as far as the last opening says.
    pub fn is_up(&self) -> bool {
        !self.down.load(Relaxed)
    }

    /// All its connections were given up because the server is elsewhere.
    pub fn retired(&self) {
        self.retired.fetch_add(1, Relaxed);
    }

    /// How often that was.
    pub fn retirements(&self) -> u64 {
        self.retired.load(Relaxed)
    }

    /// Notes whether the upstream answers.
    pub fn set_up(&self, up: bool) {
        self.down.store(!up, Relaxed);
    }
}
