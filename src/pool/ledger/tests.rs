//! The ledger's invariants under random histories, and the rules one by one.

mod allotted;
mod failing;
mod leases;
mod simulation;

use crate::net::Moment;
use std::collections::{HashMap, HashSet};

use super::*;
use proptest::prelude::*;

const WINDOW: Duration = Duration::from_secs(5);
const KEEP: Keep = Keep { idle: None, lifetime: None, min_idle: 0, once: false };

/// A ledger with everything around it that carries steps out: connections that open and close at once or later, clients that wait and hold.
struct World {
    ledger: Ledger,
    now: Moment,
    steps: Vec<Step>,
    opening: Vec<ServerId>,
    closing: Vec<ServerId>,
    waiting: HashMap<Waiter, (PoolId, TenantId, Ticket)>,
    holding: HashMap<ServerId, TenantId>,
    listening: Vec<ServerId>,
    next_slot: u32,
    budget: u32,
    limits: Vec<Limits>,
    paused: HashSet<PoolId>,
    /// How often it was asked for more of a budget that is shared.
    asked: u32,
}

impl World {
    fn new(budget: u32, limits: &[Limits]) -> Self {
        let now = Moment::START;
        let mut ledger = Ledger::new(budget, 2, limits, now);
        ledger.set_failover_window(WINDOW);
        Self {
            ledger,
            now,
            steps: Vec::new(),
            opening: Vec::new(),
            closing: Vec::new(),
            waiting: HashMap::new(),
            holding: HashMap::new(),
            listening: Vec::new(),
            next_slot: 0,
            budget,
            limits: limits.to_vec(),
            paused: HashSet::new(),
            asked: 0,
        }
    }

    fn granted(&mut self, server: ServerId, to: Waiter) {
        let (pool, tenant, _) = self.waiting.remove(&to).expect("a waiter is served once, and only while it waits");
        assert!(!self.paused.contains(&pool), "a pool that is paused serves nobody");
        assert_eq!(self.holding.insert(server, tenant), None, "a connection has one holder");
    }

    fn next(&mut self, server: ServerId, next: Next) {
        match next {
            Next::Hand(to) => self.granted(server, to),
            Next::Keep => {}
            Next::Close => self.closing.push(server),
        }
        self.carry_out();
    }

    fn carry_out(&mut self) {
        for step in std::mem::take(&mut self.steps) {
            match step {
                Step::Hand { server, to, .. } => self.granted(server, to),
                Step::Open { server, .. } => self.opening.push(server),
                Step::Close { server, .. } => self.closing.push(server),
                Step::Ask => self.asked += 1,
            }
        }
        self.check();
    }

    fn check(&self) {
        assert!(self.ledger.total() <= self.budget, "{} connections over a budget of {}", self.ledger.total(), self.budget);
        let leased: HashSet<ServerId> =
            self.ledger.states().filter(|(_, _, state)| matches!(state, State::Leased(_))).map(|(server, _, _)| server).collect();
        assert_eq!(leased, self.holding.keys().copied().collect());
        for (at, limits) in self.limits.iter().enumerate() {
            let tenant = TenantId(u16::try_from(at).unwrap());
            let held = u32::try_from(self.holding.values().filter(|holder| **holder == tenant).count()).unwrap();
            assert_eq!(held, self.ledger.accounts().held(tenant));
            assert!(limits.most.is_none_or(|most| held <= most));
        }
        let listening = self.ledger.states().filter(|(_, _, state)| *state == State::Listening).count();
        assert_eq!((listening, self.ledger.listening as usize), (self.listening.len(), self.listening.len()));
        assert!(self.ledger.accounts().budget() >= 1, "somebody may always have one");
        assert_eq!(self.ledger.waiting() as usize, self.waiting.len());
        let idle = self.ledger.states().filter(|(_, _, state)| *state == State::Idle).count();
        assert_eq!(self.ledger.idle as usize, idle);
        assert!(
            !self.ledger.states().any(|(_, of, state)| self.paused.contains(&of) && state == State::Idle),
            "idle in a pool that is paused"
        );
        for (pool, tenant, _) in self.waiting.values() {
            let idle = self.ledger.states().any(|(_, of, state)| of == *pool && state == State::Idle);
            assert!(!(idle && self.ledger.accounts().may_hold(*tenant)), "one waits beside an idle connection that it may have");
        }
    }

