//! What the process tells of itself over HTTP.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use crate::admission::{Reading, Strain, TenantId};
use crate::console::{Order, PERIOD, Period, Steward};
use crate::http::Operations;
use crate::metrics::{
    By, HISTORY_EVERY, History, Lifecycle, PoolState, Pressure, PressureState, ProcessState, ServerState, Snapshot, UpstreamState,
};
use crate::net::{Moment, now};
use crate::pool::ledger::{PoolId, State};
use crate::pool::{Pool, Sharing, Upstream};
use crate::session::House;

/// When to come back while an upstream does not answer.
const WHILE_DOWN: Duration = Duration::from_secs(1);

/// The process as the control thread knows it.
#[derive(Debug)]
pub struct Process {
    house: Arc<House>,
    stage: Cell<Lifecycle>,
    started: SystemTime,
    began: Moment,
    orders: UnboundedSender<Ordered>,
    period: RefCell<Option<Period>>,
    history: RefCell<History>,
}

/// An order, and where its outcome goes.
pub type Ordered = (Order, oneshot::Sender<Result<(), String>>);

impl Process {
    /// A process that is starting.
    pub fn new(house: Arc<House>) -> (Rc<Self>, UnboundedReceiver<Ordered>) {
        let (orders, ordered) = unbounded_channel();
        let (stage, period, history) = (Cell::new(Lifecycle::Starting), RefCell::default(), RefCell::default());
        (Rc::new(Self { house, stage, started: SystemTime::now(), began: now(), orders, period, history }), ordered)
    }

    /// It goes a step further.
    pub fn enter(&self, stage: Lifecycle) {
        self.stage.set(stage);
        super::notify::tell(stage);
    }
}

/// Marks the ends of the periods that averages are told for.
pub async fn keep_periods(process: Rc<Process>) {
    loop {
        tokio::time::sleep(PERIOD).await;
        let older = process.period.take().map(|period| period.newer).unwrap_or_default();
        let newer = process.all().databases;
        process.period.replace(Some(Period { older, newer, length: PERIOD }));
    }
}

/// Notes what the page shows of the time before it was opened.
pub async fn keep_history(process: Rc<Process>) {
    loop {
        let pressures = process.house.upstreams().iter().map(|upstream| (upstream.name.clone(), pressure_of(upstream))).collect();
        process.history.borrow_mut().note(process.age(), process.house.metrics.total(), pressures);
        tokio::time::sleep(HISTORY_EVERY).await;
    }
}

impl Steward for Process {
    fn house(&self) -> &Arc<House> {
        &self.house
    }

    fn snapshot(&self) -> Snapshot {
        self.all()
    }

    /// Up to the end of the first one, all that has been.
    fn period(&self) -> Period {
        let so_far = || Period { older: Vec::new(), newer: self.all().databases, length: self.age() };
        self.period.borrow().clone().unwrap_or_else(so_far)
    }

    fn order(&self, order: Order) -> oneshot::Receiver<Result<(), String>> {
        let (reply, outcome) = oneshot::channel();
        // Nobody takes orders any more where the process ends; then the reply is dropped.
        let _ = self.orders.send((order, reply));
        outcome
    }
}

impl Process {
    fn age(&self) -> Duration {
        now().saturating_duration_since(self.began)
    }

    /// Everything at this moment.
    fn all(&self) -> Snapshot {
        let process = ProcessState { state: self.stage.get(), started: self.started, uptime: self.age() };
        let upstreams = self.house.upstreams().iter().map(|upstream| upstream_state(&self.house, upstream)).collect();
        self.house.metrics.collect(process, upstreams)
    }
}

impl Operations for Process {
    fn snapshot(&self) -> Snapshot {
        self.all()
    }

    fn history(&self) -> String {
        self.history.borrow().json(self.age())
    }

    fn readiness(&self) -> Result<(), String> {
        match self.stage.get() {
            Lifecycle::Starting => return Err("starting".into()),
            Lifecycle::Draining => return Err("draining".into()),
            Lifecycle::Ready => {}
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
    let ids = house.tenant_ids();
    let names: HashMap<TenantId, String> = ids.iter().map(|(name, id)| (*id, name.clone())).collect();
    let ledger = upstream.ledger.lock();
    let mut counts: HashMap<(PoolId, ServerState), u64> = HashMap::new();
    for (_, pool, state) in ledger.states() {
        *counts.entry((pool, published(state))).or_default() += 1;
    }
    let waiting: HashMap<PoolId, u64> = pools.iter().map(|pool| (pool.id, u64::from(ledger.waiting_for(pool.id)))).collect();
    let queue = ids.into_iter().map(|(name, id)| (name, u64::from(ledger.accounts().queued(id))));
    let queue = queue.filter(|(_, depth)| *depth > 0).collect();
    let (limit, suggested_limit, is_down) = (ledger.budget(), ledger.suggested_limit(), ledger.is_down());
    let (all, by_tenant) = ledger.pressure(now());
    drop(ledger);
    let tenants = by_tenant.iter().filter_map(|(id, reading)| Some((names.get(id)?.clone(), pressure(reading, is_down)))).collect();
    let pools = pools.iter().map(|pool| pool_state(pool, &counts, waiting.get(&pool.id).copied().unwrap_or(0))).collect();
    let pressure = pressure(&all, is_down);
    let proxies = upstream.sharing.get().map(Sharing::proxies);
    UpstreamState { name: upstream.name.clone(), limit, suggested_limit, proxies, queue, pressure, tenants, pools }
}

fn pressure_of(upstream: &Upstream) -> f64 {
    let ledger = upstream.ledger.lock();
    pressure(&ledger.pressure(now()).0, ledger.is_down()).pressure
}

fn pressure(reading: &Reading, is_down: bool) -> Pressure {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let state = match reading.strain {
        _ if is_down => PressureState::Down,
        Strain::Ok => PressureState::Ok,
        Strain::Queueing => PressureState::Queueing,
        Strain::Shedding => PressureState::Shedding,
    };
    Pressure {
        state,
        pressure: if is_down { 1.0 } else { reading.pressure },
        queue_wait_p99_ms: reading.wait_p99.as_secs_f64() * 1000.0,
        retry_after_ms: millis(if is_down { reading.retry_after.max(WHILE_DOWN) } else { reading.retry_after }),
        suggested_concurrency: if is_down { Some(0) } else { reading.suggested_clients },
        clients: reading.clients,
    }
}

fn pool_state(pool: &Pool, counts: &HashMap<(PoolId, ServerState), u64>, waiting: u64) -> PoolState {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let connections = By::each(|state| counts.get(&(pool.id, state)).copied().unwrap_or(0));
    let mode = match pool.mode {
        crate::config::PoolMode::Transaction => "transaction",
        crate::config::PoolMode::Session => "session",
        crate::config::PoolMode::Statement => "statement",
    };
    let listening = pool.switchboard.clients();
    PoolState { database: text(&pool.key.database), user: text(&pool.key.user), mode, connections, waiting, listening }
}

fn published(state: State) -> ServerState {
    match state {
        State::Opening => ServerState::Opening,
        State::Idle => ServerState::Idle,
        State::Leased(_) => ServerState::Leased,
        State::Mending(_) => ServerState::Mending,
        State::Listening => ServerState::Listening,
        State::Closing => ServerState::Closing,
    }
}
