//! The process: it builds the house, starts the workers, and stops them again.
//!
//! The main thread is the control thread: it opens server connections, answers HTTP, keeps the ledgers' time, and heeds signals. Relaying is the workers' business.

mod build;
mod cloudwatch;
mod drain;
mod notify;
mod reload;
mod state;
mod watch;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::config::{Config, Loaded, Mistake, Variables};
use crate::console::{self, Order, Shutdown};
use crate::metrics::Lifecycle;
use crate::net::now;
use crate::pool;
use crate::session::House;

use build::Built;
use drain::Ending;
use reload::Reloader;
use state::{Ordered, Process};
use watch::Watcher;

/// How often ledgers are swept: idle connections reaped, `min_idle` filled up.
const SWEEP: Duration = Duration::from_millis(250);
/// The same while an upstream does not answer and is tried again and again.
const SWEEP_WHILE_DOWN: Duration = Duration::from_millis(50);
/// How often it is looked how an adaptive limit does.
const LOOK: Duration = Duration::from_millis(50);
/// How often an upstream without any connection is asked whether it is there.
const PROBE: Duration = Duration::from_secs(1);

/// Where the configuration came from, to be read again on SIGHUP, with variables in place of those of the environment.
pub type Reread = Box<dyn Fn(&Variables) -> Result<Loaded, Vec<Mistake>>>;

/// Where the configuration came from.
pub struct Source {
    /// Reads it again.
    pub read: Reread,
    /// Its file, if it has one.
    pub file: Option<PathBuf>,
}

/// Runs the proxy until it is told to stop.
///
/// # Errors
/// When it cannot start: an address that is taken, a file that cannot be read.
pub fn run(config: Config, source: Source, log: Box<dyn Fn(&str)>) -> anyhow::Result<ExitCode> {
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(async move {
        let built = build::build(config)?;
        Box::pin(control(built, source, log)).await
    })
}

/// As many descriptors as the system allows: one for each client and each server connection.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Where that is not allowed the old limit stays.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

async fn control(built: Built, source: Source, log: Box<dyn Fn(&str)>) -> anyhow::Result<ExitCode> {
    let Built { house, jobs, around, http, mut workers } = built;
    let (process, mut orders) = Process::new(Arc::clone(&house));
    tokio::task::spawn_local(pool::serve_jobs(jobs));
    tokio::task::spawn_local(keep_time(Arc::clone(&house)));
    if let Some(http) = http {
        let operations: Rc<dyn crate::http::Operations> = Rc::clone(&process) as _;
        tokio::task::spawn_local(crate::http::serve(http.listen()?, operations));
    }
    let (door, visits) = mpsc::unbounded_channel();
    house.open_console(door);
    tokio::task::spawn_local(console::serve(visits, Rc::clone(&process) as _));
    tokio::task::spawn_local(state::keep_periods(Rc::clone(&process)));
    tokio::task::spawn_local(state::keep_history(Rc::clone(&process)));
    if let Some(cloudwatch) = house.config.load().cloudwatch.clone() {
        tokio::task::spawn_local(cloudwatch::tell(Rc::clone(&process) as _, cloudwatch));
    }
    let preparing = Arc::clone(&house);
    tokio::task::spawn_blocking(move || preparing.secrets.prepare(&preparing.config.load())).await?;
    build::warm_up(&house);
    let mut signals = Signals::new()?;
    workers.start()?;
    process.enter(Lifecycle::Ready);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), workers = workers.count(), "ready");

    let watcher = Watcher::new(Arc::clone(&house), source.file);
    let reloader = Reloader::new(Arc::clone(&house), around, source.read, log);
    let ending = obey(&mut signals, &mut orders, watcher, reloader).await;
    process.enter(Lifecycle::Draining);
    let drained = drain::drain(&house, &workers, ending);
    tokio::select! {
        () = drained => tracing::info!("stopped"),
        () = signals.second() => tracing::warn!("stopped at once, at the second signal"),
    }
    workers.stop();
    Ok(ExitCode::SUCCESS)
}

/// What the process is told by signals.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup()).context("SIGHUP")?,
            terminate: signal(SignalKind::terminate()).context("SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("SIGINT")?,
        })
    }

    /// Waits for a signal to stop, while that is under way already.
    async fn second(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Does what it is told, until that is to stop.
async fn obey(
    signals: &mut Signals,
    orders: &mut mpsc::UnboundedReceiver<Ordered>,
    mut watcher: Watcher,
    mut reloader: Reloader,
) -> Ending {
    loop {
        tokio::select! {
            // What is wrong with it has been logged.
            _ = signals.hangup.recv() => drop(reloader.reload().await),
            () = watcher.changed() => {
                tracing::info!("a file has changed");
                drop(reloader.reload().await);
            }
            _ = signals.terminate.recv() => return Ending::Graceful,
            _ = signals.interrupt.recv() => return Ending::Prompt,
            Some((order, reply)) = orders.recv() => {
                let (outcome, ending) = match order {
                    Order::Reload => (reloader.reload().await, None),
                    Order::Set { path, value } => (reloader.set(&path, value).await, None),
                    Order::Drain => (Ok(()), Some(Ending::Graceful)),
                    Order::Shutdown(Shutdown::Now) => (Ok(()), Some(Ending::AtOnce)),
                    Order::Shutdown(Shutdown::WaitForServers) => (Ok(()), Some(Ending::Prompt)),
                    Order::Shutdown(Shutdown::WaitForClients) => (Ok(()), Some(Ending::Patient)),
                };
                // Who ordered it may have left.
                let _ = reply.send(outcome);
                if let Some(ending) = ending {
                    return ending;
                }
            }
        }
    }
}

/// Sweeps the ledgers, looks how adaptive limits do, and asks upstreams that have no connection whether they are there.
async fn keep_time(house: Arc<House>) {
    let (mut probed, mut swept) = (now(), now());
    let (mut pause, mut sweep_every) = (SWEEP, SWEEP);
    loop {
        tokio::time::sleep(pause).await;
        let upstreams = house.upstreams();
        let watched = upstreams.iter().filter(|upstream| upstream.ledger.lock().is_watched());
        let is_watched = watched.map(|upstream| upstream.look(now())).count() > 0;
        if is_watched && now().saturating_duration_since(swept) < sweep_every {
            continue;
        }
        swept = now();
        sweep_every = SWEEP;
        let probe = now().saturating_duration_since(probed) >= PROBE;
        if probe {
            probed = now();
        }
        for upstream in upstreams {
            upstream.sweep(now());
            if probe && upstream.ledger.lock().is_unknown() {
                tokio::task::spawn_local(pool::probe(upstream));
            } else if upstream.ledger.lock().is_down() {
                sweep_every = SWEEP_WHILE_DOWN;
            }
        }
        pause = if is_watched { LOOK } else { sweep_every };
    }
}
