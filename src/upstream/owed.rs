//! What a server connection owes: which answers are still to come, and so whether it may be given to somebody else.
//!
//! It is told the type of every frame that goes to the server and that comes from it, and nothing else: no clock, no bytes. The rules are
//! those of the manual's "Message Flow" and the checklist's C1-C7, C11, E1, F1-F6.
//!
//! What was sent and not yet answered is kept as a queue of runs, oldest first. Each extended message has exactly one answer that ends it
//! (`1 2 3 T n C I s`), each Sync, Query and FunctionCall has exactly one ReadyForQuery; the exceptions are errors and COPY, below.

use std::collections::VecDeque;

use crate::wire::Status;

/// What is owed for a message that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Parse, Bind, Describe, Execute or Close: one ending answer each.
    Extended,
    /// The same, and whoever sent it has something to do when it ends.
    Noted,
    /// Nothing was sent, but the client is owed an answer at this place.
    Local,
    /// A Sync: a ReadyForQuery.
    Sync,
    /// A Query or FunctionCall: a ReadyForQuery.
    Query,
    /// The client's end of a COPY IN: nothing, but it says which Syncs the COPY ate.
    CopyEnd,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    part: Part,
    count: u32,
}

/// What a frame from the server is, to whoever keeps notes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Nothing of theirs.
    Passes,
    /// The end of the oldest noted message.
    Ends,
    /// The error of the oldest noted message, which is among the dropped now.
    Fails,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, and none implies another")]
/// The open account of one server connection. Steady traffic allocates nothing: the queue keeps its few slots.
#[derive(Debug, Default)]
pub struct Owed {
    runs: VecDeque<Run>,
    status: Status,
    /// Extended messages were sent since the last Sync or Query: their unnamed statement and portal live on this server (C5).
    open_batch: bool,
    /// A Query was sent behind such messages, and nothing but Queries since. PostgreSQL 18 leaves the transaction that they share open, and is in no state to begin
    /// another once a Sync alone has ended it: whoever comes next would be refused ("unexpected state STARTED").
    tied: bool,
    /// A Sync was sent that may end such a transaction.
    unties: bool,
    /// The server is in COPY IN and the client has not ended it yet: Syncs and Flushes are ignored by the server (F1).
    copying_in: bool,
    /// The server discards everything up to a Sync that has not been sent yet (C1).
    skipping: bool,
    /// A Sync was taken for eaten by a COPY, or an end for this COPY's: if it fails, what it read before cannot be known from outside.
    guessed: bool,
    /// The account may be wrong: the connection must not be reused.
    doubtful: bool,
    /// How many Syncs and Queries were sent, ever.
    batch: u64,
    /// So many noted messages and local answers, the oldest, will never come to their turn.
    dropped: u32,
}

impl Owed {
    /// The status of the last ReadyForQuery.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Whether the server is idle, outside a transaction, and every frame sent has been answered: only then may it be somebody else's (C3).
    #[inline]
    pub fn is_settled(&self) -> bool {
        self.status == Status::Idle && !self.owes() && !self.open_batch && !self.copying_in && !self.skipping
    }

    /// Whether an answer to something that was sent is still to come, so that the server is working, not waiting for its client.
    #[inline]
    pub fn owes(&self) -> bool {
        match self.runs.front() {
            None => false,
            Some(_) => self.runs.iter().any(|run| run.part != Part::CopyEnd),
        }
    }

    /// The number of the batch that the next message belongs to: what fails in one does not touch the next.
    pub fn batch(&self) -> u64 {
        self.batch
    }

    /// How many times the server is still to say that it is ready, each time perhaps with another status.
    pub fn readies(&self) -> u32 {
        self.runs.iter().filter(|run| matches!(run.part, Part::Sync | Part::Query)).map(|run| run.count).sum()
    }

    /// Whether what the server says next is the answer to a Query or FunctionCall, or part of one.
    pub fn is_answering_query(&self) -> bool {
        self.runs.front().is_some_and(|run| run.part == Part::Query)
    }

    /// Whether the server waits for the client's COPY data.
    pub fn is_copying_in(&self) -> bool {
        self.copying_in
    }

