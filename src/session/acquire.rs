//! How a client comes by a server connection: at once where one is idle, else by the queue; one that is not as it needs it is prepared first.
//!
//! What is usual, and where connections are short that includes the wait, takes nothing from the heap.

use std::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::client::{Client, Wish};
use super::inspect::HELD;
use super::phase::Phase;
use super::relay::First;
use super::watch::Signal;
use crate::fault::Fault;
use crate::metrics::CancelCause;
use crate::net::{Moment, now};
use crate::pool::ledger::{Claim, Presence};
use crate::pool::{Attempt, Lease, Wait, with_scratch};
use crate::upstream::{Broken, ServerError};

impl Client {
    /// What this client asks for a server connection with.
    #[inline]
    fn claim(&self, now: Moment) -> Claim {
        let within = self.watch.timing().until.map(|until| until.saturating_duration_since(now));
        Claim { tenant: self.watch.tenant.borrow().id, level: self.watch.recent().level(self.worker.period()), within }
    }

    /// Comes by a server connection that is ready for this client, or by none: then the client has heard why, or leaves.
    pub(super) async fn acquire(&mut self, wish: Wish, began: Moment) {
        // Of what is awaited here, nothing may take more room than a lease does: see `live`.
        let wait = match self.ask(&wish, began) {
            Asked::Done => return,
            Asked::Waits(wait) => wait,
            Asked::Else(next) => return Box::pin(self.acquire_slowly(next, began)).await,
        };
        let next = self.waits(wait, began).await;
        if let Some(next) = next {
            Box::pin(self.acquire_slowly(next, began)).await;
        }
    }

    /// Asks for a server connection, and takes one that suits.
    #[inline]
    fn ask(&mut self, wish: &Wish, began: Moment) -> Asked {
        self.worker.rouse(self.slot, &self.watch);
        let in_scratch = if let Wish::Scratch(count) = wish { Some(*count) } else { None };
        let until = match self.may_begin(in_scratch, began) {
            Ok(until) => until,
            Err(fault) => {
                if let Some(count) = in_scratch {
                    self.hold(count);
                }
                return Asked::Else(Next::Refuse(fault));
            }
        };
        self.watch.set(|timing| timing.until = until);
        let Some(count) = in_scratch else { return Asked::Else(Next::Ask) };
        match self.worker.local.request(&self.watch.pool, self.claim(began), began) {
            Ok(Attempt::Ready(lease)) if self.suits(&lease, began) => {
                self.take(lease, First::Scratch(u32::try_from(count).unwrap_or(0)), began, began);
                Asked::Done
            }
            attempt => {
                self.hold(count);
                match attempt {
                    Ok(Attempt::Wait(wait)) => Asked::Waits(wait),
                    Ok(Attempt::Ready(lease)) => Asked::Else(Next::Prepare(lease)),
                    Err(why) => Asked::Else(Next::Refuse(Box::new(Fault::unavailable(&why, || self.whose())))),
                }
            }
        }
    }

    /// The client has a place in the queue.
    fn waits(&mut self, wait: Wait, began: Moment) -> Waiting<'_> {
        self.watch.enter(Phase::Waiting, began);
        Waiting { client: self, wait, began }
    }

    /// A server connection is the client's, which has asked for one when it `began`, and is ready for its words.
    #[inline]
    fn take(&mut self, lease: Lease, first: First, began: Moment, at: Moment) {
        self.watch.tenant.borrow().numbers.queue_wait.observe(at.saturating_duration_since(began));
        self.leased = Some((lease, first, at));
    }

    /// Keeps so many bytes of the worker's read buffer.
    pub(super) fn hold(&mut self, count: usize) {
        if self.held.capacity() == 0 {
            self.held = self.worker.spares.take();
        }
        with_scratch(|scratch| self.held.extend_from_slice(&scratch[..count]));
    }

    /// When the time is over for what the client wants to begin.
    #[inline]
    fn may_begin(&self, in_scratch: Option<usize>, began: Moment) -> Result<Option<Moment>, Box<Fault>> {
        let until = self.time_left(in_scratch, began).map_err(|()| Box::new(Fault::Deadline))?;
        let allowed = self.watch.tenant.borrow().begin(began);
        allowed.map_err(|(which, wait)| Box::new(Fault::Quota { whose: self.whose(), which, wait }))?;
        Ok(until)
    }

    /// Whether a connection can be used by this client as it is.
    #[inline]
    fn suits(&self, lease: &Lease, now: Moment) -> bool {
        Arc::ptr_eq(&lease.server().state.settings, &self.settings) && !lease.wants_check(now) && !self.is_undone
    }

    /// Waits, checks and prepares.
    async fn acquire_slowly(&mut self, mut next: Next, began: Moment) {
        loop {
            let mut lease = match next {
                Next::Leave => return self.leave(),
                Next::Refuse(fault) => return self.refuse(&fault).await,
                Next::Prepare(lease) => lease,
                Next::Ask => {
                    let now = now();
                    next = match self.worker.local.request(&self.watch.pool, self.claim(now), now) {
                        Ok(Attempt::Ready(lease)) => Next::Prepare(lease),
                        Ok(Attempt::Wait(wait)) => match self.waits(wait, began).await {
                            Some(next) => next,
                            None => return,
                        },
                        Err(why) => Next::Refuse(Box::new(Fault::unavailable(&why, || self.whose()))),
                    };
                    continue;
                }
            };
            next = Next::Ask;
            if lease.wants_check(now())
                && let Err(why) = lease.check().await
            {
                tracing::info!(%why, "an idle server connection gave no sign of life and is closed");
                continue;
            }
            let first = self.first(&lease);
            let prepared = if first == First::Held { self.prepare(&mut lease).await } else { Ok(Ok(())) };
            match prepared {
                Ok(Ok(())) => return self.take(lease, first, began, now()),
                Ok(Err(refusal)) => {
                    lease.give_back(now());
                    return self.refuse(&Fault::ServerRefused(refusal)).await;
                }
                Err(why) => tracing::info!(%why, "a server connection broke while it was prepared and is closed"),
            }
        }
    }

    /// Brings a server connection to where the client stands.
    async fn prepare(&self, lease: &mut Lease) -> Result<Result<(), ServerError>, Broken> {
        if let Err(refusal) = lease.server_mut().apply(&self.settings).await? {
            return Ok(Err(refusal));
        }
        if self.is_undone {
            Self::fail_as_before(lease).await?;
        }
        Ok(Ok(()))
    }
}

