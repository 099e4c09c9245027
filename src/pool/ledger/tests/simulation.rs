//! A ledger among clients and servers of a virtual clock: minutes of traffic in moments, the same for the same seed.
//!
//! What is simulated is what the ledger decides about: clients that come, wait, hold and give back, connections that take time to open and to close.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::*;
use crate::admission::Recent;
use crate::net::Moment;

const MS: u64 = 1_000_000;
const OPENING: u64 = 6 * MS;
const CLOSING: u64 = MS;

const KEEP: Keep = Keep { idle: Some(Duration::from_mins(1)), lifetime: None, min_idle: 0, once: false };

/// How a kind of client behaves.
#[derive(Debug, Clone, Copy)]
struct Kind {
    tenant: u16,
    pool: PoolId,
    /// How long it holds a server connection, on average, in nanoseconds.
    hold: u64,
    /// How long it does nothing between two requests, on average; for the first time, too.
    think: u64,
    /// How long it waits before it leaves.
    patience: u64,
    /// How often it comes back at once when it is refused.
    retries: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Event {
    Ask(usize, u32),
    GiveUp(usize, u64),
    Done(usize, ServerId),
    Opened(ServerId),
    Closed(ServerId),
    Sweep,
}

#[derive(Debug, Default, Clone)]
struct Tally {
    granted: u64,
    refused: u64,
    left: u64,
    server_time: u64,
    waits: Vec<u64>,
}

impl Tally {
    fn p99(&self) -> u64 {
        self.thousandth(990)
    }

    /// So many of a thousand have waited for less.
    fn thousandth(&self, share: usize) -> u64 {
        let mut waits = self.waits.clone();
        waits.sort_unstable();
        waits.get(waits.len() * share / 1000).copied().unwrap_or(0)
    }
}

struct Waiting {
    ticket: Ticket,
    since: u64,
    number: u64,
}

struct Simulation {
    ledger: Ledger,
    start: Moment,
    now: u64,
    random: u64,
    number: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    kinds: Vec<Kind>,
    clients: Vec<(usize, Recent)>,
    waiting: HashMap<usize, Waiting>,
    holders: HashMap<ServerId, usize>,
    tallies: Vec<Tally>,
    budget: u32,
    /// Tallies are kept from then on.
    counts_from: u64,
    /// Clients ask no more after this.
    ends: u64,
    log: DefaultHasher,
}

impl Simulation {
    fn new(seed: u64, budget: u32, limits: &[Limits]) -> Self {
        let start = Moment::START;
        let mut simulation = Self {
            ledger: Ledger::new(budget, 1, limits, start),
            start,
            now: 0,
            random: seed,
            number: 0,
            events: BinaryHeap::new(),
            kinds: Vec::new(),
            clients: Vec::new(),
            waiting: HashMap::new(),
            holders: HashMap::new(),
            tallies: Vec::new(),
            budget,
            counts_from: 0,
            ends: u64::MAX,
            log: DefaultHasher::new(),
        };
        simulation.at(0, Event::Sweep);
        simulation
    }

    fn pool(&mut self) -> PoolId {
        self.ledger.add_pool(KEEP)
    }

    fn add(&mut self, count: usize, kind: Kind) -> usize {
        self.kinds.push(kind);
        self.tallies.push(Tally::default());
        for _ in 0..count {
            self.clients.push((self.kinds.len() - 1, Recent::default()));
            let first = self.around(kind.think);
            self.at(first, Event::Ask(self.clients.len() - 1, 0));
        }
        self.kinds.len() - 1
    }

    /// `SplitMix64`.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A length of time around this one: half as long up to half as long again.
    fn around(&mut self, average: u64) -> u64 {
        average / 2 + self.random() % average.max(1)
    }

    fn at(&mut self, after: u64, event: Event) {
        self.number += 1;
        self.events.push(Reverse((self.now + after, self.number, event)));
    }

    fn instant(&self) -> Moment {
        self.start + Duration::from_nanos(self.now)
    }

    fn period(&self) -> u32 {
        u32::try_from(self.now / (1280 * MS)).unwrap()
    }