    fn request(&mut self, pool: PoolId, tenant: TenantId, worker: u16) -> Result<(), Refusal> {
        self.next_slot += 1;
        let from = Waiter { worker, slot: self.next_slot };
        match self.ledger.request(self.now, pool, Claim { tenant, level: 0, within: None }, from, &mut self.steps)? {
            Answer::Take(_) if self.paused.contains(&pool) => panic!("a pool that is paused serves nobody"),
            Answer::Take(server) => assert_eq!(self.holding.insert(server, tenant), None, "a connection has one holder"),
            Answer::Wait(ticket) => assert!(self.waiting.insert(from, (pool, tenant, ticket)).is_none()),
        }
        self.carry_out();
        Ok(())
    }

    fn give_back(&mut self, server: ServerId) {
        self.holding.remove(&server);
        let next = self.ledger.give_back(self.now, server, true, &mut self.steps);
        self.next(server, next);
    }

    fn listens(&mut self, server: ServerId) -> bool {
        let listens = self.ledger.listens(self.now, server, &mut self.steps);
        if listens {
            self.holding.remove(&server);
            self.listening.push(server);
        }
        self.carry_out();
        listens
    }

    fn listens_no_more(&mut self, server: ServerId) {
        self.listening.retain(|listening| *listening != server);
        let next = self.ledger.give_back(self.now, server, true, &mut self.steps);
        self.next(server, next);
    }

    fn open(&mut self, server: ServerId) {
        self.ledger.answered();
        let next = self.ledger.opened(self.now, server, &mut self.steps);
        self.next(server, next);
    }

    fn fail(&mut self, server: ServerId, failure: Failure) -> Aftermath {
        let aftermath = self.ledger.open_failed(self.now, server, failure, &mut self.steps);
        self.dismissed(&aftermath.dismissed);
        self.carry_out();
        aftermath
    }

    fn dismissed(&mut self, waiters: &[Waiter]) {
        for waiter in waiters {
            self.waiting.remove(waiter).expect("who is told that there is no hope has waited");
        }
    }

    fn retire(&mut self) {
        self.ledger.retire(self.now, &mut self.steps);
        self.carry_out();
        let idle = self.ledger.states().any(|(_, _, state)| state == State::Idle);
        assert!(!idle, "one of an earlier time is still to be had");
    }

    fn pause(&mut self, pool: PoolId) {
        self.paused.insert(pool);
        self.ledger.pause(pool, self.now, &mut self.steps);
        self.carry_out();
    }

    fn resume(&mut self, pool: PoolId) {
        self.paused.remove(&pool);
        self.ledger.resume(pool, self.now, &mut self.steps);
        self.carry_out();
    }

    fn retire_pool(&mut self, pool: PoolId) {
        self.ledger.retire_pool(pool, self.now, &mut self.steps);
        self.carry_out();
        let idle = self.ledger.states().any(|(_, of, state)| of == pool && state == State::Idle);
        assert!(!idle, "one of an earlier time is still to be had");
    }

    fn force(&mut self, connections: u32, leases: u32) {
        self.ledger.force(connections, leases, self.now, &mut self.steps);
        self.carry_out();
    }

    fn close(&mut self, server: ServerId) {
        self.ledger.closed(self.now, server, &mut self.steps);
        self.carry_out();
    }

    /// Opens and closes all that is under way, until nothing is, with time passing.
    fn settle(&mut self) {
        for _ in 0..1000 {
            self.now += Duration::from_millis(200);
            self.ledger.sweep(self.now, &mut self.steps);
            let dismissed = self.ledger.dismiss_hopeless(self.now);
            self.dismissed(&dismissed);
            self.carry_out();
            if let Some(server) = self.opening.pop() {
                self.open(server);
            } else if let Some(server) = self.closing.pop() {
                self.close(server);
            } else {
                return;
            }
        }
        panic!("it never comes to rest");
    }
}

fn limits(most: u32, reserved: u32) -> Limits {
    Limits { most: (most > 0).then_some(most), reserved, queue: 50, ..Limits::default() }
}

