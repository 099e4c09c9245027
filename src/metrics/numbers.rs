//! The cells that are counted in: a count, a level, and how long things took.
//!
//! Each belongs to one thread, which pays a plain load and store; whoever reads from elsewhere sees a value that was true a moment ago. The one
//! exception says so in its name.

use std::ops::Index;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::Durations;
use super::durations::{BUCKETS, bucket};

/// A count that one thread adds to and any may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; by the owning thread only.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A level that one thread raises and lowers and any may read.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Raises or lowers; by the owning thread only.
    #[inline]
    pub fn add(&self, change: i64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(change), Relaxed);
    }

    /// The level.
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// How long things took.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_nanos: AtomicU64,
}

impl Histogram {
    fn nanos(took: Duration) -> u64 {
        took.as_secs().saturating_mul(1_000_000_000).saturating_add(took.subsec_nanos().into())
    }

    /// Notes one; by the owning thread only.
    #[inline]
    pub fn observe(&self, took: Duration) {
        let nanos = Self::nanos(took);
        let count = &self.buckets[bucket(nanos)];
        count.store(count.load(Relaxed).wrapping_add(1), Relaxed);
        self.sum_nanos.store(self.sum_nanos.load(Relaxed).wrapping_add(nanos), Relaxed);
    }

    /// Notes one; by any thread.
    pub fn observe_shared(&self, took: Duration) {
        let nanos = Self::nanos(took);
        self.buckets[bucket(nanos)].fetch_add(1, Relaxed);
        self.sum_nanos.fetch_add(nanos, Relaxed);
    }

    /// What was noted so far.
    pub fn durations(&self) -> Durations {
        Durations { counts: std::array::from_fn(|at| self.buckets[at].load(Relaxed)), sum_nanos: self.sum_nanos.load(Relaxed) }
    }
}

/// Cells by number, as many as another room has names for. Beyond them lies one more, which nobody publishes: counting never fails.
#[derive(Debug, Default)]
pub struct Cells<C> {
    cells: Box<[C]>,
    beyond: C,
}

impl<C: Default> Cells<C> {
    /// So many cells.
    pub(super) fn new(count: usize) -> Self {
        Self { cells: std::iter::repeat_with(C::default).take(count).collect(), beyond: C::default() }
    }
}

impl<C> Cells<C> {
    /// Those that are published.
    pub(super) fn iter(&self) -> impl Iterator<Item = &C> {
        self.cells.iter()
    }
}

impl<C> Index<usize> for Cells<C> {
    type Output = C;

    #[inline]
    fn index(&self, number: usize) -> &C {
        self.cells.get(number).unwrap_or(&self.beyond)
    }
}
