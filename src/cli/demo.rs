//! `pgweir demo`: what the proxy is for, measured on the reader's own machine in ten seconds.
//!
//! Owns the order of the show: a private PostgreSQL in a temporary folder, a surge of simulated Lambda invocations
//! straight at it, the same surge through a pgweir of its own, one table. It measures and prints; it never touches a
//! PostgreSQL that was there before, never listens beyond loopback, and leaves nothing behind: every process and
//! folder is owned by a value whose drop ends it, on success, error, panic and signal alike.

mod account;
mod binaries;
mod cluster;
mod folder;
mod invocations;
mod log_lines;
mod process;
mod progress;
mod proxy;
mod round;
mod server_connections;
mod table;
mod tenants;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use self::binaries::Binaries;
use self::cluster::Cluster;
use self::folder::Folder;
use self::invocations::Surge;
use self::progress::note;
use self::proxy::Proxy;
use self::round::{Road, Round};
use self::server_connections::ServerConnections;
use self::tenants::Tenant;
use super::interrupt::Interrupt;
use super::open_files;

/// How the demo is run: the surge, the proxy's budget, and whether to go on serving afterwards.
#[derive(Args, Debug, Clone)]
pub struct DemoArgs {
    /// End after the table instead of serving until Ctrl-C.
    #[arg(long)]
    pub once: bool,

    /// How many invocations arrive within one second.
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub invocations: u32,

    /// The proxy's budget: it never opens more server connections than this.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=90))]
    pub max_connections: u32,

    /// How long an invocation holds its connection for work of its own before its transaction, in milliseconds.
    #[arg(long, default_value_t = 200, value_name = "MS")]
    pub work_ms: u32,

    /// How long after its arrival an invocation gives up, in milliseconds.
    #[arg(long, default_value_t = 10_000, value_name = "MS")]
    pub deadline_ms: u32,

    /// Seeds the jitter of the arrivals: the same seed, the same moments.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,

    /// The folder of PostgreSQL's programs (initdb, postgres); without it PATH and the usual folders are searched.
    #[arg(long, env = "PG_BIN", value_name = "FOLDER")]
    pub pg_bin: Option<PathBuf>,
}

impl DemoArgs {
    fn surge(&self) -> Surge {
        Surge {
            invocations: self.invocations,
            work: Duration::from_millis(u64::from(self.work_ms)),
            deadline: Duration::from_millis(u64::from(self.deadline_ms)),
            seed: self.seed,
        }
    }
}

/// Everything that runs during the demo. Fields drop in this order: clients of the proxy are gone by then, so the
/// proxy ends first, then PostgreSQL, then the folder goes.
struct Stage {
    proxy: Proxy,
    cluster: Cluster,
    _folder: Folder,
    tenants: Vec<Tenant>,
    through_was_faultless: bool,
}

/// Runs the demo to its end, on a runtime of its own. The exit code is 1 when an invocation through the proxy was
/// neither answered nor refused with a documented SQLSTATE, and 128 + the signal when a signal ended it early.
///
/// # Errors
/// No PostgreSQL found, a child that did not start, or a table that does not agree with what PostgreSQL holds.
pub fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = Interrupt::listen()?;
        // A branch that loses is dropped, and with it whatever it had started: a signal cleans up in every phase.
        let mut stage = tokio::select! {
            biased;
            signal = interrupt.next() => return Ok(signal.exit_code()),
            stage = Box::pin(perform(args)) => stage?,
        };
        if !args.once {
            stage.invite()?;
            tokio::select! {
                _ = interrupt.next() => note("stopping"),
                name = stage.first_to_end() => anyhow::bail!("{name} ended by itself"),
            }
        }
        Ok(if stage.through_was_faultless { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

/// Sets the stage, runs both rounds and prints the table. Dropping the future ends all that it has started.
async fn perform(args: &DemoArgs) -> anyhow::Result<Stage> {
    open_files::raise_limit(u64::from(args.invocations))?;
    let binaries = Binaries::find(args.pg_bin.as_deref())?;
    note(&format!("making a private cluster of {} in a temporary folder", binaries.version()));
    let tenants = Tenant::both()?;
    let folder = Folder::create()?;
    let cluster = Cluster::start(&binaries, &folder, &tenants).await?;
    let connections = ServerConnections::watch(&cluster).await?;
    let surge = args.surge();

    let direct = Round::run(Road::Direct, &surge, cluster.address(), &tenants, &connections).await?;
    connections.wait_until_none().await?;

    let proxy = Proxy::start(&folder, &cluster, &tenants, args.max_connections).await?;
    let through = Round::run(Road::ThroughPgweir, &surge, proxy.address(), &tenants, &connections).await?;

    for round in [&direct, &through] {
        cluster.confirm(round).await?;
    }
    let report = table::Report { surge: &surge, budget: args.max_connections, direct: &direct, through: &through };
    write!(std::io::stdout().lock(), "{report}").context("cannot print the table")?;
    Ok(Stage { proxy, cluster, _folder: folder, tenants, through_was_faultless: through.is_faultless() })
}

impl Stage {
    /// Tells the reader where to connect.
    fn invite(&self) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "\nStill serving; try it:\n")?;
        for tenant in &self.tenants {
            writeln!(out, "  DATABASE_URL={}", tenant.url(self.proxy.address()))?;
        }
        writeln!(out, "  metrics      http://{}/metrics", self.proxy.http_address())?;
        writeln!(out, "\nCtrl-C ends it and removes everything.")?;
        out.flush()?;
        Ok(())
    }

    /// Waits until one of the children has ended unasked. Cancel safe.
    async fn first_to_end(&mut self) -> &'static str {
        tokio::select! {
            () = self.proxy.ended() => "pgweir",
            () = self.cluster.ended() => "PostgreSQL",
        }
    }
}
