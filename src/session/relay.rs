//! A client and its server connection: bytes go from one to the other, until the server owes nothing and stands outside a transaction.
//!
//! Each read goes from the worker's read buffer straight into the peer's socket; only what the peer does not take is kept, and then nothing more is read for it:
//! backpressure is the shape of the loop. The server is looked at first, then the client: for its disconnect, its pipelining, its COPY data.
//! Checklist B2, B5, C3, E2, E6, F5, G3, G4.

use std::io;

use std::task::{Context, Poll};
use std::time::Duration;

use super::ahead::Ahead;
use super::channels::Ears;
use super::client::Client;
use super::edit::{Edit, forget_statements};
use super::end::Stop;
use super::inspect::{HELD, Inspector, Verdict};
use super::phase::Phase;
use super::pins::Pin;
use super::said::{drops_statements, patched, read_error, with_own_name};
use super::telling::Asked;
use super::watch::Signal;
use crate::config::PoolMode;
use crate::fault::Fault;
use crate::metrics::CancelCause;
use crate::net::{Moment, now};
use crate::pool::{Lease, with_scratch};
use crate::upstream::{State, note_reported};
use crate::wire::scan::Side;
use crate::wire::{Status, message};

/// Where a lease's first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// So many are in the worker's read buffer.
    Scratch(u32),
    /// The client holds them.
    Held,
    /// The client holds them, and its settings go in front of them.
    BehindSettings,
    /// There are none yet: the client has kept the server connection.
    Nothing,
}

/// The most turns before other clients of the worker get theirs.
const TURNS: u32 = 16;

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, and none implies another")]
/// A lease at work: a future of why it stops.
///
/// Not cancel safe: dropped, it discards the server connection.
pub struct Relay<'a> {
    pub(super) client: &'a mut Client,
    pub(super) lease: Lease,
    pub(super) inspector: Inspector,
    /// What the server has not taken yet; the same for the client is in `client.unsent`.
    pub(super) to_server: Vec<u8>,
    pub(super) began: Moment,
    /// Since when what is asked is at work; where nothing is, when the last was answered.
    pub(super) request_began: Moment,
    pub(super) pinned: Option<Pin>,
    /// The server connection has taken some bytes of this client's.
    pub(super) server_has_bytes: bool,
    /// All was answered when the client was not between two messages.
    is_late: bool,
    /// Nothing has failed, and no transaction was left open by a batch.
    pub(super) is_straight: bool,
    /// The server has reported a setting.
    pub(super) has_reported: bool,
    /// Something was sent that may drop all prepared statements, now or once its portal is executed.
    pub(super) may_drop: bool,
    /// What is changed in the server's answers.
    pub(super) edit: Option<Box<Edit>>,
    /// Which version of what is known of the database's functions it goes by.
    pub(super) version: u64,
    /// The client listens by way of its pool's shared connection.
    pub(super) ears: Option<Box<Ears>>,
    /// The client's settings were sent in front of its words, and are not in force yet.
    pub(super) ahead: Option<Box<Ahead>>,
    /// What it has asked, where that may be told.
    pub(super) asked: Option<Box<Asked>>,
    /// It was over before it had begun.
    stopped: Option<Stop>,
}

impl<'a> Relay<'a> {
    /// A lease that begins.
    #[inline]
    pub fn new(client: &'a mut Client, lease: Lease, began: Moment) -> Self {
        client.watch.enter(Phase::Running, began);
        client.watch.set_server(lease.id());
        client.watch.set(|timing| timing.transaction_since = Some(began));
        client.hand_over_unnamed();
        let shares = client.watch.pool.mode != PoolMode::Session;
        let (version, functions) = if shares { client.watch.pool.functions.known() } else { (0, None) };
        let ears = client.channels.is_some().then(Box::default);
        let asked = client.watch.tenant.borrow().telling.wants_texts().then(Box::default);
        Self {
            client,
            lease,
            inspector: Inspector::new(shares).with_functions(functions),
            to_server: Vec::new(),
            began,
            request_began: began,
            pinned: None,
            server_has_bytes: false,
            is_late: false,
            is_straight: true,
            has_reported: false,
            may_drop: false,
            edit: None,
            ears,
            ahead: None,
            asked,
            stopped: None,
            version,
        }
    }

