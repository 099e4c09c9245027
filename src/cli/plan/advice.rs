//! What follows from a load: the budget, each tenant's reservation and weight, and whether the server can hold it.

use serde::Serialize;

use super::load::Load;
use super::queue::Queue;

/// Weights are shares of this many parts.
const PARTS: f64 = 100.0;

/// The plan for a load. Waits are in milliseconds, shares from 0 to 1.
#[derive(Debug, Serialize)]
pub(super) struct Plan {
    pub(super) wait_ms: f64,
    pub(super) within: f64,
    /// The budget: `upstreams.*.max_connections`.
    pub(super) server_connections: u32,
    /// With that budget.
    pub(super) waits: Waits,
    /// How many connections it would take if each tenant had a pool of its own.
    pub(super) in_separate_pools: u32,
    /// How many it would take without a proxy, one for each environment on average; where every tenant's invocation time is known.
    pub(super) without_a_proxy: Option<u32>,
    pub(super) tenants: Vec<Share>,
    pub(super) server: Option<Server>,
}

/// What a transaction has to expect.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Waits {
    /// Connections that are busy on average, as if there were enough.
    pub(super) busy: f64,
    pub(super) utilisation: f64,
    /// How likely it waits at all.
    pub(super) probability: f64,
    /// On average; none where the connections do not suffice.
    pub(super) mean_ms: Option<f64>,
    /// What the asked share of the transactions waits at most; none where the connections do not suffice.
    pub(super) share_ms: Option<f64>,
}

/// One tenant's part.
#[derive(Debug, Serialize)]
pub(super) struct Share {
    pub(super) name: String,
    pub(super) transactions_per_second: f64,
    pub(super) transaction_ms: f64,
    /// Connections that it keeps busy on average.
    pub(super) busy: f64,
    /// How many it would need in a pool of its own.
    pub(super) alone: u32,
    pub(super) reserved_server_connections: u32,
    pub(super) weight: u32,
    pub(super) environments: Option<u32>,
}

/// The server that has to hold it.
#[derive(Debug, Serialize)]
pub(super) struct Server {
    pub(super) max_connections: u32,
    pub(super) kept_for_others: u32,
    /// What is left for pgweir.
    pub(super) available: u32,
    /// What a transaction has to expect with all of those; only where they are fewer than are needed.
    pub(super) with_what_there_is: Option<Waits>,
}

impl Plan {
    pub(super) fn of(load: &Load) -> Self {
        let streams = load.streams();
        let wait = load.wait_ms / 1000.0;
        let sized = |streams: &[_]| Queue::sized(streams, wait, load.within);
        let pool = sized(&streams);
        let alone: Vec<u32> = streams.iter().map(|stream| sized(&[*stream]).servers()).collect();
        let reserved = apportion(&streams.iter().map(|stream| stream.load()).collect::<Vec<_>>());
        let tenants: Vec<Share> = load
            .tenants
            .iter()
            .zip(&streams)
            .zip(alone.iter().zip(reserved))
            .map(|(((name, tenant), stream), (&alone, reserved_server_connections))| Share {
                name: name.clone(),
                transactions_per_second: stream.rate,
                transaction_ms: tenant.transaction_ms,
                busy: stream.load(),
                alone,
                reserved_server_connections,
                weight: whole(PARTS * stream.load() / pool.load()).max(1),
                environments: tenant.environments().map(|environments| whole(environments.ceil())),
            })
            .collect();
        let environments: Option<Vec<u32>> = tenants.iter().map(|tenant| tenant.environments).collect();
        Self {
            wait_ms: load.wait_ms,
            within: load.within,
            server_connections: pool.servers(),
            waits: Waits::of(&pool, load.within),
            in_separate_pools: alone.iter().sum(),
            without_a_proxy: environments.map(|all| all.iter().sum()),
            tenants,
            server: load.max_connections.zip(load.available()).map(|(max_connections, available)| Server {
                max_connections,
                kept_for_others: load.kept_for_others,
                available,
                with_what_there_is: (available < pool.servers()).then(|| Waits::of(&Queue::new(&streams, available), load.within)),
            }),
        }
    }

