//! Reading what a client sends, as far as its session depends on it. Pure: bytes in, words out; everything else passes untouched.
//!
//! Only Query, Parse, Bind, Describe and Close have content that matters; CopyData streams through as it comes (B2). A message that is cut by the chunk's end is
//! held back until it is whole, so that the server never holds half of a small one; of what is larger than [`HELD`] so many bytes are awaited, which hold its
//! names, and the rest streams through. A Parse with a name is awaited up to [`STATEMENT`] bytes: whatever server its client gets must be told it again.

mod course;
mod resets;
mod unnamed;

use std::sync::Arc;

use course::Course;
use resets::Reset;
pub use resets::Resets;
use unnamed::{Stage, Unnamed};

use super::pins::{Examination, Pin, Pins};
use crate::upstream::Known;
use crate::wire::Malformed;
use crate::wire::message;
use crate::wire::scan::{Side, body_length};
use crate::wire::sql::{self, Effects, PinReason, Touched};

/// Messages up to this length, in bytes, reach the server whole or not at all; of longer ones this much is read before anything is sent on.
pub const HELD: usize = 32 << 10;

/// A Parse with a name is held back up to this length, in bytes; a longer one keeps its client on the server that has it.
pub const STATEMENT: usize = 256 << 10;

/// An unnamed Parse up to this length, in bytes, is remembered for the client's next transaction.
const UNNAMED: usize = 8 << 10;

/// What has become of the client's unnamed statement in the chunk that was read last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remember {
    /// There is none any more that could be parsed again.
    Nothing,
    /// What its Parse says, behind the name, is in this range of the chunk.
    Range(std::ops::Range<u32>),
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, and none implies another")]
/// Where a client stands in its own stream, from the first byte of a lease to its last.
#[derive(Debug, Default)]
pub struct Inspector {
    /// Bytes of a streaming message that are still to come.
    left: u32,
    unnamed: Unnamed,
    /// Extended messages of this batch are not answered yet; and whether anything is.
    in_batch: bool,
    owes: bool,
    /// The pin that is told.
    pin: Option<Pin>,
    pins: Pins,
    /// What texts have ended for certain.
    cleared: Pins,
    /// Some pins may be gone.
    releases: bool,
    /// A part of a text was hidden and may have left anything.
    hidden: bool,
    dirty: bool,
    /// Something was left that no reset ends.
    lasting: bool,
    /// A statement that would keep the server connection is not sent on before that is allowed.
    guards: bool,
    /// LISTEN is not among what would.
    shares_channels: bool,
    /// The shape of the text that pins.
    digest: u64,
    /// Statements with names are the proxy's business: they follow their client.
    renames: bool,
    remember: Option<Remember>,
    /// There is something to be forgotten.
    remembers: bool,
    /// A text drops all prepared statements.
    drops_statements: bool,
    /// What settings may have other values than when the lease began.
    touched: Option<Box<Touched>>,
    course: Course,
    /// The functions that leave something in the session that calls them.
    functions: Option<Arc<Known>>,
    /// A text may have made another.
    defines: bool,
    resets: Resets,
}

/// What becomes of a client's next message at its server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Turn {
    /// The server discards all up to a Sync.
    pub is_skipping: bool,
    /// Extended messages without a Sync are not answered yet: the server discards a Query behind them if one of them fails.
    pub in_batch: bool,
    /// Anything is not answered yet.
    pub owes: bool,
}

/// What is to be done with a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send so many bytes on; what is behind them is a message that is not whole, to be held back.
    Forward(usize),
    /// Send so many bytes on; behind them the client takes its leave, or says what no client may.
    End(usize, Option<Malformed>),
    /// Send so many bytes on; the message behind them is about a statement that this server does not know under that name, or not at all, or is to wait.
    Rewrite(usize),
}

impl Inspector {
    /// At the beginning of a lease; `renames` says whether statements with names follow their client.
    pub fn new(renames: bool) -> Self {
        Self { renames, ..Self::default() }
    }

    /// At the beginning of a lease whose client has an unnamed statement that could be parsed again.
    pub fn recall(&mut self) {
        self.remembers = true;
    }

