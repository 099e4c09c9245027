//! The load that is expected: a TOML file, options of the command line, or both.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::queue::Stream;

/// The most of anything: beyond it a number is a slip of the pen.
const MOST: f64 = 10_000_000.0;

const FILE_HELP: &str = "\
The expected load, in TOML:

  max_connections = 200            # of the server; as the options below
  kept_for_others = 10
  wait_ms = 10
  within = 0.99

  [tenants.checkout]
  invocations_per_second = 800     # in the busiest second
  transaction_ms = 3.5             # how long each holds a connection, on average
  transactions_per_invocation = 1  # unless said otherwise
  invocation_ms = 120              # how long a whole invocation takes; may be missing";

/// What `pgweir plan` is told.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The expected load, in TOML
    #[arg(long_help = FILE_HELP)]
    file: Option<PathBuf>,
    /// One tenant: its transactions a second, and how many milliseconds each holds a connection; may be given several times
    #[arg(long = "tenant", value_name = "NAME=RATExMS")]
    tenants: Vec<NamedTenant>,
    /// The server's `max_connections`: whether it can hold the load is said, and the exit code 1 where it cannot
    #[arg(long, value_name = "N")]
    max_connections: Option<u32>,
    /// Of these, how many others need: superusers, migrations, replicas [default: 10]
    #[arg(long, value_name = "N")]
    kept_for_others: Option<u32>,
    /// How long a transaction may wait for a connection, in milliseconds [default: 10]
    #[arg(long, value_name = "MS")]
    wait_ms: Option<f64>,
    /// The share of the transactions that wait no longer [default: 0.99]
    #[arg(long, value_name = "SHARE")]
    within: Option<f64>,
    /// Print the plan as JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// A tenant as the command line names it.
#[derive(Debug, Clone)]
struct NamedTenant(String, TenantLoad);

impl FromStr for NamedTenant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('=').and_then(|(name, load)| Some((name, load.split_once('x')?)));
        let numbers = parts.and_then(|(name, (rate, hold))| Some((name, rate.parse().ok()?, hold.parse().ok()?)));
        let (name, rate, hold) =
            numbers.filter(|(name, ..)| !name.is_empty()).ok_or("write it as NAME=RATExMS, such as checkout=800x3.5")?;
        Ok(Self(
            name.to_owned(),
            TenantLoad { invocations_per_second: rate, transaction_ms: hold, transactions_per_invocation: 1.0, invocation_ms: None },
        ))
    }
}

/// The load that is expected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Load {
    /// The server's `max_connections`, where it is known.
    pub(super) max_connections: Option<u32>,
    pub(super) kept_for_others: u32,
    pub(super) wait_ms: f64,
    pub(super) within: f64,
    pub(super) tenants: BTreeMap<String, TenantLoad>,
}

/// What one tenant brings in its busiest second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TenantLoad {
    pub(super) invocations_per_second: f64,
    /// How long a transaction holds a server connection, on average.
    pub(super) transaction_ms: f64,
    #[serde(default = "one")]
    pub(super) transactions_per_invocation: f64,
    /// How long a whole invocation takes, on average.
    #[serde(default)]
    pub(super) invocation_ms: Option<f64>,
}

fn one() -> f64 {
    1.0
}

impl Default for Load {
    fn default() -> Self {
        Self { max_connections: None, kept_for_others: 10, wait_ms: 10.0, within: 0.99, tenants: BTreeMap::new() }
    }
}

impl TenantLoad {
    pub(super) fn stream(&self) -> Stream {
        Stream { rate: self.invocations_per_second * self.transactions_per_invocation, hold: self.transaction_ms / 1000.0 }
    }

    /// How many invocations are under way at a time on average, each in an environment of its own with a connection of its own (Little's law).
    pub(super) fn environments(&self) -> Option<f64> {
        self.invocation_ms.map(|duration| self.invocations_per_second * duration / 1000.0)
    }
}

impl PlanArgs {
    /// The load of file and options together; an option goes before the file.
    ///
    /// # Errors
    /// A file that cannot be read, a text that is not TOML, an unknown key, a number that cannot be meant.
    pub(super) fn load(&self) -> anyhow::Result<Load> {
        let mut load = match &self.file {
            None => Load::default(),
            Some(file) => {
                let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
                toml::from_str(&text).with_context(|| format!("{} is not a load", file.display()))?
            }
        };
        load.tenants.extend(self.tenants.iter().map(|NamedTenant(name, tenant)| (name.clone(), *tenant)));
        load.max_connections = self.max_connections.or(load.max_connections);
        load.kept_for_others = self.kept_for_others.unwrap_or(load.kept_for_others);
        load.wait_ms = self.wait_ms.unwrap_or(load.wait_ms);
        load.within = self.within.unwrap_or(load.within);
        load.check()?;
        Ok(load)
    }
}

impl Load {
    pub(super) fn streams(&self) -> Vec<Stream> {
        self.tenants.values().map(TenantLoad::stream).collect()
    }

    /// How many of the server's connections pgweir may have.
    pub(super) fn available(&self) -> Option<u32> {
        self.max_connections.map(|max| max.saturating_sub(self.kept_for_others))
    }

    fn check(&self) -> anyhow::Result<()> {
        if self.tenants.is_empty() {
            bail!("no load to plan for: name a file, or tenants with --tenant NAME=RATExMS (such as checkout=800x3.5)");
        }
        ensure!((0.0..=MOST).contains(&self.wait_ms), "wait_ms is {}; it is 0 at least", self.wait_ms);
        ensure!((0.01..=0.99999).contains(&self.within), "within is {}; it is a share, from 0.01 to 0.99999", self.within);
        for (name, tenant) in &self.tenants {
            let numbers = [
                ("invocations_per_second", tenant.invocations_per_second),
                ("transaction_ms", tenant.transaction_ms),
                ("transactions_per_invocation", tenant.transactions_per_invocation),
                ("invocation_ms", tenant.invocation_ms.unwrap_or(1.0)),
            ];
            for (key, number) in numbers {
                ensure!(number > 0.0 && number <= MOST, "tenants.{name}.{key} is {number}; it is above 0 and {MOST} at most");
            }
        }
        let busy: f64 = self.streams().iter().map(|stream| stream.load()).sum();
        ensure!(busy <= 100_000.0, "this load keeps {busy:.0} connections busy, more than any budget holds (100000)");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_named_in_one_word() {
        let NamedTenant(name, tenant) = "checkout=800x3.5".parse().unwrap();
        assert_eq!((name.as_str(), tenant.stream()), ("checkout", Stream { rate: 800.0, hold: 0.0035 }));
        for wrong in ["checkout", "=1x2", "a=1", "a=x2", "a=1xb"] {
            assert!(wrong.parse::<NamedTenant>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_that_cannot_be_meant_are_named() {
        let of = |tenant: &str| Load {
            tenants: BTreeMap::from([("a".to_owned(), tenant.parse::<NamedTenant>().unwrap().1)]),
            ..Load::default()
        };
        assert!(of("a=1x1").check().is_ok());
        for (wrong, key) in [
            ("a=0x1", "invocations_per_second"),
            ("a=1x-3", "transaction_ms"),
            ("a=NaNx1", "invocations_per_second"),
            ("a=1000000x1000000", "connections busy"),
        ] {
            let error = of(wrong).check().unwrap_err().to_string();
            assert!(error.contains(key), "{wrong}: {error}");
        }
        assert!(Load { within: 1.0, ..of("a=1x1") }.check().is_err());
        assert!(Load::default().check().unwrap_err().to_string().starts_with("no load to plan for"));
    }
}
