//! What a worker knows of each of its clients, beside the task that serves it: who it is, what it does since when, and what it must be told.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::task::Waker;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::census::Protection;
use super::phase::{Limits, Phase, Timing};
use super::pins::Pin;
use super::telling::Telling;
use crate::admission::{Exceeded, Quotas, Recent, TenantId, Usage};
use crate::metrics::TenantShard;
use crate::net::{Clock, Moment, Peer};
use crate::pool::Pool;
use crate::pool::ledger::{Presence, ServerId};
use crate::upstream::Settings;

/// What a client's task is told from outside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// The client has asked, over another connection, to cancel what it does.
    Cancel,
    /// Its wait in the queue has lasted too long.
    Refuse,
    /// What it runs has lasted too long.
    Overdue,
    /// The time of its caller is over.
    Deadline,
    /// Its transaction was left open for longer than so many milliseconds.
    EndTransaction(u32),
    /// The same, and others wait for its server connection.
    Yield(u32),
    /// It has been idle for longer than so many milliseconds.
    EndIdle(u32),
    /// It does not read.
    Cut,
    /// Its socket should be watched for a silent peer.
    Watch,
    /// The proxy is stopping: leave as soon as nothing is under way.
    Drain,
    /// Leave now.
    Kill,
    /// The same, because an operator wants it.
    Evict,
}

/// What a client's caller has said of the time that is left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Deadline {
    /// Nothing.
    #[default]
    None,
    /// It ends then.
    At(Moment),
    /// There is none.
    Over,
}

/// A tenant as its clients know it.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Its place among the tenants of the configuration it came from.
    pub id: TenantId,
    /// Its name.
    pub name: String,
    /// The database that these clients of its ask for, as the configuration names it.
    pub database: Rc<str>,
    /// How long its clients may do what they do.
    pub limits: Limits,
    /// This worker's share of its numbers.
    pub numbers: Arc<TenantShard>,
    /// How many of its clients, of all workers, keep a server connection; and how many may, where that is bounded.
    pub pinned: Arc<AtomicU32>,
    /// The most that may; 0 is no limit.
    pub max_pinned: u32,
    /// What it may use over time, where that is limited.
    pub quotas: Option<Quotas>,
    /// What all its clients have used.
    pub usage: Arc<Mutex<Usage>>,
    /// Which of their requests are told in the log.
    pub telling: Telling,
    /// For how long these clients of its may leave a transaction open with nothing running, where they have a limit of their own.
    pub patience: Option<Duration>,
    /// What keeps time for them.
    pub clock: Rc<Clock>,
}

impl Tenant {
    /// The same for a client that has a limit of its own for how long it may leave a transaction open with nothing running.
    pub fn with_patience(&self, patience: Duration) -> Self {
        let limits = Limits { idle_transaction: Some(patience), ..self.limits };
        let tenant = Self { limits, patience: Some(patience), ..self.clone() };
        tenant.set_the_clock();
        tenant
    }

    /// Whatever is limited for these clients ends in time without asking: at least one tick falls into the shortest of their limits, and looks ahead.
    pub fn set_the_clock(&self) {
        if let Some(shortest) = self.limits.shortest() {
            self.clock.every(shortest);
        }
    }

    /// A transaction begins.
    ///
    /// # Errors
    /// Which quota is used up, and for how long.
    #[inline]
    pub fn begin(&self, now: Moment) -> Result<(), (Exceeded, Duration)> {
        self.quotas.as_ref().map_or(Ok(()), |quotas| self.usage.lock().begin(quotas, now))
    }
}

/// One client of this worker.
pub struct Watch {
    /// The random part of its cancel key.
    pub nonce: u32,
    /// Whether its cancel key is a long one (protocol 3.2).
    pub long_key: bool,
    /// Where it comes from.
    pub peer: Peer,
    /// Its pool.
    pub pool: Arc<Pool>,
    /// Whether it may not keep a server connection beyond its transactions.
    pub strict: bool,
    /// Its tenant; replaced by a reload.
    pub tenant: RefCell<Rc<Tenant>>,
    timing: RefCell<Timing>,
    /// What its caller has said of the time that is left.
    deadline: Cell<Deadline>,
    /// The time that each of its transactions may take, waiting included; 0 is no limit.
    budget_ms: u32,
    /// The server time that it has had lately.
    recent: Cell<Recent>,
    /// What it has left on its server connection.
    pin: Cell<Option<Pin>>,
    signal: Cell<Option<Signal>>,
    draining: Cell<bool>,
    waker: Cell<Option<Waker>>,
    /// When it logged in, in seconds since 1970.
    pub connected: u32,
    /// What protects its connection.
    pub protection: Cell<Protection>,
    /// The server connection that it has, or had last.
    server: Cell<u32>,
    /// Its settings, for whoever asks who is there.
    settings: Cell<Option<Arc<Settings>>>,
    /// Its place in the list of those who are not idle.
    pub(super) active: Cell<Option<u32>>,
    /// Who waits until a cancel of this client's has been delivered.
    cancels: Cell<Vec<oneshot::Sender<()>>>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("peer", &self.peer).field("timing", &self.timing).finish_non_exhaustive()
    }
}