    /// Sends a lease's first bytes on. A server connection that turns out to be broken before it has taken any of them is not the client's business.
    #[inline]
    pub fn begin(&mut self, first: First) {
        if first != First::Nothing {
            self.client.names.forget_texts();
        }
        if !self.client.unnamed.is_empty() {
            self.inspector.recall();
        }
        if self.client.watch.strict || self.client.watch.tenant.borrow().max_pinned > 0 {
            self.inspector.guard(true);
            if self.client.shares_channels() {
                self.inspector.share_channels();
            }
        }
        let begun = match first {
            First::Scratch(count) => with_scratch(|scratch| self.send_first(&scratch[..count as usize])),
            First::Held | First::BehindSettings => {
                let held = std::mem::take(&mut self.client.held);
                let sent = if first == First::Held { self.send_first(&held) } else { self.send_behind_settings(&held) };
                self.client.worker.spares.put(held);
                sent
            }
            First::Nothing => {
                self.go_on(self.began);
                // What waited for the end of what was before it.
                if message::first(&self.client.held).is_some() { self.request(&[]) } else { Ok(()) }
            }
        };
        self.stopped = match begun {
            Ok(()) => None,
            Err(Stop::ServerLost) if !self.server_has_bytes => Some(Stop::Unsent),
            Err(stop) => Some(stop),
        };
    }

    #[inline]
    pub(super) fn send_first(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        if self.asked.is_some() {
            self.keep_asked(bytes);
        }
        let sent = self.forward(bytes);
        if matches!(sent, Err(Stop::ServerLost)) && !self.server_has_bytes {
            self.client.held = bytes.to_vec();
            self.end_edit();
        }
        sent
    }

    /// One look at each direction; whether anything moved.
    #[inline]
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<bool, Stop> {
        let mut moved = false;
        if self.client.unsent.is_empty() && !self.client.io.has_unsent() {
            match with_scratch(|scratch| match self.lease.server_mut().io.poll_read(cx, scratch) {
                Poll::Pending => Ok(None),
                Poll::Ready(Ok(count)) if count > 0 => self.answer(&scratch[..count]).map(Some),
                Poll::Ready(_) => Err(Stop::ServerLost),
            })? {
                None => {}
                Some(true) => return Err(Stop::Settled),
                Some(false) => moved = true,
            }
        } else {
            moved |= self.drain_to_client(cx)?;
        }
        if !self.to_server.is_empty() || self.lease.server().io.has_unsent() {
            moved |= self.drain_to_server(cx)?;
        } else if !self.must_wait() && self.client.unsent.len() < HELD {
            // Else what the client sends meanwhile waits, too: it does not read, or its answers are not there yet.
            let read = with_scratch(|scratch| match self.client.io.poll_read(cx, scratch) {
                Poll::Pending => Ok(false),
                Poll::Ready(Ok(count)) if count > 0 => self.request(&scratch[..count]).map(|()| true),
                Poll::Ready(_) => Err(Stop::Vanished),
            });
            moved |= read?;
        }
        if self.is_late {
            self.end_late()?;
        }
        Ok(moved)
    }

    /// What has come from the client.
    #[inline]
    fn request(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let was_working = self.lease.server().state.owed.owes();
        let is_new = self.asked.is_some() && !was_working && self.inspector.at_edge();
        if self.client.held.is_empty() {
            if is_new {
                self.keep_asked(bytes);
            }
            self.forward(bytes)?;
        } else {
            let mut held = std::mem::take(&mut self.client.held);
            held.extend_from_slice(bytes);
            if is_new {
                self.keep_asked(&held);
            }
            self.forward(&held)?;
        }
        if was_working && !self.lease.server().state.owed.is_copying_in() {
            return Ok(());
        }
        let now = now();
        if !was_working {
            self.request_began = now;
            // A single statement is a transaction, too.
            let (watch, told) = (&self.client.watch, self.client.told(bytes));
            watch.set(|timing| {
                let since = *timing.transaction_since.get_or_insert_with(|| watch.begins(now));
                timing.until = watch.still_until(since, told, now);
            });
        }
        self.client.watch.enter(if self.lease.server().state.owed.owes() { Phase::Running } else { Phase::Open }, now);
        Ok(())
    }

    /// Sends on what is whole; holds back what is not.
    #[inline]
    pub(super) fn forward(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        if self.ears.is_some() && self.speaks_of_channels(bytes) {
            return self.forward_by_batches(bytes);
        }
        self.forward_as_it_is(bytes)
    }