const A: TenantId = TenantId(0);
const B: TenantId = TenantId(1);

#[test]
fn connections_are_opened_with_slow_start_up_to_the_budget() {
    let mut world = World::new(8, &[limits(0, 0)]);
    let pool = world.ledger.add_pool(KEEP);
    for _ in 0..20 {
        world.request(pool, A, 0).unwrap();
    }
    assert_eq!(world.opening.len(), 2, "a cold pool opens two at once");
    let first = world.opening.remove(0);
    world.open(first);
    assert_eq!(world.opening.len(), 4, "and doubles with each success");
    world.settle();
    assert_eq!((world.holding.len(), world.waiting.len()), (8, 12));
}

#[test]
fn what_a_tenants_cap_forbids_is_not_opened() {
    let mut world = World::new(8, &[limits(1, 0)]);
    let pool = world.ledger.add_pool(KEEP);
    for _ in 0..20 {
        world.request(pool, A, 0).unwrap();
    }
    world.settle();
    assert_eq!((world.ledger.total(), world.holding.len()), (1, 1));
}

#[test]
fn a_full_queue_refuses_at_once() {
    let mut world = World::new(1, &[limits(0, 0)]);
    let pool = world.ledger.add_pool(KEEP);
    world.request(pool, A, 0).unwrap();
    world.settle();
    for _ in 0..50 {
        world.request(pool, A, 0).unwrap();
    }
    assert_eq!(world.request(pool, A, 0), Err(Refusal::QueueFull { limit: 50, expected: None }));
}

#[test]
fn a_queue_of_none_still_lets_a_cold_pool_open() {
    let mut world = World::new(2, &[Limits { queue: 0, ..limits(0, 0) }]);
    let pool = world.ledger.add_pool(KEEP);
    world.request(pool, A, 0).unwrap();
    world.request(pool, A, 0).unwrap();
    assert_eq!(
        world.request(pool, A, 0),
        Err(Refusal::QueueFull { limit: 0, expected: None }),
        "a third would wait for one of the first two"
    );
    world.settle();
    assert_eq!(world.holding.len(), 2);
    assert_eq!(world.request(pool, A, 0), Err(Refusal::QueueFull { limit: 0, expected: None }));
}

#[test]
fn rule_6_an_idle_connection_of_another_pool_makes_room() {
    let mut world = World::new(2, &[limits(0, 0)]);
    let (one, two) = (world.ledger.add_pool(KEEP), world.ledger.add_pool(KEEP));
    for _ in 0..2 {
        world.request(one, A, 0).unwrap();
    }
    world.settle();
    let (kept, freed) = {
        let mut held: Vec<ServerId> = world.holding.keys().copied().collect();
        held.sort();
        (held[0], held[1])
    };
    world.give_back(freed);
    world.request(two, A, 0).unwrap();
    assert_eq!(world.closing, [freed], "the idle one goes");
    assert!(world.opening.is_empty(), "a closing connection counts until it is gone");
    world.settle();
    assert_eq!(world.holding.len(), 2);
    assert!(world.holding.contains_key(&kept));
}

#[test]
fn a_pool_with_nothing_gets_the_next_connection_that_is_freed() {
    let mut world = World::new(1, &[limits(0, 0)]);
    let (one, two) = (world.ledger.add_pool(KEEP), world.ledger.add_pool(KEEP));
    world.request(one, A, 0).unwrap();
    world.settle();
    world.request(two, A, 0).unwrap();
    world.now += Duration::from_millis(1);
    world.request(one, A, 0).unwrap();
    world.now += Duration::from_millis(20);
    let server = *world.holding.keys().next().unwrap();
    world.give_back(server);
    assert_eq!(world.closing, [server], "pool two has no connection at all and must not starve");
    world.settle();
    assert!(world.waiting.values().all(|(pool, _, _)| *pool == one));
}

