//! One worker thread: its clients, its part of the pools, and the sweep that keeps time for all of them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use slab::Slab;
use tokio::sync::{Notify, mpsc, oneshot};

use super::census::{ClientEntry, Victims};
use super::folding::Folding;
use super::house::House;
use super::phase::{self, Due, Phase};
use super::spares::Spares;
use super::turnstile::Turnstile;
use super::watch::{Signal, Tenant, Watch};
use crate::metrics::CancelCause;
use crate::net::{Clock, Moment, SLOWEST, TICK, now};
use crate::pool::ledger::Presence;
use crate::pool::{CancelRequest, Local};

/// A message to a worker about its clients.
#[derive(Debug)]
pub enum Mail {
    /// Cancel what a client does.
    Cancel(CancelRequest),
    /// The proxy is stopping: clients leave as they become idle.
    Drain,
    /// The proxy stops now.
    Kill,
    /// An operator ends the sessions that these are.
    Evict(Victims),
    /// Somebody wants to know who is there.
    Census(oneshot::Sender<Vec<ClientEntry>>),
    /// The configuration has changed.
    Reloaded,
}

/// Where such messages are put.
pub type Mailbox = mpsc::UnboundedSender<Mail>;

/// A worker.
#[derive(Debug)]
pub struct Worker {
    /// Its number.
    pub number: u16,
    /// What it shares with all.
    pub house: Arc<House>,
    /// Its part of the pools.
    pub local: Rc<Local>,
    /// Its clock.
    pub clock: Rc<Clock>,
    clients: RefCell<Slab<Rc<Watch>>>,
    active: RefCell<Vec<u32>>,
    /// By the database that is meant, then by their place in the configuration.
    tenants: RefCell<HashMap<String, Vec<Option<Rc<Tenant>>>>>,
    draining: Cell<bool>,
    /// When it began to keep time.
    began: Moment,
    /// When all are looked at the next time.
    roll_call: Cell<Moment>,
    period: Cell<u32>,
    /// What logins pass.
    pub turnstile: Rc<Turnstile>,
    /// Told each time that a client leaves.
    pub left: Notify,
    /// Log lines about clients that were turned away.
    pub turned_away: Folding<usize>,
    /// The same about clients whose sessions were ended.
    pub ended: Folding<usize>,
    /// The same about requests that took long, by the digests of their texts.
    pub slow: Folding<u64>,
    /// Buffers for what clients hold while they wait.
    pub spares: Spares,
}

/// So often idle clients and idle server connections are looked at too: at each tick of a clock that nobody hurries.
const ROLL_CALL: Duration = SLOWEST.saturating_sub(TICK);

/// A period, by which it is reckoned what clients have had lately.
const PERIOD: Duration = Duration::from_millis(1_280);

impl Worker {
    /// Worker number `number`.
    pub fn new(number: u16, house: Arc<House>, local: Rc<Local>, clock: Rc<Clock>) -> Rc<Self> {
        let began = clock.coarse();
        Rc::new(Self {
            number,
            house,
            local,
            clock,
            clients: RefCell::default(),
            active: RefCell::default(),
            tenants: RefCell::default(),
            draining: Cell::new(false),
            began,
            roll_call: Cell::new(began),
            period: Cell::new(0),
            turnstile: Turnstile::new(),
            left: Notify::new(),
            turned_away: Folding::default(),
            ended: Folding::default(),
            slow: Folding::default(),
            spares: Spares::default(),
        })
    }

    /// A tenant of the current configuration, by its place there, as its clients of this database know it.
    pub fn tenant(&self, at: usize, database: &str) -> Rc<Tenant> {
        if let Some(Some(tenant)) = self.tenants.borrow().get(database).and_then(|tenants| tenants.get(at)) {
            return Rc::clone(tenant);
        }
        let tenant = Rc::new(self.house.tenant(at, usize::from(self.number), database, &self.clock));
        tenant.set_the_clock();
        let mut by_database = self.tenants.borrow_mut();
        let tenants = by_database.entry(database.to_owned()).or_default();
        if tenants.len() <= at {
            tenants.resize(at + 1, None);
        }
        tenants[at] = Some(Rc::clone(&tenant));
        tenant
    }

