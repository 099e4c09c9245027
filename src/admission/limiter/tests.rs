//! The search against servers with different knees, noisy ones, on a clock of its own.

use proptest::prelude::Rng as _;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::*;

const TICK: Duration = Duration::from_millis(50);

/// A server whose throughput is known for each number of leases at work.
struct Server<'a> {
    rate: &'a dyn Fn(u32) -> f64,
    /// The spread of its throughput from moment to moment, as a share.
    noise: f64,
    random: TestRng,
    now: Duration,
    done: f64,
    failed: f64,
    fails_beyond: u32,
}

impl<'a> Server<'a> {
    fn new(rate: &'a dyn Fn(u32) -> f64, noise: f64, seed: u8) -> Self {
        let random = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
        Self { rate, noise, random, now: Duration::ZERO, done: 0.0, failed: 0.0, fails_beyond: u32::MAX }
    }

    /// One moment under this limit, with clients waiting.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts")]
    fn pass(&mut self, limit: u32) -> Sight {
        self.now += TICK;
        // The sum of four has the bell's shape, nearly.
        let swing = (0..4).map(|_| f64::from(self.random.next_u32()) / f64::from(u32::MAX) - 0.5).sum::<f64>() * self.noise * 1.73;
        let leases = (self.rate)(limit) * TICK.as_secs_f64() * (1.0 + swing);
        *(if limit > self.fails_beyond { &mut self.failed } else { &mut self.done }) += leases;
        Sight { now: self.now, done: self.done as u64, failed: self.failed as u64, held: limit, is_waited_for: true }
    }
}

/// Runs for so long; how often the settled limit changed, and the mean throughput.
fn run(limiter: &mut Limiter, server: &mut Server<'_>, time: Duration) -> (u32, f64) {
    let (until, before) = (server.now + time, server.done);
    let mut changes = 0;
    while server.now < until {
        let settled = limiter.settled();
        let sight = server.pass(limiter.limit());
        limiter.tick(sight);
        changes += u32::from(limiter.settled() != settled);
    }
    (changes, (server.done - before) / time.as_secs_f64())
}

fn best(rate: &dyn Fn(u32) -> f64, most: u32) -> f64 {
    (1..=most).map(rate).fold(0.0, f64::max)
}

/// Point queries on two cores: four at work are best, twenty do three quarters of it.
fn point_queries(n: u32) -> f64 {
    let n = f64::from(n);
    12_000.0 * (n / 4.0).min(1.0) * (1.0 - 0.016 * (n - 4.0).max(0.0))
}

/// Statements that wait for something else: as many at work as there can be.
fn sleepers(n: u32) -> f64 {
    f64::from(n) * 50.0
}

/// Sixteen cores, and nothing lost beyond.
fn many_cores(n: u32) -> f64 {
    f64::from(n.min(16)) * 1_500.0
}

#[test]
fn the_knee_is_found_within_half_a_minute_and_kept() {
    let loads: [(&str, &dyn Fn(u32) -> f64); 3] = [("point queries", &point_queries), ("sleepers", &sleepers), ("many cores", &many_cores)];
    for (name, rate) in loads {
        for seed in 0..20 {
            let mut limiter = Limiter::new(1, 40);
            let mut server = Server::new(rate, 0.08, seed);
            run(&mut limiter, &mut server, Duration::from_secs(30));
            let found = rate(limiter.settled()) / best(rate, 40);
            assert!(found >= 0.97, "{name}, seed {seed}: {} does {found:.3} of the best", limiter.settled());
            let (changes, throughput) = run(&mut limiter, &mut server, Duration::from_mins(10));
            let kept = throughput / best(rate, 40);
            assert!(kept >= 0.98, "{name}, seed {seed}: {kept:.3} of the best over ten minutes, at {}", limiter.settled());
            // Between equals it may wander a little, as chance has it; it does not go to and fro.
            assert!(changes <= 30, "{name}, seed {seed}: {changes} changes in ten minutes");
        }
    }
}

#[test]
fn another_load_has_its_own_knee_half_a_minute_later() {
    for seed in 0..50 {
        let mut limiter = Limiter::new(1, 40);
        let mut server = Server::new(&point_queries, 0.08, seed);
        run(&mut limiter, &mut server, Duration::from_mins(5));
        assert!(limiter.settled() < 8, "{}", limiter.settled());
        server.rate = &sleepers;
        run(&mut limiter, &mut server, Duration::from_secs(30));
        assert!(limiter.settled() >= 38, "seed {seed}: {}", limiter.settled());
        server.rate = &point_queries;
        run(&mut limiter, &mut server, Duration::from_secs(30));
        let found = point_queries(limiter.settled()) / best(&point_queries, 40);
        assert!(found >= 0.97, "seed {seed}: {} does {found:.3}", limiter.settled());
    }
}

#[test]
fn equals_come_to_rest_at_the_lower_one() {
    let mut limiter = Limiter::new(2, 100);
    let mut server = Server::new(&many_cores, 0.0, 1);
    run(&mut limiter, &mut server, Duration::from_mins(1));
    assert!((16..=18).contains(&limiter.settled()), "{}", limiter.settled());
}

#[test]
fn without_a_queue_the_limit_stays_where_it_is() {
    let mut limiter = Limiter::new(1, 40);
    let mut server = Server::new(&point_queries, 0.05, 1);
    for _ in 0..10_000 {
        let sight = server.pass(limiter.limit());
        limiter.tick(Sight { is_waited_for: false, ..sight });
        assert_eq!((limiter.limit(), limiter.settled()), (40, 40));
    }
}

#[test]
fn where_most_fails_the_limit_goes_down() {
    let mut limiter = Limiter::new(1, 40);
    let mut server = Server { fails_beyond: 12, ..Server::new(&sleepers, 0.05, 1) };
    run(&mut limiter, &mut server, Duration::from_secs(30));
    assert!((10..=12).contains(&limiter.settled()), "{}", limiter.settled());
}

#[test]
fn a_limit_that_does_not_come_into_force_is_not_waited_for() {
    let mut limiter = Limiter::new(1, 40);
    let mut server = Server::new(&sleepers, 0.0, 1);
    run(&mut limiter, &mut server, Duration::from_secs(20));
    limiter.set_bounds(1, 80);
    // The server has no room for more than 50.
    for _ in 0..2_000 {
        let sight = server.pass(limiter.limit().min(50));
        limiter.tick(sight);
    }
    assert!((40..=50).contains(&limiter.settled()), "{}", limiter.settled());
}

#[test]
fn bounds_that_change_hold_at_once() {
    let mut limiter = Limiter::new(1, 40);
    limiter.set_bounds(10, 20);
    assert_eq!(limiter.limit(), 20);
    limiter.set_bounds(30, 50);
    assert_eq!(limiter.limit(), 30);
    let mut server = Server::new(&point_queries, 0.05, 1);
    for _ in 0..2_000 {
        let sight = server.pass(limiter.limit());
        limiter.tick(sight);
        assert!((30..=50).contains(&limiter.limit()));
    }
}
