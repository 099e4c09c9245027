//! `pgweir storm`: a load shaped like Lambda's, on a proxy or straight on a server, and what came of it.
//!
//! Callers do not wait for each other: invocations come when they come, and latency counts from that moment, whatever the load generator, the proxy and the server
//! were busy with. It connects where it is told to, and to nothing else.

mod arrivals;
mod callers;
mod chart;
mod fleet;
mod invocation;
mod over_http;
mod report;
mod scenario;
mod table;
mod tally;
mod target;

use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, interval};

use self::callers::Callers;
use self::report::Report;
use self::scenario::{Scenario, Wishes};
use super::callers::grouped;
use super::interrupt::Interrupt;
use super::open_files;
use crate::config::Period;

/// A storm is looked at in about so many intervals, none shorter than this.
const INTERVALS: u32 = 120;
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// What `pgweir storm` is told.
#[derive(Debug, Args)]
pub struct StormArgs {
    /// The scenario, in TOML: `duration`, `seed`, and a `[tenants.NAME]` each with the options below as keys (`keep_connection` for --keep-connection). An option
    /// is for all tenants that say nothing else; without a scenario there is one tenant
    scenario: Option<PathBuf>,
    /// For how long invocations come [default: 10s]
    #[arg(long, value_name = "TIME")]
    duration: Option<Period>,
    /// The same seed, the same arrivals [default: 1]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Write everything that was counted into this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw latency over time into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    wishes: Wishes,
}

/// Runs a storm and prints its table. The exit code is 1 when a connection failed without a word, or a client was refused in a way that pgweir has not; 128 + the
/// signal when a signal broke it off.
///
/// # Errors
/// A scenario that cannot be meant, or a file that cannot be written.
pub fn run(arguments: &StormArgs) -> anyhow::Result<ExitCode> {
    let scenario = Scenario::of(arguments.scenario.as_deref(), arguments.duration, arguments.seed, &arguments.wishes)?;
    open_files::raise_limit(scenario.most_connections())?;
    // Before the storm: afterwards it would be too late to learn that they cannot be written.
    for file in [&arguments.json, &arguments.svg].into_iter().flatten() {
        write(file, "")?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (report, code) = runtime.block_on(storm(scenario))?;
    write!(io::stdout().lock(), "{report}").context("cannot print the table")?;
    if let Some(file) = &arguments.json {
        write(file, &serde_json::to_string_pretty(&report)?)?;
    }
    if let Some(file) = &arguments.svg {
        let picture = chart::svg(&report).map_err(|error| anyhow::anyhow!("cannot draw: {error}"))?;
        write(file, &picture)?;
    }
    let fault = if report.is_faultless() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    Ok(code.unwrap_or(fault))
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// The storm itself; an exit code if a signal broke it off.
async fn storm(scenario: Scenario) -> anyhow::Result<(Report, Option<ExitCode>)> {
    let mut interrupt = Interrupt::listen()?;
    let Scenario { duration, seed, tenants } = scenario;
    let step = (duration.0 / INTERVALS).max(SHORTEST_INTERVAL);
    let began = Instant::now();
    let seeds = (0..).map(|number: u64| seed.wrapping_add(number.wrapping_mul(0x9e37_79b9)));
    let callers: Vec<(Rc<Callers>, u64)> =
        tenants.into_iter().zip(seeds).map(|(tenant, seed)| (Rc::new(Callers::new(tenant, seed, step, began)), seed)).collect();

    let here = LocalSet::new();
    let mut under_way = JoinSet::new();
    for (callers, seed) in &callers {
        under_way.spawn_local_on(Rc::clone(callers).come(*seed, duration.0), &here);
    }
    let callers: Vec<Rc<Callers>> = callers.into_iter().map(|(callers, _)| callers).collect();
    let code = here
        .run_until(async {
            tokio::select! {
                signal = interrupt.next() => Some(signal.exit_code()),
                () = watch(&callers, began) => None,
                _ = under_way.join_all() => None,
            }
        })
        .await;
    Ok((Report::of(&callers, seed, duration.0, began.elapsed(), step), code))
}

/// Says every second how it stands, and lets environments go that had no work for too long. Never ends.
async fn watch(callers: &[Rc<Callers>], began: Instant) {
    let is_watched = io::stderr().is_terminal();
    let mut tick = interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        for callers in callers {
            callers.retire();
        }
        let (before, after) = if is_watched { ("\r\x1b[K", "") } else { ("", "\n") };
        // Whether anyone can read it does not matter to the storm.
        let _ = write!(io::stderr().lock(), "{before}{}{after}", progress(callers, began.elapsed()));
        let _ = io::stderr().flush();
    }
}

fn progress(callers: &[Rc<Callers>], now: Duration) -> String {
    let sum = |of: fn(&tally::Tally) -> u64| {
        let all = callers.iter().map(|callers| of(&callers.tally.borrow())).sum::<u64>();
        grouped(usize::try_from(all).unwrap_or(usize::MAX))
    };
    format!(
        "{:>4} s: {} came, {} answered, {} under way; {} refused, {} throttled, {} timed out, {} lost",
        now.as_secs(),
        sum(|tally| tally.came),
        sum(|tally| tally.answered),
        sum(tally::Tally::under_way),
        sum(|tally| tally.refused.values().sum()),
        sum(|tally| tally.throttled),
        sum(|tally| tally.timed_out),
        sum(|tally| tally.lost.values().sum()),
    )
}