impl Watch {
    /// A client that has just logged in: its key's random part and kind; its pool, whether its database is strict, and the time that its transactions may
    /// take.
    pub fn new(
        (nonce, long_key): (u32, bool),
        peer: Peer,
        (pool, strict, budget_ms): (Arc<Pool>, bool, u32),
        tenant: Rc<Tenant>,
        now: Moment,
    ) -> Rc<Self> {
        let timing = Timing {
            phase: Phase::Idle,
            since: now,
            transaction_since: None,
            until: None,
            stalled_since: None,
            cancelling: false,
            watched: false,
        };
        tenant.numbers.clients[Phase::Idle.state(false).index()].add(1);
        Rc::new(Self {
            nonce,
            long_key,
            peer,
            pool,
            strict,
            tenant: RefCell::new(tenant),
            timing: RefCell::new(timing),
            deadline: Cell::default(),
            budget_ms,
            recent: Cell::default(),
            pin: Cell::new(None),
            signal: Cell::new(None),
            draining: Cell::new(false),
            waker: Cell::new(None),
            connected: seconds(),
            protection: Cell::new(Protection::Plain),
            server: Cell::new(0),
            settings: Cell::new(None),
            active: Cell::new(None),
            cancels: Cell::default(),
        })
    }

    /// What is to be known of it beside what it does.
    pub fn introduce(&self, protection: Protection, settings: &Arc<Settings>) {
        self.protection.set(protection);
        self.set_settings(settings);
    }

    /// It has these settings now.
    pub fn set_settings(&self, settings: &Arc<Settings>) {
        self.settings.set(Some(Arc::clone(settings)));
    }

    /// Looks at its settings.
    pub fn with_settings<T>(&self, look: impl FnOnce(&Settings) -> Option<T>) -> Option<T> {
        let settings = self.settings.take();
        let seen = settings.as_deref().and_then(look);
        self.settings.set(settings);
        seen
    }

    /// It has this server connection.
    #[inline]
    pub fn set_server(&self, server: ServerId) {
        self.server.set(server.0);
    }

    /// The server connection that it has, or had last.
    pub fn server(&self) -> ServerId {
        ServerId(self.server.get())
    }

    /// What it has left on its server connection, if anything.
    pub fn pin(&self) -> Option<Pin> {
        self.pin.get()
    }

    /// What it does since when.
    #[inline]
    pub fn timing(&self) -> Timing {
        *self.timing.borrow()
    }

    /// It goes into another phase.
    #[inline]
    pub fn enter(&self, phase: Phase, now: Moment) {
        let timing = &mut *self.timing.borrow_mut();
        let pinned = self.pin.get().is_some();
        let (from, to) = (timing.phase.state(pinned), phase.state(pinned));
        if from != to {
            self.tenant.borrow().numbers.moved(from, to);
        }
        timing.phase = phase;
        timing.since = now;
        timing.cancelling = false;
    }

    /// Changes what it does since when, but not its phase.
    #[inline]
    pub fn set(&self, change: impl FnOnce(&mut Timing)) {
        change(&mut self.timing.borrow_mut());
    }

    /// Its caller says how much time is left.
    pub fn set_deadline(&self, deadline: Deadline) {
        self.deadline.set(deadline);
    }

    /// When the time is over for what begins at `began`, where the text of it leaves no less than `told`.
    ///
    /// # Errors
    /// It is over already.
    #[inline]
    pub fn until(&self, began: Moment, told: Option<Duration>, now: Moment) -> Result<Option<Moment>, ()> {
        self.begins(now);
        let named = match self.deadline.get() {
            Deadline::None => None,
            Deadline::Over => {
                self.deadline.set(Deadline::None);
                return Err(());
            }
            Deadline::At(at) => Some(at),
        };
        Ok(self.earliest(named, began, told, now))
    }

