//! The ledger of one upstream: who holds which server connection, who waits, what is to be opened and closed. Pure: state, event, now.
//!
//! Its invariants, each kept by `tests.rs` under random histories:
//! - connections in every state never exceed the budget, and a closing one counts until it is gone (rule 1);
//! - a connection has one holder at most, and a waiter is served once at most;
//! - a tenant holds no more than its cap, and nobody touches what is reserved for another (rule 2);
//! - nobody waits who could be served from an idle connection of its pool.
//!
//! It moves no bytes: it answers with `Step`s that its caller carries out after the lock is released.

mod allotted;
mod failing;
mod leases;
mod listening;
mod paused;
mod supply;
mod words;

use std::time::Duration;

use slab::Slab;

pub use allotted::Needs;
pub use leases::LimitMode;
pub use words::{Aftermath, Answer, Claim, Failure, Keep, Next, PoolId, Presence, ServerId, State, Step, Waiter};

use self::allotted::Allotment;
use self::leases::Leases;
use super::circuit::Circuit;
use super::ramp::{Ramp, Trouble};
use crate::admission::{Accounts, Entry, Limits, Line, Refusal, Request, TenantId, Ticket};
use crate::net::Moment;

#[derive(Debug)]
struct Book {
    pool: PoolId,
    state: State,
    worker: u16,
    since: Moment,
    retire_at: Option<Moment>,
    generation: u32,
}

#[derive(Debug)]
struct Pool {
    keep: Keep,
    line: Line,
    /// Idle connections by worker, the last used last.
    idle: Vec<Vec<ServerId>>,
    opening: u32,
    total: u32,
    wanted_idle: bool,
    paused: bool,
    trouble: Trouble,
}

impl Pool {
    fn idle_count(&self) -> usize {
        self.idle.iter().map(Vec::len).sum()
    }
}

/// The ledger of one upstream.
#[derive(Debug)]
pub struct Ledger {
    /// The most connections that the configuration allows.
    configured: u32,
    /// The most that there may be just now.
    budget: u32,
    /// This proxy's part of it, where it is shared with others.
    allotment: Option<Allotment>,
    leases: Leases,
    began: Moment,
    workers: u16,
    servers: Slab<Book>,
    pools: Slab<Pool>,
    accounts: Accounts,
    ramp: Ramp,
    circuit: Circuit,
    /// Connections of earlier generations are closed when they are next idle.
    generation: u32,
    waiting: u32,
    opening: u32,
    idle: u32,
    /// Connections that listen for all clients of their pool; they are not among the leases.
    listening: u32,
    /// Before this it is no use to look again for an idle connection that could be closed for a waiter.
    look_again: Moment,
    jitter: u64,
}