    /// The same where the database has functions that leave something.
    #[must_use]
    pub fn with_functions(self, functions: Option<Arc<Known>>) -> Self {
        Self { functions, ..self }
    }

    /// Whether every statement with a name has to be looked at when it runs.
    pub fn looks_for_calls(&self) -> bool {
        self.functions.is_some()
    }

    /// Whether what is known of the database's functions may not hold any more.
    #[inline]
    pub fn defines(&self) -> bool {
        self.defines
    }

    /// LISTEN keeps nothing: see [`Switchboard`](crate::pool::switchboard::Switchboard).
    pub fn share_channels(&mut self) {
        self.shares_channels = true;
    }

    /// Whether the client listens and has left nothing else.
    pub fn only_listens(&self) -> bool {
        self.pins == Pins::of(PinReason::Listen)
    }

    /// From now on, or no longer, what would keep the server connection is to be allowed first.
    pub fn guard(&mut self, guards: bool) {
        self.guards = guards && self.renames;
    }

    /// The reason for which running this text would keep the server connection, where that is to be allowed first.
    #[inline]
    pub fn guarded_pin(&self, text: &[u8], whole: bool) -> Option<PinReason> {
        // What is executed may follow its client: that is for whoever knows the client's statements to say.
        if self.guards { self.guarded(sql::session_state(text).but_executing(), text, whole) } else { None }
    }

    /// The same, of a text with these effects.
    pub fn guarded(&self, effects: Effects, text: &[u8], whole: bool) -> Option<PinReason> {
        if !self.guards {
            return None;
        }
        let follows = effects.changes_settings() && whole && !sql::settings(text).is_unknown;
        effects.pins().find(|reason| match reason {
            PinReason::Setting => !follows,
            PinReason::Listen => !self.shares_channels,
            _ => true,
        })
    }

    /// The shape of the text that pins.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Whether the client is between two messages.
    pub fn at_edge(&self) -> bool {
        self.left == 0
    }

    /// Why the client keeps its server connection, if it does.
    pub fn pin(&self) -> Option<Pin> {
        self.pin
    }

    /// Whether the server may be left in a state that the next client must not find, even once it is examined.
    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Whether the server may be left in such a state as long as it is not examined.
    pub fn may_be_dirty(&self) -> bool {
        self.dirty || self.hidden || self.touched.is_some() || !self.pins.is_empty()
    }

    /// Something has failed: what it would have left may not be there. Whether the client has no unnamed statement any more, since that was not parsed.
    pub fn failed(&mut self) -> bool {
        self.undone();
        self.unnamed.failed()
    }

    /// The unnamed statement.
    #[inline]
    pub fn unnamed(&mut self) -> &mut Unnamed {
        &mut self.unnamed
    }

    /// Something has failed or was rolled back: what it would have left may not be there.
    #[inline]
    pub fn undone(&mut self) {
        self.releases = true;
    }

    /// Whether the session must be looked at before its server connection can be given back, or because it perhaps can.
    #[inline]
    pub fn wants_examination(&self) -> bool {
        match self.pin {
            None => self.touched.is_some() || self.hidden,
            Some(Pin::Unnamed) => false,
            // Even where nothing can be gone: what comes after a failure is certain again once this was looked at, and what the client began with is in force behind its RESET.
            Some(_) => self.releases || self.touched.as_ref().is_some_and(|touched| touched.resets()),
        }
    }

    /// Whether settings may have gone back to what the server connection began with, in a session pool.
    #[inline]
    pub fn has_reset(&self) -> bool {
        self.resets.now().any
    }

    /// Whether settings may have gone back, in a pool of any kind.
    #[inline]
    pub fn may_go_back(&self) -> bool {
        self.has_reset() || self.touched.as_ref().is_some_and(|touched| touched.is_hidden || touched.resets())
    }

    /// What is to be found out; whoever takes it has to.
    pub fn take_examination(&mut self) -> Examination {
        let asks_for_pins = self.hidden || self.releases && !self.pins.is_empty();
        let is_partial = self.course.is_partial();
        Examination { touched: self.touched.take(), pins: self.pins, asks_for_pins, cleared: self.cleared, is_partial, resets: self.resets }
    }