    /// A transaction begins: a deadline that has passed before was another invocation's, and is forgotten.
    #[inline]
    pub fn begins(&self, now: Moment) -> Moment {
        if matches!(self.deadline.get(), Deadline::At(at) if at <= now) {
            self.deadline.set(Deadline::None);
        }
        now
    }

    fn earliest(&self, named: Option<Moment>, began: Moment, told: Option<Duration>, now: Moment) -> Option<Moment> {
        let budget = (self.budget_ms > 0).then(|| began + Duration::from_millis(self.budget_ms.into()));
        let told = told.and_then(|told| now.checked_add(told));
        let until = named.into_iter().chain(budget).chain(told).min()?;
        self.tenant.borrow().clock.by(until);
        Some(until)
    }

    /// The same for what goes on: a deadline that has passed meanwhile holds.
    #[inline]
    pub fn still_until(&self, began: Moment, told: Option<Duration>, now: Moment) -> Option<Moment> {
        let named = match self.deadline.get() {
            Deadline::None => None,
            Deadline::Over => Some(now),
            Deadline::At(at) => Some(at),
        };
        self.earliest(named, began, told, now)
    }

    /// The server time that it has had lately.
    #[inline]
    pub fn recent(&self) -> Recent {
        self.recent.get()
    }

    /// It has held a server connection for so long.
    #[inline]
    pub fn has_held(&self, held: Duration, period: u32, now: Moment) {
        let tenant = self.tenant.borrow();
        tenant.numbers.lease.observe(held);
        if let Some(quotas) = &tenant.quotas {
            tenant.usage.lock().held(quotas, held, now);
        }
        let mut recent = self.recent.get();
        recent.add(held, period);
        self.recent.set(recent);
    }

    /// It has left something on its server connection, or has nothing there any more.
    pub fn set_pin(&self, pin: Option<Pin>) {
        let was = self.pin.replace(pin);
        let phase = self.timing.borrow().phase;
        let (from, to) = (phase.state(was.is_some()), phase.state(pin.is_some()));
        if from != to {
            self.tenant.borrow().numbers.moved(from, to);
        }
    }

    /// The ledger of its upstream should know this of it.
    #[cold]
    pub fn note(&self, what: Presence) {
        let tenant = self.tenant.borrow().id;
        self.pool.upstream.ledger.lock().note(tenant, what);
    }

    /// Whether another client could use the server connection that it holds.
    #[cold]
    pub fn is_waited_for(&self) -> bool {
        self.pool.upstream.ledger.lock().is_waited_for(self.pool.id)
    }

    /// It leaves.
    pub fn gone(&self) {
        let state = self.timing.borrow().phase.state(self.pin.get().is_some());
        self.tenant.borrow().numbers.clients[state.index()].add(-1);
    }

    /// Remembers how its task is woken; that does not change over the task's life.
    pub fn set_waker(&self, waker: &Waker) {
        self.waker.set(Some(waker.clone()));
    }

    /// Tells its task something. What it has not taken note of yet is replaced, but never that it must leave.
    pub fn tell(&self, signal: Signal) {
        if signal == Signal::Drain {
            self.draining.set(true);
        } else if !matches!(self.signal.get(), Some(Signal::Kill | Signal::Evict)) {
            self.signal.set(Some(signal));
        }
        let waker = self.waker.take();
        if let Some(waker) = &waker {
            waker.wake_by_ref();
        }
        self.waker.set(waker);
    }

    /// What its task was told, once.
    #[inline]
    pub fn take_signal(&self) -> Option<Signal> {
        self.signal.take()
    }

    /// Whether it should leave as soon as nothing is under way.
    #[inline]
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Someone waits until a cancel of this client's has been delivered: dropping `done` tells them.
    pub fn expect_cancel(&self, done: oneshot::Sender<()>) {
        let mut cancels = self.cancels.take();
        cancels.push(done);
        self.cancels.set(cancels);
    }

    /// Those who wait for a cancel.
    pub fn take_cancels(&self) -> Vec<oneshot::Sender<()>> {
        self.cancels.take()
    }
}

/// The time, in seconds since 1970; enough until 2106.
fn seconds() -> u32 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}