    /// Whether the server discards extended messages until it is sent a Sync.
    pub fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// Whether extended messages wait for a Sync that has not been sent.
    pub fn has_open_batch(&self) -> bool {
        self.open_batch
    }

    /// Whether the account may be wrong, so that the connection must be closed and not reused.
    pub fn is_doubtful(&self) -> bool {
        self.doubtful
    }

    /// A frame of this type was sent to the server.
    #[inline]
    pub fn sent(&mut self, kind: u8) {
        match kind {
            b'Q' | b'F' if !self.skipping => {
                self.tied |= self.open_batch;
                self.open_batch = false;
                self.batch = self.batch.wrapping_add(1);
                self.push(Part::Query);
            }
            b'P' | b'B' | b'D' | b'E' | b'C' => {
                self.open_batch = true;
                self.tied = false;
                if !self.skipping {
                    self.push(Part::Extended);
                }
            }
            b'S' if self.copying_in => self.guessed = true,
            b'S' => {
                self.open_batch = false;
                self.unties |= self.tied;
                self.skipping = false;
                self.batch = self.batch.wrapping_add(1);
                self.push(Part::Sync);
            }
            b'c' | b'f' => self.copy_ended(),
            _ => {}
        }
    }

    /// Before all that this knows of, a Query was sent that is not answered yet.
    pub fn sent_before(&mut self) {
        self.batch = self.batch.wrapping_add(1);
        self.runs.push_front(Run { part: Part::Query, count: 1 });
    }

    /// An extended message was sent to the server whose end [`received`](Self::received) is to tell of. Not while the server is skipping.
    pub fn sent_noted(&mut self) {
        self.open_batch = true;
        self.tied = false;
        self.push(Part::Noted);
    }

    /// The client is owed an answer at this place that is not the server's: [`take_local`](Self::take_local) tells when. Not while the server is skipping.
    pub fn answer_locally(&mut self) {
        self.open_batch = true;
        self.push(Part::Local);
    }

    /// Whether the turn of a local answer has come; true once for each.
    #[inline]
    pub fn take_local(&mut self) -> bool {
        if self.runs.front().is_some_and(|run| run.part == Part::CopyEnd) {
            // Nothing before it could still begin the COPY that it ends.
            self.drop_while(|part| part == Part::CopyEnd);
        }
        let due = self.runs.front().is_some_and(|run| run.part == Part::Local);
        if due {
            self.pop();
        }
        due
    }

    /// How many noted messages and local answers, the oldest, were dropped by an error since this was last asked.
    pub fn take_dropped(&mut self) -> u32 {
        std::mem::take(&mut self.dropped)
    }

    /// Whoever has sent what is not answered yet has left, and its notes with it: nobody waits for a local answer, or asks what was dropped.
    pub fn forget_notes(&mut self) {
        self.dropped = 0;
        if !self.runs.iter().any(|run| matches!(run.part, Part::Noted | Part::Local)) {
            return;
        }
        for Run { part, count } in std::mem::take(&mut self.runs) {
            match part {
                Part::Local => {}
                Part::Noted => self.push_many(Part::Extended, count),
                part => self.push_many(part, count),
            }
        }
    }

    /// A frame of this type came from the server; `status` is the byte that a ReadyForQuery carries.
    #[inline]
    pub fn received(&mut self, kind: u8, status: u8) -> Answer {
        match kind {
            b'Z' => self.ready(status),
            b'1' | b'2' | b'3' | b'T' | b'n' | b'C' | b'I' | b's' => return self.answered(),
            b'G' => self.copy_begun(),
            b'E' => return self.failed(),
            _ => {}
        }
        Answer::Passes
    }

    #[inline]
    fn push(&mut self, part: Part) {
        self.push_many(part, 1);
    }

    #[inline]
    fn push_many(&mut self, part: Part, count: u32) {
        match self.runs.back_mut() {
            Some(run) if run.part == part => run.count = run.count.saturating_add(count),
            _ => self.runs.push_back(Run { part, count }),
        }
    }

    /// Takes one from the oldest run, which must not be empty.
    #[inline]
    fn pop(&mut self) {
        if let Some(run) = self.runs.front_mut() {
            run.count -= 1;
            if run.count == 0 {
                self.runs.pop_front();
            }
        }
    }

