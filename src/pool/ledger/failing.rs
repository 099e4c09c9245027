//! The ledger's part for upstreams that fail: what a failed opening means for those who wait, and when all connections are of an earlier time.

use std::time::Duration;

use super::{Aftermath, Failure, Ledger, PoolId, ServerId, State, Step, Waiter};
use crate::admission::{Entry, Reading, TenantId};
use crate::net::Moment;
use crate::pool::ramp::Ramp;

impl Ledger {
    /// For how long after the upstream has ceased to answer clients wait for it.
    pub fn set_failover_window(&mut self, window: Duration) {
        self.circuit.set_window(window);
    }

    /// Whether a pool has a connection that is up.
    pub fn has_live(&self, pool: PoolId) -> bool {
        self.live(|of| of == pool) > 0
    }

    pub(super) fn has_any_live(&self) -> bool {
        self.live(|_| true) > 0
    }

    /// Whether nothing tells if the upstream is there: it has no connection, and was not found to have ceased to answer.
    pub fn is_unknown(&self) -> bool {
        !self.circuit.is_open() && !self.has_any_live()
    }

    fn live(&self, counts: impl Fn(PoolId) -> bool) -> u32 {
        let is_live = |state: State| matches!(state, State::Idle | State::Leased(_) | State::Mending(_) | State::Listening);
        let live = self.servers.iter().filter(|(_, book)| is_live(book.state) && counts(book.pool));
        u32::try_from(live.count()).unwrap_or(u32::MAX)
    }

    /// Whether a client that would wait for this pool had better be refused at once: the upstream has been away for too long, or lets nobody in for it.
    pub fn is_hopeless(&self, pool: PoolId, now: Moment) -> bool {
        let refused = || self.pools.get(pool.0 as usize).is_some_and(|pool| pool.trouble.is_hopeless(now));
        (!self.circuit.is_hopeful(now) || refused()) && !self.has_live(pool)
    }

    /// Whether the upstream has ceased to answer.
    pub fn is_down(&self) -> bool {
        self.circuit.is_open()
    }

    /// What can be told of how hard the upstream is pressed: in all, and by tenant.
    pub fn pressure(&self, now: Moment) -> (Reading, Vec<(TenantId, Reading)>) {
        (self.accounts.reading(now), self.accounts.readings(now).collect())
    }

    /// The upstream has answered. Whether that is news.
    pub fn answered(&mut self) -> bool {
        self.circuit.answered()
    }

    /// An opening has failed.
    pub fn open_failed(&mut self, now: Moment, server: ServerId, failure: Failure, steps: &mut Vec<Step>) -> Aftermath {
        let id = self.servers[server.0 as usize].pool;
        let mut aftermath = Aftermath::default();
        match failure {
            Failure::Unreachable if !self.has_any_live() => {
                // From here on it is the circuit that says when to try; afterwards there will be as good as nothing to lean on.
                self.ramp = Ramp::new(self.budget);
                let jitter = self.jitter();
                aftermath.is_down = self.circuit.failed(now, id, jitter);
            }
            Failure::Unreachable => self.ramp.failed(now),
            Failure::Full => {
                let live = self.live(|of| of == id);
                self.ramp.halve();
                self.pool(id).trouble.full(live, now);
                aftermath.is_back = self.circuit.answered();
            }
            Failure::Refused => {
                self.pool(id).trouble.refused(now);
                aftermath.is_back = self.circuit.answered();
            }
        }
        self.closed(now, server, steps);
        match failure {
            Failure::Unreachable => aftermath.dismissed = self.dismiss_hopeless(now),
            Failure::Refused if !self.has_live(id) => aftermath.dismissed = self.dismiss(id),
            Failure::Full if !self.pool(id).line.is_empty() && !self.has_live(id) => {
                // What others leave idle is room that the server has.
                self.evict(now, Some(id), steps);
            }
            Failure::Full | Failure::Refused => {}
        }
        aftermath
    }

    /// A pool logs in otherwise from now on: what failed before says nothing.
    pub fn forgive(&mut self, pool: PoolId) {
        self.pool(pool).trouble.clear();
    }

    /// All who wait for what cannot be had are to be told so.
    pub fn dismiss_hopeless(&mut self, now: Moment) -> Vec<Waiter> {
        if self.waiting == 0 || self.circuit.is_hopeful(now) {
            return Vec::new();
        }
        let hopeless: Vec<PoolId> = self.pools.iter().map(|(key, _)| PoolId(u32::try_from(key).unwrap_or(u32::MAX))).collect();
        let hopeless = hopeless.into_iter().filter(|pool| !self.has_live(*pool)).collect::<Vec<_>>();
        hopeless.into_iter().flat_map(|pool| self.dismiss(pool)).collect()
    }

    fn dismiss(&mut self, pool: PoolId) -> Vec<Waiter> {
        let entries: Vec<Entry> = self.pool(pool).line.drain().collect();
        for entry in &entries {
            self.left(entry);
        }
        entries.iter().map(|entry| Waiter { worker: entry.worker, slot: entry.slot }).collect()
    }

    /// All connections are of an earlier time: those that are idle are closed now, the others when they next are.
    pub fn retire(&mut self, now: Moment, steps: &mut Vec<Step>) {
        self.generation = self.generation.wrapping_add(1);
        let idle: Vec<ServerId> = self.pools.iter().flat_map(|(_, pool)| pool.idle.iter().flatten().copied()).collect();
        for server in idle {
            self.close_idle(server, steps);
        }
        self.look_again = now;
        self.provide(now, steps);
    }

    /// The connections of one pool are of an earlier time.
    pub fn retire_pool(&mut self, pool: PoolId, now: Moment, steps: &mut Vec<Step>) {
        let before = self.generation.wrapping_sub(1);
        for (_, book) in self.servers.iter_mut().filter(|(_, book)| book.pool == pool && book.state != State::Opening) {
            book.generation = before;
        }
        self.close_all_idle(pool, steps);
        self.look_again = now;
        self.provide(now, steps);
    }

    /// Whether a pool has connections of an earlier time, or that are being closed.
    pub fn has_retired(&self, pool: PoolId) -> bool {
        let is_old = |state: State, generation: u32| state == State::Closing || state != State::Opening && generation != self.generation;
        self.servers.iter().any(|(_, book)| book.pool == pool && is_old(book.state, book.generation))
    }

    pub(super) fn close_all_idle(&mut self, pool: PoolId, steps: &mut Vec<Step>) {
        let idle: Vec<ServerId> = self.pool(pool).idle.iter().flatten().copied().collect();
        for server in idle {
            self.close_idle(server, steps);
        }
    }

    /// Tries an upstream that has ceased to answer, whether anybody waits for it or not.
    pub(super) fn probe(&mut self, now: Moment, steps: &mut Vec<Step>) {
        if let Some(pool) = self.circuit.probe(self.opening, now)
            && self.total() < self.budget
        {
            let worker = self.pools[pool.0 as usize].line.first(&self.accounts, None, now).map_or(0, |first| first.worker);
            self.open(now, pool, worker, steps);
        }
    }
}
