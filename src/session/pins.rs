//! Why a client keeps its server connection beyond a transaction, and what is to be found out before it lets it go. Checklist I7.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::inspect::Resets;
use super::phase::Phase;
use super::relay::Relay;
use super::watch::{Tenant, Watch};
use crate::config::PoolMode;
use crate::fault::{Fault, Whose};
use crate::net::{Moment, Peer, now};
use crate::wire::sql::{PinReason, Touched};

/// Why a client keeps its server connection beyond a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// What a statement's text says it leaves behind.
    Sql(PinReason),
    /// A prepared statement with a name whose text is too long to be remembered.
    Statement,
    /// An unnamed prepared statement, too long to be remembered, that waits for its Bind in a later batch.
    Unnamed,
}

/// The labels of all pins in metrics, by their number.
pub const PIN_LABELS: [&str; PinReason::ALL.len() + 2] = {
    let mut labels = ["statement"; PinReason::ALL.len() + 2];
    let mut at = 0;
    while at < PinReason::ALL.len() {
        labels[at] = PinReason::ALL[at].name();
        at += 1;
    }
    labels[PinReason::ALL.len() + 1] = "unnamed_statement";
    labels
};

impl Pin {
    /// Its place in a set of pins.
    const fn bit(self) -> u16 {
        1 << self.place()
    }

    /// The pin at this place.
    fn at(place: usize) -> Self {
        match place.checked_sub(PinReason::ALL.len()) {
            None => Self::Sql(PinReason::ALL[place]),
            Some(0) => Self::Statement,
            Some(_) => Self::Unnamed,
        }
    }

    const fn place(self) -> usize {
        match self {
            Self::Sql(reason) => reason.place(),
            Self::Statement => PinReason::ALL.len(),
            Self::Unnamed => PinReason::ALL.len() + 1,
        }
    }

    /// Its number: the place of its label in [`PIN_LABELS`].
    pub fn number(self) -> usize {
        self.place()
    }

    /// Its label.
    pub fn label(self) -> &'static str {
        PIN_LABELS[self.number()]
    }
}

/// Some pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pins(u16);

impl Pins {
    /// What only the server knows to be gone: it can be asked for these.
    pub const ASKED: [PinReason; 5] = [PinReason::Listen, PinReason::Temp, PinReason::AdvisoryLock, PinReason::Cursor, PinReason::Prepare];

    const CAN_BE_ASKED: Self = {
        let mut asked = 0;
        let mut at = 0;
        while at < Self::ASKED.len() {
            asked |= Pin::Sql(Self::ASKED[at]).bit();
            at += 1;
        }
        Self(asked)
    };

    /// This one.
    pub fn of(reason: PinReason) -> Self {
        Self(Pin::Sql(reason).bit())
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The first of them.
    pub fn first(self) -> Option<Pin> {
        (!self.is_empty()).then(|| Pin::at(self.0.trailing_zeros() as usize))
    }

    /// Adds one.
    pub fn add(&mut self, pin: Pin) {
        self.0 |= pin.bit();
    }

    /// Whether this is one of them.
    pub fn has(self, pin: Pin) -> bool {
        self.0 & pin.bit() != 0
    }

    /// Those that no question to the server tells of.
    #[must_use]
    pub fn not_asked(self) -> Self {
        Self(self.0 & !Self::CAN_BE_ASKED.0)
    }

    /// Those but this one.
    #[must_use]
    pub fn but(self, pin: Pin) -> Self {
        Self(self.0 & !pin.bit())
    }

    /// Those that are not among others.
    #[must_use]
    pub fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }
}

/// A client's place among those of its tenant that keep a server connection; it says in the log when it is given up.
#[derive(Debug)]
pub struct PinSlot {
    count: Arc<AtomicU32>,
    tenant: String,
    peer: Peer,
    reason: &'static str,
    digest: u64,
    since: Moment,
}

impl PinSlot {
    /// A place, whether there is one or not: the server connection is kept already.
    pub fn take(tenant: &Tenant, peer: Peer, pin: Pin, digest: u64) -> Self {
        tenant.pinned.fetch_add(1, Ordering::Relaxed);
        Self::new(tenant, peer, pin, digest)
    }

    /// A place, if the tenant has one left.
    pub fn ask(tenant: &Tenant, peer: Peer, pin: Pin, digest: u64) -> Option<Self> {
        let is_free = |held: u32| (tenant.max_pinned == 0 || held < tenant.max_pinned).then(|| held.saturating_add(1));
        tenant.pinned.fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_free).ok()?;
        Some(Self::new(tenant, peer, pin, digest))
    }

    fn new(tenant: &Tenant, peer: Peer, pin: Pin, digest: u64) -> Self {
        let (count, name, reason) = (Arc::clone(&tenant.pinned), tenant.name.clone(), pin.label());
        let statement = format_args!("{digest:016x}").to_string();
        tracing::info!(tenant = name, client = %peer, reason, statement, "a client keeps its server connection");
        Self { count, tenant: name, peer, reason, digest, since: now() }
    }
}

