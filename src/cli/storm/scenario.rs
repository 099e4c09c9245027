//! What a storm is made of: who comes, how often, what each does. A TOML file, options, or both.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::over_http::Endpoint;
use super::target::Target;
use crate::config::Period;

/// Defines once what can be said of a tenant: its doc, name, type and default. Out come the options of the command line that are also the keys of a scenario's tenant
/// (each may be missing), and the behaviour that a storm goes by.
macro_rules! behaviour {
    ($($(#[doc = $doc:literal])+ $(#[arg($($arg:tt)*)])? $name:ident: $type:ty = $default:expr;)+) => {
        /// What is said of a tenant.
        #[derive(Debug, Clone, Default, PartialEq, Args, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Wishes {
            /// Where to connect: `postgres://user:password@host:6432/database?sslmode=require&sslrootcert=ca.pem`, or for SQL over HTTP
            /// `https://user:password@host:8443/database?sslrootcert=ca.pem`
            #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
            url: Option<String>,
            $($(#[doc = $doc])+ #[arg(long $(, $($arg)*)?)] $name: Option<$type>,)+
        }

        /// How a tenant behaves.
        #[derive(Debug, Clone, PartialEq, Serialize)]
        pub(super) struct Behaviour {
            $($(#[doc = $doc])+ pub(super) $name: $type,)+
        }

        impl Wishes {
            /// These, and the others' where they are silent.
            fn or(self, other: &Self) -> Self {
                Self { url: self.url.or_else(|| other.url.clone()), $($name: self.$name.or_else(|| other.$name.clone()),)+ }
            }

            pub(super) fn behaviour(self) -> Behaviour {
                Behaviour { $($name: self.$name.unwrap_or_else(|| $default),)+ }
            }
        }
    };
}

behaviour! {
    /// Invocations a second, at moments that are independent of each other [default: 0]
    #[arg(value_name = "N")]
    rate: f64 = 0.0;
    /// Invocations that come at once, beside those [default: 0]
    #[arg(value_name = "N")]
    burst: u32 = 0;
    /// When the first burst comes [default: 1s]
    #[arg(value_name = "TIME")]
    burst_at: Period = Period::secs(1);
    /// How long after that the next one comes; "0" is never [default: 0]
    #[arg(value_name = "TIME")]
    burst_every: Period = Period::secs(0);
    /// The most environments at a time; an invocation that finds none free and no room for one more is throttled [default: 1000]
    #[arg(value_name = "N")]
    environments: u32 = 1000;
    /// How many new environments may be started in 10 s; that many may start at once [default: 1000]
    #[arg(value_name = "N")]
    new_environments: u32 = 1000;
    /// How long an environment without work is kept [default: 5m]
    #[arg(value_name = "TIME")]
    idle_lifetime: Period = Period::secs(300);
    /// Keep the connection with the environment, frozen between invocations, instead of one for each invocation [default: false]
    #[arg(num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    keep_connection: bool = false;
    /// What each invocation runs, one statement after the other; may be given several times [default: SELECT 1]
    #[arg(value_name = "SQL")]
    statements: Vec<String> = vec!["SELECT 1".to_owned()];
    /// Which protocol they are sent in: simple, extended or prepared [default: extended]
    #[arg(value_name = "PROTOCOL")]
    protocol: Protocol = Protocol::Extended;
    /// The function's own work, with the connection open, before the first statement [default: 0]
    #[arg(value_name = "TIME")]
    work: Period = Period::secs(0);
    /// The function's time limit, from the moment that it runs: then its environment is gone, with the statement under way [default: 10s]
    #[arg(value_name = "TIME")]
    timeout: Period = Period::secs(10);
    /// Tell the proxy how long the caller will wait, 200 ms less than the time limit leaves: `SET pgweir.deadline_ms` before the first statement [default: false]
    #[arg(num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    tell_deadline: bool = false;
    /// The share of the invocations whose environment is killed while a statement runs, 0 to 1 [default: 0]
    #[arg(value_name = "SHARE")]
    kills: f64 = 0.0;
    /// How long after its statement was sent, at most, a killed environment goes [default: 5ms]
    #[arg(value_name = "TIME")]
    kill_within: Period = Period::millis(5);
    /// The share of the invocations that are frozen before their last statement, inside a transaction if that is a COMMIT, 0 to 1 [default: 0]
    #[arg(value_name = "SHARE")]
    freezes: f64 = 0.0;
    /// How long [default: 1s]
    #[arg(value_name = "TIME")]
    freeze_for: Period = Period::secs(1);
    /// How often a failed or throttled invocation is tried again [default: 0]
    #[arg(value_name = "N")]
    retries: u32 = 0;
    /// How long before the first retry; twice as long before each further one [default: 100ms]
    #[arg(value_name = "TIME")]
    backoff: Period = Period::millis(100);
    /// Wait a random part of that, so that not all come back at once [default: true]
    #[arg(num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    jitter: bool = true;
}

/// How statements are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Protocol {
    /// As one Query message each.
    Simple,
    /// Parse, Bind, Execute, Sync of an unnamed statement.
    Extended,
    /// Prepared under a name first, once on each connection.
    Prepared,
}

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    duration: Option<Period>,
    seed: Option<u64>,
    tenants: BTreeMap<String, Wishes>,
}

/// A whole storm.
pub(super) struct Scenario {
    /// For how long invocations come.
    pub(super) duration: Period,
    pub(super) seed: u64,
    pub(super) tenants: Vec<Tenant>,
}

/// How a tenant reaches its database.
pub(super) enum Way {
    /// By the PostgreSQL protocol.
    Postgres(Box<Target>),
    /// By SQL over HTTP.
    Http(Endpoint),
}

/// One tenant of a storm.
pub(super) struct Tenant {
    pub(super) name: String,
    pub(super) way: Way,
    pub(super) behaviour: Behaviour,
}

const DEFAULT_DURATION: Period = Period::secs(10);

impl Scenario {
    /// The scenario of the file and the options together. An option is for every tenant that the file says nothing else of; without a file there is one tenant.
    ///
    /// # Errors
    /// A file that cannot be read or understood, a URL that is none, a number that cannot be meant.
    pub(super) fn of(file: Option<&Path>, duration: Option<Period>, seed: Option<u64>, wishes: &Wishes) -> anyhow::Result<Self> {
        let file = match file {
            None => File { tenants: BTreeMap::from([("storm".to_owned(), Wishes::default())]), ..File::default() },
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
                toml::from_str(&text).with_context(|| format!("{} is not a scenario", path.display()))?
            }
        };
        ensure!(!file.tenants.is_empty(), "the scenario has no [tenants.NAME]");
        let tenants = file.tenants.into_iter().map(|(name, tenant)| {
            let tenant = Tenant::of(&name, tenant.or(wishes)).with_context(|| format!("tenant {name}"))?;
            Ok(tenant)
        });
        Ok(Self {
            duration: duration.or(file.duration).unwrap_or(DEFAULT_DURATION),
            seed: seed.or(file.seed).unwrap_or(1),
            tenants: tenants.collect::<anyhow::Result<_>>()?,
        })
    }

    /// How many connections there may be at a time.
    pub(super) fn most_connections(&self) -> u64 {
        self.tenants.iter().map(|tenant| u64::from(tenant.behaviour.environments)).sum()
    }
}

impl Tenant {
    fn of(name: &str, wishes: Wishes) -> anyhow::Result<Self> {
        let Some(url) = &wishes.url else {
            bail!("no database to go to: name it with --url, DATABASE_URL or `url`");
        };
        let way = match Endpoint::of(url)? {
            Some(endpoint) => Way::Http(endpoint),
            None => Way::Postgres(Box::new(Target::of(url)?)),
        };
        let behaviour = wishes.behaviour();
        behaviour.check()?;
        Ok(Self { name: name.to_owned(), way, behaviour })
    }
}

impl Behaviour {
    fn check(&self) -> anyhow::Result<()> {
        ensure!((0.0..=100_000.0).contains(&self.rate), "rate is {}; it is 0 to 100000", self.rate);
        ensure!(self.burst <= 1_000_000, "burst is {}; it is 1000000 at most", self.burst);
        ensure!(self.rate > 0.0 || self.burst > 0, "nobody comes: give it a rate or a burst");
        for (key, share) in [("kills", self.kills), ("freezes", self.freezes)] {
            ensure!((0.0..=1.0).contains(&share), "{key} is {share}; it is a share, 0 to 1");
        }
        ensure!(self.environments > 0 && self.new_environments > 0, "there is no environment to run anything");
        ensure!(!self.statements.is_empty(), "there is no statement to run");
        ensure!(self.timeout.limit().is_some(), "timeout is \"0\"; a function always has a time limit");
        ensure!(self.retries <= 20, "retries is {}; it is 20 at most", self.retries);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const URL: &str = "postgres://a:secret@127.0.0.1/d";

    fn of(text: &str, wishes: &Wishes) -> anyhow::Result<Scenario> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Scenario::of(Some(file.path()), None, None, wishes)
    }

    fn error(text: &str) -> String {
        of(text, &Wishes { url: Some(URL.to_owned()), ..Wishes::default() }).err().map(|error| format!("{error:#}")).unwrap_or_default()
    }

    #[test]
    fn options_are_for_tenants_that_the_file_is_silent_about() {
        let wishes = Wishes { url: Some(URL.to_owned()), rate: Some(5.0), retries: Some(3), ..Wishes::default() };
        let scenario = of("duration = \"3s\"\n[tenants.a]\nrate = 7\n[tenants.b]\nburst = 10\nprotocol = \"simple\"", &wishes).unwrap();
        let [a, b] = &scenario.tenants[..] else { panic!("two tenants") };
        assert_eq!((a.behaviour.rate, a.behaviour.retries, a.behaviour.burst), (7.0, 3, 0));
        assert_eq!((b.behaviour.rate, b.behaviour.retries, b.behaviour.burst), (5.0, 3, 10));
        assert_eq!((b.behaviour.protocol, scenario.duration, scenario.seed), (Protocol::Simple, Period::secs(3), 1));
        assert_eq!(scenario.most_connections(), 2000);
    }

    #[test]
    fn the_example_is_a_scenario() {
        let wishes = Wishes { url: Some(URL.to_owned()), ..Wishes::default() };
        let scenario = of(include_str!("../../../config/storm.toml"), &wishes).unwrap();
        let names: Vec<&str> = scenario.tenants.iter().map(|tenant| tenant.name.as_str()).collect();
        assert_eq!((names, scenario.duration), (vec!["reports", "shop"], Period::secs(20)));
    }

    #[test]
    fn what_cannot_be_meant_is_told_by_name() {
        for (text, part) in [
            ("[tenants.a]\nrat = 7", "unknown field `rat`"),
            ("[tenants.a]\nrate = 7\nkills = 2", "tenant a: kills is 2; it is a share"),
            ("[tenants.a]\nrate = -1", "tenant a: rate is -1"),
            ("[tenants.a]", "nobody comes"),
            ("duration = 5\n[tenants.a]", "duration"),
            ("", "no [tenants.NAME]"),
            ("[tenants.a]\nrate = 1\ntimeout = \"0\"", "time limit"),
            ("[tenants.a]\nrate = 1\nurl = \"mysql://a:secret@h/d\"", "tenant a: "),
        ] {
            assert!(error(text).contains(part) && !error(text).contains("secret"), "{text}: {}", error(text));
        }
    }
}
