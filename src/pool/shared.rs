//! What all threads share of an upstream and of its pools.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Semaphore;

use super::ledger::{Keep, Ledger, PoolId, ServerId, State, Step};
use super::mail::{Job, Jobs, Mail, Mailbox};
use super::profiles::Profiles;
use crate::admission::Limits;
use crate::auth::KeyCache;
use crate::config::PoolMode;
use crate::metrics::UpstreamNumbers;
use crate::net::now;
use crate::upstream::{Broken, Functions, Login, SharedSettings, Statements, Target};
use crate::wire::startup::Replication;

/// How many derived keys are remembered for logging in to servers; each saves a millisecond.
const REMEMBERED_KEYS: usize = 1024;

/// Which pool: a database as clients name it, a user as clients name it, and what kind of session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// The database that clients ask for.
    pub database: Vec<u8>,
    /// The user that clients log in as.
    pub user: Vec<u8>,
    /// The kind of replication session, if it is one.
    pub replication: Option<Replication>,
}

/// One PostgreSQL server with its budget.
#[derive(Debug)]
pub struct Upstream {
    /// Its name.
    pub name: String,
    /// Its place among the upstreams.
    pub index: usize,
    /// Who holds what.
    pub ledger: Mutex<Ledger>,
    /// Where it is.
    pub target: ArcSwap<Target>,
    /// Timeouts that a reload may change.
    pub times: ArcSwap<Times>,
    /// Keys derived for logging in.
    pub keys: Mutex<KeyCache>,
    /// Turns for cancels: one is under way at a time (H6), on the one control connection that is theirs.
    pub cancels: Semaphore,
    /// Its numbers.
    pub numbers: Arc<UpstreamNumbers>,
    pools: RwLock<Directory>,
    jobs: Jobs,
    mail: Arc<[Mailbox]>,
}

/// An upstream's timeouts.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Idleness after which a connection is checked before use.
    pub check_after: Duration,
    /// How long putting a connection in order after a vanished client may take.
    pub settle: Duration,
    /// What the statements that are kept prepared on one connection may take, in bytes.
    pub prepared_bytes: usize,
    /// Whether the server is asked what its functions leave in a session.
    pub follow_functions: bool,
}

#[derive(Debug, Default)]
struct Directory {
    by_key: HashMap<PoolKey, Arc<Pool>, foldhash::fast::RandomState>,
    by_id: Vec<Arc<Pool>>,
    /// By the name that the server knows a database by.
    functions: HashMap<Vec<u8>, Arc<Functions>, foldhash::fast::RandomState>,
}

/// The connections of one (database, user).
#[derive(Debug)]
pub struct Pool {
    /// Its number in its upstream's ledger.
    pub id: PoolId,
    /// What it is for.
    pub key: PoolKey,
    /// Its upstream.
    pub upstream: Arc<Upstream>,
    /// When a connection comes back.
    pub mode: PoolMode,
    /// As whom to log in; replaced when a client's login shows newer keys, or by a reload.
    pub login: ArcSwap<Login>,
    /// What servers answered to which startup settings.
    pub profiles: Mutex<Profiles>,
    /// The settings that its clients have come to since their startup.
    pub settings: SharedSettings,
    /// The statements that its clients have prepared.
    pub statements: Statements,
    /// What calling its database's functions leaves in a session.
    pub functions: Arc<Functions>,
    failure: Mutex<Option<Failure>>,
}

#[derive(Debug)]
struct Failure {
    until: Instant,
    why: Arc<Broken>,
}

impl Upstream {
    /// An upstream without pools.
    pub fn new(place: (usize, &str), ledger: Ledger, target: Target, times: Times, around: Around) -> Arc<Self> {
        let Around { numbers, jobs, mail } = around;
        Arc::new(Self {
            name: place.1.to_owned(),
            index: place.0,
            ledger: Mutex::new(ledger),
            target: ArcSwap::from_pointee(target),
            times: ArcSwap::from_pointee(times),
            keys: Mutex::new(KeyCache::new(REMEMBERED_KEYS)),
            cancels: Semaphore::new(1),
            numbers,
            pools: RwLock::default(),
            jobs,
            mail,
        })
    }

    /// The pool for `key`, made with `login` if there is none yet.
    pub fn pool(self: &Arc<Self>, key: &PoolKey, mode: PoolMode, keep: Keep, login: impl FnOnce() -> Login) -> Arc<Pool> {
        if let Some(pool) = self.pools.read().by_key.get(key)
            && pool.mode == mode
        {
            return Arc::clone(pool);
        }
        let mut directory = self.pools.write();
        if let Some(pool) = directory.by_key.get(key)
            && pool.mode == mode
        {
            return Arc::clone(pool);
        }
        let id = self.ledger.lock().add_pool(keep);
        let login = login();
        let functions = directory.functions.entry(login.dbname.clone()).or_insert_with(|| Arc::new(Functions::new(now())));
        let functions = Arc::clone(functions);
        let pool = Arc::new(Pool {
            id,
            key: key.clone(),
            upstream: Arc::clone(self),
            mode,
            login: ArcSwap::from_pointee(login),
            profiles: Mutex::default(),
            settings: SharedSettings::default(),
            statements: Statements::default(),
            functions,
            failure: Mutex::default(),
        });
        directory.by_key.insert(key.clone(), Arc::clone(&pool));
        directory.by_id.push(Arc::clone(&pool));
        pool
    }

