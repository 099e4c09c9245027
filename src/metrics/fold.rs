//! Which tenants have series of their own in `/metrics`: the busiest. The others are one, `_other`, so that a page's size has a bound whatever the
//! number of tenants.
//!
//! Counters must never sink, or whoever scrapes takes it for a restart and reports a burst that never was. So `_other` counts what happened in
//! tenants *while* they were folded: it keeps what it had of one that leaves it, and takes over nothing from before of one that joins.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::{TenantNumbers, TenantSnapshot};

/// How many tenants have series of their own.
pub const NAMED_TENANTS: usize = 100;

/// The name that the folded ones share.
pub const OTHER_TENANTS: &str = "_other";

/// Who is folded, and what the folded ones have counted.
#[derive(Debug, Default)]
pub(super) struct Folding {
    places: HashMap<String, Place>,
    /// What was counted for those that are folded no longer.
    left: TenantNumbers,
}

#[derive(Debug)]
enum Place {
    /// It has series of its own.
    Named,
    /// It has none, since it had these numbers.
    Folded(Box<TenantNumbers>),
}

impl Folding {
    /// Marks who is folded, and answers what they share; none while nobody is.
    pub(super) fn fold(&mut self, tenants: &mut [TenantSnapshot]) -> Option<TenantNumbers> {
        if tenants.len() <= NAMED_TENANTS {
            return None;
        }
        self.rank(tenants);
        let mut others = self.left.clone();
        for tenant in tenants {
            if let Some(Place::Folded(base)) = self.places.get(&tenant.name) {
                tenant.is_folded = true;
                others.add_since(&tenant.numbers, base);
            }
        }
        Some(others)
    }

    /// Decides anew who has series: the most transactions.
    fn rank(&mut self, tenants: &[TenantSnapshot]) {
        let mut ranked: Vec<&TenantSnapshot> = tenants.iter().collect();
        ranked.sort_by_cached_key(|tenant| Reverse(self.weight(tenant)));
        let (named, folded) = ranked.split_at(NAMED_TENANTS);
        for tenant in named {
            if let Some(Place::Folded(base)) = self.places.insert(tenant.name.clone(), Place::Named) {
                self.left.add_since(&tenant.numbers.clone().without_levels(), &base);
            }
        }
        for tenant in folded {
            match self.places.get_mut(&tenant.name) {
                Some(Place::Folded(_)) => {}
                Some(place) => *place = Place::Folded(Box::new(tenant.numbers.clone().without_levels())),
                // Nothing of it was ever published, so that all of it is news.
                None => drop(self.places.insert(tenant.name.clone(), Place::Folded(Box::default()))),
            }
        }
    }

    /// Whoever has series keeps them among near equals, so that two of a size do not swap for ever.
    fn weight(&self, tenant: &TenantSnapshot) -> u64 {
        let transactions = tenant.numbers.transactions;
        match self.places.get(&tenant.name) {
            Some(Place::Named) => transactions.saturating_add(transactions / 4),
            Some(Place::Folded(_)) | None => transactions,
        }
    }
}
