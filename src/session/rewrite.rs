//! A lease whose client uses prepared statements: its messages are rewritten for the server, and the server's answers for it (checklist D2-D9).
//! What is rewritten goes into one buffer of the worker's and out in one send. Answers pass untouched unless a note is open.

use super::client::Client;
use super::deadline::{Neutral, neutral};
use super::edit::{Edit, forget_statements, one_execution, with_spare};
use super::end::Stop;
use super::inspect::{Inspector, Remember, Turn, Verdict};
use super::names::Names;
use super::pins::may_pin;
use super::relay::Relay;
use super::said::{begins_stale, drops_statements, read_error};
use super::statements::{Clerk, OfUnnamed, Piece, Rewritten, must_wait};
use crate::fault::Fault;
use crate::net::now;
use crate::pool::Pool;
use crate::upstream::{Settings, State, note_reported};
use crate::wire::Malformed;
use crate::wire::message;
use crate::wire::scan::Side;
use crate::wire::sql::{self, Effects, Mention};

/// The longest batch that is kept for a second try, in bytes.
const RETRY: usize = 8 << 10;
/// An unnamed statement that has been bound is remembered for a later transaction only up to this length, in bytes: hardly anybody binds one again.
const BOUND_UNNAMED: usize = 1 << 10;

/// Who rewrites the messages of a client, with its names and settings and its pool, for a server of this state.
fn clerk<'a>(
    edit: &'a mut Edit,
    (names, settings, pool): (&'a mut Names, &'a Settings, &'a Pool),
    State { owed, prepared, .. }: &'a mut State,
    tells_all: bool,
    out: &'a mut Vec<u8>,
) -> Clerk<'a> {
    let bound = pool.upstream.times.load().prepared_bytes;
    let (notes, known, has_prepared) = (&mut edit.notes, &pool.statements, edit.has_prepared);
    Clerk { names, notes, owed, prepared, known, settings, bound, has_prepared, unnamed_before: None, tells_all, out }
}

impl Client {
    /// Something has failed.
    pub(super) fn note_failure(&mut self, inspector: &mut Inspector) {
        if inspector.failed() {
            self.unnamed.clear();
        }
    }

    /// A message is put off: where it is the Parse of the unnamed statement, that has not become of it what was noted.
    fn put_off(&mut self, inspector: &mut Inspector, kind: u8, body: &[u8], before: Option<Box<OfUnnamed>>) {
        if kind == b'P' && body.first() == Some(&0) {
            inspector.unnamed().put_back(false);
            self.unnamed = before.map_or_else(Vec::new, |before| before.definition);
        }
    }

    /// What was to become of the unnamed statement was discarded, if anything was.
    fn put_back_unnamed(&mut self, inspector: &mut Inspector, before: Option<OfUnnamed>) {
        if let Some(OfUnnamed { is_here, definition }) = before {
            inspector.unnamed().put_back(is_here);
            self.unnamed = definition;
        }
    }
}