    /// The number of the period, a bit over a second long, by which it is reckoned what clients have had lately.
    #[inline]
    pub fn period(&self) -> u32 {
        self.period.get()
    }

    /// A client has logged in: its place here, which is also a part of its cancel key.
    pub fn enroll(&self, watch: impl FnOnce() -> Rc<Watch>) -> (u32, Rc<Watch>) {
        let mut clients = self.clients.borrow_mut();
        let entry = clients.vacant_entry();
        let slot = u32::try_from(entry.key()).unwrap_or(u32::MAX);
        let watch = watch();
        watch.note(Presence::Came);
        entry.insert(Rc::clone(&watch));
        if self.draining.get() {
            watch.tell(Signal::Drain);
        }
        (slot, watch)
    }

    /// A client leaves.
    pub fn strike_off(&self, slot: u32, watch: &Watch) {
        self.rest(watch);
        watch.gone();
        watch.note(Presence::Went);
        self.clients.borrow_mut().try_remove(slot as usize);
        self.left.notify_one();
    }

    /// How many clients are logged in.
    pub fn clients(&self) -> usize {
        self.clients.borrow().len()
    }

    /// A client is not idle any more: its time is kept.
    #[inline]
    pub fn rouse(&self, slot: u32, watch: &Watch) {
        if watch.active.get().is_none() {
            let mut active = self.active.borrow_mut();
            watch.active.set(u32::try_from(active.len()).ok());
            active.push(slot);
        }
    }

    /// A client is idle again.
    #[inline]
    pub fn rest(&self, watch: &Watch) {
        let Some(at) = watch.active.take() else { return };
        let mut active = self.active.borrow_mut();
        active.swap_remove(at as usize);
        if let Some(moved) = active.get(at as usize)
            && let Some(moved) = self.clients.borrow().get(*moved as usize)
        {
            moved.active.set(Some(at));
        }
    }

    /// Looks at everybody whose time is kept, and says when the first of them is to be looked at again; called once a tick.
    pub fn sweep(self: &Rc<Self>, now: Moment) -> Option<Moment> {
        let passed = now.saturating_duration_since(self.began).as_millis() / PERIOD.as_millis();
        // The number of a period may begin anew.
        self.period.set(u32::try_from(passed & u128::from(u32::MAX)).unwrap_or(0));
        let seldom = now >= self.roll_call.get();
        let clients = self.clients.borrow();
        if seldom {
            self.roll_call.set(now + ROLL_CALL);
            clients.iter().for_each(|(_, watch)| Self::look_at(watch, now));
        } else {
            self.active.borrow().iter().filter_map(|slot| clients.get(*slot as usize)).for_each(|watch| Self::look_at(watch, now));
        }
        let ahead = |watch: &Rc<Watch>| phase::next_due(&watch.timing(), &watch.tenant.borrow().limits, now);
        let next = self.active.borrow().iter().filter_map(|slot| clients.get(*slot as usize)).filter_map(ahead).min();
        drop(clients);
        if seldom {
            for (fault, clients) in self.turned_away.due(now) {
                tracing::info!(clients, fault = crate::fault::LABELS[fault], "more clients were turned away");
            }
            for (fault, clients) in self.ended.due(now) {
                tracing::info!(clients, fault = crate::fault::LABELS[fault], "more clients' sessions were ended");
            }
            for (digest, requests) in self.slow.due(now) {
                let statement = format_args!("{digest:016x}").to_string();
                tracing::info!(requests, statement, "more requests took long");
            }
            self.local.look_after_idle();
        }
        next
    }

