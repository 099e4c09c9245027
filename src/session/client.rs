//! A client that is logged in: idle, it holds nothing; with bytes in hand, it asks for a server connection; then the relay has it.
//!
//! Bytes come first and the server connection second: one that was taken on a mere sign of readiness would be parked at an idle client.

use std::future::poll_fn;
use std::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;

use super::deadline::{Own, has_terms};
use super::end::End;
use super::house::Admitted;
use super::inspect::HELD;
use super::login::LoggedIn;
use super::names::Names;
use super::phase::Phase;
use super::pins::{Kept, PinSlot};
use super::relay::{First, Relay};
use super::watch::{Signal, Watch};
use super::worker::Worker;
use crate::fault::{Fault, Whose};
use crate::metrics::Party;
use crate::net::{Io, Moment, now, since_1970};
use crate::pool::switchboard::Subscription;
use crate::pool::{Lease, with_scratch};
use crate::upstream::Settings;
use crate::wire::say;
use crate::wire::scan::{Side, body_length};

/// Instead of how much was read: there is something to tell the client. An idle client's own future stays small.
const NEWS: usize = usize::MAX;

/// A client that is logged in.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, and none implies another")]
#[derive(Debug)]
pub struct Client {
    pub(super) io: Io,
    pub(super) worker: Rc<Worker>,
    pub(super) watch: Rc<Watch>,
    pub(super) slot: u32,
    /// Its settings now.
    pub(super) settings: Arc<Settings>,
    /// Those that it began with, and RESET goes back to.
    pub(super) startup: Arc<Settings>,
    /// Its prepared statements.
    pub(super) names: Names,
    /// What the Parse of its unnamed statement says behind the name, if it has one.
    pub(super) unnamed: Vec<u8>,
    /// What was read and not yet sent on: at most a message that is not whole, but for one that waits for a server connection.
    pub(super) held: Vec<u8>,
    /// What is for the client and it has not taken yet.
    pub(super) unsent: Vec<u8>,
    /// The rest of a refused batch is dropped up to its Sync (C9).
    discarding: bool,
    /// Bytes of a dropped message that are still to come.
    skip: u32,
    /// A server connection that has just been had, and where the bytes for it are.
    pub(super) leased: Option<(Lease, First, Moment)>,
    /// The client's place among those that keep a server connection.
    pub(super) pin_slot: Option<Box<PinSlot>>,
    /// Its transaction was undone because its time was over, and it has not heard of that, or not ended it yet.
    pub(super) is_undone: bool,
    /// What it listens to by way of its pool's shared connection.
    pub(super) channels: Option<Box<Subscription>>,
    /// It listens by its own server connection, as nothing else can be done.
    pub(super) keeps_channels: bool,
    /// A server has refused its settings: they do not travel in front of its words any more.
    pub(super) was_refused: bool,
    /// Its prepared statements that set its deadline.
    pub(super) own: Option<Box<Own>>,
    /// That is one that the client has kept.
    pub(super) kept: Option<Kept>,
    _admitted: Admitted,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.worker.strike_off(self.slot, &self.watch);
    }
}

/// What an idle client wants.
pub(super) enum Wish {
    /// A server connection, for this many bytes in the worker's read buffer.
    Scratch(usize),
    /// A server connection, for what is held.
    Held,
    /// To leave.
    Leave,
}

/// What is at the front of the bytes held.
enum Front {
    /// Not enough to say, or nothing.
    Unknown,
    /// A message for a server.
    ForServer,
    /// The client takes its leave, or must.
    Leave,
}

impl Client {
    /// A client that has just logged in.
    pub fn new(logged_in: LoggedIn, worker: &Rc<Worker>) -> Self {
        let LoggedIn { io, watch, slot, settings, rest, admitted } = logged_in;
        Self {
            io,
            worker: Rc::clone(worker),
            watch,
            slot,
            startup: Arc::clone(&settings),
            settings,
            names: Names::default(),
            unnamed: Vec::new(),
            held: rest,
            unsent: Vec::new(),
            discarding: false,
            skip: 0,
            leased: None,
            pin_slot: None,
            is_undone: false,
            channels: None,
            keeps_channels: false,
            was_refused: false,
            own: None,
            kept: None,
            _admitted: admitted,
        }
    }