#[test]
fn a_pool_that_is_paused_serves_nobody_and_holds_up_no_other() {
    let mut world = World::new(2, &[limits(0, 0)]);
    let (one, two) = (world.ledger.add_pool(KEEP), world.ledger.add_pool(Keep { min_idle: 1, ..KEEP }));
    world.request(one, A, 0).unwrap();
    world.settle();
    world.pause(one);
    for _ in 0..60 {
        world.request(one, A, 0).expect("who waits for a pause stands in nobody's way, however many they are");
    }
    assert!(!world.ledger.is_empty(one));
    let server = *world.holding.keys().next().unwrap();
    world.give_back(server);
    world.settle();
    assert!(world.ledger.is_empty(one) && world.holding.is_empty());
    world.request(two, A, 0).unwrap();
    world.settle();
    assert_eq!((world.holding.len(), world.waiting.len()), (1, 60), "the other pool's client is served");
    world.resume(one);
    world.settle();
    assert_eq!((world.holding.len(), world.waiting.len()), (2, 59));
}

#[test]
fn reservations_are_kept_free() {
    let mut world = World::new(4, &[limits(0, 0), limits(0, 2)]);
    let pool = world.ledger.add_pool(KEEP);
    for _ in 0..10 {
        world.request(pool, A, 0).unwrap();
    }
    world.settle();
    assert_eq!(world.holding.len(), 2);
    world.request(pool, B, 1).unwrap();
    world.settle();
    assert_eq!(world.ledger.accounts().held(B), 1);
}

#[test]
fn idle_connections_are_reaped_down_to_min_idle_and_filled_up_to_it() {
    let mut world = World::new(8, &[limits(0, 0)]);
    let pool = world.ledger.add_pool(Keep { idle: Some(Duration::from_secs(10)), min_idle: 2, ..KEEP });
    world.settle();
    assert_eq!(world.ledger.total(), 2, "min_idle is opened without a client");
    for _ in 0..6 {
        world.request(pool, A, 0).unwrap();
    }
    world.settle();
    let held: Vec<ServerId> = world.holding.keys().copied().collect();
    for server in held {
        world.give_back(server);
    }
    world.now += Duration::from_secs(11);
    world.settle();
    assert_eq!(world.ledger.total(), 2);
}

#[test]
fn lifetimes_end_when_idle_and_with_jitter() {
    let mut world = World::new(8, &[limits(0, 0)]);
    let hour = Duration::from_hours(1);
    let pool = world.ledger.add_pool(Keep { lifetime: Some(hour), ..KEEP });
    for _ in 0..8 {
        world.request(pool, A, 0).unwrap();
    }
    world.settle();
    let retire: HashSet<Duration> = world.ledger.servers.iter().map(|(_, book)| book.retire_at.unwrap() - world.now).collect();
    assert_eq!(retire.len(), 8, "no two at the same time");
    assert!(retire.iter().all(|left| *left <= hour && *left > hour.mul_f64(0.85)));
    world.now += hour;
    let held: Vec<ServerId> = world.holding.keys().copied().collect();
    for server in held {
        world.give_back(server);
    }
    assert_eq!(world.closing.len(), 8);
}

