//! SHOW STATS and its halves: what each database's clients have done, in all and per second over the last period.
//!
//! Times are in microseconds, as PgBouncer has them.

use std::time::Duration;

use super::{Column, Row, View, big, text};
use crate::console::table::Value;
use crate::metrics::{DatabaseSnapshot, StatementStep, TenantNumbers};

pub(super) const STATS: [Column; 24] = [
    text("database"),
    big("total_server_assignment_count"),
    big("total_xact_count"),
    big("total_query_count"),
    big("total_received"),
    big("total_sent"),
    big("total_xact_time"),
    big("total_query_time"),
    big("total_wait_time"),
    big("total_client_parse_count"),
    big("total_server_parse_count"),
    big("total_bind_count"),
    big("avg_server_assignment_count"),
    big("avg_xact_count"),
    big("avg_query_count"),
    big("avg_recv"),
    big("avg_sent"),
    big("avg_xact_time"),
    big("avg_query_time"),
    big("avg_wait_time"),
    big("avg_client_parse_count"),
    big("avg_server_parse_count"),
    big("avg_bind_count"),
    // Of PgBouncer before 1.8, for tools of that time.
    big("total_requests"),
];

pub(super) const TOTALS: [Column; 12] = halved("database");
pub(super) const AVERAGES: [Column; 12] = halved("database");

const fn halved(first: &'static str) -> [Column; 12] {
    [
        text(first),
        big("server_assignment_count"),
        big("xact_count"),
        big("query_count"),
        big("bytes_received"),
        big("bytes_sent"),
        big("xact_time"),
        big("query_time"),
        big("wait_time"),
        big("client_parse_count"),
        big("server_parse_count"),
        big("bind_count"),
    ]
}

pub(super) fn stats(view: &View) -> Vec<Row> {
    let row = |(name, numbers): (&str, &TenantNumbers)| {
        [vec![name.into()], total(numbers), average(view, name), vec![numbers.queries.into()]].concat()
    };
    of_databases(view).map(row).collect()
}

pub(super) fn totals(view: &View) -> Vec<Row> {
    of_databases(view).map(|(name, numbers)| [vec![name.into()], total(numbers)].concat()).collect()
}

pub(super) fn averages(view: &View) -> Vec<Row> {
    of_databases(view).map(|(name, _)| [vec![name.into()], average(view, name)].concat()).collect()
}

/// The databases that clients have asked for. What was asked for in vain, where there is no wildcard, is none.
fn of_databases(view: &View) -> impl Iterator<Item = (&str, &TenantNumbers)> {
    let has_wildcard = view.house.config.load().any_database.is_some();
    let databases = view.snapshot.databases.iter().filter(move |database| has_wildcard || database.name != "*");
    databases.map(|database| (database.name.as_str(), &database.numbers))
}

fn total(numbers: &TenantNumbers) -> Row {
    let sum = Sum::of(numbers);
    let counted =
        [sum.leases, sum.transactions, sum.queries, sum.bytes_in, sum.bytes_out, sum.lease_micros, sum.query_micros, sum.wait_micros];
    counted.into_iter().chain(sum.statements).map(Value::from).collect()
}

fn average(view: &View, name: &str) -> Row {
    let of = |all: &[DatabaseSnapshot]| {
        all.iter().find(|database| database.name == name).map_or_else(Sum::default, |found| Sum::of(&found.numbers))
    };
    let sum = of(&view.period.newer).since(&of(&view.period.older));
    let per_second = |count: u64| rate(count, view.period.length);
    let each = |micros: u64, count: u64| micros.checked_div(count).unwrap_or(0);
    let counted = [
        per_second(sum.leases),
        per_second(sum.transactions),
        per_second(sum.queries),
        per_second(sum.bytes_in),
        per_second(sum.bytes_out),
        each(sum.lease_micros, sum.transactions),
        each(sum.query_micros, sum.queries),
        per_second(sum.wait_micros),
    ];
    counted.into_iter().chain(sum.statements.map(per_second)).map(Value::from).collect()
}

fn rate(count: u64, length: Duration) -> u64 {
    let micros = length.as_micros();
    let rate = (u128::from(count) * 1_000_000).checked_div(micros).unwrap_or(0);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// What averages are made of.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    leases: u64,
    transactions: u64,
    queries: u64,
    bytes_in: u64,
    bytes_out: u64,
    lease_micros: u64,
    query_micros: u64,
    wait_micros: u64,
    /// Parsed by clients, parsed on servers, bound.
    statements: [u64; 3],
}

impl Sum {
    fn of(numbers: &TenantNumbers) -> Self {
        Self {
            leases: numbers.lease.count(),
            transactions: numbers.transactions,
            queries: numbers.queries,
            bytes_in: numbers.bytes_in,
            bytes_out: numbers.bytes_out,
            lease_micros: numbers.lease.sum_nanos / 1_000,
            query_micros: numbers.query.sum_nanos / 1_000,
            wait_micros: numbers.queue_wait.sum_nanos / 1_000,
            statements: [StatementStep::Prepared, StatementStep::Parsed, StatementStep::Bound].map(|step| numbers.statements[step]),
        }
    }

    fn since(&self, older: &Self) -> Self {
        Self {
            leases: self.leases.saturating_sub(older.leases),
            transactions: self.transactions.saturating_sub(older.transactions),
            queries: self.queries.saturating_sub(older.queries),
            bytes_in: self.bytes_in.saturating_sub(older.bytes_in),
            bytes_out: self.bytes_out.saturating_sub(older.bytes_out),
            lease_micros: self.lease_micros.saturating_sub(older.lease_micros),
            query_micros: self.query_micros.saturating_sub(older.query_micros),
            wait_micros: self.wait_micros.saturating_sub(older.wait_micros),
            statements: std::array::from_fn(|step| self.statements[step].saturating_sub(older.statements[step])),
        }
    }
}
