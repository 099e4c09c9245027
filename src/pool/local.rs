//! One worker's part of all pools: its idle connections, its waiting clients, and the way between them. Everything here happens on one thread.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use slab::Slab;
use tokio::sync::oneshot;

use super::lease::Lease;
use super::ledger::{Answer, Claim, Next, ServerId, Step, Waiter};
use super::mail::{Job, Mail};
use super::shared::{Pool, Upstream};
use crate::admission::{Refusal, Ticket};
use crate::net::{Clock, Moment, now};
use crate::upstream::{Broken, Card, Server, Sign};
use crate::wire::say;

/// How long a connection that was told to end may take before it is given up; until then it counts against the budget.
const CLOSING_LIMIT: Duration = Duration::from_mins(1);

/// Why a connection cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Unavailable {
    /// Admission refuses.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The upstream cannot be reached, or refuses.
    #[error("{0}")]
    Broken(Arc<Broken>),
}

/// What a client that asks gets.
#[derive(Debug)]
pub enum Attempt {
    /// A connection.
    Ready(Lease),
    /// A place in the queue.
    Wait(Wait),
}

/// A connection with its pool, as one worker keeps it.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) server: Server,
    pub(super) pool: Arc<Pool>,
}

impl Kept {
    /// What the server reports may have changed.
    pub(super) fn learn(&self) {
        self.pool.profiles.lock().learn(&self.server.state.settings, &self.server.state.reported);
    }
}

#[derive(Debug)]
enum Slot {
    Waiting(Option<Waker>),
    Granted(Lease),
    Failed(Arc<Broken>),
    /// The client has the outcome; the slot is about to be freed.
    Taken,
}

/// A cancel that is on its way.
#[derive(Debug)]
struct Cancelling {
    card: Arc<Card>,
    /// The lease that would have been given back meanwhile.
    held: Option<Lease>,
    /// Dropped when the cancel has been delivered, which tells those at the other ends.
    waiting: Vec<oneshot::Sender<()>>,
}

/// One worker's part of all pools.
#[derive(Debug)]
pub struct Local {
    /// Which worker this is.
    pub worker: u16,
    /// The worker's clock.
    pub clock: Rc<Clock>,
    upstreams: RefCell<Vec<Arc<Upstream>>>,
    idle: RefCell<Vec<Vec<Option<Box<Kept>>>>>,
    slots: RefCell<Slab<Slot>>,
    /// Connections that wait for the end of a cancel before they may be given back (H2).
    cancelling: RefCell<Vec<Cancelling>>,
}

impl Local {
    /// The part of worker number `worker`.
    pub fn new(worker: u16, clock: Rc<Clock>, upstreams: Vec<Arc<Upstream>>) -> Rc<Self> {
        let idle = upstreams.iter().map(|_| Vec::new()).collect();
        Rc::new(Self {
            worker,
            clock,
            upstreams: RefCell::new(upstreams),
            idle: RefCell::new(idle),
            slots: RefCell::default(),
            cancelling: RefCell::default(),
        })
    }

    /// Asks for a connection of `pool` on a tenant's account.
    ///
    /// # Errors
    /// When admission refuses, or the pool has just failed.
    #[inline]
    pub fn request(self: &Rc<Self>, pool: &Arc<Pool>, claim: Claim, now: Moment) -> Result<Attempt, Unavailable> {
        loop {
            let taken = pool.upstream.ledger.lock().take(now, pool.id, claim.tenant, self.worker);
            let Some(id) = taken else { return self.queue(pool, claim, now).map(Attempt::Wait) };
            let Some(mut kept) = self.unshelve(pool.upstream.index, id) else { continue };
            if kept.server.io.poll_readable_hint() && !is_alive(&mut kept) {
                drop(Lease::new(kept, id, Rc::clone(self)));
                continue;
            }
            return Ok(Attempt::Ready(Lease::new(kept, id, Rc::clone(self))));
        }
    }

    /// Takes a place in the queue.
    #[cold]
    fn queue(self: &Rc<Self>, pool: &Arc<Pool>, claim: Claim, now: Moment) -> Result<Wait, Unavailable> {
        if let Some(why) = pool.is_hopeless(now) {
            return Err(Unavailable::Broken(why));
        }
        let slot = self.slots.borrow_mut().insert(Slot::Waiting(None));
        let from = Waiter { worker: self.worker, slot: u32::try_from(slot).unwrap_or(u32::MAX) };
        let mut steps = Vec::new();
        let answer = pool.upstream.ledger.lock().request(now, pool.id, claim, from, &mut steps);
        let wait = |ticket| Wait { local: Rc::clone(self), pool: Arc::clone(pool), slot, ticket, since: now };
        match answer {
            Ok(Answer::Wait(ticket)) => {
                self.carry_out(&pool.upstream, steps);
                Ok(wait(Some(ticket)))
            }
            Ok(Answer::Take(id)) => {
                // Freed between the two looks.
                self.carry_out(&pool.upstream, steps);
                if let Some(kept) = self.unshelve(pool.upstream.index, id) {
                    self.slots.borrow_mut()[slot] = Slot::Granted(Lease::new(kept, id, Rc::clone(self)));
                }
                Ok(wait(None))
            }
            Err(refusal) => {
                self.slots.borrow_mut().try_remove(slot);
                Err(refusal.into())
            }
        }
    }

