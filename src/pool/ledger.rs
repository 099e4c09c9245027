//! The ledger of one upstream: who holds which server connection, who waits, what is to be opened and closed. Pure: state, event, now.
//!
//! Its invariants, each kept by `tests.rs` under random histories:
//! - connections in every state never exceed the budget, and a closing one counts until it is gone (rule 1);
//! - a connection has one holder at most, and a waiter is served once at most;
//! - a tenant holds no more than its cap, and nobody touches what is reserved for another (rule 2);
//! - nobody waits who could be served from an idle connection.
//!
//! It moves no bytes: it answers with `Step`s that its caller carries out after the lock is released.

mod words;

use std::time::{Duration, Instant};

use slab::Slab;

pub use words::{Answer, Keep, Next, PoolId, ServerId, State, Step, Waiter};

use super::ramp::Ramp;
use crate::admission::{Accounts, Entry, Limits, Line, Refusal, TenantId, Ticket};

#[derive(Debug)]
struct Book {
    pool: PoolId,
    state: State,
    worker: u16,
    since: Instant,
    retire_at: Option<Instant>,
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
}

impl Pool {
    fn idle_count(&self) -> usize {
        self.idle.iter().map(Vec::len).sum()
    }
}

/// How much longer than another pool's first waiter a pool's first must have waited before a connection of that other pool is closed for it: less
/// would close and open connections with every transaction.
const PATIENCE: Duration = Duration::from_millis(100);
/// The same for a pool that has no connection at all.
const PATIENCE_WITH_NONE: Duration = Duration::from_millis(20);

/// The ledger of one upstream.
#[derive(Debug)]
pub struct Ledger {
    budget: u32,
    workers: u16,
    servers: Slab<Book>,
    pools: Slab<Pool>,
    accounts: Accounts,
    ramp: Ramp,
    waiting: u32,
    opening: u32,
    idle: u32,
    jitter: u64,
}