    /// Whether the server can hold the load, as far as it is known.
    pub(super) fn fits(&self) -> bool {
        self.server.as_ref().is_none_or(|server| server.with_what_there_is.is_none())
    }
}

impl Waits {
    fn of(queue: &Queue, share: f64) -> Self {
        let milliseconds = |seconds: f64| seconds.is_finite().then_some(seconds * 1000.0);
        Self {
            busy: queue.load(),
            utilisation: queue.utilisation(),
            probability: queue.waits(),
            mean_ms: milliseconds(queue.mean_wait()),
            share_ms: milliseconds(queue.wait_of(share)),
        }
    }
}

/// As many connections for each as it keeps busy on average, in whole numbers: rounded down, and what that leaves of all together goes to the largest remainders.
fn apportion(busy: &[f64]) -> Vec<u32> {
    let mut parts: Vec<u32> = busy.iter().map(|busy| whole(busy.floor())).collect();
    let left = whole(busy.iter().sum::<f64>().floor()).saturating_sub(parts.iter().sum());
    let mut by_remainder: Vec<usize> = (0..busy.len()).collect();
    by_remainder.sort_by(|a, b| busy[*b].fract().total_cmp(&busy[*a].fract()));
    for index in by_remainder.into_iter().take(left as usize) {
        parts[index] += 1;
    }
    parts
}

/// The nearest whole number.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "loads are checked to be small and above 0, and a cast saturates"
)]
fn whole(number: f64) -> u32 {
    number.round() as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cli::plan::load::TenantLoad;

    fn load(tenants: &[(&str, f64, f64)], max_connections: Option<u32>) -> Load {
        let of = |&(name, rate, hold): &(&str, f64, f64)| {
            let load = TenantLoad {
                invocations_per_second: rate,
                transaction_ms: hold,
                transactions_per_invocation: 1.0,
                invocation_ms: Some(120.0),
            };
            (name.to_owned(), load)
        };
        Load { max_connections, tenants: tenants.iter().map(of).collect(), ..Load::default() }
    }

    #[test]
    fn tenants_together_need_less_than_each_alone() {
        let plan = Plan::of(&load(&[("a", 300.0, 10.0), ("b", 300.0, 10.0), ("c", 300.0, 10.0)], None));
        assert!(plan.server_connections < plan.in_separate_pools, "{plan:?}");
        assert_eq!(plan.without_a_proxy, Some(108));
        assert!(plan.waits.share_ms.unwrap() <= 10.0 && plan.fits());
        for tenant in &plan.tenants {
            assert_eq!((tenant.reserved_server_connections, tenant.weight), (3, 33));
        }
    }

    #[test]
    fn a_server_that_is_too_small_is_told_so() {
        let plan = Plan::of(&load(&[("a", 800.0, 25.0)], Some(27)));
        let short = plan.server.as_ref().and_then(|server| server.with_what_there_is).unwrap();
        assert!(!plan.fits() && short.mean_ms.is_none() && short.utilisation > 1.0, "{plan:?}");
        assert!(Plan::of(&load(&[("a", 800.0, 25.0)], Some(100))).fits());
        // Fewer than are kept for others: nothing is left, and nothing is divided by it.
        assert!(!Plan::of(&load(&[("a", 1.0, 1.0)], Some(5))).fits());
    }

    proptest! {
        #[test]
        fn reservations_fit_into_the_budget(tenants in prop::collection::vec((0.1..900.0_f64, 0.5..90.0_f64), 1..20)) {
            let tenants: Vec<(String, f64, f64)> = tenants.iter().enumerate().map(|(n, &(rate, hold))| (format!("t{n:02}"), rate, hold)).collect();
            let borrowed: Vec<(&str, f64, f64)> = tenants.iter().map(|(name, rate, hold)| (name.as_str(), *rate, *hold)).collect();
            let plan = Plan::of(&load(&borrowed, None));
            let reserved: u32 = plan.tenants.iter().map(|tenant| tenant.reserved_server_connections).sum();
            prop_assert!(reserved <= plan.server_connections);
            for tenant in &plan.tenants {
                prop_assert!((f64::from(tenant.reserved_server_connections) - tenant.busy).abs() < 1.0);
                prop_assert!((1..=100).contains(&tenant.weight));
            }
        }
    }
}