    fn run(&mut self, until: u64) {
        while let Some(Reverse((at, _, event))) = self.events.peek().copied()
            && at <= until
        {
            self.events.pop();
            self.now = at;
            (at, event).hash(&mut self.log);
            let mut steps = Vec::new();
            self.happens(event, &mut steps);
            self.carry_out(steps);
            assert!(self.ledger.total() <= self.budget, "over the budget");
        }
        self.now = until;
    }

    fn happens(&mut self, event: Event, steps: &mut Vec<Step>) {
        let now = self.instant();
        match event {
            Event::Ask(client, tries) => self.ask(client, tries, steps),
            Event::GiveUp(client, number) => {
                if self.waiting.get(&client).is_none_or(|waiting| waiting.number != number) {
                    return;
                }
                let Some(waiting) = self.waiting.remove(&client) else { return };
                let kind = self.clients[client].0;
                assert!(self.ledger.leave(self.kinds[kind].pool, waiting.ticket), "who waits can leave");
                self.tallies[kind].left += 1;
                self.pause(client);
            }
            Event::Done(client, server) => {
                assert_eq!(self.holders.remove(&server), Some(client), "a connection has one holder");
                let next = self.ledger.give_back(now, server, true, steps);
                self.next(server, next);
                self.pause(client);
            }
            Event::Opened(server) => {
                let next = self.ledger.opened(now, server, steps);
                self.next(server, next);
            }
            Event::Closed(server) => self.ledger.closed(now, server, steps),
            Event::Sweep => {
                self.ledger.sweep(now, steps);
                self.at(100 * MS, Event::Sweep);
            }
        }
    }

    fn ask(&mut self, client: usize, tries: u32, steps: &mut Vec<Step>) {
        if self.now >= self.ends {
            return;
        }
        let (kind, recent) = self.clients[client];
        let Kind { tenant, pool, patience, retries, .. } = self.kinds[kind];
        let claim = Claim { tenant: TenantId(tenant), level: recent.level(self.period()), within: None };
        let from = Waiter { worker: 0, slot: u32::try_from(client).unwrap() };
        match self.ledger.request(self.instant(), pool, claim, from, steps) {
            Ok(Answer::Take(server)) => self.granted(server, client, 0),
            Ok(Answer::Wait(ticket)) => {
                let number = self.number;
                self.waiting.insert(client, Waiting { ticket, since: self.now, number });
                self.at(patience, Event::GiveUp(client, number));
            }
            Err(_) if tries < retries => self.at(MS, Event::Ask(client, tries + 1)),
            Err(_) => {
                self.tallies[kind].refused += 1;
                self.pause(client);
            }
        }
    }

    fn pause(&mut self, client: usize) {
        let pause = self.around(self.kinds[self.clients[client].0].think);
        self.at(pause, Event::Ask(client, 0));
    }

    fn granted(&mut self, server: ServerId, client: usize, waited: u64) {
        assert_eq!(self.holders.insert(server, client), None, "a connection has one holder");
        let kind = self.clients[client].0;
        let hold = self.around(self.kinds[kind].hold);
        let period = self.period();
        self.clients[client].1.add(Duration::from_nanos(hold), period);
        if self.now >= self.counts_from {
            let tally = &mut self.tallies[kind];
            tally.granted += 1;
            tally.server_time += hold;
            tally.waits.push(waited);
        }
        self.at(hold, Event::Done(client, server));
    }

    fn hand(&mut self, server: ServerId, to: Waiter) {
        let client = to.slot as usize;
        let waiting = self.waiting.remove(&client).expect("a waiter is served once, and only while it waits");
        self.granted(server, client, self.now - waiting.since);
    }

    fn next(&mut self, server: ServerId, next: Next) {
        match next {
            Next::Hand(to) => self.hand(server, to),
            Next::Keep => {}
            Next::Close => self.at(CLOSING, Event::Closed(server)),
        }
    }

    fn carry_out(&mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Hand { server, to, .. } => self.hand(server, to),
                Step::Open { server, .. } => self.at(OPENING, Event::Opened(server)),
                Step::Close { server, .. } => self.at(CLOSING, Event::Closed(server)),
                Step::Ask => {}
            }
        }
    }

    /// Everybody is served, and nobody asks again.
    fn drain(&mut self) {
        self.ends = self.now;
        self.run(self.now + 60_000 * MS);
        assert!(self.waiting.is_empty() && self.holders.is_empty(), "nobody is left waiting or holding");
    }

    fn shares(&self) -> Vec<f64> {
        let of = |tally: &Tally| Duration::from_nanos(tally.server_time).as_secs_f64();
        let all: f64 = self.tallies.iter().map(of).sum();
        self.tallies.iter().map(|tally| of(tally) / all).collect()
    }
}

