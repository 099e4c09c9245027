//! Where connections come from: who has one next that has become free, when one is opened, and which is closed so that another can be (rules 6 and 7).

use std::time::Duration;

use super::{Book, Ledger, Next, PoolId, ServerId, State, Step};
use crate::admission::Pick;
use crate::net::Moment;

/// How much longer a pool's first must have waited than another's, or by how much server time its tenant must be behind the other's, before a connection of
/// that other pool is closed for it: less would close and open connections with every transaction.
const PATIENCE: Duration = Duration::from_millis(100);
/// The same for a pool that has no connection at all.
const PATIENCE_WITH_NONE: Duration = Duration::from_millis(20);
/// A pool that has no more than its part of the budget keeps an idle connection for so long, though others wait: a caller that comes back every moment
/// shall not have to wait for a login each time.
const WARM: Duration = Duration::from_secs(1);
/// After a look for a connection to close came to nothing, the next look is not taken before so long.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

impl Ledger {
    /// Who has this connection next: a waiter of its pool, another pool (for which it is closed), or nobody.
    #[inline]
    pub(super) fn next_use(&mut self, now: Moment, server: ServerId) -> Next {
        let Book { pool: id, worker, .. } = self.servers[server.0 as usize];
        if self.waiting > 0 {
            if self.is_needed_elsewhere(now, id) {
                return Next::Close;
            }
            if !self.is_anothers_turn(now, id)
                && let Some(entry) = self.pools[id.0 as usize].line.next(&mut self.accounts, worker, now)
            {
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

    /// Whether a connection of `own` that has just become free had better be closed, so that another pool's waiter can have one (rule 6).
    fn is_needed_elsewhere(&mut self, now: Moment, own: PoolId) -> bool {
        if self.pools.len() < 2 || self.total() < self.budget {
            return false;
        }
        let here = self.pools[own.0 as usize].line.first(&self.accounts, None, now);
        let (part, owner_total) = (self.part(), self.pools[own.0 as usize].total);
        let closing = self.closing_count();
        for (key, pool) in &mut self.pools {
            if key == own.0 as usize || pool.line.is_empty() || pool.paused || closing + pool.opening >= pool.line.len() {
                continue;
            }
            let Some(there) = pool.line.first(&self.accounts, None, now) else { continue };
            let waited = now.saturating_duration_since(there.since);
            let is_needed = match &here {
                None => may_take(pool.total, owner_total, part, Duration::ZERO),
                Some(here) if pool.total == 0 => closing == 0 && waited >= PATIENCE_WITH_NONE && is_in_turn(here, &there),
                Some(here) if here.tenant == there.tenant => {
                    waited > PATIENCE && here.since.saturating_duration_since(there.since) > PATIENCE
                }
                // One at a time: what is on its way will help before the next is taken.
                Some(here) => {
                    let lag = self.accounts.lag(there.tenant, there.clock, here.clock);
                    closing == 0 && pool.opening == 0 && lag > PATIENCE
                }
            };
            if is_needed {
                return true;
            }
        }
        false
    }

    /// What each pool would have of the budget if all that are in use had the same, rounded up.
    fn part(&self) -> u32 {
        let in_use = self.pools.iter().filter(|(_, pool)| pool.total > 0 || !pool.line.is_empty()).count();
        self.budget.div_ceil(u32::try_from(in_use).unwrap_or(u32::MAX).max(1))
    }

    fn closing_count(&self) -> u32 {
        u32::try_from(self.servers.iter().filter(|(_, book)| book.state == State::Closing).count()).unwrap_or(u32::MAX)
    }

    /// Serves waiters from idle connections that have become theirs to take, and opens connections for the others.
    #[inline]
    pub(super) fn provide(&mut self, now: Moment, steps: &mut Vec<Step>) {
        if self.waiting == 0 {
            return;
        }
        // Under saturation, when this is asked with every transaction, nothing is idle, or only what is kept warm for another pool, and nothing may be
        // opened.
        if self.idle > 0 {
            self.serve_all_from_idle(now, steps);
        }
        if self.waiting > 0 && (self.total() < self.budget || (self.idle > 0 && now >= self.look_again)) {
            self.provide_somehow(now, steps);
        }
        self.ask_for_more(steps);
    }

    fn serve_all_from_idle(&mut self, now: Moment, steps: &mut Vec<Step>) {
        if self.is_held_back() {
            while let Some(key) = self.first_with_idle(now, None)
                && self.serve_one_from_idle(now, key, steps)
            {}
            return;
        }
        for key in 0..self.pools.len() {
            if !self.pools[key].line.is_empty() {
                self.serve_from_idle(now, key, steps);
            }
        }
    }

    #[cold]
    fn provide_somehow(&mut self, now: Moment, steps: &mut Vec<Step>) {
        self.look_again = now + LOOK_PAUSE;
        let waiting = self.pools.iter_mut().filter(|(_, pool)| !pool.line.is_empty() && !pool.paused);
        let mut keys: Vec<_> = waiting
            .filter_map(|(key, pool)| {
                let first = pool.line.first(&self.accounts, None, now)?;
                Some((pool.total > 0, first.clock, first.since, key))
            })
            .collect();
        // Room goes first to a pool that has no connection at all (it may have been made for it), then to whose tenant is furthest behind.
        keys.sort_unstable();
        for (_, _, _, key) in keys {
            self.open_for_waiters(now, key, steps);
        }
    }

    fn serve_from_idle(&mut self, now: Moment, key: usize, steps: &mut Vec<Step>) {
        while self.serve_one_from_idle(now, key, steps) {}
    }

    fn serve_one_from_idle(&mut self, now: Moment, key: usize, steps: &mut Vec<Step>) -> bool {
        let pool = &mut self.pools[key];
        let Some(at) = pool.idle.iter().position(|idle| !idle.is_empty()) else { return false };
        let worker = u16::try_from(at).unwrap_or(u16::MAX);
        let Some(entry) = pool.line.next(&mut self.accounts, worker, now) else { return false };
        // The waiter's own worker may have one too.
        let at = if pool.idle.get(usize::from(entry.worker)).is_some_and(|idle| !idle.is_empty()) { usize::from(entry.worker) } else { at };
        let Some(server) = pool.idle[at].pop() else { return false };
        self.idle -= 1;
        let to = self.lease(now, server, &entry);
        steps.push(Step::Hand { server, at: u16::try_from(at).unwrap_or(u16::MAX), to });
        true
    }

    /// Opens as many as there are waiters that may hold one, as far as the ramp and the budget go.
    fn open_for_waiters(&mut self, now: Moment, key: usize, steps: &mut Vec<Step>) {
        let id = PoolId(u32::try_from(key).unwrap_or(u32::MAX));
        loop {
            let pool = &mut self.pools[key];
            if pool.line.demand(&self.accounts) <= pool.opening || !self.may_open(key, now) {
                return;
            }
            let pool = &mut self.pools[key];
            let Some(Pick { worker, .. }) = pool.line.first(&self.accounts, None, now) else { return };
            if self.total() >= self.budget && !self.make_room(now, id, steps) {
                return;
            }
            if self.total() >= self.budget {
                // Room is being made: the connection that is closing counts until it is gone, and `closed` comes back here.
                return;
            }
            self.open(now, id, worker, steps);
        }
    }

    /// Whether one more may be opened for this pool, as far as it is for failures to say.
    fn may_open(&self, key: usize, now: Moment) -> bool {
        let pool = &self.pools[key];
        self.circuit.may_open(self.opening, now)
            && self.ramp.may_open(self.opening, now)
            && pool.trouble.may_open(pool.total, pool.opening, now)
    }

    pub(super) fn open(&mut self, now: Moment, pool: PoolId, worker: u16, steps: &mut Vec<Step>) {
        let (state, generation) = (State::Opening, self.generation);
        let key = self.servers.insert(Book { pool, state, worker, since: now, retire_at: None, generation });
        let server = ServerId(u32::try_from(key).unwrap_or(u32::MAX));
        let book = self.pool(pool);
        book.opening += 1;
        book.total += 1;
        self.opening += 1;
        steps.push(Step::Open { server, pool, worker });
    }

    /// Whether a connection is closing for this pool's waiters, after closing another pool's idle one if need be.
    fn make_room(&mut self, now: Moment, pool: PoolId, steps: &mut Vec<Step>) -> bool {
        self.closing_count() >= self.waiting || self.evict(now, Some(pool), steps)
    }

    /// Closes the idle connection that was used longest ago: any at all, or one that another pool can spare for `taker`.
    pub(super) fn evict(&mut self, now: Moment, taker: Option<PoolId>, steps: &mut Vec<Step>) -> bool {
        let (part, pools) = (self.part(), &self.pools);
        let can_go = |book: &Book| {
            let Some(taker) = taker else { return true };
            let (taker_total, owner_total) = (pools[taker.0 as usize].total, pools[book.pool.0 as usize].total);
            book.pool != taker && may_take(taker_total, owner_total, part, now.saturating_duration_since(book.since))
        };
        let idle = self.servers.iter().filter(|(_, book)| book.state == State::Idle && can_go(book));
        let Some((key, _)) = idle.min_by_key(|(_, book)| book.since) else { return false };
        self.close_idle(ServerId(u32::try_from(key).unwrap_or(u32::MAX)), steps);
        true
    }

    /// Closes idle connections beyond a budget that has shrunk.
    pub(super) fn shrink(&mut self, now: Moment, steps: &mut Vec<Step>) {
        while self.has_too_many() && self.evict(now, None, steps) {}
    }

    /// Whether there are more than the budget has, those that are being closed left out.
    pub(super) fn has_too_many(&self) -> bool {
        self.total() > self.budget && self.total() - self.closing_count() > self.budget
    }

    pub(super) fn close_idle(&mut self, server: ServerId, steps: &mut Vec<Step>) {
        let book = self.book(server);
        book.state = State::Closing;
        let (pool, at) = (book.pool, book.worker);
        self.unlist(pool, at, server);
        steps.push(Step::Close { server, at });
    }

    /// Closes what has been idle or has lived for too long, opens what `min_idle` wants, and tries again after a failure's pause.
    pub fn sweep(&mut self, now: Moment, steps: &mut Vec<Step>) {
        self.accounts.sample(now);
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
        self.look_again = now;
        self.provide(now, steps);
        self.fill(now, steps);
        self.probe(now, steps);
    }

    fn fill(&mut self, now: Moment, steps: &mut Vec<Step>) {
        let wanting: Vec<usize> = self.pools.iter().filter(|(_, pool)| pool.wanted_idle && !pool.paused).map(|(key, _)| key).collect();
        for key in wanting {
            let id = PoolId(u32::try_from(key).unwrap_or(u32::MAX));
            while self.total() < self.budget
                && self.may_open(key, now)
                && self.pools[key].idle_count() + (self.pools[key].opening as usize) < self.pools[key].keep.min_idle as usize
            {
                let fewest = (0..self.workers).min_by_key(|worker| self.pools[key].idle[usize::from(*worker)].len()).unwrap_or(0);
                self.open(now, id, fewest, steps);
            }
        }
    }
}

/// Whether a pool that has `taker_total` connections may have one of another's: it has none, the other has more than its part or more than this one, or
/// does not use it.
fn may_take(taker_total: u32, owner_total: u32, part: u32, idle_for: Duration) -> bool {
    taker_total == 0 || owner_total > part || owner_total > taker_total || idle_for >= WARM
}

/// Whether the first of another pool is not behind the first of this one.
fn is_in_turn(here: &Pick, there: &Pick) -> bool {
    here.tenant == there.tenant || there.clock <= here.clock
}