    #[inline]
    pub(super) fn forward_as_it_is(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        match self.inspect(bytes) {
            Verdict::Forward(count) if count == bytes.len() => self.send_to_server(bytes),
            Verdict::Forward(count) => {
                self.send_to_server(&bytes[..count])?;
                self.client.held.extend_from_slice(&bytes[count..]);
                Ok(())
            }
            Verdict::End(count, malformed) => {
                self.send_to_server(&bytes[..count])?;
                Err(malformed.map_or(Stop::Terminated, Stop::Malformed))
            }
            Verdict::Rewrite(count) => self.forward_rewritten(bytes, count),
        }
    }

    #[inline]
    pub(super) fn send_to_server(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.client.watch.tenant.borrow().numbers.bytes_in.add(bytes.len() as u64);
        if let Some(edit) = &mut self.edit {
            edit.more_was_sent();
        }
        if !self.to_server.is_empty() {
            self.to_server.extend_from_slice(bytes);
            return Ok(());
        }
        self.give_to_server(bytes)
    }

    /// Sends bytes while none wait to be sent.
    #[inline]
    pub(super) fn give_to_server(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let taken = self.lease.server_mut().io.try_send(bytes).map_err(|_| Stop::ServerLost)?;
        self.server_has_bytes = true;
        if taken < bytes.len() {
            self.to_server.extend_from_slice(&bytes[taken..]);
        }
        Ok(())
    }

    #[cold]
    fn drain_to_server(&mut self, cx: &mut Context<'_>) -> Result<bool, Stop> {
        let io = &mut self.lease.server_mut().io;
        if self.to_server.is_empty() {
            return flushed(io.poll_flush(cx)).map_err(|_| Stop::ServerLost);
        }
        // The borrow checker cannot see that the lease and the bytes are apart.
        let mut bytes = std::mem::take(&mut self.to_server);
        let sent = self.lease.server_mut().io.poll_send(cx, &bytes);
        let moved = advance(sent, &mut bytes).map_err(|_| Stop::ServerLost);
        self.to_server = bytes;
        moved
    }

    #[cold]
    fn drain_to_client(&mut self, cx: &mut Context<'_>) -> Result<bool, Stop> {
        let moved = if self.client.unsent.is_empty() {
            flushed(self.client.io.poll_flush(cx))
        } else {
            let sent = self.client.io.poll_send(cx, &self.client.unsent);
            advance(sent, &mut self.client.unsent)
        };
        let moved = moved.map_err(|_| Stop::Vanished)?;
        let stalled = !self.client.unsent.is_empty() || self.client.io.has_unsent();
        if moved || !stalled {
            let since = stalled.then(|| self.client.worker.clock.coarse());
            self.client.watch.set(|timing| timing.stalled_since = since);
        }
        Ok(moved)
    }

    /// What has come from the server; whether the lease is over with it.
    #[inline]
    pub(super) fn answer(&mut self, bytes: &[u8]) -> Result<bool, Stop> {
        if self.ahead.is_some() {
            return self.answer_to_settings(bytes);
        }
        if self.ears.is_some() || self.goes_back() {
            return self.answer_with_ears(bytes);
        }
        self.answer_as_it_is(bytes)
    }

    #[inline]
    pub(super) fn answer_as_it_is(&mut self, bytes: &[u8]) -> Result<bool, Stop> {
        if self.edits() { self.answer_edited(bytes) } else { self.answer_plainly(bytes) }
    }

    /// The same where all of it passes as it is.
    #[inline]
    pub(super) fn answer_plainly(&mut self, bytes: &[u8]) -> Result<bool, Stop> {
        let mut answered = 0;
        let mut end = bytes.len();
        let mut renamed: Vec<(usize, usize, Vec<u8>)> = Vec::new();
        {
            let State { frames, owed, reported, prepared, signs, .. } = &mut *self.lease.server_mut().state;
            let mut walk = frames.walk(Side::Server, bytes);
            while let Some(frame) = walk.next().map_err(|_| Stop::ServerLost)? {
                let _ = owed.received(frame.kind, frame.status);
                match frame.kind {
                    b'Z' => {
                        answered += 1;
                        if frame.status == b'I' && self.inspector.defines() {
                            // Before its client can tell anybody.
                            self.client.watch.pool.functions.changed();
                        }
                        self.is_straight &= frame.status == b'I';
                    }
                    b'C' if drops_statements(frame.body) => forget_statements(self.edit.as_deref(), &mut self.client.names, prepared),
                    b'S' if frame.is_whole() => {
                        note_reported(reported, frame.body);
                        self.has_reported = true;
                    }
                    b'C' if frame.body == b"ROLLBACK\0" => self.inspector.undone(),
                    b'1' => self.inspector.unnamed().parsed(),
                    b'E' => {
                        self.is_straight = false;
                        self.client.note_failure(&mut self.inspector);
                        if frame.is_whole()
                            && self.edit.is_some()
                            && let Some(error) = with_own_name(frame.body, &self.client.names, prepared)
                        {
                            renamed.push((frame.start, frame.start + 5 + frame.body.len(), error));
                        }
                        if read_error(frame.body, prepared, signs) && !owed.owes() {
                            end = end.min(frame.start);
                        }
                    }
                    _ => {}
                }
            }
        }
        // What the server says when all is answered is for whoever still has it then.
        let (answer, last_words) = bytes.split_at(end);
        if renamed.is_empty() {
            self.send_to_client(answer)?;
        } else {
            self.send_to_client(&patched(answer, &renamed))?;
        }
        let is_over = answered > 0 && self.answered(answered)?;
        self.pass_last_words(is_over, last_words)
    }