fn weighted(weight: u32) -> Limits {
    Limits { weight, queue: 100_000, ..Limits::default() }
}

fn kind(tenant: u16, pool: PoolId, hold: u64) -> Kind {
    Kind { tenant, pool, hold, think: MS, patience: 5000 * MS, retries: 0 }
}

/// Three tenants that want all they can get; in one pool, or in a pool each.
fn contest(seed: u64, has_own_pools: bool) -> Simulation {
    let mut simulation = Simulation::new(seed, 20, &[weighted(1), weighted(2), weighted(5)]);
    let shared = simulation.pool();
    for (tenant, clients, hold) in [(0, 300, 50 * MS), (1, 40, 2 * MS), (2, 100, 10 * MS)] {
        let pool = if has_own_pools { simulation.pool() } else { shared };
        simulation.add(clients, kind(tenant, pool, hold));
    }
    simulation.counts_from = 5000 * MS;
    simulation.run(65_000 * MS);
    simulation
}

#[test]
fn under_saturation_server_time_follows_the_weights() {
    for has_own_pools in [false, true] {
        for seed in 0..2 {
            let shares = contest(seed, has_own_pools).shares();
            for (share, weight) in shares.iter().zip([1.0, 2.0, 5.0]) {
                let fair = weight / 8.0;
                assert!((share - fair).abs() <= 0.05 * fair, "own pools: {has_own_pools}, seed {seed}: {shares:?}");
            }
        }
    }
}

#[test]
fn having_slept_earns_no_credit() {
    let mut simulation = Simulation::new(1, 10, &[weighted(1), weighted(1)]);
    let pool = simulation.pool();
    simulation.add(50, kind(0, pool, 10 * MS));
    // A minute alone.
    simulation.run(60_000 * MS);
    simulation.add(50, kind(1, pool, 10 * MS));
    simulation.tallies[0] = Tally::default();
    simulation.run(70_000 * MS);
    let shares = simulation.shares();
    assert!((shares[0] - 0.5).abs() < 0.03, "{shares:?}");
}

#[test]
fn a_quiet_tenant_waits_for_a_lease_of_a_greedy_one_at_most() {
    for has_own_pools in [false, true] {
        let mut simulation = Simulation::new(3, 20, &[weighted(1), weighted(1)]);
        let shared = simulation.pool();
        let own = if has_own_pools { simulation.pool() } else { shared };
        let greedy = simulation.add(200, kind(0, shared, 50 * MS));
        let quiet = simulation.add(1, Kind { think: 50 * MS, ..kind(1, own, MS) });
        simulation.counts_from = 2000 * MS;
        simulation.run(120_000 * MS);
        let tally = &simulation.tallies[quiet];
        assert!(tally.granted > 2000 && tally.p99() <= 25 * MS, "{} served, p99 {} ms", tally.granted, tally.p99() / MS);
        // The greedy one has the rest of the budget.
        assert!(simulation.shares()[greedy] > 0.98);
        let busy = simulation.tallies[greedy].server_time / (118_000 * MS / 100);
        assert!(busy >= 1850, "{busy} % of one connection, of twenty");
    }
}

#[test]
fn what_is_reserved_is_there_within_one_hold_time() {
    for has_own_pools in [false, true] {
        let mut simulation = Simulation::new(4, 10, &[weighted(100), Limits { reserved: 4, ..weighted(1) }]);
        let shared = simulation.pool();
        let own = if has_own_pools { simulation.pool() } else { shared };
        simulation.add(100, kind(0, shared, 200 * MS));
        simulation.run(10_000 * MS);
        // All four at once, whatever the weights say.
        let reserved = simulation.add(4, Kind { think: 0, ..kind(1, own, 1000 * MS) });
        simulation.run(10_000 * MS + 300 * MS + OPENING + CLOSING);
        assert_eq!(simulation.tallies[reserved].granted, 4, "own pools: {has_own_pools}");
    }
}

