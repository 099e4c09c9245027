//! A budget that is shared with other proxies: as many as were allotted, and what is asked for.

use super::*;

impl World {
    fn allot(&mut self, slots: u32) {
        self.ledger.allot(slots, slots, self.now, &mut self.steps);
        self.carry_out();
    }

    fn shared(budget: u32, limits: &[Limits]) -> (Self, PoolId) {
        let mut world = Self::new(budget, limits);
        world.ledger.share(world.now);
        let pool = world.ledger.add_pool(KEEP);
        (world, pool)
    }

    fn needs(&mut self) -> (u32, u32) {
        let Needs { desired, least, .. } = self.ledger.needs();
        (desired, least)
    }
}

const ANYBODY: TenantId = TenantId(0);

#[test]
fn nothing_is_opened_that_is_not_allotted_and_more_is_asked_for_once() {
    let (mut world, pool) = World::shared(8, &[Limits::default()]);
    assert_eq!(world.needs(), (2, 0), "the first clients shall not have to wait");
    for _ in 0..5 {
        world.request(pool, ANYBODY, 0).unwrap();
    }
    assert_eq!((world.ledger.total(), world.asked), (0, 1), "it is said once that somebody waits");
    assert_eq!(world.needs(), (5, 5));
    world.allot(2);
    assert_eq!((world.opening.len(), world.asked), (2, 2), "and again after a look, as three are still to be served");
    world.settle();
    assert_eq!((world.holding.len(), world.waiting.len()), (2, 3));
    assert_eq!(world.needs(), (5, 5));
    world.allot(8);
    world.settle();
    assert_eq!((world.holding.len(), world.waiting.len()), (5, 0));
    assert_eq!(world.ledger.budget(), 8);
}

#[test]
fn what_is_idle_can_be_done_without_and_what_was_taken_away_is_closed_as_it_comes_back() {
    let (mut world, pool) = World::shared(8, &[Limits::default()]);
    world.allot(8);
    for _ in 0..6 {
        world.request(pool, ANYBODY, 0).unwrap();
    }
    world.settle();
    let held: Vec<ServerId> = world.holding.keys().copied().collect();
    held[..2].iter().for_each(|server| world.give_back(*server));
    assert_eq!(world.needs(), (6, 4));
    world.allot(5);
    assert_eq!(world.closing.len(), 1, "an idle one goes at once");
    world.settle();
    world.allot(3);
    assert_eq!(world.closing.len(), 1, "and the other");
    world.settle();
    assert_eq!(world.ledger.total(), 4);
    world.give_back(held[2]);
    world.settle();
    assert_eq!(world.ledger.total(), 3, "and one of the others when it is given back");
    world.give_back(held[3]);
    world.settle();
    assert_eq!(world.ledger.total(), 3, "then there are no more than there may be");
}

#[test]
fn what_is_reserved_or_to_be_kept_idle_is_wanted_too_and_nobody_beyond_a_cap() {
    let limits = [Limits { most: Some(3), ..Limits::default() }, Limits { reserved: 4, ..Limits::default() }];
    let (mut world, pool) = World::shared(20, &limits);
    assert_eq!(world.needs(), (5, 5), "four, and one for those who have reserved nothing");
    for _ in 0..9 {
        world.request(pool, ANYBODY, 0).unwrap();
    }
    assert_eq!(world.needs().0, 8, "three and no more for those who have a cap");
    world.allot(20);
    world.settle();
    assert_eq!((world.holding.len(), world.waiting.len()), (3, 6));
    assert_eq!(world.needs(), (7, 7));
    let (mut world, _) = World::shared(20, &[Limits::default()]);
    world.ledger.add_pool(Keep { min_idle: 3, ..KEEP });
    assert_eq!(world.needs(), (3, 0));
    world.allot(3);
    world.settle();
    assert_eq!((world.ledger.total(), world.needs()), (3, (3, 3)), "they are kept");
}

#[test]
fn where_nobody_can_say_what_is_allotted_those_who_wait_hear_so_unless_some_are_open() {
    let (mut world, pool) = World::shared(8, &[Limits::default()]);
    world.request(pool, ANYBODY, 0).unwrap();
    let aftermath = world.ledger.cannot_be_allotted(world.now);
    assert!(aftermath.is_down && aftermath.dismissed.len() == 1, "it has never answered");
    world.dismissed(&aftermath.dismissed);
    assert!(world.ledger.is_hopeless(pool, world.now));
    world.settle();
    assert_eq!(world.ledger.total(), 0, "it is not tried by opening one");
    assert!(world.ledger.answered());
    world.allot(2);
    world.request(pool, ANYBODY, 0).unwrap();
    world.settle();
    assert_eq!(world.holding.len(), 1);
    let aftermath = world.ledger.cannot_be_allotted(world.now);
    assert!(!aftermath.is_down && !world.ledger.is_down(), "one is open");
}

#[test]
fn what_is_expected_goes_by_what_might_be_had() {
    let wait = |prospect| {
        let (mut world, pool) = World::shared(40, &[Limits::default()]);
        world.ledger.allot(2, prospect, world.now, &mut world.steps);
        for _ in 0..2 {
            world.request(pool, ANYBODY, 0).unwrap();
        }
        world.settle();
        world.now += Duration::from_secs(4);
        let mut held: Vec<ServerId> = world.holding.keys().copied().collect();
        held.sort_unstable();
        for server in held {
            world.give_back(server);
        }
        world.ledger.accounts().expected_wait(ANYBODY, 39).unwrap()
    };
    assert_eq!(wait(2), wait(40) * 20);
    assert_eq!(wait(0), wait(2), "what it has it has");
}

proptest! {
    #[test]
    fn there_are_never_more_than_there_may_be(
        steps in proptest::collection::vec((0_u8..7, 0_u32..10), 1..120),
    ) {
        let (mut world, first) = World::shared(8, &[Limits::default(), Limits { reserved: 2, ..Limits::default() }]);
        let second = world.ledger.add_pool(Keep { min_idle: 1, ..KEEP });
        for (what, number) in steps {
            let pool = if number % 2 == 0 { first } else { second };
            let before = world.ledger.total();
            match what {
                0 => world.allot(number),
                1 | 2 => drop(world.request(pool, TenantId(u16::try_from(number % 2).unwrap()), 0)),
                3 => {
                    if let Some(server) = world.holding.keys().copied().min() {
                        world.give_back(server);
                    }
                }
                4 => world.opening.pop().into_iter().for_each(|server| world.open(server)),
                5 => world.closing.pop().into_iter().for_each(|server| world.close(server)),
                _ => {
                    world.now += Duration::from_millis(300);
                    world.ledger.sweep(world.now, &mut world.steps);
                    world.carry_out();
                }
            }
            prop_assert!(world.ledger.total() <= before.max(world.ledger.budget()), "more are opened than there may be");
            let Needs { desired, least, .. } = world.ledger.needs();
            let total = world.ledger.total();
            prop_assert!(least <= desired && desired >= total.min(8) && desired <= 8);
        }
        // Whoever waits is served when all that is asked for is allotted.
        for _ in 0..20 {
            let desired = world.ledger.needs().desired;
            world.allot(desired);
            world.settle();
            let held: Vec<ServerId> = world.holding.keys().copied().collect();
            for server in held {
                world.give_back(server);
            }
            world.settle();
        }
        prop_assert_eq!(world.ledger.waiting(), 0);
    }
}