    /// A lease that goes on with these pins, and with what was prepared in it.
    pub fn resume(&mut self, pins: Pins, resets: Resets) {
        self.pins = pins;
        self.resets = resets.again();
        // What other clients may do for it comes last.
        self.pin = pins.but(Pin::Sql(PinReason::Listen)).first().or_else(|| pins.first());
        self.lasting = pins.has(Pin::Sql(PinReason::Load)) || pins.has(Pin::Sql(PinReason::Session));
    }

    /// Whether something was left on the server that no reset ends, so that its connection must be closed: a loaded library, a backup, a replication slot.
    pub fn is_lasting(&self) -> bool {
        self.lasting
    }

    /// The server's session has been taken back to what it was.
    pub fn forget(&mut self) {
        *self = Self {
            left: self.left,
            lasting: self.lasting,
            renames: self.renames,
            guards: self.guards,
            shares_channels: self.shares_channels,
            remembers: self.remembers,
            defines: self.defines,
            functions: self.functions.take(),
            resets: self.resets.again(),
            ..Self::default()
        };
    }

    /// Whether [`take_remember`](Self::take_remember) or [`take_drops`](Self::take_drops) have something to tell of the chunk that was read last.
    #[inline]
    pub fn has_news(&self) -> bool {
        self.remember.is_some() || self.drops_statements
    }

    /// What has become of the unnamed statement; told once.
    pub fn take_remember(&mut self) -> Option<Remember> {
        self.remember.take()
    }

    /// Whether a text drops all prepared statements; told once.
    pub fn take_drops(&mut self) -> bool {
        std::mem::take(&mut self.drops_statements)
    }

    /// So many bytes of the message that was rewritten are still to come.
    pub fn stream_rest(&mut self, left: usize) {
        self.left = u32::try_from(left).unwrap_or(u32::MAX);
    }

    /// The client's unnamed statement, which says this, was put on this server again.
    pub fn restored(&mut self, text: &[u8]) {
        self.unnamed.restored();
        self.statement(text, true);
    }

    /// Whether the unnamed statement that was just parsed can be parsed again elsewhere.
    pub fn can_recall(&self) -> bool {
        self.unnamed.stage() == Stage::Here
    }

    /// The unnamed statement was refused: there is none.
    pub fn refused_unnamed(&mut self) {
        self.forget_unnamed();
    }

    /// Whether the unnamed statement is on this server and nobody need remember a long one.
    pub fn has_bound_unnamed(&self) -> bool {
        self.unnamed.stage() == Stage::Bound
    }

    /// A statement of the client's that is too long to be remembered is on this server only.
    pub fn hold_statement(&mut self) {
        self.hold(Pin::Statement);
    }

    /// A statement may be on this server by the client's own name for it.
    pub fn hold_prepared(&mut self) {
        self.hold(Pin::Sql(PinReason::Prepare));
    }

    /// Something that keeps the client here may have gone.
    pub fn releases(&mut self) {
        self.releases = true;
    }

    /// Reads the next chunk of the client's stream. `sent` is told the type of each message that is to be sent on, in order. Of what the server discards no note is
    /// taken.
    #[inline]
    pub fn read(&mut self, chunk: &[u8], mut turn: Turn, mut sent: impl FnMut(u8)) -> Verdict {
        let mut at = self.stream(chunk);
        if !turn.owes {
            self.unnamed.settle();
        }
        loop {
            let rest = &chunk[at..];
            let Some(&[kind, a, b, c, d]) = rest.first_chunk::<5>() else { return Verdict::Forward(at) };
            let length = match body_length(Side::Client, kind, [a, b, c, d]) {
                Ok(length) => length,
                Err(malformed) => return Verdict::End(at, Some(malformed)),
            };
            if kind == b'X' {
                return Verdict::End(at, None);
            }
            let total = length as usize + 5;
            (self.in_batch, self.owes) = (turn.in_batch, turn.owes);
            turn.owes = true;
            match kind {
                b'Q' | b'F' if turn.in_batch => return Verdict::Rewrite(at),
                b'S' => (turn.is_skipping, turn.in_batch) = (false, false),
                b'P' | b'B' | b'D' | b'E' | b'C' => turn.in_batch = !turn.is_skipping,
                _ => {}
            }
            if total <= rest.len() {
                if !turn.is_skipping && !self.message(kind, &rest[5..total], true) {
                    return Verdict::Rewrite(at);
                }
                if (kind, rest[..total].get(5)) == (b'P', Some(&0)) && !turn.is_skipping && self.unnamed.stage() == Stage::Here {
                    self.remember = Some(Remember::Range(narrow(at + 6)..narrow(at + total)));
                    self.remembers = true;
                }
                sent(kind);
                at += total;
            } else if rest.len() < total.min(self.awaited(kind, rest)) && kind != b'd' {
                // What a large message is about must not depend on where its sender, or the network, has cut it.
                return Verdict::Forward(at);
            } else {
                if !turn.is_skipping && !self.message(kind, &rest[5..], false) {
                    return Verdict::Rewrite(at);
                }
                sent(kind);
                self.left = u32::try_from(total - rest.len()).unwrap_or(u32::MAX);
                return Verdict::Forward(chunk.len());
            }
        }
    }

