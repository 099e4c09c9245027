//! A tenant's numbers at one moment, merged over the workers.

use serde::Serialize;

use super::labels::{By, CancelCause, ClientState, Label, LoginOutcome, Sparse, StatementStep};
use super::{Counter, Durations, Gauge, TenantShard};

/// A tenant's numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TenantNumbers {
    /// Clients now.
    pub clients: By<ClientState, i64>,
    /// Logins that have ended.
    pub logins: By<LoginOutcome, u64>,
    /// From accept to the end of the login.
    pub login: Durations,
    /// From the wish for a server connection to having it.
    pub queue_wait: Durations,
    /// From having a server connection to giving it back.
    pub lease: Durations,
    /// From a request to the end of its answer.
    pub query: Durations,
    /// Transactions.
    pub transactions: u64,
    /// Requests that were answered.
    pub queries: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// Notifications that clients heard by way of a shared connection.
    pub notifications: u64,
    /// What became of statements with names.
    pub statements: By<StatementStep, u64>,
    /// Refusals, by fault.
    pub refused: Sparse<u64>,
    /// Cancelled queries.
    pub cancelled: By<CancelCause, u64>,
    /// Clients that are pinned now, by reason.
    pub pinned: Sparse<i64>,
    /// Pins so far, by reason.
    pub pins: Sparse<u64>,
}

/// What the numbers of faults and reasons stand for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    pub(super) faults: &'static [&'static str],
    pub(super) reasons: &'static [&'static str],
}

impl TenantNumbers {
    /// What the shards of all workers hold.
    pub(super) fn merged<'a>(shards: impl IntoIterator<Item = &'a TenantShard>, names: Names) -> Self {
        let mut sum = Self::default();
        for shard in shards {
            sum.add(&Self::of(shard, names));
        }
        sum
    }

    fn of(shard: &TenantShard, names: Names) -> Self {
        Self {
            clients: levels(&shard.clients),
            logins: counts(&shard.logins),
            login: shard.login.durations(),
            queue_wait: shard.queue_wait.durations(),
            lease: shard.lease.durations(),
            query: shard.query.durations(),
            transactions: shard.transactions.get(),
            queries: shard.queries.get(),
            bytes_in: shard.bytes_in.get(),
            bytes_out: shard.bytes_out.get(),
            notifications: shard.notifications.get(),
            statements: counts(&shard.statements),
            refused: sparse(names.faults, shard.refused.iter().map(Counter::get)),
            cancelled: counts(&shard.cancelled),
            pinned: sparse(names.reasons, shard.pinned.iter().map(Gauge::get)),
            pins: sparse(names.reasons, shard.pins.iter().map(Counter::get)),
        }
    }

    /// Adds another's numbers, levels and counts.
    pub(super) fn add(&mut self, other: &Self) {
        self.add_levels(other);
        self.with_counts(other, |own, theirs| *own = own.wrapping_add(theirs));
    }

    /// Adds another's levels, and of its counts what has come since `base`.
    pub(super) fn add_since(&mut self, other: &Self, base: &Self) {
        self.add(other);
        self.with_counts(base, |own, before| *own = own.wrapping_sub(before));
    }

    /// Forgets the levels: what is left never sinks.
    pub(super) fn without_levels(mut self) -> Self {
        self.clients = By::default();
        self.pinned.clear();
        self
    }

    fn add_levels(&mut self, other: &Self) {
        for (own, theirs) in self.clients.numbers_mut().iter_mut().zip(other.clients.numbers()) {
            *own += theirs;
        }
        for (reason, level) in &other.pinned {
            *self.pinned.entry(reason).or_default() += level;
        }
        self.pinned.retain(|_, level| *level != 0);
    }

    /// Goes over every count together with the other's.
    fn with_counts(&mut self, other: &Self, change: impl Fn(&mut u64, u64)) {
        let change_all = |own: &mut [u64], theirs: &[u64]| own.iter_mut().zip(theirs).for_each(|(own, theirs)| change(own, *theirs));
        change_all(self.logins.numbers_mut(), other.logins.numbers());
        change_all(self.cancelled.numbers_mut(), other.cancelled.numbers());
        change_all(self.statements.numbers_mut(), other.statements.numbers());
        for (own, theirs) in [
            (&mut self.login, &other.login),
            (&mut self.queue_wait, &other.queue_wait),
            (&mut self.lease, &other.lease),
            (&mut self.query, &other.query),
        ] {
            change_all(&mut own.counts, &theirs.counts);
            change(&mut own.sum_nanos, theirs.sum_nanos);
        }
        change(&mut self.transactions, other.transactions);
        change(&mut self.queries, other.queries);
        change(&mut self.bytes_in, other.bytes_in);
        change(&mut self.bytes_out, other.bytes_out);
        change(&mut self.notifications, other.notifications);
        for (own, theirs) in [(&mut self.refused, &other.refused), (&mut self.pins, &other.pins)] {
            for (label, count) in theirs {
                change(own.entry(label).or_default(), *count);
            }
        }
    }
}

fn counts<L: Label>(cells: &[Counter]) -> By<L, u64> {
    By::each(|label: L| cells.get(label.index()).map_or(0, Counter::get))
}

fn levels<L: Label>(cells: &[Gauge]) -> By<L, i64> {
    By::each(|label: L| cells.get(label.index()).map_or(0, Gauge::get))
}

/// Labels that stand for more than one number get their sum.
fn sparse<N>(names: &[&'static str], numbers: impl Iterator<Item = N>) -> Sparse<N>
where
    N: Copy + Default + PartialEq + std::ops::AddAssign,
{
    let mut sparse = Sparse::new();
    for (name, number) in names.iter().copied().zip(numbers) {
        if number != N::default() {
            *sparse.entry(name).or_default() += number;
        }
    }
    sparse
}
