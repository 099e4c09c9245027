//! The report as a person reads it.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use super::report::{Report, TenantReport};
use crate::cli::callers::grouped;

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let width = self.tenants.iter().map(|tenant| tenant.name.chars().count()).max().unwrap_or(0).max("tenant".len());
        writeln!(
            f,
            "{:<width$} {:>11} {:>9} {:>8} {:>9} {:>9} {:>9} {:>7} {:>5} {:>9} {:>9} {:>9} {:>9}",
            "tenant",
            "invocations",
            "answered",
            "gave up",
            "refused",
            "throttled",
            "timed out",
            "killed",
            "lost",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "max ms"
        )?;
        for tenant in &self.tenants {
            row(f, tenant, width)?;
        }
        writeln!(f)?;
        for tenant in &self.tenants {
            for (what, counts) in [("refused with", &tenant.refused), ("lost", &tenant.lost), ("gave up after", &tenant.gave_up)] {
                if !counts.is_empty() {
                    writeln!(f, "{}: {what} {}", tenant.name, list(counts))?;
                }
            }
            if tenant.under_way > 0 {
                writeln!(f, "{}: {} were still under way when the storm was broken off", tenant.name, tenant.under_way)?;
            }
        }
        writeln!(f, "Invocations came for {:.1} s; the last came out {:.2} s after that.", self.duration_s, self.drained_s)
    }
}

fn row(f: &mut Formatter<'_>, tenant: &TenantReport, width: usize) -> fmt::Result {
    let ms = |latency: Option<f64>| latency.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}"));
    writeln!(
        f,
        "{:<width$} {:>11} {:>9} {:>8} {:>9} {:>9} {:>9} {:>7} {:>5} {:>9} {:>9} {:>9} {:>9}",
        tenant.name,
        count(tenant.invocations),
        count(tenant.answered),
        count(tenant.gave_up.values().sum()),
        count(tenant.refused.values().sum()),
        count(tenant.throttled),
        count(tenant.timed_out),
        count(tenant.killed),
        count(tenant.lost.values().sum()),
        ms(tenant.latency.p50),
        ms(tenant.latency.p99),
        ms(tenant.latency.p999),
        ms(tenant.latency.max),
    )
}

fn count(number: u64) -> String {
    grouped(usize::try_from(number).unwrap_or(usize::MAX))
}

fn list(counts: &BTreeMap<String, u64>) -> String {
    counts.iter().map(|(reason, number)| format!("{reason} ({})", count(*number))).collect::<Vec<_>>().join(", ")
}
