//! A client's prepared statements: its own names for them, which follow it to whichever server it gets. Pure.
//!
//! What is done for a message is done at once, as if it would succeed, so that what follows it in the same pipeline finds it; a note remembers how to take it
//! back, and what becomes of the answer. Notes are kept in the order of the answers. Checklist D1-D7, D11.

use std::sync::Arc;

use bytes::BytesMut;

mod notes;

use notes::{Note, Server, Show};
pub use notes::{Notes, OfUnnamed, Place};

use super::names::{Names, key};
use super::said::Moves;
use crate::fault::Fault;
use crate::metrics::StatementStep;
use crate::upstream::{Owed, Prepared, SERVER_NAME, ServerName, Settings, Statement, Statements};
use crate::wire::sql::{self, Effects};
use crate::wire::{Status, message, say};

/// A name that no statement has on any server.
const NOBODYS: &[u8] = b"nobody's: not prepared";

/// Whether what a message of this type means, and whether the server will heed it, depends on what the server still owes. `may_drop` says that something was sent
/// that may drop all statements, or that a portal is there that does so once it is executed.
pub fn must_wait(kind: u8, owed: &Owed, may_drop: bool) -> bool {
    let may_be_skipped = matches!(kind, b'Q' | b'F') && owed.has_open_batch();
    (may_drop || may_be_skipped) && owed.owes() && !owed.is_copying_in() && !owed.is_skipping()
}

/// Writes what a server is sent in place of a client's messages about statements.
pub struct Clerk<'a> {
    /// The client's names.
    pub names: &'a mut Names,
    /// What is outstanding.
    pub notes: &'a mut Notes,
    /// The server's account.
    pub owed: &'a mut Owed,
    /// What the server has.
    pub prepared: &'a mut Prepared,
    /// What the pool knows.
    pub known: &'a Statements,
    /// The client's settings.
    pub settings: &'a Settings,
    /// What the statements on the server may take, in bytes.
    pub bound: usize,
    /// What this message speaks of was prepared for it just now.
    pub has_prepared: bool,
    /// The message is about the unnamed statement and may be discarded: what was so before.
    pub unnamed_before: Option<Box<OfUnnamed>>,
    /// Whether it is told also which statement is run that has no effects.
    pub tells_all: bool,
    /// The bytes for the server.
    pub out: &'a mut Vec<u8>,
}

/// A message of a client's, or the first part of one: its head, and what there is of its body.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    /// From the type byte on.
    pub bytes: &'a [u8],
    /// The length of the whole message, in bytes, its head included.
    pub total: usize,
}

/// What a rewritten message means for its lease.
#[derive(Debug)]
pub enum Rewritten {
    /// No more than it says.
    AsItIs,
    /// This statement is going to be run, and may have effects.
    Runs(Arc<Statement>),
    /// The client's statement is on this server and can be on no other.
    OnlyHere,
    /// The server perhaps has a statement now by the name that the client gives it, as after PREPARE.
    ByItsName,
    /// The server perhaps has one less of those.
    Frees,
    /// The client's unnamed statement was put on this server again.
    UnnamedAgain,
    /// It speaks of statements, and may run some.
    Speaks,
    /// The statements that it speaks of are prepared first, and nothing else is sent: it is to be rewritten again once that is answered.
    Prepares,
    /// Nothing was sent: it is to be rewritten again once everything is answered.
    Later,
    /// Its names go on beyond what is here: it cannot be sent on.
    NameTooLong,
}