    /// Takes an idle connection off its shelf.
    pub(super) fn unshelve(&self, upstream: usize, id: ServerId) -> Option<Box<Kept>> {
        self.idle.borrow_mut().get_mut(upstream)?.get_mut(id.0 as usize)?.take()
    }

    fn shelve(&self, id: ServerId, kept: Box<Kept>) {
        let mut idle = self.idle.borrow_mut();
        let upstream = kept.pool.upstream.index;
        if idle.len() <= upstream {
            idle.resize_with(upstream + 1, Vec::new);
        }
        let shelf = &mut idle[upstream];
        if shelf.len() <= id.0 as usize {
            shelf.resize_with(id.0 as usize + 1, || None);
        }
        shelf[id.0 as usize] = Some(kept);
    }

    /// A settled connection comes back: to the next waiter, or to the shelf, or to its end.
    #[inline]
    pub(super) fn take_back(self: &Rc<Self>, id: ServerId, mut kept: Box<Kept>, now: Moment) {
        let upstream = Arc::clone(&kept.pool.upstream);
        kept.server.state.last_used = now;
        let mut steps = Vec::new();
        let is_done = !std::mem::take(&mut kept.server.state.signs.was_cancelled);
        let next = upstream.ledger.lock().give_back(now, id, is_done, &mut steps);
        self.place(id, kept, next);
        if !steps.is_empty() {
            self.carry_out(&upstream, steps);
        }
    }

    fn place(self: &Rc<Self>, id: ServerId, kept: Box<Kept>, next: Next) {
        match next {
            Next::Hand(to) => self.hand(id, kept, to),
            Next::Keep => self.shelve(id, kept),
            Next::Close => self.close(id, kept),
        }
    }

    /// Gives a connection to a waiter, here or on another worker.
    fn hand(self: &Rc<Self>, id: ServerId, kept: Box<Kept>, to: Waiter) {
        if to.worker != self.worker {
            let Kept { server, pool } = *kept;
            let upstream = Arc::clone(&pool.upstream);
            match server.travel() {
                Ok(travelling) => upstream.send(to.worker, Mail::Hand { pool, server: id, travelling, slot: to.slot }),
                Err(error) => self.lost_on_the_way(&upstream, id, to, error.into()),
            }
            return;
        }
        self.grant(to.slot, Lease::new(kept, id, Rc::clone(self)));
    }

    /// A lease for a waiter of this worker. If the waiter has gone the lease goes back.
    fn grant(self: &Rc<Self>, slot: u32, lease: Lease) {
        let previous = match self.slots.borrow_mut().get_mut(slot as usize) {
            Some(place @ Slot::Waiting(_)) => Ok(std::mem::replace(place, Slot::Granted(lease))),
            _ => Err(lease),
        };
        match previous {
            Ok(Slot::Waiting(Some(waker))) => waker.wake(),
            Ok(_) => {}
            Err(lease) => lease.give_back_unused(now()),
        }
    }

    /// A connection broke while it changed hands: its waiter hears that.
    #[cold]
    fn lost_on_the_way(self: &Rc<Self>, upstream: &Arc<Upstream>, id: ServerId, to: Waiter, why: Broken) {
        let steps = upstream.closed(now(), id, Some(self.worker));
        self.carry_out(upstream, steps);
        upstream.send(to.worker, Mail::Fail { slots: vec![to.slot], why: Arc::new(why) });
    }

    fn fail(&self, slots: &[u32], why: &Arc<Broken>) {
        for slot in slots {
            let previous = match self.slots.borrow_mut().get_mut(*slot as usize) {
                Some(place @ Slot::Waiting(_)) => std::mem::replace(place, Slot::Failed(Arc::clone(why))),
                _ => continue,
            };
            if let Slot::Waiting(Some(waker)) = previous {
                waker.wake();
            }
        }
    }

    /// Carries out what the ledger wants; what is other threads' business goes there by mail.
    pub(super) fn carry_out(self: &Rc<Self>, upstream: &Arc<Upstream>, mut steps: Vec<Step>) {
        if steps.is_empty() {
            return;
        }
        upstream.post(&mut steps, Some(self.worker));
        for step in steps {
            match step {
                Step::Hand { server, to, .. } => self.give_away(upstream, server, to),
                Step::Close { server, .. } => self.close_idle(upstream, server),
                Step::Open { .. } | Step::Ask => {}
            }
        }
    }

