//! An upstream that fails, is full, or is elsewhere: rule 8, on a virtual clock.

use super::*;

/// A world with one pool that has one connection, which is idle.
fn with_one_idle(budget: u32) -> (World, PoolId) {
    let mut world = World::new(budget, &[limits(0, 0)]);
    let pool = world.ledger.add_pool(KEEP);
    world.request(pool, A, 0).unwrap();
    world.settle();
    let server = *world.holding.keys().next().unwrap();
    world.give_back(server);
    (world, pool)
}

/// The server dies: all its connections are gone.
fn crash(world: &mut World) {
    let servers: Vec<ServerId> =
        world.ledger.states().filter(|(_, _, state)| *state != State::Opening).map(|(server, ..)| server).collect();
    for server in servers {
        world.holding.remove(&server);
        world.ledger.closing(world.now, server, &mut world.steps);
        world.carry_out();
        world.close(server);
    }
}

/// Settles, with time for the longest pause between two attempts.
fn settle_at_length(world: &mut World) {
    for _ in 0..10 {
        world.settle();
    }
}

#[test]
fn who_waits_when_the_upstream_dies_is_served_when_it_is_back() {
    let (mut world, pool) = with_one_idle(8);
    crash(&mut world);
    for _ in 0..20 {
        world.request(pool, A, 0).unwrap();
    }
    let mut attempts = 0;
    let outage = world.now + Duration::from_secs(3);
    while world.now < outage {
        while let Some(server) = world.opening.pop() {
            attempts += 1;
            world.fail(server, Failure::Unreachable);
        }
        world.now += Duration::from_millis(10);
        world.ledger.sweep(world.now, &mut world.steps);
        world.carry_out();
        assert!(world.opening.len() <= 1, "one is tried at a time");
    }
    assert!((7..20).contains(&attempts), "{attempts} attempts in 3 seconds");
    assert_eq!(world.waiting.len(), 20, "nobody was turned away");
    settle_at_length(&mut world);
    assert_eq!((world.holding.len(), world.waiting.len()), (8, 12));
}

#[test]
fn when_the_window_is_over_all_are_told_and_new_ones_at_once() {
    let (mut world, pool) = with_one_idle(8);
    let other = world.ledger.add_pool(KEEP);
    crash(&mut world);
    world.request(pool, A, 0).unwrap();
    world.request(other, A, 0).unwrap();
    let mut told_down = 0;
    let start = world.now;
    while world.waiting.len() == 2 {
        while let Some(server) = world.opening.pop() {
            told_down += u32::from(world.fail(server, Failure::Unreachable).is_down);
        }
        world.now += Duration::from_millis(10);
        world.ledger.sweep(world.now, &mut world.steps);
        let dismissed = world.ledger.dismiss_hopeless(world.now);
        world.dismissed(&dismissed);
        world.carry_out();
    }
    assert_eq!((world.waiting.len(), told_down), (0, 1), "those of all pools, and it is news once");
    let took = world.now - start;
    assert!((WINDOW..WINDOW + Duration::from_millis(50)).contains(&took), "{took:?}");
    assert!(world.ledger.is_hopeless(pool, world.now) && world.ledger.is_hopeless(other, world.now));
    // Though nobody waits it is tried, and found.
    settle_at_length(&mut world);
    assert!(!world.ledger.is_hopeless(pool, world.now) && !world.ledger.is_hopeless(other, world.now));
}

#[test]
fn an_upstream_that_has_never_answered_is_not_waited_for() {
    let mut world = World::new(8, &[limits(0, 0)]);
    let pool = world.ledger.add_pool(KEEP);
    world.request(pool, A, 0).unwrap();
    let server = world.opening.pop().unwrap();
    let aftermath = world.fail(server, Failure::Unreachable);
    assert_eq!((aftermath.dismissed.len(), world.waiting.len()), (1, 0));
}

#[test]
fn a_pool_that_nobody_is_let_into_holds_up_no_other() {
    let (mut world, pool) = with_one_idle(8);
    let wrong = world.ledger.add_pool(KEEP);
    for _ in 0..10 {
        world.request(wrong, A, 0).unwrap();
        while let Some(server) = world.opening.pop() {
            world.fail(server, Failure::Refused);
        }
        assert!(world.waiting.is_empty(), "they are told at once");
        assert!(world.ledger.is_hopeless(wrong, world.now));
        world.now += Duration::from_secs(6);
    }
    for _ in 0..4 {
        world.request(pool, A, 0).unwrap();
    }
    assert_eq!((world.holding.len(), world.opening.len()), (1, 3), "as quickly as ever");
    world.ledger.forgive(wrong);
    assert!(!world.ledger.is_hopeless(wrong, world.now));
}

#[test]
fn a_full_server_is_tried_seldom_and_refuses_nobody_who_can_be_served_otherwise() {
    let (mut world, pool) = with_one_idle(8);
    for _ in 0..30 {
        world.request(pool, A, 0).unwrap();
    }
    // The server has room for three.
    let (mut refusals, mut served) = (0, 0);
    for _ in 0..2000 {
        world.now += Duration::from_millis(10);
        while let Some(server) = world.opening.pop() {
            if world.ledger.total() - u32::try_from(world.opening.len()).unwrap() > 3 {
                refusals += 1;
                assert_eq!(world.fail(server, Failure::Full), Aftermath::default());
            } else {
                world.open(server);
            }
        }
        let Some(server) = world.holding.keys().min().copied() else { break };
        served += 1;
        world.give_back(server);
        world.request(pool, A, 0).unwrap();
        world.ledger.sweep(world.now, &mut world.steps);
        world.carry_out();
    }
    assert_eq!((served, world.holding.len()), (2000, 3), "what there is goes on working");
    assert!((4..=16).contains(&refusals), "{refusals} refusals in 20 seconds");
}

#[test]
fn a_pool_without_any_connection_gets_the_room_that_another_leaves_idle_at_a_full_server() {
    let (mut world, _) = with_one_idle(8);
    let other = world.ledger.add_pool(KEEP);
    world.request(other, A, 0).unwrap();
    for server in std::mem::take(&mut world.opening) {
        world.fail(server, Failure::Full);
    }
    assert_eq!(world.closing.len(), 1);
}

#[test]
fn all_connections_of_an_earlier_time_are_replaced() {
    let (mut world, pool) = with_one_idle(8);
    for _ in 0..4 {
        world.request(pool, A, 0).unwrap();
    }
    world.settle();
    let held: Vec<ServerId> = world.holding.keys().copied().collect();
    let (one, rest) = held.split_first().unwrap();
    world.give_back(*one);
    world.retire();
    assert_eq!(world.closing, [*one], "the idle one at once");
    for server in rest {
        world.give_back(*server);
    }
    assert_eq!(world.closing.len(), 4, "the others when they come back");
    world.settle();
    world.request(pool, A, 0).unwrap();
    world.settle();
    let server = *world.holding.keys().next().unwrap();
    world.give_back(server);
    assert_eq!(world.ledger.total(), 1, "those that were opened since are kept");
}
