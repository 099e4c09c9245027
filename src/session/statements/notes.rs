//! What is to be done when the server's answers come: what was done for a message as if it would succeed is taken back where it does not. Pure.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;

use crate::fault::Fault;
use crate::metrics::StatementStep;
use crate::session::names::{Names, key};
use crate::session::said::Moves;
use crate::upstream::{Prepared, ServerName, Statement};
use crate::wire::message::Fields;
use crate::wire::sqlstate;

/// How many notes may be open before nothing more is read from the client.
const NOTES: usize = 4096;

/// What becomes of the answer to a noted message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Show {
    /// The client has it as it comes.
    Pass,
    /// The message was the proxy's own.
    Swallow,
    /// There was no message: the client is told this.
    Say(u8),
    /// The name is given already: the server's error is to speak of this one.
    Exists(Box<[u8]>),
    /// The message stands in for one that is refused: the client is told this.
    Refused(BytesMut),
}

/// What is not so on the server if the message has not come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Server {
    Untouched,
    /// The statement is not prepared.
    Lacks(u64, ServerName),
    /// The name is still taken.
    Keeps(ServerName),
}

/// What a name meant before.
type Before = Option<Arc<Statement>>;

/// Where an answer comes among the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The number of the ReadyForQuery that ends it.
    pub ready: u64,
    /// It is that to a Query, and not to extended messages.
    pub is_query: bool,
}

/// What was so of the client's unnamed statement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OfUnnamed {
    /// It was on the server.
    pub is_here: bool,
    /// What its Parse says behind the name, where it can be parsed again.
    pub definition: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Note {
    pub(super) show: Show,
    pub(super) server: Server,
    /// The batch that its message belongs to.
    pub(super) batch: u64,
    /// A name, and what it meant before.
    pub(super) name: Option<(Box<[u8]>, Before)>,
    /// It is about the unnamed statement, of which this was so before.
    pub(super) unnamed: Option<Box<OfUnnamed>>,
}

impl Note {
    pub(super) fn new(show: Show, server: Server) -> Self {
        Self { show, server, batch: 0, name: None, unnamed: None }
    }
}

/// What is to be done when answers come, oldest first: one for each noted message and local answer of the account.
#[derive(Debug, Default)]
pub struct Notes {
    pub(super) open: VecDeque<Note>,
    /// Names that are the client's until the server says that it has dropped a statement, in the order in which it will; not of statements that only it knows. Each
    /// with the place where it says so, if it does.
    deallocating: VecDeque<(Place, Option<Box<[u8]>>)>,
    /// What the server has been told in place of texts, each with the place of its answer.
    moves: VecDeque<(Place, Moves)>,
    /// The oldest noted message has failed, and is not taken back yet.
    has_failed: bool,
    /// What became of statements with names since this was last asked.
    steps: [u32; StatementStep::ALL.len()],
}

impl Notes {
    /// Whether a message without an answer gives this name to a statement.
    pub fn names(&self, name: &[u8]) -> bool {
        self.open.iter().any(|note| note.name.as_ref().is_some_and(|(noted, _)| **noted == *name))
    }

    pub(super) fn count(&mut self, step: StatementStep) {
        self.steps[step.index()] = self.steps[step.index()].saturating_add(1);
    }

    /// What became of statements with names since this was last asked.
    #[inline]
    pub fn take_steps(&mut self) -> [u32; StatementStep::ALL.len()] {
        std::mem::take(&mut self.steps)
    }