#[test]
fn thousands_of_clients_of_all_kinds_and_nobody_is_lost() {
    let life = |seed| {
        let limits = [Limits { queue: 300, ..weighted(1) }, Limits { most: Some(5), ..weighted(3) }, Limits { reserved: 3, ..weighted(1) }];
        let mut simulation = Simulation::new(seed, 25, &limits);
        let pools: Vec<PoolId> = (0..12).map(|_| simulation.pool()).collect();
        for number in 0..24 {
            let tenant = u16::try_from(number % 3).unwrap();
            let number = u64::try_from(number).unwrap();
            let pool = pools[usize::try_from(number % 12).unwrap()];
            let (hold, think) = ((1 + number) * MS, 50 * (1 + number * number) * MS);
            simulation.add(100, Kind { think, patience: 400 * MS, retries: 2, ..kind(tenant, pool, hold) });
        }
        simulation.run(60_000 * MS);
        simulation.drain();
        let granted: u64 = simulation.tallies.iter().map(|tally| tally.granted).sum();
        assert!(granted > 20_000, "{granted}");
        for (at, tally) in simulation.tallies.iter().enumerate() {
            assert!(tally.granted > 0, "kind {at} was never served");
        }
        (granted, simulation.log.finish())
    };
    assert_eq!(life(11), life(11), "equal seeds give equal runs");
    assert_ne!(life(11), life(12));
}

#[test]
fn a_retry_storm_settles() {
    let mut simulation = Simulation::new(5, 20, &[Limits { queue: 200, ..Limits::default() }]);
    let pool = simulation.pool();
    // Five thousand at once, each of which comes back at once, three times, and then after a minute.
    let storm = simulation.add(5000, Kind { think: 0, retries: 3, patience: 2000 * MS, ..kind(0, pool, 20 * MS) });
    simulation.kinds[storm].think = 60_000 * MS;
    simulation.run(1000 * MS);
    let tally = simulation.tallies[storm].clone();
    assert!(tally.granted >= 200 && tally.granted + tally.refused == 5000, "{} served, {} refused", tally.granted, tally.refused);
    assert!(simulation.waiting.is_empty() && simulation.holders.is_empty(), "a second later nothing of it is left");
    assert!(tally.waits.iter().all(|wait| *wait < 400 * MS));
}

#[test]
fn a_batch_job_does_not_drown_the_short_calls_of_its_own_tenant() {
    let mut simulation = Simulation::new(6, 4, &[weighted(1)]);
    let pool = simulation.pool();
    let batch = simulation.add(40, Kind { patience: 60_000 * MS, ..kind(0, pool, 400 * MS) });
    let short = simulation.add(10, Kind { think: 500 * MS, ..kind(0, pool, MS) });
    simulation.counts_from = 10_000 * MS;
    simulation.run(70_000 * MS);
    let (batch, short) = (&simulation.tallies[batch], &simulation.tallies[short]);
    assert!(short.p99() <= 600 * MS, "{} ms", short.p99() / MS);
    assert!(short.granted > 700 && batch.granted > 500, "{} and {}", short.granted, batch.granted);
    let longest = batch.waits.iter().max().unwrap();
    assert!(*longest < 20_000 * MS, "nobody is passed over for ever: {} ms", longest / MS);
}

/// Whoever has had a little more than its equals, by chance, does not wait behind all of them for it.
#[test]
fn clients_that_are_alike_wait_alike() {
    for clients in [50, 100, 200] {
        for hold in [MS, 2 * MS, 5 * MS] {
            let mut simulation = Simulation::new(3, 20, &[weighted(1)]);
            let pool = simulation.pool();
            let all = simulation.add(clients, kind(0, pool, hold));
            simulation.counts_from = 4000 * MS;
            simulation.run(10_000 * MS);
            let waits = &simulation.tallies[all];
            let (usual, long) = (waits.thousandth(500), waits.thousandth(999));
            assert!(
                long <= 3 * usual + hold,
                "{clients} clients that hold for {hold} ns: {usual} ns is usual, and one in a thousand waits {long} ns"
            );
        }
    }
}