    /// Serves the client until it leaves.
    ///
    /// Cancel safe: a dropped future closes the client's connection; a server connection that it held is discarded.
    pub async fn live(&mut self) {
        poll_fn(|cx| {
            self.watch.set_waker(cx.waker());
            Poll::Ready(())
        })
        .await;
        loop {
            // The lease comes by way of the client, not as this future's outcome: the two would take their room side by side in every idle client.
            if self.leased.is_some() {
                self.worker.rouse(self.slot, &self.watch);
            } else {
                self.work().await;
            }
            if self.leased.is_none() {
                if self.is_leaving() {
                    return;
                }
                continue;
            }
            let end = self.lease().await;
            self.watch.enter(Phase::Idle, end.at());
            self.worker.rest(&self.watch);
            self.is_undone &= matches!(end, End::Unsent { .. });
            if !matches!(end, End::Settled { .. }) && !Box::pin(self.after(end)).await {
                return;
            }
        }
    }

    /// One lease, from its first bytes to its end. A future of its own: it and the idle client's then take the same room in turn.
    async fn lease(&mut self) -> End {
        let Some((lease, first, began)) = self.leased.take() else { unreachable!("whoever begins has a lease") };
        let mut relay = Relay::new(self, lease, began);
        relay.begin(first);
        let stop = (&mut relay).await;
        relay.end(stop)
    }

    /// Waits for work and for a server connection to do it with; there is none where the client has heard why, or leaves.
    async fn work(&mut self) {
        let wish = self.idle().await;
        if matches!(wish, Wish::Leave) {
            return self.leave();
        }
        self.acquire(wish, now()).await;
    }

    /// The rest of the batch at the front is dropped up to its Sync.
    pub(super) fn discard(&mut self) {
        self.discarding = true;
    }

    /// Whether the client is one that is to leave.
    fn is_leaving(&self) -> bool {
        self.discarding && self.skip == u32::MAX
    }

    /// Marks the client as one that is to leave.
    pub(super) fn leave(&mut self) {
        self.discarding = true;
        self.skip = u32::MAX;
    }

    /// Waits for the first whole message that needs a server, answering what does not.
    async fn idle(&mut self) -> Wish {
        loop {
            // What is rare is on the heap while it lasts: an idle client's own future stays small.
            if self.has_news() && !Box::pin(self.hear_idle()).await {
                return Wish::Leave;
            }
            if !self.unsent.is_empty() && !Box::pin(self.flush()).await {
                return Wish::Leave;
            }
            if !self.held.is_empty() {
                match Box::pin(self.digest()).await {
                    Front::ForServer => return Wish::Held,
                    Front::Leave => return Wish::Leave,
                    Front::Unknown => {}
                }
            }
            let read = poll_fn(|cx| {
                if let Some(fault) = self.idle_signal() {
                    return Poll::Ready(Err(Box::new(fault)));
                }
                let read = with_scratch(|scratch| self.io.poll_read(cx, scratch)).map(|read| Ok(read.unwrap_or(0)));
                // What it asks comes first, however much there is to tell it.
                if read.is_pending() && self.has_news() { Poll::Ready(Ok(NEWS)) } else { read }
            });
            match read.await {
                Ok(NEWS) => {}
                Ok(0) => return Wish::Leave,
                Ok(count) => {
                    if self.held.is_empty() && !self.discarding && with_scratch(|scratch| self.is_for_server(&scratch[..count])) {
                        return Wish::Scratch(count);
                    }
                    self.hold(count);
                }
                Err(fault) => {
                    Box::pin(self.say_fault(&fault, true)).await;
                    return Wish::Leave;
                }
            }
        }
    }