    /// How many bytes of a message are awaited before any of it is sent on.
    #[inline]
    fn awaited(&self, kind: u8, message: &[u8]) -> usize {
        if kind == b'P' && self.renames && message.get(5) != Some(&0) { STATEMENT } else { HELD }
    }

    /// Passes over what the chunk has of a message that is streaming through.
    fn stream(&mut self, chunk: &[u8]) -> usize {
        let step = chunk.len().min(self.left as usize);
        self.left -= u32::try_from(step).unwrap_or(u32::MAX);
        step
    }

    /// Takes note of one message: false where it must not reach this server.
    #[inline]
    pub fn message(&mut self, kind: u8, body: &[u8], whole: bool) -> bool {
        if self.unnamed.is_in_doubt(kind, body) {
            return false;
        }
        self.course.message(kind, body);
        match kind {
            b'Q' => {
                let text = message::query(body).unwrap_or(body);
                if self.guarded_pin(text, whole).is_some() || whole && sql::terms(text).is_some() {
                    return false;
                }
                self.forget_unnamed();
                let effects = self.statement(text, whole);
                return !(self.renames && effects.mentions_statements());
            }
            b'P' => return self.parse(body, whole),
            b'B' => return self.bind(body, whole),
            b'D' | b'C' => match body {
                [b'S', 0, ..] if kind == b'D' => return self.unnamed.stage() != Stage::Absent,
                [b'S', 0, ..] if self.in_batch => {
                    self.unnamed.close_perhaps();
                    self.unpin_unnamed();
                    return false;
                }
                [b'S', 0, ..] => self.forget_unnamed(),
                [b'S', ..] => return !self.renames,
                _ => {}
            },
            b'S' => self.sync(),
            _ => {}
        }
        true
    }

    fn parse(&mut self, body: &[u8], whole: bool) -> bool {
        if whole && message::parse(body).is_ok_and(|(_, text)| sql::terms(text).is_some()) {
            return false;
        }
        if body.first() == Some(&0) {
            let text = message::parse(body).map_or(body, |(_, text)| text);
            if self.guarded_pin(text, whole).is_some() {
                return false;
            }
            self.unpin_unnamed();
            let stage = if whole && body.len() <= UNNAMED { Stage::Here } else { Stage::Parsed };
            let may_be_discarded = self.unnamed.parse(stage, self.in_batch, self.owes);
            if !may_be_discarded {
                self.remember = Some(Remember::Nothing);
            }
            let effects = self.prepared(true, text, whole);
            return !(may_be_discarded || self.renames && effects.mentions_statements());
        }
        if self.renames {
            return false;
        }
        self.hold(Pin::Statement);
        match message::parse(body) {
            Ok((_, text)) => self.prepared(false, text, whole),
            // The text goes on beyond what is here, or the name does.
            Err(_) => self.prepared(false, body, false),
        };
        true
    }

    /// The statement of a Parse.
    fn prepared(&mut self, is_unnamed: bool, text: &[u8], whole: bool) -> Effects {
        let effects = self.statement(text, whole);
        if !self.renames {
            self.resets.parsed(is_unnamed, Reset::of(effects, text, whole));
        }
        effects
    }