    /// Drops runs from the front for as long as they are of these kinds.
    fn drop_while(&mut self, unwanted: impl Fn(Part) -> bool) {
        while let Some(run) = self.runs.front().copied().filter(|run| unwanted(run.part)) {
            if matches!(run.part, Part::Noted | Part::Local) {
                self.dropped = self.dropped.saturating_add(run.count);
            }
            self.runs.pop_front();
        }
    }

    /// An answer that ends an extended message, if it is one of those that are answered now; in a Query's answer it is a row's head or a tag.
    #[inline]
    fn answered(&mut self) -> Answer {
        if self.runs.front().is_some_and(|run| run.part == Part::CopyEnd) {
            self.drop_while(|part| part == Part::CopyEnd);
        }
        match self.runs.front().map(|run| run.part) {
            Some(Part::Extended) => self.pop(),
            Some(Part::Noted) => {
                self.pop();
                return Answer::Ends;
            }
            _ => {}
        }
        Answer::Passes
    }

    #[inline]
    fn ready(&mut self, status: u8) {
        let before = self.status;
        match Status::read(status) {
            Some(status) => self.status = status,
            None => self.doubtful = true,
        }
        self.copying_in = false;
        self.skipping = false;
        self.guessed = false;
        // What stands before the Sync or Query that this answers can have no answer any more.
        self.drop_while(|part| !matches!(part, Part::Sync | Part::Query));
        if self.runs.is_empty() {
            // An answer that nobody was owed: a Sync that was taken for eaten was not.
            self.doubtful = true;
        } else {
            let is_sync = self.runs.front().is_some_and(|run| run.part == Part::Sync);
            self.doubtful |= self.unties && is_sync && before == Status::InTransaction && self.status == Status::Idle;
            self.pop();
            // What the client ended when its COPY had failed already ends nothing.
            self.drop_while(|part| part == Part::CopyEnd);
            self.unties &= !self.runs.is_empty();
            self.tied &= !self.runs.is_empty() || self.status != Status::Idle;
        }
    }

    /// An error in an extended message makes the server discard all up to the next Sync, Queries included; one in a Query does not (C2).
    fn failed(&mut self) -> Answer {
        if self.copying_in || self.guessed {
            self.doubtful |= self.guessed;
            self.copying_in = false;
        }
        self.drop_while(|part| part == Part::CopyEnd);
        let failed = self.runs.front().map(|run| run.part);
        if matches!(failed, Some(Part::Extended | Part::Noted)) {
            self.drop_while(|part| part != Part::Sync);
            self.skipping = self.runs.is_empty();
        }
        if failed == Some(Part::Noted) { Answer::Fails } else { Answer::Passes }
    }

    /// The server has gone into COPY IN. It ignores Syncs until the client ends the COPY: those that were sent already too (F1).
    fn copy_begun(&mut self) {
        self.guessed = false;
        self.copying_in = true;
        self.drop_while(|part| part == Part::CopyEnd);
        let mut at = 0;
        let mut ate = false;
        // The first run is the statement that copies; what follows it is read by the COPY, up to the client's end of it.
        if let Some(run) = self.runs.front()
            && matches!(run.part, Part::Extended | Part::Query)
        {
            at = 1;
        }
        while let Some(run) = self.runs.get_mut(at) {
            match run.part {
                Part::Sync => {
                    self.guessed = true;
                    ate = true;
                    self.runs.remove(at);
                }
                Part::CopyEnd => {
                    self.copying_in = false;
                    self.guessed = true;
                    run.count -= 1;
                    if run.count == 0 {
                        self.runs.remove(at);
                    }
                    break;
                }
                Part::Extended | Part::Noted | Part::Local | Part::Query => at += 1,
            }
        }
        // Without its Sync the batch of a COPY's Execute is open again, unless a later Sync or Query is there to close it.
        let extended = self.runs.front().is_some_and(|run| run.part == Part::Extended);
        if extended && ate && !self.runs.iter().any(|run| matches!(run.part, Part::Sync | Part::Query)) {
            self.open_batch = true;
        }
    }

    fn copy_ended(&mut self) {
        if self.copying_in {
            self.copying_in = false;
        } else if self.owes() {
            self.push(Part::CopyEnd);
        }
    }
}

#[cfg(test)]
mod tests;
