//! What all threads share of an upstream and of its pools.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, Semaphore, mpsc};

use super::astray::{self, CancelRequest, Deliver, Post};
use super::home::{Home, QueueTime};
use super::ledger::{Failure, Keep, Ledger, PoolId, ServerId, State, Step, Waiter};
use super::mail::{Job, Jobs, Mail, Mailbox};
use super::profiles::Profiles;
use super::switchboard::Switchboard;
use crate::admission::Limits;
use crate::auth::KeyCache;
use crate::config::PoolMode;
use crate::metrics::UpstreamNumbers;
use crate::net::{Moment, now};
use crate::upstream::{self, Broken, Card, Fresh, Functions, Kind, Login, SharedSettings, Statements, Target};
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
    /// Where it may be.
    target: ArcSwap<Target>,
    home: Mutex<Home>,
    queue_time: Mutex<QueueTime>,
    /// Why it could not be reached last.
    failure: Mutex<Option<Arc<Broken>>>,
    /// Timeouts that a reload may change.
    pub times: ArcSwap<Times>,
    /// Keys derived for logging in.
    pub keys: Mutex<KeyCache>,
    /// Turns for cancels: one is under way at a time (H6), on the one control connection that is theirs.
    pub cancels: Semaphore,
    /// How its budget is shared with other proxies, if it is.
    pub sharing: OnceLock<Sharing>,
    /// Its numbers.
    pub numbers: Arc<UpstreamNumbers>,
    pools: RwLock<Directory>,
    /// What its connections are, beside the ledger's books.
    cards: Mutex<HashMap<ServerId, Open>>,
    jobs: Jobs,
    mail: Arc<[Mailbox]>,
}

/// A server connection that is open, or about to be closed.
#[derive(Debug, Clone)]
pub struct Open {
    /// Who it is.
    pub card: Arc<Card>,
    /// The version of TLS that protects it, if any does.
    pub tls: Option<&'static str>,
    /// When it was opened.
    pub at: SystemTime,
}

/// A server connection as an operator sees it.
#[derive(Debug, Clone)]
pub struct ServerEntry {
    /// Its id.
    pub id: ServerId,
    /// Its pool.
    pub pool: Arc<Pool>,
    /// What it does.
    pub state: State,
    /// For how long.
    pub since: Duration,
    /// What it is; nothing while it is being opened.
    pub open: Option<Open>,
}

/// How a budget is shared with other proxies.
#[derive(Debug)]
pub struct Sharing {
    /// As whom its slots are held.
    pub(super) login: ArcSwap<Login>,
    /// Clients wait for more connections than it has slots for, or the server is elsewhere.
    pub(super) more: Notify,
    /// The server is elsewhere: slots are to be held there.
    pub(super) has_moved: AtomicBool,
    /// How many proxies share it, this one among them, as far as is known; 0 while nothing is.
    pub(super) proxies: AtomicU32,
    /// How many others hear of cancel requests that are for their clients.
    pub(super) reach: AtomicU32,
    /// What they are to be told.
    requests: mpsc::Sender<CancelRequest>,
}

impl Sharing {
    /// How many proxies share the budget, this one among them; 0 while that cannot be said.
    pub fn proxies(&self) -> u32 {
        self.proxies.load(Ordering::Relaxed)
    }

    /// How many others hear of cancel requests that are for their clients.
    pub fn reach(&self) -> u32 {
        self.reach.load(Ordering::Relaxed)
    }