    fn give_away(self: &Rc<Self>, upstream: &Arc<Upstream>, server: ServerId, to: Waiter) {
        if let Some(kept) = self.unshelve(upstream.index, server) {
            self.hand(server, kept, to);
        }
    }

    fn close_idle(self: &Rc<Self>, upstream: &Arc<Upstream>, server: ServerId) {
        if let Some(kept) = self.unshelve(upstream.index, server) {
            self.close(server, kept);
        }
    }

    /// Ends a connection, whose state in the ledger is `Closing`, and frees its place in the budget when the server has really ended it.
    pub(super) fn close(self: &Rc<Self>, id: ServerId, kept: Box<Kept>) {
        let local = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let Kept { mut server, pool } = *kept;
            local.clock.within(CLOSING_LIMIT, say_goodbye(&mut server)).await;
            drop(server);
            let steps = pool.upstream.closed(now(), id, Some(local.worker));
            local.carry_out(&pool.upstream, steps);
        });
    }

    /// Deals with one message to this worker.
    pub fn receive(self: &Rc<Self>, mail: Mail) {
        match mail {
            Mail::Opened { pool, server: id, travelling } => match travelling.arrive() {
                Ok(server) => {
                    let upstream = Arc::clone(&pool.upstream);
                    pool.recovered();
                    // Here and not where it was opened: another opening may have failed meanwhile.
                    upstream.answered();
                    let mut steps = Vec::new();
                    let next = upstream.ledger.lock().opened(now(), id, &mut steps);
                    self.place(id, Box::new(Kept { server, pool }), next);
                    self.carry_out(&upstream, steps);
                }
                Err(error) => pool.upstream.open_failed(now(), &pool, id, error.into()),
            },
            Mail::Hand { pool, server: id, travelling, slot } => match travelling.arrive() {
                Ok(server) => self.grant(slot, Lease::new(Box::new(Kept { server, pool }), id, Rc::clone(self))),
                Err(error) => self.lost_on_the_way(&pool.upstream, id, Waiter { worker: self.worker, slot }, error.into()),
            },
            Mail::GiveAway { upstream, server, to } => self.give_away(&upstream, server, to),
            Mail::Close { upstream, server } => self.close_idle(&upstream, server),
            Mail::Fail { slots, why } => self.fail(&slots, &why),
            Mail::CancelDone { card } => self.cancel_done(&card),
        }
    }

    /// Looks at every idle connection for what it may have been sent, and closes those that have ended (G2).
    pub fn look_after_idle(self: &Rc<Self>) {
        let upstreams = self.upstreams.borrow().clone();
        for upstream in &upstreams {
            let mut dead = Vec::new();
            if let Some(shelf) = self.idle.borrow_mut().get_mut(upstream.index) {
                for (at, place) in shelf.iter_mut().enumerate() {
                    if let Some(kept) = place
                        && kept.server.io.poll_readable_hint()
                        && !is_alive(kept)
                        && let Some(kept) = place.take()
                    {
                        dead.push((ServerId(u32::try_from(at).unwrap_or(u32::MAX)), kept));
                    }
                }
            }
            for (id, kept) in dead {
                tracing::info!(upstream = upstream.name, pid = kept.server.state.card.pid, "the server ended an idle connection");
                let mut steps = Vec::new();
                upstream.ledger.lock().closing(now(), id, &mut steps);
                self.close(id, kept);
                self.carry_out(upstream, steps);
            }
        }
    }

    /// Adds the upstreams that a reload has brought.
    pub fn set_upstreams(&self, upstreams: Vec<Arc<Upstream>>) {
        self.idle.borrow_mut().resize_with(upstreams.len(), Vec::new);
        *self.upstreams.borrow_mut() = upstreams;
    }

    /// How many clients of this worker wait.
    pub fn waiting(&self) -> usize {
        self.slots.borrow().len()
    }

    /// Has the control thread cancel what a leased connection runs. Until it is done the connection is given to nobody; one cancel at a time per connection,
    /// more than one mean the same (H6).
    pub fn cancel(self: &Rc<Self>, lease: &Lease, waiting: Vec<oneshot::Sender<()>>) {
        let upstream = &lease.pool().upstream;
        let card = &lease.server().state.card;
        if card.pid == 0 {
            return;
        }
        let mut cancelling = self.cancelling.borrow_mut();
        if let Some(known) = cancelling.iter_mut().find(|known| Arc::ptr_eq(&known.card, card)) {
            known.waiting.extend(waiting);
            return;
        }
        cancelling.push(Cancelling { card: Arc::clone(card), held: None, waiting });
        drop(cancelling);
        let finished = card.finished.load(std::sync::atomic::Ordering::Acquire);
        upstream.ask(Job::Cancel { upstream: Arc::clone(upstream), card: Arc::clone(card), finished, worker: self.worker });
    }

    /// The same for a connection that is being discarded: nobody waits for the end of it.
    pub(super) fn cancel_without_waiting(&self, kept: &Kept) {
        let card = &kept.server.state.card;
        if card.pid == 0 {
            return;
        }
        let finished = card.finished.load(std::sync::atomic::Ordering::Acquire);
        let upstream = Arc::clone(&kept.pool.upstream);
        kept.pool.upstream.ask(Job::Cancel { upstream, card: Arc::clone(card), finished, worker: self.worker });
    }

    /// Keeps a lease that would be given back until the cancel that is on its way has arrived; gives it back to the caller where there is none.
    pub(super) fn hold_for_cancel(&self, lease: Lease) -> Option<Lease> {
        let mut cancelling = self.cancelling.borrow_mut();
        match cancelling.iter_mut().find(|known| Arc::ptr_eq(&known.card, &lease.server().state.card)) {
            Some(known) => {
                known.held = Some(lease);
                None
            }
            None => Some(lease),
        }
    }

    /// Whether a cancel is on its way to some connection of this worker's.
    #[inline]
    pub(super) fn is_cancelling(&self) -> bool {
        !self.cancelling.borrow().is_empty()
    }

    fn cancel_done(self: &Rc<Self>, card: &Arc<Card>) {
        let mut cancelling = self.cancelling.borrow_mut();
        let Some(at) = cancelling.iter().position(|known| Arc::ptr_eq(&known.card, card)) else { return };
        let done = cancelling.swap_remove(at);
        drop(cancelling);
        if let Some(lease) = done.held {
            lease.give_back_unused(now());
        }
    }
}

