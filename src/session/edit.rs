//! What is changed in the messages of a lease whose client uses prepared statements, and in the server's answers.

use std::cell::RefCell;

use super::names::Names;
use super::said::with_own_name;
use super::statements::{Notes, Place};
use crate::upstream::{Answer, Owed, Prepared};
use crate::wire::message::{self, Fields};

/// The largest buffer that a worker keeps for its next use, in bytes, and how many edits.
const SPARE_BYTES: usize = 64 << 10;
const SPARE_EDITS: usize = 64;

thread_local! {
    #[expect(clippy::vec_box, reason = "they are handed out in their boxes")]
    static SPARE: RefCell<(Vec<u8>, Vec<Box<Edit>>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// What is changed in the messages of one lease.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, and none implies another")]
#[derive(Debug, Default)]
pub struct Edit {
    pub(super) notes: Notes,
    /// A head that a chunk's end has cut: whether the client is to see its message is not known yet.
    pub(super) carry: Vec<u8>,
    /// The rest of the current message is not for the client.
    pub(super) dropping: bool,
    /// The client's last batch, where it could be run again.
    pub(super) retry: Vec<u8>,
    /// It has failed and is run again once its answer has ended.
    pub(super) healing: bool,
    /// That was done once: a second failure is the client's.
    pub(super) healed: bool,
    /// What is healing has not failed, but waits for what it speaks of to be prepared.
    pub(super) prepares: bool,
    /// That is done, for the message that is rewritten now.
    pub(super) has_prepared: bool,
    /// The message that is rewritten now is one of those that wait ..
    pub(super) puts_off: bool,
    /// .. until everything before them is answered.
    pub(super) later: Vec<u8>,
}

impl Edit {
    /// A new one, or one that has been used before.
    pub(super) fn spare() -> Box<Self> {
        SPARE.with_borrow_mut(|(_, edits)| edits.pop()).unwrap_or_default()
    }

    /// Keeps it for another use.
    pub(super) fn put_by(mut self: Box<Self>) {
        self.empty();
        SPARE.with_borrow_mut(|(_, edits)| {
            if edits.len() < SPARE_EDITS {
                edits.push(self);
            }
        });
    }

    /// Whether the server's answers need a closer look.
    #[inline]
    pub(super) fn is_needed(&self) -> bool {
        !self.notes.is_empty() || !self.retry.is_empty() || !self.carry.is_empty() || self.dropping || !self.later.is_empty()
    }

    /// Whether the client is to see a frame as it is; what it is to see instead is written.
    pub(super) fn shows(&mut self, answer: Answer, body: &[u8], out: &mut Vec<u8>) -> bool {
        if answer == Answer::Fails {
            self.notes.failed();
            if self.prepares {
                self.give_up();
            }
        }
        match answer {
            Answer::Ends => self.notes.ended(),
            Answer::Fails if !self.healing => match self.notes.replacement(Fields::new(body)) {
                Some(error) => {
                    out.extend_from_slice(&error);
                    false
                }
                None => true,
            },
            Answer::Passes | Answer::Fails => true,
        }
    }

    /// Whether the client is to see nothing of a frame of this type, since its batch is run again: what belongs to no message passes all the same.
    pub(super) fn hides(&self, kind: u8) -> bool {
        self.healing && !matches!(kind, b'S' | b'N' | b'A')
    }

    /// Writes an error that speaks of what the client has not said in its words; false where it speaks of nothing else.
    #[cold]
    pub(super) fn says_in_own_words(&self, body: &[u8], (owed, names, prepared): (&Owed, &Names, &Prepared), out: &mut Vec<u8>) -> bool {
        let ready = owed.batch().wrapping_sub(owed.readies().into()).wrapping_add(1);
        let undone = self.notes.undone(Place { ready, is_query: owed.is_answering_query() }, body);
        let said = undone.or_else(|| with_own_name(body, names, prepared));
        out.extend_from_slice(said.as_deref().unwrap_or_default());
        said.is_some()
    }

    /// The batch that might be run again is not the last any more.
    #[inline]
    pub(super) fn more_was_sent(&mut self) {
        self.retry.clear();
    }

    /// Says what is the proxy's to say and has its turn now.
    pub(super) fn say_due(&mut self, owed: &mut Owed, out: &mut Vec<u8>) {
        while owed.take_local() {
            self.notes.say_local(out);
        }
    }

    /// What a message speaks of could not be prepared: it has failed with that.
    #[cold]
    pub(super) fn give_up(&mut self) {
        (self.prepares, self.healing) = (false, false);
        self.later = message::first(&self.retry).map_or_else(Vec::new, |(_, rest)| rest.to_vec());
        self.retry.clear();
    }

    fn empty(&mut self) {
        self.carry.clear();
        self.retry.clear();
        self.later.clear();
        (self.dropping, self.healing, self.healed, self.prepares, self.puts_off) = (false, false, false, false, false);
    }
}

/// The server has dropped all prepared statements that it had when the last unanswered command was sent.
#[cold]
pub fn forget_statements(edit: Option<&Edit>, names: &mut Names, prepared: &mut Prepared) {
    let none = Notes::default();
    let notes = edit.map_or(&none, |edit| &edit.notes);
    names.clear(notes);
    prepared.clear_but(|id| notes.prepares(id));
}

/// What of a batch would be run again if its first message at the server failed: all behind its Parses, which were answered here. `None` where more than one thing
/// would be done, so that it cannot be.
pub fn one_execution(batch: &[u8]) -> Option<&[u8]> {
    let (mut rest, mut again, mut executions) = (batch, batch, 0);
    while let Some(&[kind, a, b, c, d]) = rest.first_chunk::<5>() {
        let is_first = rest.len() == again.len();
        rest = rest.get(u32::from_be_bytes([a, b, c, d]) as usize + 1..)?;
        match kind {
            b'P' if is_first => again = rest,
            b'B' | b'D' => {}
            b'E' => executions += 1,
            b'S' if rest.is_empty() && executions <= 1 => return Some(again),
            _ => return None,
        }
    }
    None
}

/// Writes into a buffer that the worker keeps.
pub fn with_spare<T>(work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut spare = SPARE.with_borrow_mut(|(bytes, _)| std::mem::take(bytes));
    let outcome = work(&mut spare);
    if spare.capacity() <= SPARE_BYTES {
        spare.clear();
        SPARE.with_borrow_mut(|(bytes, _)| *bytes = spare);
    }
    outcome
}
