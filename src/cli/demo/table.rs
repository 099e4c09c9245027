//! The table that the demo is for, and one sentence on what it shows.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use super::cluster::MAX_CONNECTIONS;
use super::invocations::{ARRIVE_WITHIN, Surge};
use super::round::Round;
use crate::cli::callers::grouped;

/// Both rounds, side by side.
pub(super) struct Report<'a> {
    pub(super) surge: &'a Surge,
    pub(super) budget: u32,
    pub(super) direct: &'a Round,
    pub(super) through: &'a Round,
}

impl Display for Report<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { surge, budget, direct, through } = self;
        writeln!(
            f,
            "\n{} invocations within {} s, each holding its connection {} for its own work, then BEGIN, INSERT, COMMIT.\n\
             PostgreSQL: max_connections = {MAX_CONNECTIONS}. pgweir: max_connections = {budget}.\n",
            grouped(surge.invocations as usize),
            ARRIVE_WITHIN.as_secs(),
            milliseconds(surge.work),
        )?;
        writeln!(
            f,
            "{:<15} {:>8} {:>8} {:>7} {:>9} {:>9} {:>9}  most server connections",
            "", "answered", "refused", "failed", "p50", "p95", "p99"
        )?;
        for round in [direct, through] {
            row(f, round)?;
        }
        writeln!(f)?;
        for round in [direct, through] {
            reasons(f, round)?;
        }
        writeln!(f, "{}", self.sentence())
    }
}

impl Report<'_> {
    /// What the table shows, from its own numbers.
    fn sentence(&self) -> String {
        let all = self.surge.invocations as usize;
        let (direct, through) = (self.direct.answered(), self.through.answered());
        let servers = self.through.most_server_connections();
        let alone = if direct == all {
            format!("PostgreSQL alone answered every invocation over {} connections", self.direct.most_server_connections())
        } else {
            format!("PostgreSQL alone turned {} of {} invocations away", grouped(all - direct), grouped(all))
        };
        if through == all {
            format!("{alone}; through pgweir all {} were answered over {servers} server connections.", grouped(all))
        } else {
            let (answered, all) = (grouped(through), grouped(all));
            format!("{alone}; through pgweir {answered} of {all} were answered over {servers} server connections.")
        }
    }
}

fn row(f: &mut Formatter<'_>, round: &Round) -> fmt::Result {
    let latency = |percent| round.percentile(percent).map_or_else(|| "-".to_owned(), milliseconds);
    writeln!(
        f,
        "{:<15} {:>8} {:>8} {:>7} {:>9} {:>9} {:>9}  {:>23}",
        round.road().label(),
        grouped(round.answered()),
        grouped(round.refused() as usize),
        grouped(round.failed() as usize),
        latency(50),
        latency(95),
        latency(99),
        round.most_server_connections(),
    )
}

/// Why some were not answered, when some were not.
fn reasons(f: &mut Formatter<'_>, round: &Round) -> fmt::Result {
    let list =
        |counts: &BTreeMap<String, u32>| counts.iter().map(|(reason, count)| format!("{reason} ({count})")).collect::<Vec<_>>().join(", ");
    for (what, counts) in [("refused with", round.refusals()), ("failed", round.failures())] {
        if !counts.is_empty() {
            writeln!(f, "{}: {what} {}", round.road().label(), list(counts))?;
        }
    }
    Ok(())
}

fn milliseconds(duration: Duration) -> String {
    format!("{} ms", grouped(usize::try_from(duration.as_millis()).unwrap_or(usize::MAX)))
}

#[cfg(test)]
mod tests {
    use tokio_postgres::error::SqlState;

    use super::*;
    use crate::cli::demo::invocations::Outcome;
    use crate::cli::demo::round::Road;

    fn answered(count: usize) -> Vec<Outcome> {
        vec![Outcome::Answered(Duration::from_millis(210)); count]
    }

    #[test]
    fn the_table_says_what_was_counted() {
        let surge = Surge { invocations: 1000, work: Duration::from_millis(200), deadline: Duration::MAX, seed: 1 };
        let mut outcomes = answered(480);
        outcomes.extend(vec![Outcome::Refused(SqlState::TOO_MANY_CONNECTIONS); 519]);
        outcomes.push(Outcome::TimedOut);
        let direct = Round::of(Road::Direct, outcomes, 97);
        let through = Round::of(Road::ThroughPgweir, answered(1000), 20);
        let report = Report { surge: &surge, budget: 20, direct: &direct, through: &through }.to_string();
        let row = |label: &str| {
            let line = report.lines().find_map(|line| line.strip_prefix(label)).unwrap();
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(row("direct  "), "480 519 1 210 ms 210 ms 210 ms 97");
        assert_eq!(row("through pgweir  "), "1,000 0 0 210 ms 210 ms 210 ms 20");
        assert!(report.contains("direct: refused with 53300 (519)\ndirect: failed timed out (1)\n"), "{report}");
        assert!(report.ends_with(
            "PostgreSQL alone turned 520 of 1,000 invocations away; \
             through pgweir all 1,000 were answered over 20 server connections.\n"
        ));
    }
}