    #[inline]
    pub(super) fn send_to_client(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        if let Some(ears) = &mut self.ears
            && ears.keeps(bytes)
        {
            return Ok(());
        }
        self.client.watch.tenant.borrow().numbers.bytes_out.add(bytes.len() as u64);
        let given = self.client.io.try_send(bytes).map_err(|_| Stop::Vanished)?;
        if given < bytes.len() || self.client.io.has_unsent() {
            self.client.unsent.extend_from_slice(&bytes[given..]);
            let now = self.client.worker.clock.coarse();
            self.client.watch.set(|timing| timing.stalled_since = Some(now));
        }
        Ok(())
    }

    /// The server has said that it is ready, so many times.
    #[inline]
    pub(super) fn answered(&mut self, times: u64) -> Result<bool, Stop> {
        let now = now();
        let state = &self.lease.server().state;
        // Half a message that is held back here does not count: the server knows nothing of it.
        let settled = state.owed.is_settled() && state.frames.at_edge() && self.inspector.at_edge();
        let settled = settled && self.to_server.is_empty();
        let (status, owes) = (state.owed.status(), state.owed.owes());
        {
            let tenant = self.client.watch.tenant.borrow();
            tenant.numbers.queries.add(times);
            let took = now.saturating_duration_since(self.request_began);
            tenant.numbers.query.observe(took);
            if took >= tenant.telling.beyond {
                self.tell_request(tenant.telling, took, now);
            }
            if settled {
                tenant.numbers.transactions.add(1);
            }
        }
        self.request_began = now;
        if self.client.watch.pool.mode == PoolMode::Statement && status != Status::Idle {
            return Err(Stop::fault(Fault::StatementMode));
        }
        let shares = self.client.watch.pool.mode != PoolMode::Session;
        if shares && self.inspector.pin() != self.pinned {
            self.note_pin();
        }
        if settled && self.may_end()? {
            return Ok(true);
        }
        self.is_late = !settled && !owes && status == Status::Idle;
        let is_over = self.client.watch.timing().until.is_some_and(|until| now >= until);
        if is_over && !owes && status == Status::Failed && self.pinned.is_none() && shares {
            // It was cancelled, or has failed by itself: nothing is left to be done in this transaction but to end it.
            return Err(Stop::Overdue);
        }
        self.rest(status, owes, settled, now);
        Ok(false)
    }

    /// Whether a settled lease is over, or is to be examined first.
    #[inline]
    fn may_end(&self) -> Result<bool, Stop> {
        if self.client.watch.pool.mode == PoolMode::Session {
            return if self.inspector.has_reset() && !self.client.startup.is_empty() { Err(Stop::Examine) } else { Ok(false) };
        }
        let functions = &self.client.watch.pool.functions;
        let only_listens = || self.inspector.pin().is_some();
        if self.inspector.wants_examination()
            || self.client.channels.is_some()
            || self.pinned.is_none() && (only_listens() || functions.is_due(self.version, self.began))
        {
            return Err(Stop::Examine);
        }
        Ok(self.pinned.is_none())
    }

    /// All is answered, but the last message of the client's, which nobody answers, was still on its way: the end of a COPY that had failed already (F2).
    #[cold]
    fn end_late(&mut self) -> Result<(), Stop> {
        let state = &self.lease.server().state;
        let is_over = state.owed.is_settled() && state.frames.at_edge() && self.inspector.at_edge();
        if !is_over || !self.to_server.is_empty() {
            return Ok(());
        }
        self.is_late = false;
        self.request_began = now();
        if self.may_end()? { Err(Stop::Settled) } else { Ok(()) }
    }

