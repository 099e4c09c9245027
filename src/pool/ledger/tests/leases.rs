//! Fewer leases than connections, and the search for how many are best.

use super::*;

#[test]
fn while_leases_are_held_back_they_go_in_turn_among_the_pools() {
    let patient = Limits { wait: None, ..limits(0, 0) };
    let mut world = World::new(4, &[patient, patient]);
    let (busy, quiet) = (world.ledger.add_pool(KEEP), world.ledger.add_pool(KEEP));
    for pool in [busy, busy, quiet, quiet] {
        world.request(pool, A, 0).unwrap();
        world.settle();
    }
    let all: Vec<ServerId> = world.holding.keys().copied().collect();
    for server in all {
        world.give_back(server);
    }
    world.force(4, 1);
    for _ in 0..20 {
        world.request(busy, A, 0).unwrap();
    }
    world.now += Duration::from_millis(1);
    world.request(quiet, B, 0).unwrap();
    let server = *world.holding.keys().next().unwrap();
    world.now += Duration::from_millis(10);
    world.give_back(server);
    assert_eq!(world.holding.len(), 1, "no more than one is at work");
    assert_eq!(world.ledger.waiting_for(quiet), 0, "whose tenant has had nothing goes first, in a pool with idle connections of its own");
    let server = *world.holding.keys().next().unwrap();
    world.give_back(server);
    assert_eq!((world.ledger.waiting_for(busy), world.holding.len()), (18, 1));
}

#[test]
fn a_lower_limit_closes_what_is_idle_and_never_below_what_is_reserved() {
    let mut world = World::new(8, &[limits(0, 0), limits(0, 2)]);
    let pool = world.ledger.add_pool(KEEP);
    for _ in 0..6 {
        world.request(pool, A, 0).unwrap();
        world.settle();
    }
    world.ledger.set_limit_mode(LimitMode::Adaptive { least: 1 }, world.now, &mut world.steps);
    assert_eq!(world.ledger.suggested_limit(), Some(8));
    // Forty at a time want the server, which does no more with four than with three.
    for moment in 0..4_000 {
        world.now += Duration::from_millis(10);
        while world.waiting.len() < 40 {
            world.request(pool, A, 0).unwrap();
        }
        let mut held: Vec<ServerId> = world.holding.keys().copied().collect();
        held.sort();
        // Three of them are done, others each time.
        let first = moment % held.len().max(1);
        held.rotate_left(first);
        for server in held.into_iter().take(3) {
            world.give_back(server);
        }
        if moment % 5 == 0 {
            world.ledger.look(world.now, &mut world.steps);
            world.carry_out();
        }
        while let Some(server) = world.opening.pop() {
            world.open(server);
        }
        while let Some(server) = world.closing.pop() {
            world.close(server);
        }
    }
    assert_eq!(world.ledger.suggested_limit(), Some(5), "three at work, and two are kept for another");
    assert_eq!((world.ledger.total(), world.ledger.budget()), (5, 5), "as many as the limit, and no more are closed than it says");
    world.ledger.set_limit_mode(LimitMode::Fixed, world.now, &mut world.steps);
    world.settle();
    assert_eq!((world.ledger.budget(), world.ledger.suggested_limit()), (8, None));
    assert!(world.holding.len() >= 6, "{}", world.holding.len());
}

#[test]
fn observing_changes_nothing_and_tells_the_knee() {
    let mut world = World::new(8, &[limits(0, 0)]);
    let pool = world.ledger.add_pool(KEEP);
    for _ in 0..8 {
        world.request(pool, A, 0).unwrap();
        world.settle();
    }
    let all: Vec<ServerId> = world.holding.keys().copied().collect();
    for server in all {
        world.give_back(server);
    }
    world.ledger.set_limit_mode(LimitMode::Observe, world.now, &mut world.steps);
    assert_eq!(world.ledger.suggested_limit(), None);
    for at_work in (1..=8).cycle().take(2_400) {
        (0..at_work).for_each(|_| world.request(pool, A, 0).unwrap());
        let held: Vec<ServerId> = world.holding.keys().copied().collect();
        for (server, at_work) in held.into_iter().zip((1..=at_work).rev()) {
            // Two cores: more than two are in each other's way. Whoever ends has been as long at work as it would with so many all the time.
            let since = world.now;
            world.now += Duration::from_millis(5 * at_work.max(2));
            world.give_back(server);
            world.now = since;
        }
        world.now += Duration::from_millis(100);
    }
    assert_eq!((world.ledger.suggested_limit(), world.ledger.budget()), (Some(2), 8));
}
