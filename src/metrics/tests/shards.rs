//! Shards are added up; histograms hold what fell into them.

use super::*;
use crate::metrics::durations::bucket;

#[test]
fn the_shards_of_all_workers_are_added_up() {
    let metrics = metrics(&["acme", "globex"]);
    for (worker, times) in [(0, 1), (1, 10), (2, 100)] {
        let acme = shard(&metrics, worker, "acme");
        acme.transactions.add(times);
        acme.queries.add(2 * times);
        acme.bytes_in.add(3 * times);
        acme.bytes_out.add(4 * times);
        acme.logins[LoginOutcome::Denied.index()].add(5 * times);
        acme.cancelled[CancelCause::Timeout.index()].add(6 * times);
        acme.refused[1].add(7 * times);
        acme.pins[0].add(8 * times);
        acme.pinned[0].add(1);
        acme.clients[ClientState::Idle.index()].add(2);
        acme.moved(ClientState::Idle, ClientState::Active);
        acme.query.observe(Duration::from_millis(times));
    }
    let snapshot = snapshot(&metrics);
    let acme = &snapshot.tenant("acme").unwrap().numbers;
    assert_eq!((acme.transactions, acme.queries, acme.bytes_in, acme.bytes_out), (111, 222, 333, 444));
    assert_eq!(acme.logins[LoginOutcome::Denied], 555);
    assert_eq!(acme.logins[LoginOutcome::Ok], 0);
    assert_eq!(acme.cancelled[CancelCause::Timeout], 666);
    assert_eq!(acme.refused, Sparse::from([("queue_timeout", 777)]));
    assert_eq!(acme.pins, Sparse::from([("temp_table", 888)]));
    assert_eq!(acme.pinned, Sparse::from([("temp_table", 3)]));
    assert_eq!((acme.clients[ClientState::Idle], acme.clients[ClientState::Active]), (3, 3));
    assert_eq!(acme.query.count(), 3);
    assert!((acme.query.sum_seconds() - 0.111).abs() < 1e-9);
    assert_eq!(snapshot.tenant("globex").unwrap().numbers, TenantNumbers::default());
}

#[test]
fn a_level_that_falls_to_nothing_is_absent() {
    let metrics = metrics(&["acme"]);
    shard(&metrics, 0, "acme").pinned[1].add(1);
    shard(&metrics, 1, "acme").pinned[1].add(-1);
    assert!(snapshot(&metrics).tenant("acme").unwrap().numbers.pinned.is_empty());
}

#[test]
fn a_reload_keeps_what_known_tenants_have_counted() {
    let metrics = metrics(&["acme"]);
    let acme = shard(&metrics, 0, "acme");
    acme.transactions.add(1);
    metrics.set_tenants(&["globex".to_owned(), "acme".to_owned()]);
    acme.transactions.add(1);
    assert_eq!(snapshot(&metrics).tenant("acme").unwrap().numbers.transactions, 2);
    assert!(metrics.tenant(WORKERS - 1, "globex", "app").is_some());
    assert!(metrics.tenant(WORKERS, "globex", "app").is_none());
}

#[test]
fn a_number_beyond_the_announced_ones_is_counted_nowhere() {
    let metrics = metrics(&["acme"]);
    shard(&metrics, 0, "acme").refused[FAULTS.len()].add(1);
    assert!(snapshot(&metrics).tenant("acme").unwrap().numbers.refused.is_empty());
    TenantShard::default().pins[9].add(1);
}

#[test]
fn a_bucket_holds_its_bound_and_nothing_above() {
    for (place, micros) in BOUNDS_MICROS.into_iter().enumerate() {
        let bound = Duration::from_micros(micros);
        let histogram = Histogram::default();
        histogram.observe(bound);
        histogram.observe_shared(bound + Duration::from_nanos(1));
        let mut expected = [0; BUCKETS];
        expected[place] = 1;
        expected[place + 1] = 1;
        assert_eq!(histogram.durations().counts, expected, "around {bound:?}");
        assert_eq!(u128::from(histogram.durations().sum_nanos), 2 * bound.as_nanos() + 1);
    }
}

#[test]
fn the_shortest_and_the_longest_have_a_bucket() {
    let histogram = Histogram::default();
    histogram.observe(Duration::ZERO);
    histogram.observe(Duration::from_hours(24));
    let counts = histogram.durations().counts;
    assert_eq!((counts[0], counts[BUCKETS - 1]), (1, 1));
    assert_eq!(histogram.durations().count(), 2);
}

#[test]
fn a_bucket_is_found_as_by_searching() {
    let searched = |nanos| BOUNDS_MICROS.partition_point(|bound| *bound * 1_000 < nanos);
    let powers = (0..64).map(|power| 1_u64 << power);
    let bounds = BOUNDS_MICROS.into_iter().map(|micros| micros * 1_000);
    for around in powers.chain(bounds).chain([u64::MAX - 1]) {
        for nanos in [around - 1, around, around + 1] {
            assert_eq!(bucket(nanos), searched(nanos), "{nanos} ns");
        }
    }
}

#[test]
fn bounds_rise() {
    assert!(BOUNDS_MICROS.is_sorted_by(|low, high| low < high));
}

#[test]
fn an_upstreams_numbers_are_shared_by_its_name() {
    let metrics = metrics(&[]);
    metrics.upstream("main").connected(ConnectOutcome::Refused, Duration::from_millis(3));
    metrics.upstream("main").set_up(false);
    let snapshot = metrics.collect(process(), vec![main_upstream()]);
    let [main] = &snapshot.upstreams[..] else { panic!("{:?}", snapshot.upstreams) };
    assert!(!main.up);
    assert_eq!(main.connects[ConnectOutcome::Refused], 1);
    assert_eq!(main.connect.count(), 1);
    assert_eq!((main.connections[ServerState::Idle], main.connections[ServerState::Leased]), (3, 5));
}
