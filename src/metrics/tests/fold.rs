//! However many tenants there are, the page has a bound, and no counter ever sinks.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::metrics::export::View;

const TENANTS: usize = NAMED_TENANTS + 20;

fn many() -> (Arc<Metrics>, Vec<String>) {
    let names: Vec<String> = (0..TENANTS).map(|number| format!("t{number:03}")).collect();
    (Metrics::new(WORKERS, &names, FAULTS, REASONS), names)
}

/// Transactions by tenant, as they are published.
fn transactions(metrics: &Metrics) -> BTreeMap<String, u64> {
    let snapshot = snapshot(metrics);
    View::new(&snapshot).tenants.iter().map(|(name, tenant)| ((*name).to_owned(), tenant.transactions)).collect()
}

#[test]
fn as_many_tenants_as_may_all_have_series() {
    let names: Vec<String> = (0..NAMED_TENANTS).map(|number| number.to_string()).collect();
    let published = transactions(&Metrics::new(1, &names, FAULTS, REASONS));
    assert_eq!(published.len(), NAMED_TENANTS);
    assert!(!published.contains_key(OTHER_TENANTS));
}

#[test]
fn beyond_the_limit_the_busiest_have_series_and_the_others_share_one() {
    let (metrics, names) = many();
    for (name, count) in names.iter().zip(1..) {
        shard(&metrics, 0, name).transactions.add(count);
        shard(&metrics, 0, name).clients[ClientState::Idle.index()].add(1);
    }
    let queue = vec![("t000".to_owned(), 2), ("t001".to_owned(), 3), ("t119".to_owned(), 4)];
    let snapshot = metrics.collect(process(), vec![UpstreamState { queue, ..main_upstream() }]);
    let text = Text::read(&snapshot.prometheus());
    assert_eq!(text.families["pgweir_transactions_total"].samples.len(), NAMED_TENANTS + 1);
    let transactions = |tenant| text.find("pgweir_transactions_total", &[("tenant", tenant)]);
    assert_eq!(transactions(OTHER_TENANTS), Some(210.0), "1 + 2 + .. + 20");
    assert_eq!((transactions("t019"), transactions("t020")), (None, Some(21.0)));
    assert!((text.value("pgweir_clients", &[("tenant", OTHER_TENANTS), ("state", "idle")]) - 20.0).abs() < 1e-9);
    assert!((text.value("pgweir_queue_depth", &[("tenant", OTHER_TENANTS), ("upstream", "main")]) - 5.0).abs() < 1e-9);
    assert!((text.value("pgweir_queue_depth", &[("tenant", "t119"), ("upstream", "main")]) - 4.0).abs() < 1e-9);
    assert_eq!(snapshot.tenants.len(), TENANTS, "the snapshot itself leaves nobody out");
}

#[test]
fn a_tenant_that_grows_gets_series_and_takes_nothing_from_the_others() {
    let (metrics, names) = many();
    for name in &names {
        shard(&metrics, 0, name).transactions.add(100);
    }
    let before = transactions(&metrics);
    let late = shard(&metrics, 0, &names[TENANTS - 1]);
    late.transactions.add(20);
    let near = transactions(&metrics);
    assert!(!near.contains_key(&names[TENANTS - 1]), "a fifth more is not enough to take a place");
    assert_eq!(near[OTHER_TENANTS] - before[OTHER_TENANTS], 20);
    late.transactions.add(30);
    let after = transactions(&metrics);
    assert_eq!(after[&names[TENANTS - 1]], 150);
    assert_eq!(after.len(), NAMED_TENANTS + 1);
    // What it did until now stays with the others; who lost the place brings nothing along.
    assert_eq!(after[OTHER_TENANTS] - near[OTHER_TENANTS], 30);
}

#[test]
fn a_level_is_never_counted_twice() {
    let (metrics, names) = many();
    for name in &names {
        shard(&metrics, 0, name).clients[ClientState::Idle.index()].add(1);
        shard(&metrics, 0, name).pinned[0].add(1);
    }
    for name in names.iter().rev() {
        shard(&metrics, 0, name).transactions.add(1);
        let snapshot = snapshot(&metrics);
        let view = View::new(&snapshot);
        let idle: i64 = view.tenants.iter().map(|(_, tenant)| tenant.clients[ClientState::Idle]).sum();
        let pinned: i64 = view.tenants.iter().map(|(_, tenant)| tenant.pinned[REASONS[0]]).sum();
        assert_eq!((idle, pinned), (120, 120), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// What scrapers make of it: no series sinks, and what all series grew by between two scrapes is what was done.
    #[test]
    fn no_counter_sinks_and_every_transaction_is_seen_once(rounds in prop::collection::vec(prop::collection::vec((0..TENANTS, 1_u64..50), 1..40), 1..8)) {
        let (metrics, names) = many();
        let mut before = transactions(&metrics);
        for round in rounds {
            let mut done: BTreeMap<&str, u64> = BTreeMap::new();
            for (tenant, count) in round {
                shard(&metrics, tenant % WORKERS, &names[tenant]).transactions.add(count);
                *done.entry(&names[tenant]).or_default() += count;
            }
            let after = transactions(&metrics);
            prop_assert_eq!(after.len(), NAMED_TENANTS + 1);
            let mut unseen: u64 = done.values().sum();
            for (tenant, count) in &after {
                // A series that has just begun says nothing yet; the others have kept what it did.
                if let Some(earlier) = before.get(tenant) {
                    prop_assert!(count >= earlier, "{} sank from {} to {}", tenant, earlier, count);
                    unseen -= count - earlier;
                }
            }
            // Whoever lost its series in this round did so with the round's work done: that alone is seen by nobody.
            let lost: u64 = before.keys().filter(|tenant| !after.contains_key(*tenant)).filter_map(|tenant| done.get(tenant.as_str())).sum();
            prop_assert_eq!(unseen, lost);
            before = after;
        }
    }
}