impl Clerk<'_> {
    /// Writes what the server is sent for a message that it does not understand as it is. `unnamed` is what the Parse of the client's unnamed statement says behind
    /// the name, where the client has such a statement.
    pub fn rewrite(&mut self, kind: u8, piece: Piece<'_>, unnamed: &[u8]) -> Rewritten {
        if self.is_out_of_turn() {
            // The server drops it, or ends the session over it.
            self.pass(piece);
            return Rewritten::AsItIs;
        }
        let body = piece.bytes.get(5..).unwrap_or_default();
        match (kind, body) {
            (b'Q', _) | (b'P', [0, ..]) => {
                let text = if kind == b'Q' { message::query(body) } else { message::parse(body).map(|(_, text)| text) };
                match text {
                    Ok(text) if piece.bytes.len() == piece.total => self.speak(kind, piece, text),
                    _ => {
                        self.hide_statements(piece);
                        Rewritten::Speaks
                    }
                }
            }
            (b'P', _) => self.parse(piece).unwrap_or(Rewritten::NameTooLong),
            (b'C', [b'S', 0]) => {
                self.pass(piece);
                Rewritten::AsItIs
            }
            (b'C', [_, name @ .., _]) if self.is_unsettled(name) => Rewritten::Later,
            (b'C', [_, name @ .., _]) if self.names.may_be_by_text(name) && !self.names.has(name) => {
                self.pass(piece);
                Rewritten::Frees
            }
            (b'C', [_, name @ .., _]) => {
                self.close(name);
                Rewritten::AsItIs
            }
            (b'B' | b'D', _) if is_unnamed(kind, body) => {
                if unnamed.is_empty() {
                    self.close_unnamed();
                } else {
                    self.parse_unnamed(kind, unnamed);
                }
                self.pass(piece);
                if unnamed.is_empty() { Rewritten::AsItIs } else { Rewritten::UnnamedAgain }
            }
            _ => self.mention(piece).unwrap_or(Rewritten::NameTooLong),
        }
    }

    /// Refuses a message in its place among the others: what it is in fails as if the server had said so.
    pub fn refuse(&mut self, kind: u8, fault: &Fault) {
        let at = self.begin(b'D');
        self.out.push(b'S');
        self.out.extend_from_slice(NOBODYS);
        self.out.push(0);
        self.end(at);
        let mut said = BytesMut::new();
        fault.say(&mut said, true);
        self.note(Note::new(Show::Refused(said), Server::Untouched));
        if kind == b'Q' {
            self.out.extend_from_slice(b"S\0\0\0\x04");
            self.owed.sent(b'S');
        }
    }

    /// What text a message would have run, as far as it says or the client has prepared it, and what that may leave.
    pub fn text_of<'b>(&'b self, kind: u8, body: &'b [u8], unnamed: &'b [u8]) -> (&'b [u8], Effects) {
        let text = match kind {
            b'Q' => message::query(body).ok(),
            b'P' if body.first() == Some(&0) => message::parse(body).ok().map(|(_, text)| text),
            b'B' => match message::bind(body).ok() {
                Some((_, [])) => message::string(unnamed).ok(),
                // It was read when it was prepared.
                Some((_, name)) => match self.names.find(name) {
                    Some(statement) => return (statement.text(), statement.effects()),
                    None => None,
                },
                None => None,
            },
            _ => Some(&[][..]),
        };
        let text = text.unwrap_or(if matches!(kind, b'Q' | b'P') { body } else { &[] });
        (text, sql::session_state(text))
    }

    /// Whether the server takes no notice of what comes, or ends the session over it.
    pub fn is_out_of_turn(&self) -> bool {
        self.owed.is_skipping() || self.owed.is_copying_in()
    }

    /// Whether what the client has by this name depends on what the server is still to say of an earlier batch.
    fn is_unsettled(&self, name: &[u8]) -> bool {
        self.owed.owes() && self.notes.is_unsettled(name, self.owed.batch())
    }

    /// A Parse with a name. `None` where not even that is all here.
    fn parse(&mut self, piece: Piece<'_>) -> Option<Rewritten> {
        let body = piece.bytes.get(5..).unwrap_or_default();
        let is_whole = piece.bytes.len() == piece.total;
        let Some((name, definition)) = message::definition(body).filter(|_| is_whole) else {
            if is_whole {
                // The server says what is wrong with it.
                self.pass(piece);
                return Some(Rewritten::AsItIs);
            }
            return self.parse_long(piece).map(|()| Rewritten::OnlyHere);
        };
        if self.is_unsettled(name) {
            return Some(Rewritten::Later);
        }
        if self.names.has(name) {
            // The server says so itself, of a name that it knows, unless it finds another fault first.
            let taken = self.take_name().written();
            self.parse_as(&taken, definition);
            self.note(Note::new(Show::Exists(name.into()), Server::Untouched));
            return Some(Rewritten::AsItIs);
        }
        if self.names.is_full() {
            return self.parse_long(piece).map(|()| Rewritten::OnlyHere);
        }
        self.notes.count(StatementStep::Prepared);
        if self.names.may_be_by_text(name) {
            // The server says whether the name is taken; where it is not, the client has its statement by this name on this server only.
            self.notes.count(StatementStep::Parsed);
            self.pass(piece);
            return Some(Rewritten::ByItsName);
        }
        let statement = self.known.intern(&self.settings.context_of(definition), definition, sql::session_state);
        let mut note = Note::new(Show::Say(b'1'), Server::Untouched);
        // What a transaction that may have failed says to a Parse only its server knows.
        if self.owed.readies() > 0 || self.owed.status() == Status::Failed && !sql::ends_transaction(definition) {
            self.prepared.doom(statement.id());
        }
        let is_here = self.prepared.find(statement.id()).is_some();
        if !is_here {
            let server_name = self.make_room_for(&statement);
            self.parse_statement(server_name, &statement);
            note = Note::new(Show::Pass, Server::Lacks(statement.id(), server_name));
        }
        let before = self.names.set(key(name).into(), Some(statement));
        note.name = Some((key(name).into(), before));
        if is_here {
            self.answer(note);
        } else {
            self.note(note);
        }
        Some(Rewritten::AsItIs)
    }

    /// A Parse whose text is not all here, or that is not to be remembered.
    fn parse_long(&mut self, piece: Piece<'_>) -> Option<()> {
        let name = message::describe(piece.bytes.get(4..)?).ok()?.1;
        if self.names.has(name) {
            let taken = self.take_name().written();
            self.rename(piece, 5, name, &taken);
            self.note(Note::new(Show::Exists(name.into()), Server::Untouched));
            return Some(());
        }
        self.notes.count(StatementStep::Prepared);
        self.notes.count(StatementStep::Parsed);
        let statement = Arc::new(Statement::unknown());
        let server_name = self.make_room_for(&statement);
        self.rename(piece, 5, name, &server_name.written());
        let mut note = Note::new(Show::Pass, Server::Lacks(statement.id(), server_name));
        self.names.set(key(name).into(), Some(statement));
        note.name = Some((key(name).into(), None));
        self.note(note);
        Some(())
    }

    /// A Bind or Describe of a statement with a name. `None` where its names are not all here.
    fn mention(&mut self, piece: Piece<'_>) -> Option<Rewritten> {
        let kind = *piece.bytes.first()?;
        let body = piece.bytes.get(5..)?;
        let (first, name) =
            message::bind(body).ok().filter(|_| kind == b'B').or_else(|| Some((&[][..], message::describe(body).ok()?.1)))?;
        // Behind the head come the portal and its zero, or the one letter that says what is described.
        let at = if kind == b'B' { 6usize.saturating_add(first.len()) } else { 6 };
        if self.is_unsettled(name) {
            return Some(Rewritten::Later);
        }
        let Some(statement) = self.names.find(name).cloned() else {
            // The server says itself that there is none, unless the name is one of ours.
            let unknown = if name.starts_with(SERVER_NAME) { NOBODYS } else { name };
            self.rename(piece, at, name, unknown);
            self.owed.sent(kind);
            return Some(Rewritten::AsItIs);
        };
        let server_name = match self.spoken(statement.definition(), statement.effects()) {
            Some(instead) => {
                let once = self.name_once(&instead);
                self.prepared.doom_again(once);
                let mut moves = Moves::default();
                moves.rename(&once.written(), name);
                self.remember_moves(b'P', moves);
                once
            }
            None => self.name_here(&statement),
        };
        self.rename(piece, at, name, &server_name.written());
        self.owed.sent(kind);
        if kind == b'B' {
            self.notes.count(StatementStep::Bound);
        }
        Some(if statement.effects().is_empty() && !self.tells_all { Rewritten::AsItIs } else { Rewritten::Runs(statement) })
    }

    /// A Close of a statement with a name: the server need not know.
    fn close(&mut self, name: &[u8]) {
        let before = self.names.set(key(name).into(), None);
        let mut note = Note::new(Show::Say(b'3'), Server::Untouched);
        note.name = Some((key(name).into(), before));
        self.answer(note);
    }

    /// The unnamed statement is to be there: a Parse of the client's, of an earlier transaction or batch.
    fn parse_unnamed(&mut self, kind: u8, definition: &[u8]) {
        let text = definition.get(..memchr::memchr(0, definition).unwrap_or(0)).unwrap_or_default();
        let effects = sql::session_state(text);
        let instead = self.spoken(definition, effects);
        self.parse_as(b"", instead.as_deref().unwrap_or(definition));
        let mut note = Note::new(Show::Swallow, Server::Untouched);
        if kind == b'B'
            && effects.mentions_statements()
            && !self.is_aborted()
            && let Some(name) = self.dropped_by(text, &sql::spoken(text))
        {
            note.name = Some((key(name).into(), self.names.set(key(name).into(), None)));
        }
        self.note(note);
    }

    /// The unnamed statement is not to be there: it is somebody else's.
    fn close_unnamed(&mut self) {
        self.out.extend_from_slice(b"C\0\0\0\x06S\0");
        self.note(Note::new(Show::Swallow, Server::Untouched));
    }

    /// The message as it is.
    pub fn pass(&mut self, piece: Piece<'_>) {
        self.out.extend_from_slice(piece.bytes);
        if let Some(kind) = piece.bytes.first() {
            self.sent(*kind);
        }
    }

    fn sent(&mut self, kind: u8) {
        match self.unnamed_before.take() {
            Some(before) if !self.is_out_of_turn() => {
                let mut note = Note::new(Show::Pass, Server::Untouched);
                note.unnamed = Some(before);
                self.note(note);
            }
            _ => self.owed.sent(kind),
        }
    }

    /// A message that may show which statements are prepared here: none of others' are.
    fn hide_statements(&mut self, piece: Piece<'_>) {
        self.close_others();
        self.pass(piece);
    }

    fn close_others(&mut self) {
        let (notes, names) = (&*self.notes, &*self.names);
        self.prepared.doom_all(|id| notes.prepares(id) || names.mention(id));
        self.close_doomed();
    }

    /// Closes what is to be closed: always in front of a message, never by itself.
    fn close_doomed(&mut self) {
        while let Some(doomed) = self.prepared.take_doomed() {
            let at = self.begin(b'C');
            self.out.push(b'S');
            self.out.extend_from_slice(&doomed.written());
            self.out.push(0);
            self.end(at);
            self.note(Note::new(Show::Swallow, Server::Keeps(doomed)));
        }
    }

    /// A `DEALLOCATE` of one of the client's statements, as a Query or as an unnamed Parse. One of no statement at all stands in for it, which succeeds or fails as
    /// that would.
    fn deallocate(&mut self, kind: u8, name: &[u8]) {
        let stand_in = self.take_name().written();
        let text = [b"DEALLOCATE ", &stand_in[..]].concat();
        if kind == b'Q' {
            let mut query = BytesMut::new();
            say::query_bytes(&mut query, &text);
            self.out.extend_from_slice(&query);
        } else {
            self.parse_as(b"", &[&text[..], &[0, 0, 0]].concat());
        }
        self.sent(kind);
        let mut moves = Moves::default();
        moves.rename(&stand_in, name);
        self.remember_moves(kind, moves);
        if kind == b'Q' || self.is_aborted() {
            self.notes.deallocates(self.place(kind), Some(key(name).into()));
        } else if let Some(note) = self.notes.open.back_mut() {
            note.name = Some((key(name).into(), self.names.set(key(name).into(), None)));
        }
    }

    /// Whether the transaction has failed, for certain.
    fn is_aborted(&self) -> bool {
        self.owed.status() == Status::Failed && self.owed.readies() == 0
    }

    /// Where the answer to a message of this type comes that was sent last.
    fn place(&self, kind: u8) -> Place {
        let is_query = kind == b'Q';
        Place { ready: if is_query { self.owed.batch() } else { self.owed.batch().wrapping_add(1) }, is_query }
    }

    /// A name that is taken on this server, by a statement that does nothing: that can be prepared even in a transaction that has failed.
    fn take_name(&mut self) -> ServerName {
        let name = self.name_once(&[0, 0, 0]);
        self.prepared.doom_again(name);
        name
    }

    /// The name of a statement that is prepared for one message. Who calls it has it closed after that.
    fn name_once(&mut self, definition: &[u8]) -> ServerName {
        let name = self.prepared.next_name();
        self.close_doomed();
        self.parse_as(&name.written(), definition);
        self.note(Note::new(Show::Swallow, Server::Untouched));
        name
    }

    /// The name of a statement on this server, where it is prepared first if it is not there.
    fn name_here(&mut self, statement: &Arc<Statement>) -> ServerName {
        if self.notes.is_uncertain(statement.id(), self.owed.batch()) {
            self.prepared.doom(statement.id());
        }
        if let Some(name) = self.prepared.find(statement.id()) {
            return name;
        }
        let name = self.make_room_for(statement);
        self.parse_statement(name, statement);
        self.note(Note::new(Show::Swallow, Server::Lacks(statement.id(), name)));
        name
    }

    fn make_room_for(&mut self, statement: &Arc<Statement>) -> ServerName {
        let name = self.prepared.insert(statement);
        self.prepared.shrink(self.bound);
        self.close_doomed();
        name
    }

    fn parse_statement(&mut self, name: ServerName, statement: &Statement) {
        self.notes.count(StatementStep::Parsed);
        self.parse_as(&name.written(), statement.definition());
    }

    fn parse_as(&mut self, name: &[u8], definition: &[u8]) {
        let at = self.begin(b'P');
        self.out.extend_from_slice(name);
        self.out.push(0);
        self.out.extend_from_slice(definition);
        self.end(at);
    }

    /// The same message with another name of its statement.
    fn rename(&mut self, piece: Piece<'_>, at: usize, from: &[u8], to: &[u8]) {
        let length = piece.total.saturating_sub(1).saturating_sub(from.len()).saturating_add(to.len());
        self.out.extend_from_slice(piece.bytes.get(..1).unwrap_or_default());
        self.out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        self.out.extend_from_slice(piece.bytes.get(5..at).unwrap_or_default());
        self.out.extend_from_slice(to);
        self.out.extend_from_slice(piece.bytes.get(at.saturating_add(from.len())..).unwrap_or_default());
    }

    fn note(&mut self, note: Note) {
        self.owed.sent_noted();
        self.notes.open.push_back(Note { batch: self.owed.batch(), ..note });
    }

    /// The client is answered here, in the place of this note.
    fn answer(&mut self, note: Note) {
        self.owed.answer_locally();
        self.notes.open.push_back(Note { batch: self.owed.batch(), ..note });
    }

    fn begin(&mut self, kind: u8) -> usize {
        self.out.extend_from_slice(&[kind, 0, 0, 0, 0]);
        self.out.len()
    }

    fn end(&mut self, at: usize) {
        let length = self.out.len().saturating_sub(at).saturating_add(4);
        if let Some(word) = self.out.get_mut(at.saturating_sub(4)..at) {
            word.copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        }
    }
}

fn is_unnamed(kind: u8, body: &[u8]) -> bool {
    if kind == b'B' { matches!(message::bind(body), Ok((_, []))) } else { body.starts_with(b"S\0") }
}

mod spoken;
#[cfg(test)]
mod tests;
