//! A lease: one server connection in the hands of one client.
//!
//! Dropping a lease discards the connection. Only [`Lease::give_back`] lets it be used again, and only where the account says that it is settled: a panic,
//! an early return or a dropped future can never hand a half-used connection to the next tenant.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use super::ledger::ServerId;
use super::local::{Kept, Local};
use super::shared::Pool;
use crate::net::{Moment, now};
use crate::upstream::{Broken, Role, Server};

/// One server connection in the hands of one client.
#[derive(Debug)]
pub struct Lease {
    kept: Option<Box<Kept>>,
    id: ServerId,
    local: Rc<Local>,
}

impl Lease {
    pub(super) fn new(kept: Box<Kept>, id: ServerId, local: Rc<Local>) -> Self {
        Self { kept: Some(kept), id, local }
    }

    /// The connection's number in its upstream.
    pub fn id(&self) -> ServerId {
        self.id
    }

    fn kept(&self) -> &Kept {
        // Only `drop` and the methods that consume the lease take it out.
        self.kept.as_deref().unwrap_or_else(|| unreachable!("a lease has its connection until it ends"))
    }

    /// The connection.
    #[inline]
    pub fn server(&self) -> &Server {
        &self.kept().server
    }

    /// The connection.
    #[inline]
    pub fn server_mut(&mut self) -> &mut Server {
        &mut self.kept.as_deref_mut().unwrap_or_else(|| unreachable!("a lease has its connection until it ends")).server
    }

    /// The pool.
    #[inline]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.kept().pool
    }

    /// The server has reported a setting anew. If that was not its client's doing, or was taken back, it is news for the clients that log in next (I2).
    #[cold]
    pub fn learn(&self) {
        if !self.server().state.dirty {
            self.kept().learn();
        }
    }

    /// Gives a settled connection back; one that is not settled, or that the next client must not find as it is, is put in order first.
    #[inline]
    pub fn give_back(mut self, now: Moment) {
        let state = &self.server().state;
        let clean = state.owed.is_settled() && state.frames.at_edge() && !state.owed.is_doubtful() && !state.dirty && !state.signs.ends;
        if state.signs.refused_a_write {
            self.suspect();
        }
        if !clean {
            // One that has ended cannot be put in order.
            return if self.server().state.signs.ends { drop(self) } else { self.mend() };
        }
        let state = &self.server().state;
        state.card.finished.fetch_add(1, Ordering::Release);
        if self.local.is_cancelling() {
            let local = Rc::clone(&self.local);
            match local.hold_for_cancel(self) {
                Some(lease) => self = lease,
                None => return,
            }
        }
        if let Some(kept) = self.kept.take() {
            self.local.take_back(self.id, kept, now);
        }
    }

    /// The server is read-only: perhaps the primary is elsewhere.
    #[cold]
    fn suspect(&mut self) {
        self.server_mut().state.signs.refused_a_write = false;
        let reports = Role::reported(&self.server().state.reported).standby;
        let upstream = Arc::clone(&self.pool().upstream);
        let steps = upstream.refused_a_write(reports, Some(self.local.worker));
        self.local.carry_out(&upstream, steps);
    }

    /// Gives back a connection that its client never used.
    pub(super) fn give_back_unused(mut self, now: Moment) {
        if let Some(kept) = self.kept.take() {
            self.local.take_back(self.id, kept, now);
        }
    }

    /// The connection listens for all clients of its pool from now on, and is on nobody's account. False where too few would be left for work.
    pub fn listens(&self) -> bool {
        let upstream = Arc::clone(&self.pool().upstream);
        let mut steps = Vec::new();
        let listens = upstream.ledger.lock().listens(now(), self.id, &mut steps);
        self.local.carry_out(&upstream, steps);
        listens
    }

    /// Whether the connection has lain idle so long that it should be asked for a sign of life before use.
    #[inline]
    pub fn wants_check(&self, now: Moment) -> bool {
        let kept = self.kept();
        now.saturating_duration_since(kept.server.state.last_used) >= kept.pool.upstream.times.load().check_after
    }

    /// Asks the connection for a sign of life: an empty query.
    ///
    /// Not cancel safe: dropped meanwhile, the lease must be dropped too.
    pub async fn check(&mut self) -> Result<(), Broken> {
        let limit = self.pool().upstream.target().options.timeout;
        let clock = Rc::clone(&self.local.clock);
        match clock.within(limit, self.server_mut().run(b"")).await {
            Some(outcome) => outcome?.map_err(Broken::Refused),
            None => Err(Broken::TimedOut(limit)),
        }
    }

    /// Puts the connection in order in the background, whatever its client has left, and within the upstream's time limit: cancels what runs, ends a COPY, rolls back,
    /// resets what is dirty, and checks. What cannot be put in order is closed. Checklist E2, E3.
    #[cold]
    pub fn mend(self) {
        self.put_in_order(true);
    }

    /// The same for a client that has taken its leave: what it asked for last is done first.
    #[cold]
    pub fn finish(self) {
        self.put_in_order(false);
    }

    fn put_in_order(mut self, cancel: bool) {
        let Some(kept) = self.kept.take() else { return };
        let (id, local) = (self.id, Rc::clone(&self.local));
        kept.pool.upstream.ledger.lock().mending(id);
        // Wrapped again, so that whatever ends the task discards the connection.
        let lease = Self { kept: Some(kept), id, local: Rc::clone(&local) };
        tokio::task::spawn_local(super::mend::mend(lease, local, cancel));
    }

    /// Has what the connection runs cancelled at the server; the answer comes as an error on the connection itself. `waiting` are dropped when the cancel has been
    /// delivered.
    pub fn cancel(&self, waiting: Vec<oneshot::Sender<()>>) {
        self.local.cancel(self, waiting);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(kept) = self.kept.take() else { return };
        if std::thread::panicking() {
            // The runtime may be going down: the ledger is told, and the socket closes by itself.
            let steps = kept.pool.upstream.closed(now(), self.id, Some(self.local.worker));
            drop(steps);
            return;
        }
        let upstream = Arc::clone(&kept.pool.upstream);
        if kept.server.state.owed.owes() {
            // Its process would go on with what it runs until it wants to answer.
            self.local.cancel_without_waiting(&kept);
        }
        let mut steps = Vec::new();
        upstream.ledger.lock().closing(now(), self.id, &mut steps);
        self.local.close(self.id, kept);
        self.local.carry_out(&upstream, steps);
    }
}
