//! How a lease ends: what becomes of the server connection, and what its client is to hear.

use super::examine::Change;
use super::relay::Relay;
use crate::config::PoolMode;
use crate::fault::Fault;
use crate::metrics::CancelCause;
use crate::net::{Moment, now};
use crate::wire::Malformed;

/// How a lease ended.
#[derive(Debug)]
pub enum End {
    /// All is answered.
    Settled {
        /// When.
        at: Moment,
    },
    /// All is answered, and what is left in the session is to be found out.
    Examine(Box<Change>),
    /// The client has gone, or was cut.
    Gone {
        /// When.
        at: Moment,
    },
    /// The session must end, and the client must hear this.
    Fault {
        /// What.
        fault: Box<Fault>,
        /// When.
        at: Moment,
    },
    /// The server connection broke before it took a byte; the client holds what it was for.
    Unsent {
        /// When.
        at: Moment,
    },
    /// The time of its caller was over inside a transaction, which is being undone; the client hears of that when it goes on.
    Overdue {
        /// When.
        at: Moment,
    },
}

impl End {
    /// When.
    pub fn at(&self) -> Moment {
        match self {
            Self::Settled { at } | Self::Gone { at } | Self::Fault { at, .. } | Self::Unsent { at } | Self::Overdue { at } => *at,
            Self::Examine(change) => change.at,
        }
    }
}

/// Why the relay stops.
pub enum Stop {
    Settled,
    /// The same, and what is left in the session is to be found out.
    Examine,
    /// The client has gone without a word.
    Vanished,
    /// The client has said goodbye.
    Terminated,
    /// The client does not read.
    Stalled,
    ServerLost,
    /// The server connection broke before it took a byte.
    Unsent,
    /// The time of the client's caller is over inside a transaction.
    Overdue,
    Malformed(Malformed),
    Fault(Box<Fault>),
}

impl Stop {
    /// Faults are large and rare: they must not make every lease larger.
    pub(super) fn fault(fault: Fault) -> Self {
        Self::Fault(Box::new(fault))
    }
}

impl Relay<'_> {
    /// The lease is over, or goes on with these, if there are any; the former is the outcome.
    #[inline]
    pub(super) fn pass_last_words(&mut self, is_over: bool, words: &[u8]) -> Result<bool, Stop> {
        if !is_over && !words.is_empty() {
            self.send_to_client(words)?;
        }
        Ok(is_over)
    }

    /// Ends the lease: the server connection goes back, or is put in order, or is discarded.
    #[inline]
    pub fn end(mut self, stop: Stop) -> End {
        // That is when it settled: there is no need to ask again what time it is.
        let at = if matches!(stop, Stop::Settled) { self.request_began } else { now() };
        self.unwatch_peer();
        self.leave_ahead();
        self.client.watch.set(|timing| {
            timing.transaction_since = None;
            timing.until = None;
            timing.stalled_since = None;
            timing.watched = false;
        });
        if matches!(stop, Stop::Examine) {
            return self.end_for_examination(at);
        }
        self.client.pin_slot = None;
        if self.pinned.is_some() {
            self.inspector.forget();
            self.note_pin();
            self.lease.server_mut().state.dirty = true;
        }
        self.client.watch.has_held(at.saturating_duration_since(self.began), self.client.worker.period(), at);
        if matches!(stop, Stop::Settled) {
            if self.inspector.is_dirty() {
                self.lease.server_mut().state.dirty = true;
            }
            if self.has_reported {
                self.lease.learn();
            }
            self.end_edit();
            self.lease.give_back(at);
            return End::Settled { at };
        }
        self.end_edit();
        self.end_badly(stop, at)
    }

    #[cold]
    fn end_for_examination(mut self, at: Moment) -> End {
        let (pin, examination) = (self.pinned, self.inspector.take_examination());
        self.lease.server_mut().state.dirty |= self.inspector.is_dirty();
        self.inspector.forget();
        if pin.is_some() {
            self.note_pin();
        }
        if self.has_reported && examination.is_empty() {
            self.lease.learn();
        }
        self.client.watch.has_held(at.saturating_duration_since(self.began), self.client.worker.period(), at);
        self.end_edit();
        let (relistened, holds_ready) = self.ears.as_ref().map_or((None, false), |ears| (ears.relistened, ears.holds_ready));
        End::Examine(Box::new(Change {
            lease: self.lease,
            is_certain: self.is_straight && !examination.is_partial,
            examination,
            pin,
            version: self.version,
            relistened,
            holds_ready,
            at,
        }))
    }

    #[cold]
    fn end_badly(mut self, stop: Stop, at: Moment) -> End {
        if matches!(stop, Stop::Unsent) {
            return End::Unsent { at };
        }
        let session = self.client.watch.pool.mode == PoolMode::Session;
        self.lease.server_mut().state.dirty |= self.inspector.may_be_dirty() || session;
        // Half a message that cannot be completed: the connection is of no more use (E2).
        let cut_short = !self.inspector.at_edge() || !self.to_server.is_empty() || self.lease.server().io.has_unsent();
        let polite = matches!(stop, Stop::Terminated);
        if matches!(stop, Stop::Vanished | Stop::Stalled) && self.lease.server().state.owed.owes() {
            self.client.watch.tenant.borrow().numbers.cancelled[CancelCause::ClientGone.index()].add(1);
        }
        let lost = matches!(stop, Stop::ServerLost);
        let overdue = matches!(stop, Stop::Overdue);
        let fault = match stop {
            // Who is in the middle of a message cannot go on without its server.
            Stop::Overdue if session || cut_short => Some(Box::new(Fault::DeadlineInTransaction)),
            Stop::Settled | Stop::Examine | Stop::Terminated | Stop::Vanished | Stop::Stalled | Stop::Unsent | Stop::Overdue => None,
            // What the server said of its end has been passed on (G3).
            Stop::ServerLost if self.lease.server().state.signs.ends => None,
            Stop::ServerLost => Some(Box::new(Fault::ServerLost)),
            Stop::Malformed(malformed) => Some(Box::new(Fault::Malformed(malformed))),
            Stop::Fault(fault) => Some(fault),
        };
        let end = match fault {
            None if overdue => End::Overdue { at },
            None => End::Gone { at },
            Some(fault) if self.lease.server().state.frames.at_edge() => End::Fault { fault, at },
            // In the middle of an answer nothing can be said that the client would not take for the rest of it.
            Some(fault) => {
                self.client.count(&fault);
                End::Gone { at }
            }
        };
        if lost || cut_short || self.inspector.is_lasting() {
            drop(self.lease);
        } else if polite {
            self.lease.finish();
        } else {
            self.lease.mend();
        }
        end
    }
}