impl Ledger {
    /// An empty ledger for at most `budget` connections, used by `workers` workers.
    pub fn new(budget: u32, workers: u16, limits: &[Limits], now: Moment) -> Self {
        Self {
            configured: budget,
            budget,
            allotment: None,
            leases: Leases::new(budget),
            began: now,
            workers,
            servers: Slab::with_capacity(budget as usize),
            pools: Slab::new(),
            accounts: Accounts::new(budget, limits, now),
            ramp: Ramp::new(budget),
            circuit: Circuit::new(Duration::ZERO),
            generation: 0,
            waiting: 0,
            opening: 0,
            idle: 0,
            listening: 0,
            look_again: now,
            jitter: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// Applies a new budget and new limits. Connections beyond a budget that shrank are closed as they become idle.
    pub fn set_limits(&mut self, budget: u32, limits: &[Limits], now: Moment, steps: &mut Vec<Step>) {
        self.configured = budget;
        self.budget = self.allotment.as_ref().map_or(budget, |allotment| budget.min(allotment.slots));
        self.accounts.set_limits(budget, limits);
        self.put_in_force(now, steps);
        self.shrink(now, steps);
        self.look_again = now;
        self.provide(now, steps);
    }

    /// Adds a pool.
    pub fn add_pool(&mut self, keep: Keep) -> PoolId {
        let pool = Pool {
            keep,
            line: Line::default(),
            idle: (0..self.workers).map(|_| Vec::new()).collect(),
            opening: 0,
            total: 0,
            wanted_idle: keep.min_idle > 0,
            paused: false,
            trouble: Trouble::default(),
        };
        PoolId(u32::try_from(self.pools.insert(pool)).unwrap_or(u32::MAX))
    }

    /// How a pool's connections live, from now on.
    pub fn set_keep(&mut self, pool: PoolId, keep: Keep) {
        let pool = self.pool(pool);
        pool.keep = keep;
        pool.wanted_idle = keep.min_idle > 0;
    }

    fn pool(&mut self, pool: PoolId) -> &mut Pool {
        &mut self.pools[pool.0 as usize]
    }

    fn book(&mut self, server: ServerId) -> &mut Book {
        &mut self.servers[server.0 as usize]
    }

    /// Connections in every state.
    pub fn total(&self) -> u32 {
        u32::try_from(self.servers.len()).unwrap_or(u32::MAX)
    }

    /// The most there may be.
    pub fn budget(&self) -> u32 {
        self.budget
    }

    /// How many clients wait.
    pub fn waiting(&self) -> u32 {
        self.waiting
    }

    /// Whether some client has a connection, waits for one, listens, or has left one that is still put in order.
    pub fn is_busy(&self) -> bool {
        self.waiting > 0
            || self.servers.iter().any(|(_, book)| matches!(book.state, State::Leased(_) | State::Mending(_) | State::Listening))
    }

    /// Whether a client waits that could have a connection of this pool if it were free, or one in its place.
    pub fn is_waited_for(&self, pool: PoolId) -> bool {
        let would_be_served = |pool: &Pool| !pool.paused && !pool.line.is_empty();
        let own = self.pools.get(pool.0 as usize).is_some_and(would_be_served);
        own || self.total() >= self.budget && self.pools.iter().any(|(_, pool)| would_be_served(pool))
    }

    /// The tenants' accounts.
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// A client of a tenant's comes, leaves, or has waited in vain: for what can be told of the pressure.
    pub fn note(&mut self, tenant: TenantId, what: Presence) {
        match what {
            Presence::Came => self.accounts.arrive(tenant),
            Presence::Went => self.accounts.depart(tenant),
            Presence::WaitedInVain => self.accounts.refused(tenant),
        }
    }

    /// Every connection's pool and state.
    pub fn states(&self) -> impl Iterator<Item = (ServerId, PoolId, State)> {
        self.servers.iter().map(|(key, book)| (ServerId(u32::try_from(key).unwrap_or(u32::MAX)), book.pool, book.state))
    }

    /// Since when a connection has been in its state; an idle one since it was given back.
    pub fn since(&self, server: ServerId) -> Option<Moment> {
        self.servers.get(server.0 as usize).map(|book| book.since)
    }

    /// How many clients of a pool wait.
    pub fn waiting_for(&self, pool: PoolId) -> u32 {
        self.pools.get(pool.0 as usize).map_or(0, |pool| pool.line.len())
    }

    /// An idle connection of a pool that `worker` has, for a client that would not wait.
    #[inline]
    pub fn take(&mut self, now: Moment, pool: PoolId, tenant: TenantId, worker: u16) -> Option<ServerId> {
        if !self.accounts.may_hold(tenant) {
            return None;
        }
        // A pool that is paused has none that is idle.
        let server = self.pools.get_mut(pool.0 as usize)?.idle.get_mut(usize::from(worker))?.pop()?;
        self.idle -= 1;
        self.accounts.hold(tenant, Duration::ZERO, now);
        let book = self.book(server);
        book.state = State::Leased(tenant);
        book.since = now;
        Some(server)
    }

    /// A client wants a connection of a pool, and waits if need be.
    ///
    /// # Errors
    /// `QueueFull`, or `Hopeless` where its turn would come too late.
    pub fn request(&mut self, now: Moment, pool: PoolId, claim: Claim, from: Waiter, steps: &mut Vec<Step>) -> Result<Answer, Refusal> {
        let Claim { tenant, level, within } = claim;
        if let Some(server) = self.take(now, pool, tenant, from.worker) {
            return Ok(Answer::Take(server));
        }
        // Who only waits for a connection to be opened stands in nobody's way: the limit is for those who wait for others to finish.
        let Pool { line, paused, .. } = &self.pools[pool.0 as usize];
        let has_room = self.total() < self.budget && self.accounts.room(tenant) > self.accounts.queued(tenant);
        let will_be_served = has_room || *paused;
        let ahead = line.ahead(tenant, level);
        if line.is_empty() {
            self.look_again = now;
        }
        self.accounts.enqueue(Request { tenant, within, will_be_served }, ahead, now)?;
        self.waiting += 1;
        self.leases.waits();
        let ticket = self.pool(pool).line.join((tenant, level), from.worker, from.slot, now);
        self.provide(now, steps);
        Ok(Answer::Wait(ticket))
    }

    /// A waiting client waits no more; false where it has been served already and the connection is on its way.
    pub fn leave(&mut self, pool: PoolId, ticket: Ticket) -> bool {
        let Some(entry) = self.pool(pool).line.leave(ticket) else { return false };
        self.left(&entry);
        true
    }

    fn left(&mut self, entry: &Entry) {
        self.accounts.dequeue(entry.tenant);
        self.waiting -= 1;
    }

    /// A settled connection comes back from its holder, who is served or, where that took too long, is not.
    #[inline]
    pub fn give_back(&mut self, now: Moment, server: ServerId, is_done: bool, steps: &mut Vec<Step>) -> Next {
        self.relieve(now, server, is_done);
        let next = if self.is_worn_out(now, server) { Next::Close } else { self.next_use(now, server) };
        if next == Next::Close {
            self.book(server).state = State::Closing;
        }
        self.provide(now, steps);
        next
    }

    /// A connection's holder, if it has one, holds it no more, and is done with it or not.
    #[inline]
    fn relieve(&mut self, now: Moment, server: ServerId, is_done: bool) {
        let book = &self.servers[server.0 as usize];
        if let State::Leased(tenant) | State::Mending(tenant) = book.state {
            let (since, ends_well) = (book.since, is_done && matches!(book.state, State::Leased(_)));
            self.accounts.release(tenant, since, now);
            self.ended(now.saturating_duration_since(since), ends_well);
        } else if book.state == State::Listening {
            self.listens_no_more();
        }
    }

    fn lease(&mut self, now: Moment, server: ServerId, entry: &Entry) -> Waiter {
        // Held before it leaves the queue: its tenant has been waiting until now.
        self.accounts.hold(entry.tenant, now.saturating_duration_since(entry.since), now);
        self.left(entry);
        let book = self.book(server);
        book.state = State::Leased(entry.tenant);
        book.since = now;
        book.worker = entry.worker;
        Waiter { worker: entry.worker, slot: entry.slot }
    }

    fn is_worn_out(&self, now: Moment, server: ServerId) -> bool {
        let book = &self.servers[server.0 as usize];
        let is_old = book.generation != self.generation || book.retire_at.is_some_and(|at| now >= at);
        let pool = &self.pools[book.pool.0 as usize];
        is_old || pool.keep.once || pool.paused || self.has_too_many()
    }

    /// A holder has gone and its connection is being put in order.
    pub fn mending(&mut self, server: ServerId) {
        let book = self.book(server);
        if let State::Leased(tenant) = book.state {
            book.state = State::Mending(tenant);
        }
    }

    /// A connection will not be used again and is being closed; it counts until `closed`.
    pub fn closing(&mut self, now: Moment, server: ServerId, steps: &mut Vec<Step>) {
        self.relieve(now, server, false);
        let book = &mut self.servers[server.0 as usize];
        let (was_idle, pool, worker) = (book.state == State::Idle, book.pool, book.worker);
        book.state = State::Closing;
        if was_idle {
            self.unlist(pool, worker, server);
        }
        self.provide(now, steps);
    }

    /// A connection is gone.
    pub fn closed(&mut self, now: Moment, server: ServerId, steps: &mut Vec<Step>) {
        self.relieve(now, server, false);
        let book = self.servers.remove(server.0 as usize);
        self.pool(book.pool).total -= 1;
        match book.state {
            State::Idle => self.unlist(book.pool, book.worker, server),
            State::Opening => {
                self.pool(book.pool).opening -= 1;
                self.opening -= 1;
            }
            State::Leased(_) | State::Mending(_) | State::Listening | State::Closing => {}
        }
        self.look_again = now;
        self.provide(now, steps);
    }

    /// A connection is open and logged in to, on its worker; `answered` has been told already.
    pub fn opened(&mut self, now: Moment, server: ServerId, steps: &mut Vec<Step>) -> Next {
        self.ramp.succeeded();
        let book = &self.servers[server.0 as usize];
        let (pool, worker) = (book.pool, book.worker);
        let jitter = self.jitter();
        let lifetime = self.pool(pool).keep.lifetime;
        // Up to a tenth earlier, so that what was opened together is not closed together.
        let retire_at = lifetime.map(|lifetime| now + lifetime.mul_f64(1.0 - 0.1 * jitter));
        self.pool(pool).trouble.succeeded();
        self.pool(pool).opening -= 1;
        self.opening -= 1;
        let generation = self.generation;
        let book = self.book(server);
        (book.retire_at, book.generation) = (retire_at, generation);
        let next = if self.pool(pool).paused {
            Next::Close
        } else if self.pool(pool).keep.once {
            // A connection for one client is that client's or nobody's.
            let entry = self.pools[pool.0 as usize].line.next(&mut self.accounts, worker, now);
            entry.map_or(Next::Close, |entry| Next::Hand(self.lease(now, server, &entry)))
        } else if self.has_too_many() {
            Next::Close
        } else if let Some(entry) = self.pools[pool.0 as usize].line.next(&mut self.accounts, worker, now) {
            // Whatever other pools want: it was opened for this one.
            Next::Hand(self.lease(now, server, &entry))
        } else {
            self.next_use(now, server)
        };
        if next == Next::Close {
            self.book(server).state = State::Closing;
        }
        self.provide(now, steps);
        next
    }

    /// An idle connection is idle no more.
    fn unlist(&mut self, pool: PoolId, worker: u16, server: ServerId) {
        self.pool(pool).idle[usize::from(worker)].retain(|idle| *idle != server);
        self.idle -= 1;
    }

    /// A number from 0 to 1 that differs from call to call; spreading out needs no better randomness.
    fn jitter(&mut self) -> f64 {
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        f64::from(u32::try_from(self.jitter >> 32).unwrap_or(0)) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests;
