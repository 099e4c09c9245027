//! The worker threads: each a current-thread runtime of its own, with its own listeners, clients and idle server connections.

use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::Context;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot, watch};

use crate::http;
use crate::net::{Bound, Clock, Listener, now};
use crate::pool::{self, Local};
use crate::session::{self, House, Mail, Worker};

/// What one worker is started with.
#[derive(Debug)]
pub struct Seat {
    /// Its number.
    pub number: u16,
    /// By what its clients come in.
    pub doors: Doors,
    /// Its mail about server connections.
    pub inbox: pool::Inbox,
    /// Its mail about clients.
    pub mail: mpsc::UnboundedReceiver<Mail>,
}

/// By what a worker's clients come in.
#[derive(Debug)]
pub enum Doors {
    /// The PostgreSQL port and Unix sockets: listeners, outside any runtime.
    Postgres(Vec<Bound>),
    /// SQL over HTTP.
    Api(Bound),
}

/// How far the workers should go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Listen,
    Drain,
    Stop,
}

/// All workers.
#[derive(Debug)]
pub struct Workers {
    house: Arc<House>,
    seats: Vec<Seat>,
    order: watch::Sender<Order>,
    threads: Vec<JoinHandle<()>>,
    relaying: usize,
}

impl Workers {
    /// Workers that have not begun.
    pub fn new(house: Arc<House>, seats: Vec<Seat>) -> Self {
        Self { house, seats, order: watch::Sender::new(Order::Listen), threads: Vec::new(), relaying: 0 }
    }

    /// How many serve the PostgreSQL port.
    pub fn count(&self) -> usize {
        self.relaying
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// When the system has no thread or descriptor left.
    pub fn start(&mut self) -> anyhow::Result<()> {
        for seat in self.seats.drain(..) {
            self.relaying += usize::from(matches!(seat.doors, Doors::Postgres(_)));
            let (house, order, name) = (Arc::clone(&self.house), self.order.subscribe(), format!("worker-{}", seat.number));
            let (started, up) = std::sync::mpsc::channel();
            let thread = std::thread::Builder::new().name(name.clone()).spawn(move || {
                // Only the first error matters, and only to whoever waits for it.
                let _ = started.send(run(seat, house, order, &started));
            })?;
            up.recv().with_context(|| format!("{name} has ended"))?.with_context(|| format!("{name} cannot start"))?;
            self.threads.push(thread);
        }
        Ok(())
    }

    /// No new clients.
    pub fn stop_listening(&self) {
        self.order.send_replace(Order::Drain);
    }

    /// Ends the threads; connections that are left are closed.
    pub fn stop(&mut self) {
        self.order.send_replace(Order::Stop);
        for thread in self.threads.drain(..) {
            // A worker that panicked has logged it.
            let _ = thread.join();
        }
    }
}

/// One worker's life. `started` hears that it has begun; its end is the answer.
fn run(
    seat: Seat,
    house: Arc<House>,
    order: watch::Receiver<Order>,
    started: &std::sync::mpsc::Sender<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let mut builder = Builder::new_current_thread();
    builder.enable_io();
    if matches!(seat.doors, Doors::Api(_)) {
        // Its timers are those of HTTP; the worker's own clock is for its clients.
        builder.enable_time();
    }
    let runtime = builder.build_local(LocalOptions::default())?;
    runtime.block_on(async move {
        let Seat { number, doors, mut inbox, mut mail } = seat;
        pool::size_scratch(house.config.load().process.read_buffer);
        let clock = Clock::new()?;
        let local = Local::new(number, Rc::clone(&clock), house.upstreams());
        let worker = Worker::new(number, house, Rc::clone(&local), Rc::clone(&clock));
        let stops = open(doors, &worker)?;
        let servers = tokio::task::spawn_local(async move {
            while let Some(message) = inbox.recv().await {
                local.receive(message);
            }
        });
        let clients = {
            let worker = Rc::clone(&worker);
            tokio::task::spawn_local(async move {
                while let Some(message) = mail.recv().await {
                    worker.receive(message);
                }
            })
        };
        let keeper = {
            let turnstile = Rc::clone(&worker.turnstile);
            tokio::task::spawn_local(async move { turnstile.keep().await })
        };
        // Nobody waits any more once this is sent.
        let _ = started.send(Ok(()));
        tend(&worker, order, stops).await;
        servers.abort();
        clients.abort();
        keeper.abort();
        Ok(())
    })
}

/// Opens a worker's doors; dropping what is answered closes them.
fn open(doors: Doors, worker: &Rc<Worker>) -> std::io::Result<Vec<oneshot::Sender<()>>> {
    let listeners = match doors {
        Doors::Postgres(listeners) => listeners,
        Doors::Api(bound) => {
            let (stop, stopped) = oneshot::channel();
            tokio::task::spawn_local(http::api::serve(bound.listen()?, Rc::clone(worker), stopped));
            return Ok(vec![stop]);
        }
    };
    let mut stops = Vec::new();
    for bound in listeners {
        let (stop, stopped) = oneshot::channel();
        stops.push(stop);
        tokio::task::spawn_local(accept(bound.listen()?, Rc::clone(worker), stopped));
    }
    Ok(stops)
}

/// Keeps time, and waits for orders.
async fn tend(worker: &Rc<Worker>, mut order: watch::Receiver<Order>, mut stops: Vec<oneshot::Sender<()>>) {
    loop {
        tokio::select! {
            ticked = worker.clock.run_out() => {
                if let Err(error) = ticked {
                    tracing::error!(%error, worker = worker.number, "the worker's timer has failed");
                }
                let now = now();
                worker.clock.tick(now, worker.sweep(now));
            }
            changed = order.changed() => {
                let now = *order.borrow_and_update();
                if changed.is_err() || now == Order::Stop {
                    return;
                }
                if now == Order::Drain {
                    stops.clear();
                }
            }
        }
    }
}

/// Takes clients until told to stop. Dropping the listener refuses those that the kernel still holds.
async fn accept(listener: Listener, worker: Rc<Worker>, mut stopped: oneshot::Receiver<()>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut stopped => {
                // To close the door would reset whoever stands at it.
                for (io, peer) in listener.close() {
                    tokio::task::spawn_local(session::serve(io, peer, Rc::clone(&worker)));
                }
                return;
            }
        };
        match accepted {
            Ok((io, peer)) => {
                tokio::task::spawn_local(session::serve(io, peer, Rc::clone(&worker)));
            }
            Err(error) => tracing::error!(%error, "no more clients can be taken just now"),
        }
    }
}