    /// What an idle client is told from outside, where that ends its session. A cancel of nothing is nothing (H5).
    fn idle_signal(&self) -> Option<Fault> {
        if self.watch.is_draining() {
            return Some(Fault::Shutdown);
        }
        match self.watch.take_signal()? {
            Signal::Kill => Some(Fault::Shutdown),
            Signal::Evict => Some(Fault::Killed),
            Signal::EndIdle(limit) => Some(Fault::IdleClient { limit: Duration::from_millis(limit.into()) }),
            _ => {
                self.watch.take_cancels();
                None
            }
        }
    }

    /// Answers what is at the front of the bytes held, as far as that needs no server.
    async fn digest(&mut self) -> Front {
        let mut out = BytesMut::new();
        let front = loop {
            let skipped = self.held.len().min(self.skip as usize);
            self.skip -= u32::try_from(skipped).unwrap_or(0);
            self.held.drain(..skipped);
            let Some(&[kind, a, b, c, d]) = self.held.first_chunk::<5>() else { break Front::Unknown };
            let total = match body_length(Side::Client, kind, [a, b, c, d]) {
                Ok(length) => length as usize + 5,
                Err(malformed) => {
                    Fault::Malformed(malformed).say(&mut out, true);
                    break Front::Leave;
                }
            };
            let enough = self.held.len() >= total.min(HELD);
            let is_whole = self.held.len() >= total && !self.discarding;
            match kind {
                b'X' => break Front::Leave,
                _ if is_whole && self.answer_terms(kind, total, &mut out) => {}
                _ if is_whole && self.is_undone && self.ends_undone(kind, total, &mut out) => {}
                // A Sync with nothing before it, or the end of a refused batch (C8, C9).
                b'S' if enough => {
                    self.discarding = false;
                    self.drop_portal();
                    say::ready(&mut out, self.status());
                    self.held.drain(..total);
                }
                b'S' => break Front::Unknown,
                // What a COPY left behind (F2), a Flush of nothing, and the rest of a refused batch.
                _ if self.discarding || matches!(kind, b'd' | b'c' | b'f' | b'H') => {
                    self.skip = u32::try_from(total).unwrap_or(u32::MAX);
                }
                _ if enough => break Front::ForServer,
                _ => break Front::Unknown,
            }
        };
        if self.held.is_empty() {
            self.held = Vec::new();
        }
        if !out.is_empty() && !self.say(&out).await {
            return Front::Leave;
        }
        front
    }

    pub(super) fn whose(&self) -> Whose {
        Whose { tenant: self.watch.tenant.borrow().name.clone(), upstream: self.watch.pool.upstream.name.clone() }
    }

    /// Tells the client that what it holds at the front will not be done, and goes on with what is behind it: a Query is answered on the spot, an extended
    /// batch is dropped up to its Sync (C9). A fault that ends the session ends it.
    pub(super) async fn refuse(&mut self, fault: &Fault) {
        self.worker.rest(&self.watch);
        self.watch.enter(Phase::Idle, now());
        self.watch.set(|timing| timing.until = None);
        let mut out = BytesMut::new();
        self.count(fault);
        fault.say(&mut out, true);
        if fault.is_fatal(true) {
            self.say(&out).await;
            return self.leave();
        }
        match self.held.first_chunk::<5>() {
            Some(&[kind @ (b'Q' | b'F'), a, b, c, d]) => {
                let total = body_length(Side::Client, kind, [a, b, c, d]).unwrap_or(0) as usize + 5;
                self.skip = u32::try_from(total).unwrap_or(u32::MAX);
                say::ready(&mut out, self.status());
            }
            _ => self.discarding = true,
        }
        if !self.say(&out).await {
            self.leave();
        }
    }