    fn look_at(watch: &Watch, now: Moment) {
        let timing = watch.timing();
        let tenant = watch.tenant.borrow();
        let Some(due) = phase::due(&timing, &tenant.limits, now) else { return };
        let signal = match due {
            Due::Refuse(limit) if watch.pool.has_waited(timing.since, limit, now) => Signal::Refuse,
            Due::Cancel => {
                watch.set(|timing| timing.cancelling = true);
                tenant.numbers.cancelled[CancelCause::Timeout.index()].add(1);
                Signal::Overdue
            }
            Due::Deadline => {
                if timing.phase == Phase::Running {
                    watch.set(|timing| timing.cancelling = true);
                    tenant.numbers.cancelled[CancelCause::Deadline.index()].add(1);
                }
                Signal::Deadline
            }
            Due::EndTransaction(limit) => Signal::EndTransaction(millis(limit)),
            Due::Yield(limit) if watch.is_waited_for() => Signal::Yield(millis(limit)),
            Due::Refuse(_) | Due::Yield(_) => return,
            Due::EndIdle(limit) => Signal::EndIdle(millis(limit)),
            Due::Cut => Signal::Cut,
            Due::Watch => Signal::Watch,
        };
        watch.tell(signal);
    }

    /// Deals with one message.
    pub fn receive(self: &Rc<Self>, mail: Mail) {
        match mail {
            Mail::Cancel(request) => self.cancel(request),
            Mail::Drain => {
                self.draining.set(true);
                self.clients.borrow().iter().for_each(|(_, watch)| watch.tell(Signal::Drain));
            }
            Mail::Kill => self.clients.borrow().iter().for_each(|(_, watch)| watch.tell(Signal::Kill)),
            Mail::Reloaded => self.reload(),
            Mail::Evict(victims) => self.evict(&victims),
            Mail::Census(reply) => {
                // Who asked may have left.
                let _ = reply.send(self.census());
            }
        }
    }

    /// Clients keep their tenant, by name, with the limits of the new configuration.
    fn reload(&self) {
        self.tenants.borrow_mut().clear();
        self.clock.slow_down();
        self.local.set_upstreams(self.house.upstreams());
        let config = self.house.config.load();
        for (_, watch) in &*self.clients.borrow() {
            let (name, database, patience) = {
                let tenant = watch.tenant.borrow();
                (tenant.name.clone(), Rc::clone(&tenant.database), tenant.patience)
            };
            if let Some(at) = config.tenant_named(&name) {
                let tenant = self.tenant(at, &database);
                *watch.tenant.borrow_mut() =
                    patience.map_or_else(|| Rc::clone(&tenant), |patience| Rc::new(tenant.with_patience(patience)));
            }
        }
    }

    fn evict(&self, victims: &Victims) {
        let is_one = |slot: usize, watch: &Watch| match victims {
            Victims::All => true,
            Victims::Database(name) => watch.pool.key.database == name.as_bytes(),
            Victims::Client(id) => self.id(slot) == *id,
        };
        self.clients.borrow().iter().filter(|(slot, watch)| is_one(*slot, watch)).for_each(|(_, watch)| watch.tell(Signal::Evict));
    }

    /// The number that a client goes by in what operators see: the first word of its cancel key, which no other client has meanwhile.
    pub(super) fn id(&self, slot: usize) -> u32 {
        self.house.keys.pid(self.number, u32::try_from(slot).unwrap_or(u32::MAX))
    }

    fn census(&self) -> Vec<ClientEntry> {
        let now = now();
        self.clients.borrow().iter().map(|(slot, watch)| ClientEntry::of(self.id(slot), watch, now)).collect()
    }

    /// The client with this key is told to cancel.
    fn cancel(&self, request: CancelRequest) {
        let CancelRequest { pid, proof, done } = request;
        let slot = self.house.keys.slot(pid);
        let clients = self.clients.borrow();
        let is_it = |watch: &&Rc<Watch>| self.house.keys.is_proof(pid, watch.nonce, watch.long_key, &proof);
        let Some(watch) = clients.get(slot as usize).filter(is_it) else {
            // Who waits may have left.
            let _ = done.send(());
            return;
        };
        match watch.timing().phase {
            // Nothing is under way (H5).
            Phase::Login | Phase::Idle | Phase::Open | Phase::Pinned => {}
            Phase::Waiting | Phase::Running => {
                watch.expect_cancel(done);
                watch.tell(Signal::Cancel);
            }
        }
    }

    /// Whether new clients are still served.
    pub fn is_draining(&self) -> bool {
        self.draining.get() || self.house.draining.load(Ordering::Relaxed)
    }
}

fn millis(limit: Duration) -> u32 {
    u32::try_from(limit.as_millis()).unwrap_or(u32::MAX)
}