impl Relay<'_> {
    /// What the inspector says of a chunk of the client's; what it has learned of the client's statements is put down.
    #[inline]
    pub(super) fn inspect(&mut self, bytes: &[u8]) -> Verdict {
        let owed = &mut self.lease.server_mut().state.owed;
        self.may_drop = self.may_drop && !owed.is_settled();
        let owes = owed.owes();
        let turn = Turn { is_skipping: owed.is_skipping(), in_batch: owes && owed.has_open_batch(), owes };
        let verdict = self.inspector.read(bytes, turn, |kind| owed.sent(kind));
        if self.inspector.has_news() {
            self.heed_news(bytes);
        }
        verdict
    }

    fn heed_news(&mut self, bytes: &[u8]) {
        if let Some(remember) = self.inspector.take_remember() {
            self.client.unnamed.clear();
            if let Remember::Range(range) = remember {
                self.client.unnamed.extend_from_slice(&bytes[range.start as usize..range.end as usize]);
            }
        }
        self.may_drop |= self.inspector.take_drops();
    }

    /// Sends a chunk on whose message behind `plain` bytes is about a prepared statement, and perhaps others behind it.
    #[inline(never)]
    pub(super) fn forward_rewritten(&mut self, bytes: &[u8], plain: usize) -> Result<(), Stop> {
        let state = &mut self.lease.server_mut().state;
        let is_fresh = state.owed.is_settled();
        if self.edit.is_none() {
            state.prepared.next_turn();
            self.edit = Some(Edit::spare());
        }
        with_spare(|out| {
            let ending = self.rewrite(bytes, plain, out);
            if self.is_full() || self.puts_off_rest() {
                // Nothing more is sent before the server has answered, and it may be waiting for a Sync to do so.
                out.extend_from_slice(b"H\0\0\0\x04");
            }
            self.send_to_server(out)?;
            self.say_due()?;
            ending
        })?;
        if let Some(edit) = self.edit.as_deref_mut().filter(|edit| edit.prepares) {
            (edit.retry, edit.healing) = (std::mem::take(&mut edit.later), true);
        } else if let Some(edit) = &mut self.edit
            && is_fresh
            && edit.notes.is_empty()
            && !edit.healed
            && bytes.len() <= RETRY
            && self.client.held.is_empty()
            && let Some(again) = one_execution(bytes)
        {
            edit.retry.extend_from_slice(again);
        }
        self.send_later()
    }

    /// Whether the rest of a batch waits until all before it is answered.
    fn puts_off_rest(&self) -> bool {
        let is_open = self.lease.server().state.owed.has_open_batch();
        is_open && self.edit.as_ref().is_some_and(|edit| !edit.later.is_empty() && !edit.prepares)
    }

    /// Sends on what was put off, where all before it is answered.
    fn send_later(&mut self) -> Result<(), Stop> {
        let owed = &self.lease.server().state.owed;
        let is_answered = !owed.owes() || owed.is_copying_in();
        match self.edit.as_deref_mut() {
            Some(edit) if is_answered && !edit.later.is_empty() => {
                let later = std::mem::take(&mut edit.later);
                self.forward(&later)
            }
            _ => Ok(()),
        }
    }

    fn rewrite(&mut self, bytes: &[u8], mut plain: usize, out: &mut Vec<u8>) -> Result<(), Stop> {
        let mut rest = bytes;
        loop {
            out.extend_from_slice(&rest[..plain]);
            rest = &rest[plain..];
            let done = self.rewrite_one(rest, out)?;
            if let Some(edit) = self.edit.as_deref_mut().filter(|edit| edit.puts_off) {
                edit.puts_off = false;
                edit.later = rest.to_vec();
                return Ok(());
            }
            rest = &rest[done..];
            match self.inspect(rest) {
                Verdict::Rewrite(count) => plain = count,
                Verdict::Forward(count) => {
                    out.extend_from_slice(&rest[..count]);
                    self.client.held.extend_from_slice(&rest[count..]);
                    return Ok(());
                }
                Verdict::End(count, malformed) => {
                    out.extend_from_slice(&rest[..count]);
                    return Err(malformed.map_or(Stop::Terminated, Stop::Malformed));
                }
            }
        }
    }

    /// Rewrites the message at the front; how many bytes of the chunk it has.
    fn rewrite_one(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Result<usize, Stop> {
        let Some(&[kind, a, b, c, d]) = rest.first_chunk::<5>() else { return Ok(0) };
        let total = u32::from_be_bytes([a, b, c, d]) as usize + 1;
        let piece = Piece { bytes: &rest[..rest.len().min(total)], total };
        let owed = &self.lease.server().state.owed;
        let (owes, is_heard) = (owed.owes(), !owed.is_skipping() && !owed.is_copying_in());
        let must_wait = must_wait(kind, owed, self.may_drop);
        let body = piece.bytes.get(5..).unwrap_or_default();
        if is_heard && (must_wait || owes && self.inspector.unnamed().is_in_doubt(kind, body)) {
            self.edit.get_or_insert_with(Edit::spare).puts_off = true;
            return Ok(0);
        }
        if let Some(neutral) = is_heard.then(|| neutral(kind, body)).flatten() {
            return self.rewrite_terms(kind, piece, &neutral, out);
        }
        if self.client.own.is_some() && is_heard {
            self.client.note_own(kind, body, None).map_err(Stop::fault)?;
            self.set_until();
        }
        self.rewrite_piece(kind, piece, out)
    }

    /// A message whose text sets the client's deadline: the server has it without that.
    #[cold]
    fn rewrite_terms(&mut self, kind: u8, piece: Piece<'_>, neutral: &Neutral, out: &mut Vec<u8>) -> Result<usize, Stop> {
        let body = piece.bytes.get(5..).unwrap_or_default();
        let heeded = self.client.note_own(kind, body, Some(neutral));
        self.set_until();
        let instead = Piece { bytes: &neutral.bytes, total: neutral.bytes.len() };
        if let Err(fault) = heeded {
            self.client.count(&fault);
            self.with_clerk(out, |clerk| clerk.refuse(kind, &fault));
        } else if self.inspector.message(kind, &neutral.rest, true) {
            self.with_clerk(out, |clerk| clerk.pass(instead));
        } else {
            self.rewrite_piece(kind, instead, out)?;
        }
        if kind == b'P' && body.first() == Some(&0) {
            let _ = self.inspector.take_remember();
            self.client.unnamed = neutral.bytes[6..].to_vec();
            self.inspector.recall();
        }
        self.inspector.stream_rest(0);
        Ok(piece.total)
    }

    /// When the time is over for the transaction that goes on.
    fn set_until(&self) {
        let (watch, now) = (&self.client.watch, now());
        watch.set(|timing| timing.until = watch.still_until(timing.transaction_since.unwrap_or(now), None, now));
    }

    fn with_clerk(&mut self, out: &mut Vec<u8>, work: impl FnOnce(&mut Clerk<'_>)) {
        let Some(edit) = self.edit.as_deref_mut() else { return };
        let client = (&mut self.client.names, &*self.client.settings, &*self.client.watch.pool);
        work(&mut clerk(edit, client, &mut self.lease.server_mut().state, self.inspector.looks_for_calls(), out));
    }

    /// Rewrites a message; how many bytes it has.
    fn rewrite_piece(&mut self, kind: u8, piece: Piece<'_>, out: &mut Vec<u8>) -> Result<usize, Stop> {
        let total = piece.total;
        let Some(edit) = self.edit.as_deref_mut() else { return Ok(0) };
        let client = (&mut self.client.names, &*self.client.settings, &*self.client.watch.pool);
        let mut clerk = clerk(edit, client, &mut self.lease.server_mut().state, self.inspector.looks_for_calls(), out);
        let body = piece.bytes.get(5..).unwrap_or_default();
        let is_whole = piece.bytes.len() == total;
        let (text, effects) = clerk.text_of(kind, body, &self.client.unnamed);
        if !clerk.is_out_of_turn()
            && let Some(reason) = self.inspector.guarded(clerk.names.effects_of(effects, text), text, is_whole)
        {
            let digest = sql::digest(text);
            if let Err(fault) = may_pin(&self.client.watch, &mut self.client.pin_slot, reason, digest) {
                clerk.refuse(kind, &fault);
                if kind == b'P' && body.first() == Some(&0) {
                    self.inspector.refused_unnamed();
                }
                self.client.count(&fault);
                self.inspector.stream_rest(total - piece.bytes.len());
                return Ok(piece.bytes.len());
            }
            // It may, and what it does is noted as that of any other message.
            self.inspector.guard(false);
            if self.inspector.message(kind, body, is_whole) {
                clerk.pass(piece);
                self.inspector.stream_rest(total - piece.bytes.len());
                return Ok(piece.bytes.len());
            }
        }
        if matches!((kind, body), (b'P', [0, ..]) | (b'C', [b'S', 0, ..])) && !clerk.is_out_of_turn() {
            let before = self.inspector.unnamed().may_be_discarded();
            clerk.unnamed_before =
                before.map(|is_here| Box::new(OfUnnamed { is_here, definition: std::mem::take(&mut self.client.unnamed) }));
        }
        let rewritten = clerk.rewrite(kind, piece, &self.client.unnamed);
        let unnamed_before = clerk.unnamed_before.take();
        self.client.watch.tenant.borrow().numbers.count_statements(clerk.notes.take_steps());
        match rewritten {
            Rewritten::AsItIs => {}
            Rewritten::Runs(statement) => self.runs(statement.effects(), statement.text(), true),
            Rewritten::OnlyHere => self.inspector.hold_statement(),
            Rewritten::ByItsName => self.inspector.hold_prepared(),
            Rewritten::Frees => self.inspector.releases(),
            Rewritten::UnnamedAgain => self.unnamed_again(),
            Rewritten::Speaks => self.speaks(kind, body, is_whole),
            Rewritten::Prepares => (edit.prepares, edit.puts_off) = (true, true),
            Rewritten::Later => {
                edit.puts_off = true;
                self.client.put_off(&mut self.inspector, kind, body, unnamed_before);
            }
            // It has no end.
            Rewritten::NameTooLong if is_whole => return Err(Stop::Malformed(Malformed::Body)),
            Rewritten::NameTooLong => {
                let what = "a prepared statement or portal with a name of many kilobytes";
                return Err(Stop::fault(Fault::Unsupported(what)));
            }
        }
        self.inspector.stream_rest(total - piece.bytes.len());
        Ok(piece.bytes.len())
    }

    /// The client's unnamed statement was put on this server again.
    fn unnamed_again(&mut self) {
        let unnamed = self.client.unnamed.clone();
        let text = &unnamed[..memchr::memchr(0, &unnamed).unwrap_or(0)];
        let effects = sql::session_state(text);
        self.inspector.restored(text);
        if effects.mentions_statements() {
            self.inspector.unnamed().speaks();
        }
        self.runs_others(effects, text, true);
    }

    /// A Query or an unnamed Parse was sent on whose text speaks of statements, or may.
    fn speaks(&mut self, kind: u8, body: &[u8], whole: bool) {
        let text = if kind == b'Q' { message::query(body) } else { message::parse(body).map(|(_, text)| text) }.unwrap_or(body);
        let effects = sql::session_state(text);
        self.runs_others(effects, text, whole);
        if kind != b'P' {
            return;
        }
        self.client.unnamed.clear();
        if whole && self.inspector.can_recall() {
            self.client.unnamed.extend_from_slice(&body[1..]);
            self.inspector.recall();
            if effects.mentions_statements() {
                self.inspector.unnamed().speaks();
            }
        }
    }

    /// A text that executes others is going to be run: what it is to leave was not noted yet.
    fn runs_others(&mut self, effects: Effects, text: &[u8], whole: bool) {
        if effects.executes() {
            self.runs(effects, text, whole);
        }
    }

    /// A text with these effects is going to be run, and what it executes with it.
    fn runs(&mut self, effects: Effects, text: &[u8], whole: bool) {
        if !effects.executes() {
            return self.inspector.expect(effects, text, whole);
        }
        let names = &self.client.names;
        self.inspector.expect(names.effects_of(effects, text), text, whole);
        for (_, mention) in sql::spoken(text) {
            if let Mention::Runs(name) = mention
                && let Some(statement) = names.find(&name)
            {
                self.inspector.expect(statement.effects(), statement.text(), true);
            }
        }
    }

    /// Says what is the proxy's to say and has its turn now.
    pub(super) fn say_due(&mut self) -> Result<(), Stop> {
        let Some(edit) = self.edit.as_deref_mut() else { return Ok(()) };
        let State { owed, frames, .. } = &mut *self.lease.server_mut().state;
        if edit.notes.is_empty() || !frames.at_edge() {
            return Ok(());
        }
        let mut due = Vec::new();
        edit.say_due(owed, &mut due);
        if due.is_empty() {
            return Ok(());
        }
        if !self.client.unsent.is_empty() {
            self.client.unsent.extend_from_slice(&due);
            return Ok(());
        }
        self.send_to_client(&due)
    }

    /// Whether nothing is to be read from the client now: a batch may have to be run again, or so many of its messages wait for an answer.
    #[inline]
    pub(super) fn must_wait(&self) -> bool {
        self.ahead.is_some() || self.edit.as_ref().is_some_and(|edit| edit.healing || !edit.later.is_empty() || edit.notes.is_full())
    }

    fn is_full(&self) -> bool {
        self.edit.as_ref().is_some_and(|edit| edit.notes.is_full())
    }

    /// Whether the answers of the server need a closer look.
    #[inline]
    pub(super) fn edits(&self) -> bool {
        self.edit.as_ref().is_some_and(|edit| edit.is_needed())
    }

    /// What has come from the server while notes are open; whether the lease is over with it.
    #[inline(never)]
    pub(super) fn answer_edited(&mut self, bytes: &[u8]) -> Result<bool, Stop> {
        let at_edge = self.lease.server().state.frames.at_edge();
        if let Some(edit) = self.edit.as_deref_mut()
            && !edit.retry.is_empty()
            && !edit.healing
        {
            edit.healing = at_edge && begins_stale(bytes);
            if !edit.healing {
                edit.retry.clear();
                if !edit.is_needed() {
                    return self.answer_plainly(bytes);
                }
            }
        }
        let (answered, last_words) = with_spare(|out| {
            let (answered, end) = self.edit_answer(bytes, out)?;
            let last_words = end.map(|end| out.split_off(end)).unwrap_or_default();
            if !out.is_empty() {
                self.send_to_client(out)?;
            }
            Ok((answered, last_words))
        })?;
        let is_over = answered > 0 && self.edited(answered)?;
        if !is_over {
            self.send_later()?;
        }
        self.pass_last_words(is_over, &last_words)
    }

    /// The server has said that it is ready, so many times, and the client has what it is to see of it.
    fn edited(&mut self, answered: u64) -> Result<bool, Stop> {
        match self.edit.as_deref_mut() {
            Some(edit) if edit.healing => {
                edit.has_prepared = std::mem::take(&mut edit.prepares);
                edit.healed |= !edit.has_prepared;
                edit.healing = false;
                let batch = std::mem::take(&mut edit.retry);
                self.run_again(&batch).map(|()| false)
            }
            Some(edit) if !edit.later.is_empty() && !self.lease.server().state.owed.owes() => {
                // The lease may be over with this, or be examined first.
                self.client.held = std::mem::take(&mut edit.later);
                let is_over = self.answered(answered)?;
                if let Some(edit) = self.edit.as_deref_mut().filter(|_| !is_over) {
                    edit.later = std::mem::take(&mut self.client.held);
                }
                Ok(is_over)
            }
            _ => self.answered(answered),
        }
    }

    /// Writes what the client is to see of a chunk; how often the server has said that it is ready, and where its last words begin, said when all is answered.
    fn edit_answer(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(u64, Option<usize>), Stop> {
        let Some(edit) = self.edit.as_deref_mut() else { return Ok((0, None)) };
        let State { frames, owed, reported, prepared, signs, .. } = &mut *self.lease.server_mut().state;
        // The part of a head that the client has already: nothing may come between it and the rest.
        let is_inside = !frames.at_edge() && frames.left() == 0 && edit.carry.is_empty();
        let (mut answered, mut end) = (0, None);
        let mut walk = frames.walk(Side::Server, bytes);
        let mut at = walk.position();
        if !edit.dropping {
            out.extend_from_slice(&bytes[..at]);
        }
        if at < bytes.len() {
            edit.dropping = false;
            if !is_inside {
                edit.say_due(owed, out);
            }
        }
        while let Some(frame) = walk.next().map_err(|_| Stop::ServerLost)? {
            let piece = &bytes[at..walk.position()];
            at = walk.position();
            let mut is_shown = edit.shows(owed.received(frame.kind, frame.status), frame.body, out);
            let is_healing = edit.hides(frame.kind);
            match frame.kind {
                b'Z' => {
                    answered += 1;
                    self.is_straight &= frame.status == b'I';
                    if frame.status == b'I' && self.inspector.defines() {
                        self.client.watch.pool.functions.changed();
                    }
                    edit.notes.ready(owed.batch().wrapping_sub(owed.readies().into()));
                }
                b'C' if frame.body == b"DEALLOCATE\0" => edit.notes.deallocated(&mut self.client.names),
                b'C' if drops_statements(frame.body) => forget_statements(Some(edit), &mut self.client.names, prepared),
                b'S' if frame.is_whole() => {
                    note_reported(reported, frame.body);
                    self.has_reported = true;
                }
                b'C' if frame.body == b"ROLLBACK\0" => self.inspector.undone(),
                b'1' => self.inspector.unnamed().parsed(),
                b'E' => {
                    if let Some(ears) = self.ears.as_deref_mut().filter(|_| edit.healing) {
                        ears.failed();
                    }
                    self.is_straight = false;
                    self.client.note_failure(&mut self.inspector);
                    let unnamed = edit.notes.take_back(owed.take_dropped() as usize, &mut self.client.names, prepared);
                    self.client.put_back_unnamed(&mut self.inspector, unnamed);
                    if is_shown && !edit.healing && frame.is_whole() {
                        is_shown = !edit.says_in_own_words(frame.body, (owed, &self.client.names, prepared), out);
                    }
                    end = end.or((read_error(frame.body, prepared, signs) && !owed.owes()).then_some(out.len()));
                }
                _ => {}
            }
            if is_shown && !is_healing {
                out.append(&mut edit.carry);
                out.extend_from_slice(piece);
            }
            edit.carry.clear();
            if frame.is_whole() || frame.kind == b'Z' {
                edit.say_due(owed, out);
            } else {
                edit.dropping = !is_shown || is_healing;
            }
        }
        if at < bytes.len() {
            edit.carry.extend_from_slice(&bytes[at..]);
        } else if frames.at_edge() {
            edit.dropping = false;
            edit.say_due(owed, out);
        }
        Ok((answered, end))
    }

    /// These bytes of the client's go out when what was just sent is answered; the client sees nothing of that.
    #[cold]
    pub(super) fn run_after_answer(&mut self, bytes: &[u8]) {
        let edit = self.edit.get_or_insert_with(Edit::spare);
        edit.retry = bytes.to_vec();
        edit.healing = true;
    }

    /// The batch had no effect but to show that its statement is not what it was, or has had none yet: with what it needs, it is run once more.
    #[cold]
    fn run_again(&mut self, batch: &[u8]) -> Result<(), Stop> {
        let sent = self.forward(batch);
        if let Some(edit) = self.edit.as_deref_mut() {
            edit.has_prepared = false;
        }
        sent
    }

    /// What was only done as if it would succeed is taken back.
    pub(super) fn end_edit(&mut self) {
        if self.client.unnamed.len() > BOUND_UNNAMED && self.inspector.has_bound_unnamed() {
            self.client.unnamed = Vec::new();
        }
        let Some(mut edit) = self.edit.take() else { return };
        let state = &mut self.lease.server_mut().state;
        if !edit.notes.is_empty() {
            let unnamed = edit.notes.take_back_all(&mut self.client.names, &mut state.prepared);
            self.client.put_back_unnamed(&mut self.inspector, unnamed);
            // Which of them the server has done is not known any more.
            state.dirty = true;
        }
        state.owed.forget_notes();
        edit.put_by();
    }
}
