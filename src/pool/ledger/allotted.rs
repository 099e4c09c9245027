//! The ledger's part for a budget that is shared with other proxies: there may be as many connections as were allotted, and what more could be used is told.

use super::{Aftermath, Ledger, PoolId, Step};
use crate::net::Moment;

/// So many it has if they are free, used or not: then the first client need not wait for more than a login, and one connection can listen for all.
const FEWEST: u32 = 2;

/// What is known of this proxy's part of a shared budget.
#[derive(Debug, Default)]
pub(super) struct Allotment {
    /// So many connections there may be.
    pub(super) slots: u32,
    /// So many there might be before long, if nobody else wants any: what expectations go by.
    pub(super) prospect: u32,
    /// It has been said that clients wait, and nobody has looked since then.
    was_asked: bool,
}

/// What this proxy could use of a shared budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// The whole budget.
    pub budget: u32,
    /// The connections that there are, in whatever state, and one for each client that waits and may have one, what is reserved, and what is to be kept idle.
    pub wanted: u32,
    /// The same, and some for clients to come.
    pub desired: u32,
    /// What is wanted without those that are idle and kept for nobody.
    pub least: u32,
}

impl Ledger {
    /// The budget is shared: there may be no connection before some are allotted.
    pub fn share(&mut self, now: Moment) {
        self.allotment = Some(Allotment::default());
        // There is nothing yet that could be closed.
        self.put_in_force(now, &mut Vec::new());
    }

    /// From now on there may be `slots` connections, and up to `prospect` if more were asked for. Those beyond are closed as they become idle.
    pub fn allot(&mut self, slots: u32, prospect: u32, now: Moment, steps: &mut Vec<Step>) {
        let Some(allotment) = &mut self.allotment else { return };
        (allotment.slots, allotment.prospect) = (slots, prospect);
        self.put_in_force(now, steps);
    }

    /// What it could use. From here on it is said again when clients wait.
    pub fn needs(&mut self) -> Needs {
        if let Some(allotment) = &mut self.allotment {
            allotment.was_asked = false;
        }
        let (mut waiting, mut kept, mut missing) = (0, 0, 0);
        for (_, pool) in self.pools.iter().filter(|(_, pool)| !pool.paused) {
            waiting += pool.line.len().saturating_sub(pool.opening);
            if pool.wanted_idle {
                let idle = u32::try_from(pool.idle_count()).unwrap_or(u32::MAX);
                kept += idle.min(pool.keep.min_idle);
                missing += pool.keep.min_idle.saturating_sub(idle + pool.opening);
            }
        }
        let waiting = waiting.min(self.accounts.all_wanted());
        let (total, reserved) = (self.total(), self.accounts.all_promised());
        let wanted = total.max(reserved) + waiting + missing;
        Needs {
            budget: self.configured,
            wanted: wanted.min(self.configured),
            desired: wanted.max(FEWEST).min(self.configured),
            least: (total - self.idle + waiting + kept).max(reserved).min(self.configured),
        }
    }

    /// More wait than there may be connections for: it is to be asked for more, unless that has been said already.
    #[inline]
    pub(super) fn ask_for_more(&mut self, steps: &mut Vec<Step>) {
        if self.allotment.is_none() {
            return;
        }
        let short = self.total() + self.waiting.saturating_sub(self.opening) > self.budget && self.budget < self.configured;
        if let Some(allotment) = &mut self.allotment
            && !allotment.was_asked
            && short
        {
            allotment.was_asked = true;
            steps.push(Step::Ask);
        }
    }

    /// Nobody can say how many there may be. Those that are open go on; where there are none the upstream is as good as away.
    pub fn cannot_be_allotted(&mut self, now: Moment) -> Aftermath {
        let mut aftermath = Aftermath::default();
        if let Some(allotment) = &mut self.allotment {
            // Whoever waits is answered when somebody can say it again.
            allotment.was_asked = false;
        }
        let first = self.pools.iter().next().map(|(key, _)| PoolId(u32::try_from(key).unwrap_or(u32::MAX)));
        if let (false, Some(pool)) = (self.has_any_live(), first) {
            let jitter = self.jitter();
            aftermath.is_down = self.circuit.failed(now, pool, jitter);
        }
        aftermath.dismissed = self.dismiss_hopeless(now);
        aftermath
    }
}
