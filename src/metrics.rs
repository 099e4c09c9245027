//! Every number that is published.
//!
//! Each worker writes its own shard of each tenant's numbers, so that counting costs a plain load and store; whoever reads adds the shards up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::RwLock;

/// A count that one thread adds to and any may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; by the owning thread only.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A level that one thread raises and lowers and any may read.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Raises or lowers; by the owning thread only.
    #[inline]
    pub fn add(&self, change: i64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(change), Relaxed);
    }

    /// The level.
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// The upper bounds of a histogram's buckets, in microseconds; the last bucket has none.
pub const BOUNDS_MICROS: [u64; 19] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 20_000_000,
    30_000_000, 60_000_000,
];

/// How long things took.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS_MICROS.len() + 1],
    sum_nanos: AtomicU64,
}

impl Histogram {
    fn bucket(took: Duration) -> usize {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        BOUNDS_MICROS.partition_point(|bound| *bound < micros)
    }

    fn nanos(took: Duration) -> u64 {
        u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Notes one; by the owning thread only.
    #[inline]
    pub fn observe(&self, took: Duration) {
        let bucket = &self.buckets[Self::bucket(took)];
        bucket.store(bucket.load(Relaxed).wrapping_add(1), Relaxed);
        self.sum_nanos.store(self.sum_nanos.load(Relaxed).wrapping_add(Self::nanos(took)), Relaxed);
    }

    /// Notes one; by any thread.
    pub fn observe_shared(&self, took: Duration) {
        self.buckets[Self::bucket(took)].fetch_add(1, Relaxed);
        self.sum_nanos.fetch_add(Self::nanos(took), Relaxed);
    }

    /// How many fell into each bucket.
    pub fn counts(&self) -> [u64; BOUNDS_MICROS.len() + 1] {
        std::array::from_fn(|at| self.buckets[at].load(Relaxed))
    }

    /// The sum of all, in seconds.
    pub fn sum_seconds(&self) -> f64 {
        Duration::from_nanos(self.sum_nanos.load(Relaxed)).as_secs_f64()
    }
}

macro_rules! labelled {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $label:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The value of the label.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label),+ }
            }

            /// Its place in [`ALL`](Self::ALL).
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

labelled! {
    /// What a client is doing.
    ClientState {
        /// It has not logged in yet.
        Login = "login",
        /// It holds nothing.
        Idle = "idle",
        /// It waits for a server connection.
        Waiting = "waiting",
        /// It holds a server connection, for a transaction.
        Active = "active",
        /// It holds a server connection for longer than a transaction.
        Pinned = "pinned",
    }
}

labelled! {
    /// How a login ended.
    LoginOutcome {
        /// The client is in.
        Ok = "ok",
        /// The secret was wrong, or the user or database unknown.
        Denied = "denied",
        /// A limit was reached, or the proxy is draining.
        Refused = "refused",
        /// The client broke the protocol, went away or took too long.
        Failed = "failed",
    }
}

labelled! {
    /// Why a query was cancelled.
    CancelCause {
        /// The client asked.
        Request = "request",
        /// Its deadline passed.
        Deadline = "deadline",
        /// The client has gone.
        ClientGone = "client_gone",
        /// A timeout of the configuration passed.
        Timeout = "timeout",
    }
}

labelled! {
    /// How the opening of a server connection ended.
    ConnectOutcome {
        /// It is open.
        Ok = "ok",
        /// The server said no.
        Refused = "refused",
        /// The server could not be reached or did not answer.
        Failed = "failed",
    }
}

/// One worker's numbers of one tenant.
#[derive(Debug)]
pub struct TenantShard {
    /// Clients, by `ClientState`.
    pub clients: [Gauge; 5],
    /// Logins, by `LoginOutcome`.
    pub logins: [Counter; 4],
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
    /// Refusals, by the fault's number.
    pub refused: Box<[Counter]>,
    /// Cancelled queries, by `CancelCause`.
    pub cancelled: [Counter; 4],
    /// Clients that are pinned now, by the reason's number.
    pub pinned: Box<[Gauge]>,
    /// Pins so far, by the reason's number.
    pub pins: Box<[Counter]>,
}

impl TenantShard {
    fn new(faults: usize, reasons: usize) -> Self {
        Self {
            clients: Default::default(),
            logins: Default::default(),
            login: Histogram::default(),
            queue_wait: Histogram::default(),
            lease: Histogram::default(),
            query: Histogram::default(),
            transactions: Counter::default(),
            queries: Counter::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            refused: std::iter::repeat_with(Counter::default).take(faults).collect(),
            cancelled: Default::default(),
            pinned: std::iter::repeat_with(Gauge::default).take(reasons).collect(),
            pins: std::iter::repeat_with(Counter::default).take(reasons).collect(),
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
    connects: [AtomicU64; 3],
    /// How long openings took, whatever came of them.
    pub connect: Histogram,
    down: AtomicBool,
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

    /// Notes whether the upstream answers.
    pub fn set_up(&self, up: bool) {
        self.down.store(!up, Relaxed);
    }
}

/// Everything.
#[derive(Debug)]
pub struct Metrics {
    workers: usize,
    faults: &'static [&'static str],
    reasons: &'static [&'static str],
    tenants: RwLock<Vec<(String, Vec<Arc<TenantShard>>)>>,
    upstreams: RwLock<Vec<(String, Arc<UpstreamNumbers>)>>,
}

impl Metrics {
    /// Numbers for these tenants, with the labels that stand for faults' and pin reasons' numbers.
    pub fn new(workers: usize, tenants: &[String], faults: &'static [&'static str], reasons: &'static [&'static str]) -> Arc<Self> {
        let metrics = Self { workers, faults, reasons, tenants: RwLock::default(), upstreams: RwLock::default() };
        metrics.set_tenants(tenants);
        Arc::new(metrics)
    }

    /// Adds tenants that a reload has brought; those that are known keep their numbers, by name.
    pub fn set_tenants(&self, names: &[String]) {
        let mut tenants = self.tenants.write();
        for name in names {
            if !tenants.iter().any(|(known, _)| known == name) {
                let shard = || Arc::new(TenantShard::new(self.faults.len(), self.reasons.len()));
                tenants.push((name.clone(), std::iter::repeat_with(shard).take(self.workers).collect()));
            }
        }
    }

    /// One worker's shard of a tenant's numbers.
    pub fn tenant(&self, worker: usize, name: &str) -> Option<Arc<TenantShard>> {
        let tenants = self.tenants.read();
        let (_, shards) = tenants.iter().find(|(known, _)| known == name)?;
        shards.get(worker).cloned()
    }

    /// An upstream's numbers.
    pub fn upstream(&self, name: &str) -> Arc<UpstreamNumbers> {
        let mut upstreams = self.upstreams.write();
        if let Some((_, numbers)) = upstreams.iter().find(|(known, _)| known == name) {
            return Arc::clone(numbers);
        }
        let numbers = Arc::new(UpstreamNumbers::default());
        upstreams.push((name.to_owned(), Arc::clone(&numbers)));
        numbers
    }
}