    /// The lease goes on although the server has answered.
    #[cold]
    fn rest(&mut self, status: Status, owes: bool, settled: bool, now: Moment) {
        let phase = match (owes, settled) {
            (true, _) => Phase::Running,
            (false, true) => Phase::Pinned,
            (false, false) => Phase::Open,
        };
        let watch = &self.client.watch;
        watch.enter(phase, now);
        watch.set(|timing| {
            timing.transaction_since = match status {
                Status::Idle => owes.then_some(now),
                Status::InTransaction | Status::Failed => timing.transaction_since.or(Some(now)),
            };
            // What the text of one statement has said was for that one.
            timing.until = timing.transaction_since.and_then(|since| watch.still_until(since, None, now));
        });
    }

    /// What the client's task was told from outside.
    #[inline]
    fn heed_signals(&mut self) -> Option<Stop> {
        if self.client.watch.is_draining() && self.client.watch.timing().phase == Phase::Pinned {
            return Some(Stop::fault(Fault::Shutdown));
        }
        let signal = self.client.watch.take_signal()?;
        self.heed(signal)
    }

    #[cold]
    fn heed(&mut self, signal: Signal) -> Option<Stop> {
        match signal {
            Signal::Kill => return Some(Stop::fault(Fault::Shutdown)),
            Signal::Evict => return Some(Stop::fault(Fault::Killed)),
            Signal::Cut => return Some(Stop::Stalled),
            Signal::EndTransaction(limit) => {
                return Some(Stop::fault(Fault::IdleInTransaction { limit: Duration::from_millis(limit.into()) }));
            }
            Signal::Yield(limit) => {
                return Some(Stop::fault(Fault::HoldsUpOthers { limit: Duration::from_millis(limit.into()) }));
            }
            Signal::EndIdle(limit) => return Some(Stop::fault(Fault::IdleClient { limit: Duration::from_millis(limit.into()) })),
            Signal::Cancel => {
                self.cancelled_ahead();
                let waiting = self.client.watch.take_cancels();
                if self.lease.server().state.owed.owes() {
                    self.client.watch.tenant.borrow().numbers.cancelled[CancelCause::Request.index()].add(1);
                    self.lease.cancel(waiting);
                }
            }
            Signal::Overdue | Signal::Deadline if self.lease.server().state.owed.owes() => self.lease.cancel(Vec::new()),
            Signal::Deadline => return self.out_of_time(),
            Signal::Watch => self.watch_peer(),
            Signal::Overdue | Signal::Refuse | Signal::Drain => {}
        }
        None
    }

    /// The time of the client's caller is over and the server waits for it, inside a transaction.
    #[cold]
    fn out_of_time(&mut self) -> Option<Stop> {
        let is_kept = self.pinned.is_some() || self.client.watch.pool.mode == PoolMode::Session;
        if !is_kept {
            return Some(Stop::Overdue);
        }
        if self.lease.server().state.owed.status() == Status::Failed {
            // It holds no locks any more, and its client has heard of it.
            self.client.watch.set(|timing| timing.until = None);
            return None;
        }
        Some(Stop::fault(Fault::DeadlineInTransaction))
    }
}

impl Future for Relay<'_> {
    type Output = Stop;

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Stop> {
        if let Some(stop) = self.stopped.take().or_else(|| self.heed_signals()).or_else(|| self.heed_news_of_channels()) {
            return Poll::Ready(stop);
        }
        for _ in 0..TURNS {
            match self.turn(cx) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(stop) => return Poll::Ready(stop),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

fn flushed(flushed: Poll<io::Result<()>>) -> io::Result<bool> {
    match flushed {
        Poll::Pending => Ok(false),
        Poll::Ready(Ok(())) => Ok(true),
        Poll::Ready(Err(error)) => Err(error),
    }
}

/// Takes off the bytes what was sent.
fn advance(sent: Poll<io::Result<usize>>, bytes: &mut Vec<u8>) -> io::Result<bool> {
    match sent {
        Poll::Pending => Ok(false),
        Poll::Ready(Ok(0)) => Err(io::ErrorKind::WriteZero.into()),
        Poll::Ready(Ok(count)) => {
            bytes.drain(..count);
            if bytes.is_empty() {
                *bytes = Vec::new();
            }
            Ok(true)
        }
        Poll::Ready(Err(error)) => Err(error),
    }
}