    /// Whether the server's answers can pass as they come.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.deallocating.is_empty() && self.moves.is_empty()
    }

    /// Whether so many are open that nothing more is to be read from the client.
    pub fn is_full(&self) -> bool {
        self.open.len() >= NOTES
    }

    /// A text that the server answers in this place drops a statement: the client's of this name, or one that only the server knows.
    pub(super) fn deallocates(&mut self, place: Place, name: Option<Box<[u8]>>) {
        self.deallocating.push_back((place, name));
    }

    /// What the server is told in place of a text that it answers in this place.
    pub(super) fn moves(&mut self, place: Place, moves: Moves) {
        self.moves.push_back((place, moves));
    }

    /// The server has dropped one statement.
    pub fn deallocated(&mut self, names: &mut Names) {
        if let Some((_, Some(name))) = self.deallocating.pop_front() {
            names.set(name, None);
        }
    }

    /// The server has said that it is ready, so many times in all: what it was to drop before that it has dropped or never will.
    pub fn ready(&mut self, times: u64) {
        while self.deallocating.front().is_some_and(|(place, _)| place.ready <= times) {
            self.deallocating.pop_front();
        }
        while self.moves.front().is_some_and(|(place, _)| place.ready <= times) {
            self.moves.pop_front();
        }
    }

    /// An error that comes in this place, where it speaks of a text that was not the client's: in the client's words.
    pub fn undone(&self, place: Place, error: &[u8]) -> Option<Vec<u8>> {
        self.moves.iter().filter(|(noted, _)| *noted == place).find_map(|(_, moves)| moves.undone(error))
    }

    /// The oldest noted message has come to its end: whether the client is to see that.
    pub fn ended(&mut self) -> bool {
        self.open.pop_front().is_none_or(|note| note.show != Show::Swallow)
    }

    /// The turn of the oldest local answer has come.
    pub fn say_local(&mut self, out: &mut Vec<u8>) {
        if let Some(Note { show: Show::Say(kind), .. }) = self.open.pop_front() {
            out.extend_from_slice(&[kind, 0, 0, 0, 4]);
        }
    }

    /// The error that the client is to hear in place of this one, which is the oldest noted message's.
    pub fn replacement(&self, error: Fields<'_>) -> Option<BytesMut> {
        match self.open.front() {
            Some(Note { show: Show::Exists(name), .. }) if error.sqlstate() == Some(sqlstate::DUPLICATE_STATEMENT_NAME.as_bytes()) => {
                let mut said = BytesMut::new();
                Fault::StatementExists { name: String::from_utf8_lossy(name).into_owned() }.say(&mut said, true);
                Some(said)
            }
            Some(Note { show: Show::Refused(said), .. }) => Some(said.clone()),
            _ => None,
        }
    }

    /// The oldest noted message has failed.
    pub fn failed(&mut self) {
        self.has_failed = true;
    }

    /// Takes back what the oldest so many were to do, the newest of them first. What is so of the unnamed statement then, where one of them was about it, is the
    /// outcome.
    pub fn take_back(&mut self, count: usize, names: &mut Names, prepared: &mut Prepared) -> Option<OfUnnamed> {
        let count = count.min(self.open.len());
        let mut unnamed = None;
        // A Parse of it that fails itself leaves none.
        let has_failed = std::mem::take(&mut self.has_failed);
        let is_failed = has_failed && self.open.front().is_some_and(|note| note.unnamed.is_some());
        for note in self.open.drain(..count).rev() {
            match note.server {
                Server::Untouched => {}
                Server::Lacks(id, name) => prepared.forget_name(id, name),
                Server::Keeps(name) => prepared.doom_again(name),
            }
            if let Some((name, before)) = note.name {
                names.set(name, before);
            }
            unnamed = note.unnamed.or(unnamed);
        }
        if is_failed { Some(OfUnnamed::default()) } else { unnamed.map(|unnamed| *unnamed) }
    }

    /// Takes back all.
    pub fn take_back_all(&mut self, names: &mut Names, prepared: &mut Prepared) -> Option<OfUnnamed> {
        self.deallocating.clear();
        self.moves.clear();
        self.take_back(self.open.len(), names, prepared)
    }

    /// Whether this statement is prepared on the server only if nothing fails in a batch before this one.
    pub(super) fn is_uncertain(&self, id: u64, batch: u64) -> bool {
        self.open.iter().any(|note| matches!(note.server, Server::Lacks(noted, _) if noted == id) && note.batch != batch)
    }

    /// Whether this name is the client's, or is not, only if nothing fails in a batch before this one, or if a text drops no statement that may do so.
    pub(super) fn is_unsettled(&self, name: &[u8], batch: u64) -> bool {
        let noted = |note: &Note| note.name.as_ref().is_some_and(|(noted, _)| **noted == *key(name));
        let is_dropped = self.deallocating.iter().any(|(_, dropped)| dropped.as_ref().is_some_and(|dropped| **dropped == *key(name)));
        is_dropped || self.open.iter().any(|note| note.batch != batch && noted(note))
    }

    /// Whether this statement was prepared on the server by a message that has no answer yet.
    pub fn prepares(&self, id: u64) -> bool {
        self.open.iter().any(|note| matches!(note.server, Server::Lacks(noted, _) if noted == id))
    }
}
