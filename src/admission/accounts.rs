//! The tenants' accounts against one upstream: held, reserved, queued. The rules are 1 and 2 of the design's admission.

use std::time::Duration;

/// A tenant, by its place among the configured ones; 0 is `default`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(pub u16);

/// What a tenant may have of one upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most server connections it may hold; `None`: as many as the upstream has.
    pub most: Option<u32>,
    /// Server connections that are always there for it and never lent to others.
    pub reserved: u32,
    /// The most of its clients that may wait.
    pub queue: u32,
    /// How long each may wait.
    pub wait: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { most: None, reserved: 0, queue: 1000, wait: Some(Duration::from_secs(5)) }
    }
}

/// Why a request is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// As many of the tenant's clients wait as may.
    #[error("the queue is full")]
    QueueFull {
        /// The most that may wait.
        limit: u32,
    },
    /// The wait took longer than it may.
    #[error("the wait for a server connection took too long")]
    WaitedTooLong {
        /// How long it took.
        waited: Duration,
    },
}

#[derive(Debug, Default)]
struct Account {
    limits: Limits,
    held: u32,
    queued: u32,
}

/// All tenants' accounts against one upstream.
#[derive(Debug)]
pub struct Accounts {
    budget: u32,
    held: u32,
    /// What is reserved and not held by those for whom it is reserved: the sum of `max(0, reserved - held)`.
    kept_free: u32,
    tenants: Vec<Account>,
}

impl Accounts {
    /// Accounts over a budget of `budget` leases, for tenants with these limits.
    pub fn new(budget: u32, limits: &[Limits]) -> Self {
        let mut accounts = Self { budget, held: 0, kept_free: 0, tenants: Vec::new() };
        accounts.set_limits(budget, limits);
        accounts
    }

    /// Applies new limits at once. What is held beyond a limit that shrank is not taken away: it is just not replaced.
    pub fn set_limits(&mut self, budget: u32, limits: &[Limits]) {
        self.budget = budget;
        self.tenants.resize_with(limits.len().max(self.tenants.len()).max(1), Account::default);
        for (account, limits) in self.tenants.iter_mut().zip(limits) {
            account.limits = *limits;
        }
        self.kept_free = self.tenants.iter().map(|account| account.limits.reserved.saturating_sub(account.held)).sum();
    }

    fn account(&mut self, tenant: TenantId) -> &mut Account {
        let at = usize::from(tenant.0);
        if at >= self.tenants.len() {
            self.tenants.resize_with(at + 1, Account::default);
        }
        &mut self.tenants[at]
    }

    /// What a tenant's limits are.
    pub fn limits(&self, tenant: TenantId) -> Limits {
        self.tenants.get(usize::from(tenant.0)).map_or_else(Limits::default, |account| account.limits)
    }

    /// How many server connections a tenant holds.
    pub fn held(&self, tenant: TenantId) -> u32 {
        self.tenants.get(usize::from(tenant.0)).map_or(0, |account| account.held)
    }

    /// How many of a tenant's clients wait.
    pub fn queued(&self, tenant: TenantId) -> u32 {
        self.tenants.get(usize::from(tenant.0)).map_or(0, |account| account.queued)
    }

    /// Whether a tenant may hold one more: below its own cap, and without touching what is reserved for others.
    #[inline]
    pub fn may_hold(&self, tenant: TenantId) -> bool {
        let Some(account) = self.tenants.get(usize::from(tenant.0)) else { return self.held + self.kept_free < self.budget };
        if account.limits.most.is_some_and(|most| account.held >= most) {
            return false;
        }
        let own = account.limits.reserved.saturating_sub(account.held);
        self.held + (self.kept_free - own) < self.budget
    }

    /// How many more a tenant may hold.
    pub fn room(&self, tenant: TenantId) -> u32 {
        let Limits { most, reserved, .. } = self.limits(tenant);
        let held = self.held(tenant);
        let own = reserved.saturating_sub(held);
        let free = self.budget.saturating_sub(self.held + (self.kept_free - own));
        most.map_or(free, |most| free.min(most.saturating_sub(held)))
    }

    /// A tenant has been given one.
    #[inline]
    pub fn hold(&mut self, tenant: TenantId) {
        self.held += 1;
        let account = self.account(tenant);
        account.held += 1;
        if account.held <= account.limits.reserved {
            self.kept_free -= 1;
        }
    }

    /// A tenant has given one back.
    #[inline]
    pub fn release(&mut self, tenant: TenantId) {
        self.held -= 1;
        let account = self.account(tenant);
        if account.held <= account.limits.reserved {
            account.held -= 1;
            self.kept_free += 1;
        } else {
            account.held -= 1;
        }
    }

    /// One more client of a tenant wants to wait. One whom an opening will serve counts among those who wait, but is not held to their limit.
    ///
    /// # Errors
    /// `QueueFull` where as many wait as may.
    pub fn enqueue(&mut self, tenant: TenantId, will_be_served: bool) -> Result<(), Refusal> {
        let account = self.account(tenant);
        if !will_be_served && account.queued >= account.limits.queue {
            return Err(Refusal::QueueFull { limit: account.limits.queue });
        }
        account.queued += 1;
        Ok(())
    }

    /// A waiting client of a tenant waits no more.
    pub fn dequeue(&mut self, tenant: TenantId) {
        let account = self.account(tenant);
        account.queued = account.queued.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits(most: u32, reserved: u32) -> Limits {
        Limits { most: (most > 0).then_some(most), reserved, ..Limits::default() }
    }

    #[test]
    fn a_cap_is_never_passed_and_a_reservation_never_lent() {
        let (a, b) = (TenantId(0), TenantId(1));
        let mut accounts = Accounts::new(4, &[limits(0, 0), limits(0, 2)]);
        accounts.hold(a);
        accounts.hold(a);
        assert!(!accounts.may_hold(a), "the last two are b's");
        assert!(accounts.may_hold(b));
        accounts.hold(b);
        assert!(!accounts.may_hold(a));
        accounts.hold(b);
        assert!(!accounts.may_hold(b), "the budget is used up");
        accounts.release(a);
        assert!(accounts.may_hold(b), "beyond its reservation it competes like any other");
        let capped = Accounts::new(4, &[limits(1, 0)]);
        assert!(capped.may_hold(a));
    }

    proptest! {
        #[test]
        fn what_is_kept_free_is_always_the_sum(
            tenants in prop::collection::vec((0u32..4, 0u32..3), 1..5),
            steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..200),
        ) {
            let all: Vec<Limits> = tenants.iter().map(|(most, reserved)| limits(*most, *reserved)).collect();
            let mut accounts = Accounts::new(6, &all);
            for (take, who) in steps {
                let tenant = TenantId(u16::try_from(who.index(all.len())).unwrap());
                if take && accounts.may_hold(tenant) {
                    accounts.hold(tenant);
                } else if !take && accounts.held(tenant) > 0 {
                    accounts.release(tenant);
                }
                let held: u32 = accounts.tenants.iter().map(|a| a.held).sum();
                let kept: u32 = accounts.tenants.iter().map(|a| a.limits.reserved.saturating_sub(a.held)).sum();
                prop_assert_eq!((accounts.held, accounts.kept_free), (held, kept));
                prop_assert!(held <= 6);
                for (account, limits) in accounts.tenants.iter().zip(&all) {
                    prop_assert!(limits.most.is_none_or(|most| account.held <= most));
                }
            }
        }
    }
}