    pub(super) fn count(&self, fault: &Fault) {
        let (tenant, key) = (self.watch.tenant.borrow(), &self.watch.pool.key);
        tenant.numbers.refused[fault.number()].add(1);
        let (user, database) = (String::from_utf8_lossy(&key.user), String::from_utf8_lossy(&key.database));
        let party = Party { tenant: Some(&tenant.name), user: Some(&user), database: Some(&database) };
        self.worker.house.metrics.recent.note(fault.label(), since_1970(), party, self.watch.peer);
    }

    /// What comes after a lease: false where the session is over.
    async fn after(&mut self, end: End) -> bool {
        match end {
            End::Gone { .. } => false,
            End::Examine(change) => self.examine(*change).await,
            End::Fault { fault, .. } => {
                self.say_fault(&fault, true).await;
                !fault.is_fatal(true)
            }
            End::Overdue { .. } => {
                self.is_undone = true;
                true
            }
            // Where the server connection broke before it had a byte of ours, somewhere else then (G4).
            End::Settled { .. } | End::Unsent { .. } => true,
        }
    }

    pub(super) async fn say_fault(&mut self, fault: &Fault, living: bool) {
        self.count(fault);
        if self.worker.ended.is_first(fault.number(), now()) {
            let name = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
            tracing::info!(
                tenant = self.watch.tenant.borrow().name,
                client = %self.watch.peer,
                client_id = self.worker.id(self.slot as usize),
                user = name(&self.watch.pool.key.user),
                database = name(&self.watch.pool.key.database),
                fault = fault.label(),
                "a client's session is ended"
            );
        }
        let mut out = BytesMut::new();
        fault.say(&mut out, living);
        if self.flush().await {
            self.say(&out).await;
        }
        self.io.shutdown();
    }

    /// Sends what is the proxy's own to say, within the limit for clients that do not read.
    pub(super) async fn say(&mut self, out: &[u8]) -> bool {
        let limit = self.stall_limit();
        let sent = self.worker.clock.within(limit, self.io.write_all(out)).await;
        matches!(sent, Some(Ok(())))
    }

    /// Sends what the client has not taken yet.
    pub(super) async fn flush(&mut self) -> bool {
        let unsent = std::mem::take(&mut self.unsent);
        if unsent.is_empty() && !self.io.has_unsent() {
            return true;
        }
        let limit = self.stall_limit();
        // More comes for who listens, whether it reads or not.
        let is_too_late = || self.channels.as_ref().is_some_and(|subscription| subscription.inbox().is_full());
        let sent = {
            let mut sending = pin::pin!(self.worker.clock.within(limit, self.io.write_all(&unsent)));
            poll_fn(|cx| if is_too_late() { Poll::Ready(None) } else { sending.as_mut().poll(cx) }).await
        };
        if is_too_late() {
            self.cut();
        }
        matches!(sent, Some(Ok(())))
    }

    fn stall_limit(&self) -> Duration {
        self.watch.tenant.borrow().limits.write_stall.unwrap_or(super::NO_LIMIT)
    }

    /// Whether these bytes begin with a message that only a server can answer, and as much of it is here as the inspector asks for.
    #[inline]
    fn is_for_server(&self, bytes: &[u8]) -> bool {
        let Some(&[kind, a, b, c, d]) = bytes.first_chunk::<5>() else { return false };
        match kind {
            // What may be about a deadline, or undone, is looked at more closely.
            _ if self.is_undone => return false,
            b'B' | b'D' | b'E' | b'C' if self.own.is_some() => return false,
            b'Q' | b'P' | b'B' | b'D' | b'E' | b'C' | b'F' => {}
            _ => return false,
        }
        let Ok(length) = body_length(Side::Client, kind, [a, b, c, d]) else { return false };
        let total = length as usize + 5;
        if bytes.len() < total {
            return bytes.len() >= HELD;
        }
        !(matches!(kind, b'Q' | b'P') && (kind == b'P' && self.own.is_some() || has_terms(kind, &bytes[5..total])))
    }
}