impl Drop for PinSlot {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        let held_ms = now().saturating_duration_since(self.since).as_millis();
        let statement = format_args!("{:016x}", self.digest).to_string();
        let Self { tenant, peer, reason, .. } = self;
        tracing::info!(tenant, client = %peer, reason, statement, held_ms, "a client has let its server connection go");
    }
}

impl Relay<'_> {
    /// The client has kept its server connection, and has asked nothing of it yet.
    pub(super) fn go_on(&mut self, now: Moment) {
        let Some(Kept { pins, told, resets }) = self.client.kept.take() else { return };
        self.inspector.resume(pins, resets);
        self.client.watch.enter(Phase::Pinned, now);
        self.client.watch.set(|timing| timing.transaction_since = None);
        self.pinned = self.inspector.pin().filter(|_| self.client.watch.pool.mode != PoolMode::Session);
        let Some(pin) = self.pinned else { return };
        self.count_pin(pin, told != Some(pin));
    }

    #[cold]
    pub(super) fn note_pin(&mut self) {
        let watch = &self.client.watch;
        let before = self.pinned;
        self.pinned = self.inspector.pin().filter(|_| !(self.inspector.only_listens() && self.client.shares_channels()));
        if self.pinned == before {
            return;
        }
        let tenant = watch.tenant.borrow();
        if let Some(pin) = before {
            tenant.numbers.pinned[pin.number()].add(-1);
        }
        drop(tenant);
        match self.pinned {
            Some(pin) => self.count_pin(pin, true),
            None => watch.set_pin(None),
        }
    }

    fn count_pin(&mut self, pin: Pin, is_new: bool) {
        let watch = &self.client.watch;
        let tenant = watch.tenant.borrow();
        if self.client.pin_slot.is_none() {
            self.client.pin_slot = Some(Box::new(PinSlot::take(&tenant, watch.peer, pin, self.inspector.digest())));
        }
        tenant.numbers.pinned[pin.number()].add(1);
        if is_new {
            tenant.numbers.pins[pin.number()].add(1);
        }
        drop(tenant);
        watch.set_pin(Some(pin));
    }
}

/// Whether a client may come to keep its server connection; its place among those who do, unless it has one. Whoever refuses it has that counted.
pub fn may_pin(watch: &Watch, slot: &mut Option<Box<PinSlot>>, reason: PinReason, digest: u64) -> Result<(), Fault> {
    let tenant = watch.tenant.borrow();
    if slot.is_none() && !watch.strict {
        *slot = PinSlot::ask(&tenant, watch.peer, Pin::Sql(reason), digest).map(Box::new);
    }
    if slot.is_some() {
        return Ok(());
    }
    let fault = if watch.strict {
        Fault::Strict { reason: reason.name() }
    } else {
        let whose = Whose { tenant: tenant.name.clone(), upstream: watch.pool.upstream.name.clone() };
        Fault::TooManyPinned { whose, limit: tenant.max_pinned, reason: reason.name() }
    };
    Err(fault)
}

/// What is to be found out of a session before its server connection can be anybody else's.
#[derive(Debug, Default)]
pub struct Examination {
    /// Settings that may have other values than when the lease began.
    pub touched: Option<Box<Touched>>,
    /// Why the server connection is kept, as far as is known.
    pub pins: Pins,
    /// Whether some of them may be gone, or others may have come that no text tells of.
    pub asks_for_pins: bool,
    /// What has ended, if all that the texts say has happened.
    pub cleared: Pins,
    /// Some of them were not run for certain, in their order.
    pub is_partial: bool,
    /// In a session pool: which settings may have gone back to what the server connection began with, and which may when what is prepared runs.
    pub resets: Resets,
}

/// Why a client has kept its server connection, and what it will be read by.
#[derive(Debug)]
pub struct Kept {
    pub pins: Pins,
    /// The reason that was told before.
    pub told: Option<Pin>,
    /// In a session pool: what it has prepared.
    pub resets: Resets,
}

impl Examination {
    /// Whether nothing is known to be left, and nothing is to be asked.
    pub fn is_empty(&self) -> bool {
        self.touched.is_none() && self.pins.is_empty() && !self.asks_for_pins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pin_has_its_place() {
        for (place, label) in PIN_LABELS.iter().enumerate() {
            let pin = Pin::at(place);
            let mut pins = Pins::default();
            pins.add(pin);
            assert_eq!((pin.number(), pins.first(), *label), (place, Some(pin), pin.label()));
        }
    }
}