    fn bind(&mut self, body: &[u8], whole: bool) -> bool {
        match message::bind(body) {
            Ok((_, [])) => self.resets.bound(true),
            Ok(_) => {
                self.resets.bound(false);
                return !self.renames;
            }
            // The server will not understand it either.
            Err(_) if whole => return true,
            // The names go on beyond what is here.
            Err(_) if self.renames => return false,
            Err(_) => {}
        }
        if self.unnamed.stage() == Stage::Absent {
            return false;
        }
        self.unnamed.bound();
        true
    }

    /// The end of a batch: a statement that was parsed and not bound is meant for a later one.
    fn sync(&mut self) {
        self.unnamed.sync();
        match self.unnamed.stage() {
            Stage::Parsed => self.hold(Pin::Unnamed),
            // It is bound now, or another has taken its place.
            Stage::Here | Stage::Bound | Stage::Absent => self.unpin_unnamed(),
        }
    }

    fn forget_unnamed(&mut self) {
        self.unnamed.forget();
        if self.remembers {
            self.remembers = false;
            self.remember = Some(Remember::Nothing);
        }
        self.unpin_unnamed();
    }

    fn unpin_unnamed(&mut self) {
        if self.pins.has(Pin::Unnamed) {
            self.pins = self.pins.but(Pin::Unnamed);
            self.pin = self.pins.first();
        }
    }

    /// The first reason is the one that is told.
    fn hold(&mut self, pin: Pin) {
        self.pins.add(pin);
        self.cleared = self.cleared.but(pin);
        if self.pin.is_none() || self.pin == Some(Pin::Unnamed) {
            self.pin = Some(pin);
        }
    }

    /// What a statement's text says it may leave behind; one that is not all here may leave anything. Where it executes others, whoever knows them says so.
    #[inline]
    fn statement(&mut self, text: &[u8], whole: bool) -> Effects {
        let effects = sql::session_state(text);
        if !whole {
            self.dirty = true;
        }
        let is_told_later = self.renames && effects.executes();
        if !is_told_later && (!effects.is_empty() || self.functions.is_some()) {
            self.expect(effects, text, whole);
        }
        effects
    }

    /// A statement with these effects is going to be run.
    pub fn expect(&mut self, effects: Effects, text: &[u8], whole: bool) {
        if !effects.is_empty() {
            self.course.has_effects();
        }
        self.drops_statements |= effects.clears(PinReason::Prepare);
        self.lasting |= effects.may_leave(PinReason::Load) || effects.may_leave(PinReason::Session);
        for reason in PinReason::ALL.into_iter().filter(|reason| effects.clears(*reason)) {
            self.cleared.add(Pin::Sql(reason));
        }
        if effects.resets_settings() {
            self.cleared.add(Pin::Sql(PinReason::Setting));
        }
        self.releases |= effects.releases() || effects.resets_settings();
        self.defines |= effects.defines();
        self.note_calls(text);
        if !self.renames {
            self.resets.run(Reset::of(effects, text, whole));
        }
        let follows = effects.changes_settings() && whole && self.renames && self.touch(effects, text);
        self.hidden |= effects.is_opaque();
        self.dirty |= effects.changes_settings() && !follows;
        for reason in effects.pins().filter(|reason| !(follows && *reason == PinReason::Setting)) {
            if self.pin.is_none() {
                self.digest = sql::digest(text);
            }
            self.hold(Pin::Sql(reason));
        }
    }

    /// Notes what the functions may leave that a text calls.
    #[inline]
    fn note_calls(&mut self, text: &[u8]) {
        if let Some(functions) = &self.functions
            && let Some(traces) = functions.traces(text)
        {
            self.hidden |= traces.is_hidden;
            self.touched.get_or_insert_default().add(traces.into());
        }
    }

    /// Notes which settings a text may change; whether all of them are known by name, so that they can follow their client.
    #[cold]
    fn touch(&mut self, effects: Effects, text: &[u8]) -> bool {
        let mut touched = sql::settings(text);
        touched.is_hidden |= effects.is_opaque();
        let is_known = !touched.is_unknown;
        self.touched.get_or_insert_default().add(touched);
        is_known
    }
}

/// A place in a chunk.
fn narrow(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
