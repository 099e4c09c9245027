//! What the process tells of itself over HTTP.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::http::Operations;
use crate::metrics::{PoolState, ProcessState, Snapshot, UpstreamState};
use crate::pool::Upstream;
use crate::pool::ledger::State;
use crate::session::House;

/// How far the process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It does not listen yet.
    Starting,
    /// It serves.
    Ready,
    /// It has been told to stop.
    Draining,
}

/// The process as the control thread knows it.
#[derive(Debug)]
pub struct Process {
    house: Arc<House>,
    stage: Cell<Stage>,
}

impl Process {
    /// A process that is starting.
    pub fn new(house: Arc<House>) -> Rc<Self> {
        Rc::new(Self { house, stage: Cell::new(Stage::Starting) })
    }

    /// It goes a step further.
    pub fn enter(&self, stage: Stage) {
        self.stage.set(stage);
    }
}

impl Operations for Process {
    fn snapshot(&self) -> Snapshot {
        let state = match self.stage.get() {
            Stage::Starting => ProcessState::Starting,
            Stage::Ready => ProcessState::Ready,
            Stage::Draining => ProcessState::Draining,
        };
        let upstreams = self.house.upstreams().iter().map(|upstream| upstream_state(&self.house, upstream)).collect();
        self.house.metrics.collect(state, upstreams)
    }

    fn readiness(&self) -> Result<(), String> {
        match self.stage.get() {
            Stage::Starting => return Err("starting".into()),
            Stage::Draining => return Err("draining".into()),
            Stage::Ready => {}
        }
        let upstreams = self.house.upstreams();
        if !upstreams.is_empty() && upstreams.iter().all(|upstream| !upstream.numbers.is_up()) {
            let names: Vec<&str> = upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
            return Err(format!("every upstream is down: {}", names.join(", ")));
        }
        Ok(())
    }
}

fn upstream_state(house: &House, upstream: &Upstream) -> UpstreamState {
    let pools = upstream.pools();
    let ledger = upstream.ledger.lock();
    let mut states: BTreeMap<u32, PoolState> = pools
        .iter()
        .map(|pool| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let mode = match pool.mode {
                crate::config::PoolMode::Transaction => "transaction",
                crate::config::PoolMode::Session => "session",
                crate::config::PoolMode::Statement => "statement",
            };
            let waiting = ledger.waiting_for(pool.id);
            let state = PoolState { database: text(&pool.key.database), user: text(&pool.key.user), mode, waiting, ..PoolState::default() };
            (pool.id.0, state)
        })
        .collect();
    for (_, pool, state) in ledger.states() {
        let Some(pool) = states.get_mut(&pool.0) else { continue };
        match state {
            State::Opening => pool.opening += 1,
            State::Idle => pool.idle += 1,
            State::Leased(_) => pool.leased += 1,
            State::Mending(_) => pool.mending += 1,
            State::Closing => pool.closing += 1,
        }
    }
    let queue = house.tenant_ids().into_iter().map(|(name, id)| (name, ledger.accounts().queued(id))).filter(|(_, depth)| *depth > 0);
    UpstreamState { name: upstream.name.clone(), limit: ledger.budget(), queue: queue.collect(), pools: states.into_values().collect() }
}