/// Deals with what an idle connection was sent: false where it has ended.
///
/// Not by way of the worker's read buffer: the request that a connection is being looked for may still be there.
#[cold]
fn is_alive(kept: &mut Kept) -> bool {
    match kept.server.look_after(&mut [0; ASIDE]) {
        Sign::Quiet => true,
        Sign::Changed => {
            // The next login asks a server again what there is to report (A12).
            kept.learn();
            true
        }
        Sign::Ended => false,
    }
}

/// Tells a server that this was all, and waits for its end.
async fn say_goodbye(server: &mut Server) {
    let mut out = BytesMut::new();
    say::terminate(&mut out);
    if server.io.write_all(&out).await.is_err() {
        return;
    }
    server.io.shutdown();
    let mut rest = [0; 512];
    while server.io.read(&mut rest).await.is_ok_and(|count| count > 0) {}
}

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_LENGTH].into());
}

/// The worker's read buffer, for as long as `work` takes.
pub fn with_scratch<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| work(scratch))
}

/// Gives this worker a read buffer of another length, in bytes; before it has any client.
pub fn size_scratch(length: usize) {
    SCRATCH.set(vec![0; length.max(1)].into());
}

/// The length of a worker's read buffer unless it is told otherwise, in bytes.
const SCRATCH_LENGTH: usize = 32 << 10;

/// Read at a time of what an idle connection was sent, in bytes; seldom more than a line.
const ASIDE: usize = 1 << 10;

/// A place in the queue: a future of a lease. Dropping it leaves the queue, and gives back a lease that had come already.
#[derive(Debug)]
pub struct Wait {
    local: Rc<Local>,
    pool: Arc<Pool>,
    slot: usize,
    ticket: Option<Ticket>,
    since: Moment,
}

impl Wait {
    /// Since when it waits.
    pub fn since(&self) -> Moment {
        self.since
    }
}

impl Future for Wait {
    type Output = Result<Lease, Unavailable>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slots = self.local.slots.borrow_mut();
        let Some(slot) = slots.get_mut(self.slot) else { return Poll::Pending };
        match std::mem::replace(slot, Slot::Taken) {
            Slot::Waiting(_) => {
                *slot = Slot::Waiting(Some(cx.waker().clone()));
                Poll::Pending
            }
            Slot::Granted(lease) => Poll::Ready(Ok(lease)),
            Slot::Failed(why) => Poll::Ready(Err(Unavailable::Broken(why))),
            Slot::Taken => Poll::Pending,
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let slot = self.local.slots.borrow_mut().try_remove(self.slot);
        match slot {
            Some(Slot::Granted(lease)) => lease.give_back_unused(now()),
            Some(Slot::Waiting(_)) => {
                // Whoever was told in the meantime to give us a connection finds the slot empty and keeps it.
                if let Some(ticket) = self.ticket {
                    self.pool.upstream.ledger.lock().leave(self.pool.id, ticket);
                }
            }
            Some(Slot::Failed(_) | Slot::Taken) | None => {}
        }
    }
}