    /// The pool with this number.
    pub fn pool_by_id(&self, id: PoolId) -> Option<Arc<Pool>> {
        self.pools.read().by_id.get(id.0 as usize).cloned()
    }

    /// All pools.
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        self.pools.read().by_id.clone()
    }

    /// Applies a budget and tenants' limits at once, and how connections are kept.
    pub fn set_limits(&self, now: Instant, budget: u32, limits: &[Limits], keep: Keep) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut ledger = self.ledger.lock();
        for pool in &self.pools.read().by_id {
            ledger.set_keep(pool.id, Keep { once: pool.key.replication.is_some(), ..keep });
        }
        ledger.set_limits(budget, limits, now, &mut steps);
        steps
    }

    /// Carries out steps by mail, as far as they are not the business of the worker `here`; those are left in `steps`.
    pub fn post(self: &Arc<Self>, steps: &mut Vec<Step>, here: Option<u16>) {
        steps.retain(|step| match *step {
            Step::Open { server, pool, worker } => {
                if let Some(pool) = self.pool_by_id(pool) {
                    // The control thread outlives the workers; if it is gone, so is everything.
                    let _ = self.jobs.send(Job::Open { pool, server, worker });
                }
                false
            }
            Step::Hand { at, .. } | Step::Close { at, .. } if Some(at) == here => true,
            Step::Hand { server, at, to } => {
                self.send(at, Mail::GiveAway { upstream: Arc::clone(self), server, to });
                false
            }
            Step::Close { server, at } => {
                self.send(at, Mail::Close { upstream: Arc::clone(self), server });
                false
            }
        });
    }

    /// Puts mail into a worker's mailbox. A worker that has ended needs none.
    pub fn send(&self, worker: u16, mail: Mail) {
        if let Some(mailbox) = self.mail.get(usize::from(worker)) {
            let _ = mailbox.send(mail);
        }
    }

    /// Asks the control thread to do something.
    pub fn ask(&self, job: Job) {
        let _ = self.jobs.send(job);
    }

    /// A connection is gone: its place in the budget is free again.
    pub fn closed(self: &Arc<Self>, now: Instant, server: ServerId, here: Option<u16>) -> Vec<Step> {
        let mut steps = Vec::new();
        self.ledger.lock().closed(now, server, &mut steps);
        self.post(&mut steps, here);
        steps
    }

    /// An opening has failed: the pool's waiters hear why, unless there is still hope for them.
    pub fn open_failed(self: &Arc<Self>, now: Instant, pool: &Pool, server: ServerId, why: Broken) {
        let mut steps = Vec::new();
        let why = Arc::new(why);
        let full = why.server_error().is_some_and(|error| error.is(crate::wire::sqlstate::TOO_MANY_CONNECTIONS));
        let (dismissed, pause) = {
            let mut ledger = self.ledger.lock();
            ledger.open_failed(now, server, &mut steps);
            // A server that is full has room again when somebody leaves, and a pool that has connections serves its waiters with those.
            let hopeless = !full && !ledger.has_live(pool.id);
            (if hopeless { ledger.dismiss(pool.id) } else { Vec::new() }, ledger.pause_left(now))
        };
        // Nobody is turned away at once by a server that is full; who has waited in vain hears what it said.
        let until = if full { now } else { now + pause };
        *pool.failure.lock() = Some(Failure { until, why: Arc::clone(&why) });
        let workers = u16::try_from(self.mail.len()).unwrap_or(u16::MAX);
        for worker in 0..workers {
            let slots: Vec<u32> = dismissed.iter().filter(|waiter| waiter.worker == worker).map(|waiter| waiter.slot).collect();
            if !slots.is_empty() {
                self.send(worker, Mail::Fail { slots, why: Arc::clone(&why) });
            }
        }
        self.post(&mut steps, None);
    }

    /// How many connections are in each state.
    pub fn states(&self) -> Vec<(PoolId, State)> {
        self.ledger.lock().states().map(|(_, pool, state)| (pool, state)).collect()
    }
}

/// The threads around an upstream.
#[derive(Debug, Clone)]
pub struct Around {
    /// Its numbers.
    pub numbers: Arc<UpstreamNumbers>,
    /// The control thread.
    pub jobs: Jobs,
    /// The workers.
    pub mail: Arc<[Mailbox]>,
}

impl Pool {
    /// Why the pool cannot be had just now: its last opening has failed a moment ago and it has no connection.
    pub fn failing(&self, now: Instant) -> Option<Arc<Broken>> {
        let failure = self.failure.lock();
        failure.as_ref().filter(|failure| now < failure.until).map(|failure| Arc::clone(&failure.why))
    }

    /// What to tell a client that has waited in vain: why the last opening has failed, where the pool has not a single connection.
    pub fn never_opened(&self) -> Option<Arc<Broken>> {
        let why = Arc::clone(&self.failure.lock().as_ref()?.why);
        (!self.upstream.ledger.lock().has_live(self.id)).then_some(why)
    }

    /// An opening has succeeded.
    pub fn recovered(&self) {
        *self.failure.lock() = None;
    }
}