    /// Tells the others of a cancel request that is not for a client of this proxy's. Where there are more than can be told it is dropped.
    pub fn pass_on(&self, request: CancelRequest) {
        let _ = self.requests.try_send(request);
    }
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
    /// Whether all clients of a pool listen with one connection.
    pub share_listen: bool,
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
    /// How its clients listen.
    pub switchboard: Switchboard,
    /// Why its last opening has failed.
    failure: Mutex<Option<Arc<Broken>>>,
    /// Whether the time of those who wait for it runs: not while it is paused.
    queue_time: Mutex<QueueTime>,
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
            home: Mutex::default(),
            queue_time: Mutex::default(),
            failure: Mutex::default(),
            times: ArcSwap::from_pointee(times),
            keys: Mutex::new(KeyCache::new(REMEMBERED_KEYS)),
            cancels: Semaphore::new(1),
            sharing: OnceLock::new(),
            numbers,
            pools: RwLock::default(),
            cards: Mutex::default(),
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
            switchboard: Switchboard::default(),
            failure: Mutex::default(),
            queue_time: Mutex::default(),
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
    pub fn set_limits(&self, now: Moment, budget: u32, limits: &[Limits], keep: Keep) -> Vec<Step> {
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
            Step::Ask => {
                if let Some(sharing) = self.sharing.get() {
                    sharing.more.notify_one();
                }
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
    pub fn closed(self: &Arc<Self>, now: Moment, server: ServerId, here: Option<u16>) -> Vec<Step> {
        let mut steps = Vec::new();
        self.cards.lock().remove(&server);
        self.ledger.lock().closed(now, server, &mut steps);
        self.post(&mut steps, here);
        steps
    }

    /// How and where it is reached.
    pub fn target(&self) -> Arc<Target> {
        self.target.load_full()
    }

    /// It is to be reached otherwise from now on.
    pub fn set_target(&self, target: Target) {
        let before = self.target.swap(Arc::new(target));
        let now = self.target.load();
        if before.places != now.places || before.wanted != now.wanted {
            *self.home.lock() = Home::default();
        }
    }

    /// Opens a connection to it, wherever it is now. Where that is elsewhere than before, connections to where it was are of no more use.
    ///
    /// Cancel safe: a dropped future closes what it opened.
    pub async fn connect(self: &Arc<Self>, login: &Login) -> Result<Fresh, Broken> {
        let target = self.target();
        let choice = self.home.lock().choice();
        let fresh = upstream::open(&target, login, &self.keys, choice).await?;
        let has_moved = self.home.lock().arrived(&fresh, &target, now());
        if has_moved {
            tracing::warn!(upstream = self.name, address = %fresh.card.address, "the server is elsewhere now: connections to where it was are closed");
            self.retire(None);
        }
        Ok(fresh)
    }

    /// A server has said that it is read-only; it `reports` whether it is a standby.
    pub fn refused_a_write(self: &Arc<Self>, reports: Option<bool>, here: Option<u16>) -> Vec<Step> {
        if !self.home.lock().refused_a_write(reports, self.target.load().wanted, now()) {
            return Vec::new();
        }
        tracing::warn!(
            upstream = self.name,
            "the server is a standby and refused a write: its connections are closed, and the primary is looked for"
        );
        self.retire(here)
    }

    /// All connections are of an earlier time.
    fn retire(self: &Arc<Self>, here: Option<u16>) -> Vec<Step> {
        let mut steps = Vec::new();
        self.ledger.lock().retire(now(), &mut steps);
        self.numbers.retired();
        if let Some(sharing) = self.sharing.get() {
            sharing.has_moved.store(true, Ordering::Release);
            sharing.more.notify_one();
        }
        for pool in &self.pools.read().by_id {
            // Another server may report other settings at login.
            pool.profiles.lock().clear();
        }
        self.post(&mut steps, here);
        steps
    }

    /// It has answered.
    pub fn answered(&self) {
        let is_back = self.ledger.lock().answered();
        self.numbers.set_up(true);
        if is_back {
            self.is_back();
        }
    }

    fn is_back(&self) {
        *self.queue_time.lock() = QueueTime::Since(now());
        tracing::info!(upstream = self.name, "the upstream answers again");
    }

    /// An opening has failed: the pool's waiters hear why, unless there is still hope for them.
    pub fn open_failed(self: &Arc<Self>, now: Moment, pool: &Pool, server: ServerId, why: Broken) {
        let (kind, why) = (why.kind(), Arc::new(why));
        let failure = match kind {
            Kind::Unreachable => Failure::Unreachable,
            Kind::Full => Failure::Full,
            Kind::Refused => Failure::Refused,
        };
        if failure == Failure::Unreachable {
            *self.failure.lock() = Some(Arc::clone(&why));
        }
        *pool.failure.lock() = Some(Arc::clone(&why));
        // It may have failed on its way to its worker, when it was open already.
        self.cards.lock().remove(&server);
        let mut steps = Vec::new();
        let aftermath = self.ledger.lock().open_failed(now, server, failure, &mut steps);
        if aftermath.is_down {
            *self.queue_time.lock() = QueueTime::Stands;
            self.numbers.set_up(false);
            tracing::warn!(upstream = self.name, %why, "the upstream does not answer");
        }
        if failure != Failure::Unreachable {
            self.numbers.set_up(true);
        }
        if aftermath.is_back {
            self.is_back();
        }
        self.tell(&aftermath.dismissed, &why);
        self.post(&mut steps, None);
    }

    /// Its budget is shared with other proxies from now on, in a session that is logged in to like this: nothing is opened before it holds slots for that. Said again, it
    /// is how the next such session is logged in to. `deliver` is told of cancel requests that came to others.
    pub fn share_budget(self: &Arc<Self>, login: Login, deliver: Deliver) {
        if let Some(sharing) = self.sharing.get() {
            sharing.login.store(Arc::new(login));
            return;
        }
        let (requests, to_be_told) = mpsc::channel(astray::MOST);
        let sharing = Sharing {
            login: ArcSwap::from_pointee(login),
            more: Notify::new(),
            has_moved: AtomicBool::new(false),
            proxies: AtomicU32::new(0),
            reach: AtomicU32::new(0),
            requests,
        };
        if self.sharing.set(sharing).is_ok() {
            self.ledger.lock().share(now());
            self.ask(Job::Share { upstream: Arc::clone(self), post: Post { requests: to_be_told, deliver } });
        }
    }

    /// Nobody can say how much of the shared budget is this proxy's: what is open goes on, and nothing more is opened.
    pub(super) fn cannot_share(self: &Arc<Self>, why: Broken) {
        let why = Arc::new(why);
        *self.failure.lock() = Some(Arc::clone(&why));
        let mut steps = Vec::new();
        let aftermath = {
            let mut ledger = self.ledger.lock();
            let open = ledger.total();
            ledger.allot(open, open, now(), &mut steps);
            ledger.cannot_be_allotted(now())
        };
        if aftermath.is_down {
            *self.queue_time.lock() = QueueTime::Stands;
            self.numbers.set_up(false);
        }
        self.tell(&aftermath.dismissed, &why);
        self.post(&mut steps, None);
    }

    /// Those who have waited in vain are told why.
    fn tell(&self, dismissed: &[Waiter], why: &Arc<Broken>) {
        let workers = u16::try_from(self.mail.len()).unwrap_or(u16::MAX);
        for worker in 0..workers {
            let slots: Vec<u32> = dismissed.iter().filter(|waiter| waiter.worker == worker).map(|waiter| waiter.slot).collect();
            if !slots.is_empty() {
                self.send(worker, Mail::Fail { slots, why: Arc::clone(why) });
            }
        }
    }

    /// Keeps the ledger's time: what is due is closed and opened, and who waits for an upstream that has been away for too long is told.
    pub fn sweep(self: &Arc<Self>, now: Moment) {
        let mut steps = Vec::new();
        let dismissed = {
            let mut ledger = self.ledger.lock();
            ledger.sweep(now, &mut steps);
            ledger.dismiss_hopeless(now)
        };
        if let (false, Some(why)) = (dismissed.is_empty(), self.failure.lock().clone()) {
            self.tell(&dismissed, &why);
        }
        self.post(&mut steps, None);
    }

    /// Takes a look at how its limit does.
    pub fn look(self: &Arc<Self>, now: Moment) {
        let mut steps = Vec::new();
        self.ledger.lock().look(now, &mut steps);
        self.post(&mut steps, None);
    }

    /// A connection has been opened.
    pub(super) fn note_open(&self, server: ServerId, open: Open) {
        self.cards.lock().insert(server, open);
    }

    /// Every connection there is.
    pub fn servers(&self, now: Moment) -> Vec<ServerEntry> {
        let pools = self.pools();
        let cards = self.cards.lock().clone();
        let ledger = self.ledger.lock();
        let entry = |(id, pool, state): (ServerId, PoolId, State)| {
            let since = now.saturating_duration_since(ledger.since(id)?);
            // An id may have been another's before.
            let open = cards.get(&id).filter(|_| state != State::Opening).cloned();
            Some(ServerEntry { id, pool: Arc::clone(pools.get(pool.0 as usize)?), state, since, open })
        };
        ledger.states().filter_map(entry).collect()
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
    /// Whether a client that has waited for a connection since then has waited for as long as `limit`; outages and pauses are left out.
    pub fn has_waited(&self, since: Moment, limit: Duration, now: Moment) -> bool {
        self.queue_time.lock().is_over(since, limit, now) && self.upstream.queue_time.lock().is_over(since, limit, now)
    }

    /// Nobody gets a connection until [`resume`](Self::resume); what is in use is closed when it comes back.
    pub fn pause(&self, now: Moment) {
        *self.queue_time.lock() = QueueTime::Stands;
        let mut steps = Vec::new();
        self.upstream.ledger.lock().pause(self.id, now, &mut steps);
        self.upstream.post(&mut steps, None);
    }

    /// Those who wait are served again.
    pub fn resume(&self, now: Moment) {
        *self.queue_time.lock() = QueueTime::Since(now);
        let mut steps = Vec::new();
        self.upstream.ledger.lock().resume(self.id, now, &mut steps);
        self.upstream.post(&mut steps, None);
    }

    /// Whether it has no connection, in whatever state, but such as are being opened.
    pub fn is_empty(&self) -> bool {
        self.upstream.ledger.lock().is_empty(self.id)
    }

    /// Whether it has connections that are of an earlier time, or on their way out.
    pub fn has_retired(&self) -> bool {
        self.upstream.ledger.lock().has_retired(self.id)
    }

    /// Its connections are closed: those that are idle now, the others when they come back.
    pub fn retire(&self, now: Moment) {
        let mut steps = Vec::new();
        self.upstream.ledger.lock().retire_pool(self.id, now, &mut steps);
        self.upstream.post(&mut steps, None);
    }

    /// Why a client that wants a connection had better be refused at once, if so.
    pub fn is_hopeless(&self, now: Moment) -> Option<Arc<Broken>> {
        let hopeless = self.upstream.ledger.lock().is_hopeless(self.id, now);
        hopeless.then(|| self.why()).flatten()
    }

    fn why(&self) -> Option<Arc<Broken>> {
        let upstreams = if self.upstream.ledger.lock().is_down() { self.upstream.failure.lock().clone() } else { None };
        upstreams.or_else(|| self.failure.lock().clone())
    }

    /// What to tell a client that has waited in vain: why the last opening has failed, where the pool has not a single connection.
    pub fn never_opened(&self) -> Option<Arc<Broken>> {
        let why = self.why()?;
        (!self.upstream.ledger.lock().has_live(self.id)).then_some(why)
    }

    /// An opening has succeeded, or may: what failed before says nothing any more.
    pub fn recovered(&self) {
        *self.failure.lock() = None;
    }

    /// Logs in otherwise from now on.
    pub fn renew(&self, login: Login) {
        self.login.store(Arc::new(login));
        self.recovered();
        self.upstream.ledger.lock().forgive(self.id);
    }
}