impl Ledger {
    /// An empty ledger for at most `budget` connections, used by `workers` workers.
    pub fn new(budget: u32, workers: u16, limits: &[Limits]) -> Self {
        Self {
            budget,
            workers,
            servers: Slab::with_capacity(budget as usize),
            pools: Slab::new(),
            accounts: Accounts::new(budget, limits),
            ramp: Ramp::new(budget),
            waiting: 0,
            opening: 0,
            idle: 0,
            jitter: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// Applies a new budget and new limits. Connections beyond a budget that shrank are closed as they become idle.
    pub fn set_limits(&mut self, budget: u32, limits: &[Limits], now: Instant, steps: &mut Vec<Step>) {
        self.budget = budget;
        self.accounts.set_limits(budget, limits);
        while self.total() > self.budget && self.evict(None, steps) {}
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

    /// Whether some client has a connection, waits for one, or has left one that is still put in order.
    pub fn is_busy(&self) -> bool {
        self.waiting > 0 || self.servers.iter().any(|(_, book)| matches!(book.state, State::Leased(_) | State::Mending(_)))
    }

    /// The tenants' accounts.
    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// Every connection's pool and state.
    pub fn states(&self) -> impl Iterator<Item = (ServerId, PoolId, State)> {
        self.servers.iter().map(|(key, book)| (ServerId(u32::try_from(key).unwrap_or(u32::MAX)), book.pool, book.state))
    }

    /// How many clients of a pool wait.
    pub fn waiting_for(&self, pool: PoolId) -> u32 {
        self.pools.get(pool.0 as usize).map_or(0, |pool| pool.line.len())
    }

    /// Whether a pool has a connection that is up.
    pub fn has_live(&self, pool: PoolId) -> bool {
        self.pools.get(pool.0 as usize).is_some_and(|pool| pool.total > pool.opening)
    }

    /// Whether the upstream has a connection that is up.
    pub fn has_any_live(&self) -> bool {
        self.total() > self.opening
    }

    /// An idle connection of a pool that `worker` has, for a client that would not wait.
    #[inline]
    pub fn take(&mut self, now: Instant, pool: PoolId, tenant: TenantId, worker: u16) -> Option<ServerId> {
        if !self.accounts.may_hold(tenant) {
            return None;
        }
        let server = self.pools.get_mut(pool.0 as usize)?.idle.get_mut(usize::from(worker))?.pop()?;
        self.idle -= 1;
        self.accounts.hold(tenant);
        let book = self.book(server);
        book.state = State::Leased(tenant);
        book.since = now;
        Some(server)
    }

    /// A client wants a connection of a pool, and waits if need be.
    ///
    /// # Errors
    /// `QueueFull`.
    pub fn request(
        &mut self,
        now: Instant,
        pool: PoolId,
        tenant: TenantId,
        from: Waiter,
        steps: &mut Vec<Step>,
    ) -> Result<Answer, Refusal> {
        if let Some(server) = self.take(now, pool, tenant, from.worker) {
            return Ok(Answer::Take(server));
        }
        // Who only waits for a connection to be opened stands in nobody's way: the limit is for those who wait for others to finish.
        let opens = self.total() < self.budget && self.accounts.room(tenant) > self.accounts.queued(tenant);
        self.accounts.enqueue(tenant, opens)?;
        self.waiting += 1;
        let ticket = self.pool(pool).line.join(tenant, from.worker, from.slot, now);
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

    /// All who wait for a pool are to be told that it cannot be had.
    pub fn dismiss(&mut self, pool: PoolId) -> Vec<Waiter> {
        let entries: Vec<Entry> = self.pool(pool).line.drain().collect();
        for entry in &entries {
            self.left(entry);
        }
        entries.iter().map(|entry| Waiter { worker: entry.worker, slot: entry.slot }).collect()
    }

    /// A settled connection comes back from its holder.
    #[inline]
    pub fn give_back(&mut self, now: Instant, server: ServerId, steps: &mut Vec<Step>) -> Next {
        let book = &mut self.servers[server.0 as usize];
        if let State::Leased(tenant) | State::Mending(tenant) = book.state {
            self.accounts.release(tenant);
        }
        let next = if self.is_worn_out(now, server) { Next::Close } else { self.next_use(now, server) };
        if next == Next::Close {
            self.book(server).state = State::Closing;
        }
        self.provide(now, steps);
        next
    }

    /// Who has this connection next: a waiter of its pool, another pool (for which it is closed), or nobody.
    #[inline]
    fn next_use(&mut self, now: Instant, server: ServerId) -> Next {
        let Book { pool: id, worker, .. } = self.servers[server.0 as usize];
        if self.waiting > 0 {
            if self.is_needed_elsewhere(now, id) {
                return Next::Close;
            }
            if let Some(entry) = self.pools[id.0 as usize].line.next(&self.accounts, worker) {
                return Next::Hand(self.lease(now, server, &entry));
            }
        }
        let pool = &mut self.pools[id.0 as usize];
        pool.idle[usize::from(worker)].push(server);
        self.idle += 1;
        let book = self.book(server);
        book.state = State::Idle;
        book.since = now;
        Next::Keep
    }

    fn lease(&mut self, now: Instant, server: ServerId, entry: &Entry) -> Waiter {
        self.left(entry);
        self.accounts.hold(entry.tenant);
        let book = self.book(server);
        book.state = State::Leased(entry.tenant);
        book.since = now;
        book.worker = entry.worker;
        Waiter { worker: entry.worker, slot: entry.slot }
    }

    /// Whether a connection of `pool` that has just become free had better be closed, so that another pool's waiter can have one (rule 6).
    fn is_needed_elsewhere(&mut self, now: Instant, own: PoolId) -> bool {
        if self.pools.len() < 2 || self.total() < self.budget {
            return false;
        }
        let own_oldest = self.pools[own.0 as usize].line.oldest(&self.accounts);
        let closing = self.servers.iter().filter(|(_, book)| book.state == State::Closing).count();
        for (key, pool) in &mut self.pools {
            if key == own.0 as usize || pool.line.is_empty() || closing + pool.opening as usize >= pool.line.len() as usize {
                continue;
            }
            let Some(oldest) = pool.line.oldest(&self.accounts) else { continue };
            let waited = now.saturating_duration_since(oldest);
            let for_the_first = pool.total == 0 && closing == 0 && waited >= PATIENCE_WITH_NONE;
            let longer = own_oldest.is_none_or(|own| own.saturating_duration_since(oldest) > PATIENCE);
            if own_oldest.is_none() || for_the_first || (longer && waited > PATIENCE) {
                return true;
            }
        }
        false
    }

    fn is_worn_out(&self, now: Instant, server: ServerId) -> bool {
        let book = &self.servers[server.0 as usize];
        self.pools[book.pool.0 as usize].keep.once || book.retire_at.is_some_and(|at| now >= at) || self.total() > self.budget
    }

    /// A holder has gone and its connection is being put in order.
    pub fn mending(&mut self, server: ServerId) {
        let book = self.book(server);
        if let State::Leased(tenant) = book.state {
            book.state = State::Mending(tenant);
        }
    }

    /// A connection will not be used again and is being closed; it counts until `closed`.
    pub fn closing(&mut self, now: Instant, server: ServerId, steps: &mut Vec<Step>) {
        let book = &mut self.servers[server.0 as usize];
        let (state, pool, worker) = (book.state, book.pool, book.worker);
        book.state = State::Closing;
        match state {
            State::Leased(tenant) | State::Mending(tenant) => self.accounts.release(tenant),
            State::Idle => self.unlist(pool, worker, server),
            State::Opening | State::Closing => {}
        }
        self.provide(now, steps);
    }

    /// A connection is gone.
    pub fn closed(&mut self, now: Instant, server: ServerId, steps: &mut Vec<Step>) {
        let book = self.servers.remove(server.0 as usize);
        self.pool(book.pool).total -= 1;
        match book.state {
            State::Idle => self.unlist(book.pool, book.worker, server),
            State::Leased(tenant) | State::Mending(tenant) => self.accounts.release(tenant),
            State::Opening => {
                self.pool(book.pool).opening -= 1;
                self.opening -= 1;
            }
            State::Closing => {}
        }
        self.provide(now, steps);
    }

    /// A connection is open and logged in to, on its worker.
    pub fn opened(&mut self, now: Instant, server: ServerId, steps: &mut Vec<Step>) -> Next {
        self.ramp.succeeded();
        let book = &self.servers[server.0 as usize];
        let (pool, worker) = (book.pool, book.worker);
        let jitter = self.jitter();
        let lifetime = self.pool(pool).keep.lifetime;
        // Up to a tenth earlier, so that what was opened together is not closed together.
        let retire_at = lifetime.map(|lifetime| now + lifetime.mul_f64(1.0 - 0.1 * jitter));
        self.pool(pool).opening -= 1;
        self.opening -= 1;
        self.book(server).retire_at = retire_at;
        let next = if self.pool(pool).keep.once {
            // A connection for one client is that client's or nobody's.
            let entry = self.pools[pool.0 as usize].line.next(&self.accounts, worker);
            entry.map_or(Next::Close, |entry| Next::Hand(self.lease(now, server, &entry)))
        } else if self.total() > self.budget {
            Next::Close
        } else if let Some(entry) = self.pools[pool.0 as usize].line.next(&self.accounts, worker) {
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

    /// An opening has failed; who waits is for the caller to decide.
    pub fn open_failed(&mut self, now: Instant, server: ServerId, steps: &mut Vec<Step>) {
        self.ramp.failed(now);
        self.closed(now, server, steps);
    }

    /// How long until the next opening may be tried.
    pub fn pause_left(&self, now: Instant) -> Duration {
        self.ramp.pause_left(now)
    }

    /// An idle connection is idle no more.
    fn unlist(&mut self, pool: PoolId, worker: u16, server: ServerId) {
        self.pool(pool).idle[usize::from(worker)].retain(|idle| *idle != server);
        self.idle -= 1;
    }

    /// Serves waiters from idle connections that have become theirs to take, and opens connections for the others.
    #[inline]
    fn provide(&mut self, now: Instant, steps: &mut Vec<Step>) {
        // Under saturation, when this is asked with every transaction, nothing is idle and nothing may be opened.
        if self.waiting > 0 && (self.idle > 0 || self.total() < self.budget) {
            self.provide_somehow(now, steps);
        }
    }

    #[cold]
    fn provide_somehow(&mut self, now: Instant, steps: &mut Vec<Step>) {
        let waiting = self.pools.iter_mut().filter(|(_, pool)| !pool.line.is_empty());
        let mut keys: Vec<_> = waiting.map(|(key, pool)| (pool.total > 0, pool.line.oldest(&self.accounts), key)).collect();
        // Room goes first to a pool that has no connection at all (it may have been made for it), then to who waits longest.
        keys.sort_unstable();
        for (_, _, key) in keys {
            self.serve_from_idle(now, key, steps);
            self.open_for_waiters(now, key, steps);
        }
    }

    fn serve_from_idle(&mut self, now: Instant, key: usize, steps: &mut Vec<Step>) {
        while let Some(at) = self.pools[key].idle.iter().position(|idle| !idle.is_empty()) {
            let worker = u16::try_from(at).unwrap_or(u16::MAX);
            let pool = &mut self.pools[key];
            let Some(entry) = pool.line.next(&self.accounts, worker) else { return };
            // The waiter's own worker may have one too.
            let at =
                if pool.idle.get(usize::from(entry.worker)).is_some_and(|idle| !idle.is_empty()) { usize::from(entry.worker) } else { at };
            let Some(server) = pool.idle[at].pop() else { return };
            self.idle -= 1;
            let to = self.lease(now, server, &entry);
            steps.push(Step::Hand { server, at: u16::try_from(at).unwrap_or(u16::MAX), to });
        }
    }

    /// Opens as many as there are waiters that may hold one, as far as the ramp and the budget go.
    fn open_for_waiters(&mut self, now: Instant, key: usize, steps: &mut Vec<Step>) {
        let id = PoolId(u32::try_from(key).unwrap_or(u32::MAX));
        loop {
            let pool = &mut self.pools[key];
            if pool.line.demand(&self.accounts) <= pool.opening || !self.ramp.may_open(self.opening, now) {
                return;
            }
            let Some(worker) = pool.line.first_worker(&self.accounts) else { return };
            if self.total() >= self.budget && !self.make_room(id, steps) {
                return;
            }
            if self.total() >= self.budget {
                // Room is being made: the connection that is closing counts until it is gone, and `closed` comes back here.
                return;
            }
            self.open(now, id, worker, steps);
        }
    }

    fn open(&mut self, now: Instant, pool: PoolId, worker: u16, steps: &mut Vec<Step>) {
        let key = self.servers.insert(Book { pool, state: State::Opening, worker, since: now, retire_at: None });
        let server = ServerId(u32::try_from(key).unwrap_or(u32::MAX));
        let book = self.pool(pool);
        book.opening += 1;
        book.total += 1;
        self.opening += 1;
        steps.push(Step::Open { server, pool, worker });
    }

    /// Whether a connection is closing for this pool's waiters, after closing another pool's idle one if need be.
    fn make_room(&mut self, pool: PoolId, steps: &mut Vec<Step>) -> bool {
        let closing = self.servers.iter().filter(|(_, book)| book.state == State::Closing).count();
        if closing as u64 >= u64::from(self.waiting) {
            return true;
        }
        self.evict(Some(pool), steps)
    }

    /// Closes the idle connection that was used longest ago, of any pool but `spared`.
    fn evict(&mut self, spared: Option<PoolId>, steps: &mut Vec<Step>) -> bool {
        let idle = self.servers.iter().filter(|(_, book)| book.state == State::Idle && Some(book.pool) != spared);
        let Some((key, _)) = idle.min_by_key(|(_, book)| book.since) else { return false };
        self.close_idle(ServerId(u32::try_from(key).unwrap_or(u32::MAX)), steps);
        true
    }

    fn close_idle(&mut self, server: ServerId, steps: &mut Vec<Step>) {
        let book = self.book(server);
        book.state = State::Closing;
        let (pool, at) = (book.pool, book.worker);
        self.unlist(pool, at, server);
        steps.push(Step::Close { server, at });
    }

    /// Closes what has been idle or has lived for too long, opens what `min_idle` wants, and tries again after a failure's pause.
    pub fn sweep(&mut self, now: Instant, steps: &mut Vec<Step>) {
        let mut worn = Vec::new();
        for (_, pool) in &self.pools {
            let mut spare = pool.idle_count().saturating_sub(pool.keep.min_idle as usize);
            for server in pool.idle.iter().flatten() {
                let book = &self.servers[server.0 as usize];
                let idled_out = pool.keep.idle.is_some_and(|idle| now.saturating_duration_since(book.since) >= idle);
                if book.retire_at.is_some_and(|at| now >= at) {
                    worn.push(*server);
                } else if idled_out && spare > 0 {
                    spare -= 1;
                    worn.push(*server);
                }
            }
        }
        for server in worn {
            self.close_idle(server, steps);
        }
        self.provide(now, steps);
        self.fill(now, steps);
    }

    fn fill(&mut self, now: Instant, steps: &mut Vec<Step>) {
        let wanting: Vec<usize> = self.pools.iter().filter(|(_, pool)| pool.wanted_idle).map(|(key, _)| key).collect();
        for key in wanting {
            let id = PoolId(u32::try_from(key).unwrap_or(u32::MAX));
            while self.total() < self.budget
                && self.ramp.may_open(self.opening, now)
                && self.pools[key].idle_count() + (self.pools[key].opening as usize) < self.pools[key].keep.min_idle as usize
            {
                let fewest = (0..self.workers).min_by_key(|worker| self.pools[key].idle[usize::from(*worker)].len()).unwrap_or(0);
                self.open(now, id, fewest, steps);
            }
        }
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