#[test]
fn a_connection_that_listens_for_all_counts_and_is_nobodys() {
    let mut world = World::new(4, &[limits(1, 0), limits(0, 1)]);
    let pool = world.ledger.add_pool(Keep { idle: None, lifetime: None, min_idle: 0, once: false });
    world.request(pool, A, 0).unwrap();
    world.settle();
    let first = *world.holding.keys().next().unwrap();
    world.request(pool, A, 0).unwrap();
    world.settle();
    assert_eq!((world.holding.len(), world.waiting.len()), (1, 1), "the tenant has all that it may have");
    assert!(world.listens(first));
    world.settle();
    assert_eq!((world.holding.len(), world.waiting.len()), (1, 0), "and what listens for all is not among it");
    // One is reserved, so that of the three that are left two are to be had.
    world.request(pool, B, 0).unwrap();
    world.request(pool, B, 0).unwrap();
    world.settle();
    assert_eq!((world.holding.len(), world.ledger.total()), (3, 4));
    let second = *world.holding.iter().find(|(_, tenant)| **tenant == B).unwrap().0;
    assert!(world.listens(second));
    let third = *world.holding.iter().find(|(_, tenant)| **tenant == B).unwrap().0;
    assert!(!world.listens(third), "half of them are for work");
    world.listens_no_more(first);
    assert!(world.listens(third));
    let mut one = World::new(1, &[limits(0, 0)]);
    let pool = one.ledger.add_pool(Keep { idle: None, lifetime: None, min_idle: 0, once: false });
    one.request(pool, A, 0).unwrap();
    one.settle();
    let only = *one.holding.keys().next().unwrap();
    assert!(!one.listens(only), "the only one is for work");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn the_invariants_hold_under_any_history(
        budget in 1u32..6,
        tenants in prop::collection::vec((0u32..4, 0u32..2), 1..4),
        history in prop::collection::vec((0u8..17, any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..300),
    ) {
        let all: Vec<Limits> = tenants.iter().map(|(most, reserved)| limits(*most, *reserved)).collect();
        let mut world = World::new(budget, &all);
        let keep = Keep { idle: Some(Duration::from_secs(2)), lifetime: Some(Duration::from_secs(5)), min_idle: 0, once: false };
        let pools = [world.ledger.add_pool(keep), world.ledger.add_pool(keep), world.ledger.add_pool(Keep { once: true, ..keep })];
        for (event, x, y) in history {
            world.now += Duration::from_millis(20);
            let mut holders: Vec<ServerId> = world.holding.keys().copied().collect();
            holders.sort();
            match event {
                0..=2 => {
                    let tenant = TenantId(u16::try_from(y.index(all.len())).unwrap());
                    let _ = world.request(pools[x.index(3)], tenant, u16::try_from(y.index(2)).unwrap());
                }
                3..=4 if !holders.is_empty() => world.give_back(holders[x.index(holders.len())]),
                5 if !world.opening.is_empty() => {
                    let server = world.opening.remove(x.index(world.opening.len()));
                    world.open(server);
                }
                6 if !world.opening.is_empty() => {
                    let server = world.opening.remove(x.index(world.opening.len()));
                    world.fail(server, [Failure::Unreachable, Failure::Full, Failure::Refused][y.index(3)]);
                }
                7 if !world.closing.is_empty() => {
                    let server = world.closing.remove(x.index(world.closing.len()));
                    world.close(server);
                }
                8 if !world.waiting.is_empty() => {
                    let mut waiting: Vec<Waiter> = world.waiting.keys().copied().collect();
                    waiting.sort_by_key(|waiter| waiter.slot);
                    let (pool, _, ticket) = world.waiting.remove(&waiting[x.index(waiting.len())]).unwrap();
                    prop_assert!(world.ledger.leave(pool, ticket));
                    prop_assert!(!world.ledger.leave(pool, ticket));
                    world.check();
                }
                9 if !holders.is_empty() && x.index(2) == 0 => {
                    let server = holders[y.index(holders.len())];
                    world.holding.remove(&server);
                    world.ledger.closing(world.now, server, &mut world.steps);
                    world.closing.push(server);
                    world.carry_out();
                }
                10 if x.index(4) == 0 => world.retire(),
                11 if x.index(2) == 0 => {
                    let connections = 1 + u32::try_from(x.index(budget as usize)).unwrap();
                    world.force(connections, 1 + u32::try_from(y.index(connections as usize)).unwrap());
                }
                12 if x.index(3) == 0 => world.pause(pools[y.index(3)]),
                13 => world.resume(pools[y.index(3)]),
                14 if x.index(3) == 0 => world.retire_pool(pools[y.index(3)]),
                15 if !holders.is_empty() => drop(world.listens(holders[x.index(holders.len())])),
                16 if !world.listening.is_empty() => world.listens_no_more(world.listening[x.index(world.listening.len())]),
                _ => {
                    world.ledger.sweep(world.now, &mut world.steps);
                    world.carry_out();
                }
            }
        }
        // Whoever still waits is served once those who hold give back, however few leases there are: nobody is lost.
        let reserved: u32 = all.iter().map(|limits| limits.reserved).sum();
        for pool in pools {
            world.resume(pool);
        }
        world.force(budget, budget.min(reserved + 1));
        for server in world.listening.clone() {
            world.listens_no_more(server);
        }
        for _ in 0..2000 {
            // Beyond the longest pause after failures.
            world.now += Duration::from_secs(6);
            world.settle();
            let Some(server) = world.holding.keys().min().copied() else { break };
            world.give_back(server);
        }
        if reserved < budget {
            prop_assert_eq!(world.waiting.len(), 0);
        }
    }
}