/// What has come of asking for a server connection.
enum Asked {
    /// The client has one.
    Done,
    /// It has a place in the queue.
    Waits(Wait),
    /// This is to be done.
    Else(Next),
}

/// What is to be done for a client that has no server connection yet.
enum Next {
    /// Ask for one.
    Ask,
    /// Prepare this one.
    Prepare(Lease),
    /// Tell the client why there is none.
    Refuse(Box<Fault>),
    /// Nothing more: the client has gone.
    Leave,
}

/// A client in the queue, with an eye on it: one that has gone, or has changed its mind, leaves the queue at once. A future of what is to be done next; nothing
/// is where it has come by a server connection that suits it.
struct Waiting<'a> {
    client: &'a mut Client,
    wait: Wait,
    began: Moment,
}

impl Waiting<'_> {
    /// Why it waits no more, by what its task was told.
    fn heed(&self) -> Option<Fault> {
        let watch = &self.client.watch;
        match watch.take_signal()? {
            Signal::Refuse => {
                let waited = now().saturating_duration_since(self.began);
                watch.note(Presence::WaitedInVain);
                Some(Fault::QueueTimeout { whose: self.client.whose(), waited })
            }
            Signal::Deadline => Some(Fault::Deadline),
            Signal::Cancel => {
                watch.tenant.borrow().numbers.cancelled[CancelCause::Request.index()].add(1);
                watch.take_cancels();
                Some(Fault::CancelledWaiting)
            }
            Signal::Kill => Some(Fault::Shutdown),
            Signal::Evict => Some(Fault::Killed),
            _ => None,
        }
    }

    /// Keeps what the client says meanwhile; false where it has gone.
    fn listen(&mut self, cx: &mut Context<'_>) -> bool {
        let Client { held, io, .. } = &mut *self.client;
        while held.len() < 2 * HELD {
            let read = with_scratch(|scratch| {
                let read = io.poll_read(cx, scratch);
                if let Poll::Ready(Ok(count)) = read {
                    held.extend_from_slice(&scratch[..count]);
                }
                read
            });
            match read {
                Poll::Ready(Ok(0) | Err(_)) => return false,
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => break,
            }
        }
        true
    }
}

impl Future for Waiting<'_> {
    type Output = Option<Next>;

    fn poll(mut self: pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Next>> {
        if let Some(fault) = self.heed() {
            return Poll::Ready(Some(Next::Refuse(Box::new(fault))));
        }
        if !self.listen(cx) {
            return Poll::Ready(Some(Next::Leave));
        }
        // Last: a server connection that has come is no use to a client that has gone, and no work is begun for it.
        let lease = match ready!(pin::Pin::new(&mut self.wait).poll(cx)) {
            Ok(lease) => lease,
            Err(why) => return Poll::Ready(Some(Next::Refuse(Box::new(Fault::unavailable(&why, || self.client.whose()))))),
        };
        let (at, began) = (now(), self.began);
        if !self.client.suits(&lease, at) {
            return Poll::Ready(Some(Next::Prepare(lease)));
        }
        self.client.take(lease, First::Held, began, at);
        Poll::Ready(None)
    }
}
