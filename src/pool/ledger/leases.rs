//! How many server connections may be at work: all that the budget has, or what the adaptive limit has found to be best (decision 12).
//!
//! While two limits are compared, there are connections for the higher one, and leases for the one whose turn it is: a turn begins with nothing to open.

use std::time::Duration;

use super::allotted::Allotment;
use super::{Ledger, PoolId, Step};
use crate::admission::{Levels, Limiter, Pick, Sight};
use crate::net::Moment;

/// What the limit goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LimitMode {
    /// The budget is the limit.
    #[default]
    Fixed,
    /// The budget is the limit, and what an adaptive one might be is watched for.
    Observe,
    /// The best limit from `least` to the budget is looked for.
    Adaptive {
        /// Never fewer.
        least: u32,
    },
}

/// What is counted and known for it.
#[derive(Debug, Default)]
pub(super) struct Leases {
    /// How many there may be, those connections among them that listen for all.
    allowed: u32,
    mode: Search,
    done: u64,
    failed: u64,
    waits: u64,
    seen_waits: u64,
}

#[derive(Debug, Default)]
enum Search {
    #[default]
    None,
    Observing(Box<Levels>),
    Adapting {
        least: u32,
        limiter: Box<Limiter>,
    },
}

impl Leases {
    /// So many there may be.
    pub(super) fn new(allowed: u32) -> Self {
        Self { allowed, ..Self::default() }
    }

    /// A client has to wait.
    pub(super) fn waits(&mut self) {
        self.waits = self.waits.wrapping_add(1);
    }
}

impl Ledger {
    /// What the limit goes by from now on.
    pub fn set_limit_mode(&mut self, mode: LimitMode, now: Moment, steps: &mut Vec<Step>) {
        let configured = self.configured;
        match (mode, &mut self.leases.mode) {
            (LimitMode::Fixed, search) => *search = Search::None,
            (LimitMode::Observe, Search::Observing(levels)) if levels.most() == configured => {}
            (LimitMode::Observe, search) => *search = Search::Observing(Box::new(Levels::new(configured))),
            (LimitMode::Adaptive { least }, Search::Adapting { least: before, .. }) => *before = least,
            (LimitMode::Adaptive { least }, search) => {
                *search = Search::Adapting { least, limiter: Box::new(Limiter::new(least, configured)) };
            }
        }
        self.put_in_force(now, steps);
    }

    /// The limit that has been found to be best, or would be; none where nothing looks for one, or nothing is known yet.
    pub fn suggested_limit(&self) -> Option<u32> {
        match &self.leases.mode {
            Search::None => None,
            Search::Observing(levels) => levels.best(),
            Search::Adapting { limiter, .. } => Some(limiter.settled()),
        }
    }

    /// Whether it wants a look some times a second.
    pub fn is_watched(&self) -> bool {
        !matches!(self.leases.mode, Search::None)
    }

    /// Takes a look at how the limit does.
    pub fn look(&mut self, now: Moment, steps: &mut Vec<Step>) {
        let is_waited_for = self.waiting > 0 || self.leases.waits != self.leases.seen_waits;
        self.leases.seen_waits = self.leases.waits;
        let held = self.accounts.all_held();
        let now_is = now.saturating_duration_since(self.began);
        let Leases { done, failed, .. } = self.leases;
        match &mut self.leases.mode {
            Search::None => {}
            Search::Observing(levels) => levels.age(now_is),
            Search::Adapting { limiter, .. } => {
                limiter.tick(Sight { now: now_is, done, failed, held, is_waited_for });
                self.put_in_force(now, steps);
            }
        }
    }

    /// Applies what the search wants now.
    pub(super) fn put_in_force(&mut self, now: Moment, steps: &mut Vec<Step>) {
        let (mut connections, mut leases) = match &mut self.leases.mode {
            Search::Adapting { least, limiter } => {
                // What is reserved is always there, and one for those who have reserved nothing.
                limiter.set_bounds((*least).max(self.accounts.all_reserved() + 1), self.configured);
                (limiter.ceiling(), limiter.limit())
            }
            Search::None | Search::Observing(_) => (self.configured, self.configured),
        };
        let mut prospect = leases;
        if let Some(Allotment { slots, prospect: most, .. }) = &self.allotment {
            (connections, leases, prospect) = (connections.min(*slots), leases.min(*slots), leases.min(*most.max(slots)));
        }
        if (connections, self.lendable(leases)) != (self.budget, self.accounts.budget()) {
            self.force(connections, leases, now, steps);
        }
        self.accounts.set_prospect(self.lendable(prospect));
    }

    /// So many connections, and so many leases, from now on.
    pub(super) fn force(&mut self, connections: u32, leases: u32, now: Moment, steps: &mut Vec<Step>) {
        self.budget = connections;
        self.leases.allowed = leases;
        self.accounts.set_budget(self.lendable(leases));
        self.shrink(now, steps);
        self.look_again = now;
        self.provide(now, steps);
    }

    /// How many of so many leases clients may have, beside the connections that listen for all.
    fn lendable(&self, allowed: u32) -> u32 {
        allowed.saturating_sub(self.listening).max(1)
    }

    /// More connections listen for all, or fewer.
    pub(super) fn listening_changed(&mut self) {
        let lendable = self.lendable(self.leases.allowed);
        self.accounts.set_budget(lendable);
    }

    /// A lease has ended, with its client served or not.
    #[inline]
    pub(super) fn ended(&mut self, took: Duration, well: bool) {
        *(if well { &mut self.leases.done } else { &mut self.leases.failed }) += 1;
        if let Search::Observing(levels) = &mut self.leases.mode
            && well
        {
            // It is counted among those that are held no more.
            levels.note(self.accounts.all_held() + 1, took);
        }
    }

    /// Whether fewer leases are allowed than there may be connections, so that an idle one does not mean that its pool is next.
    pub(super) fn is_held_back(&self) -> bool {
        self.accounts.budget() + self.listening < self.budget
    }

    /// Whether the next lease is another pool's, which has an idle connection for it.
    pub(super) fn is_anothers_turn(&mut self, now: Moment, own: PoolId) -> bool {
        if self.pools.len() < 2 || self.idle == 0 || !self.is_held_back() {
            return false;
        }
        self.first_with_idle(now, Some(own)).is_some_and(|key| key != own.0 as usize)
    }

    /// The pool whose turn it is, of those that have an idle connection and of `own`.
    pub(super) fn first_with_idle(&mut self, now: Moment, own: Option<PoolId>) -> Option<usize> {
        let mut best: Option<(usize, Pick)> = None;
        for (key, pool) in &mut self.pools {
            if pool.line.is_empty() || pool.idle_count() == 0 && own.is_none_or(|own| own.0 as usize != key) {
                continue;
            }
            let Some(pick) = pool.line.first(&self.accounts, None, now) else { continue };
            if best.as_ref().is_none_or(|(_, best)| (pick.clock, pick.since) < (best.clock, best.since)) {
                best = Some((key, pick));
            }
        }
        best.map(|(key, _)| key)
    }
}
