//! A client's unnamed statement, which lives on one server only: whether it is there, and how far that depends on answers that are still to come. Pure.

use crate::wire::message;

/// What has become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stage {
    /// This server has none of the client's.
    #[default]
    Absent,
    /// It was parsed in this batch and not bound yet, and is too long to be remembered.
    Parsed,
    /// It was parsed in this lease and can be parsed again in the next.
    Here,
    /// It was parsed and bound in this lease.
    Bound,
}

/// How far what is known of it depends on answers that are still to come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Doubt {
    #[default]
    No,
    /// If its Parse fails, with nothing without an answer before it but others like it, what the server has by no name may be somebody else's.
    MayBeAnothers,
    /// If a message before it fails, its Parse or Close has done nothing.
    MayBeDiscarded,
}

/// The client's unnamed statement on the server that it has.
#[derive(Debug, Default)]
pub struct Unnamed {
    stage: Stage,
    /// What is in doubt of it in this batch, and of batches before.
    doubt: (Doubt, Doubt),
    /// How many Parses may have left another's.
    parses: u32,
    /// It speaks of other statements by name, and which they are may be another matter in the next batch.
    is_of_batch: bool,
    /// The server had one of the client's before the last Parse or Close that may be discarded, and that was such a one.
    was_here: bool,
    was_of_batch: bool,
}

impl Unnamed {
    /// What has become of it.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// It has been bound.
    pub fn bound(&mut self) {
        self.stage = Stage::Bound;
    }

    /// It was put on this server again.
    pub fn restored(&mut self) {
        self.stage = Stage::Here;
    }

    /// What is on this server speaks of other statements by name, and can be parsed again.
    pub fn speaks(&mut self) {
        if self.stage != Stage::Here {
            return;
        }
        self.is_of_batch = true;
        if self.doubt() == Doubt::No {
            // Where its Parse fails there is none, and none to be parsed again.
            (self.parses, self.doubt.0) = (1, Doubt::MayBeAnothers);
        }
    }

    /// A Parse of it: whether that may be discarded. `in_batch` says that it stands behind messages of its batch without an answer, `owes` behind any.
    pub fn parse(&mut self, stage: Stage, in_batch: bool, owes: bool) -> bool {
        let before = self.doubt();
        let may_be_discarded = in_batch || owes && self.stage == Stage::Absent && before == Doubt::No;
        if may_be_discarded {
            self.may_do_nothing();
        } else if self.stage == Stage::Absent || before != Doubt::No {
            self.parses = if before == Doubt::No { 1 } else { self.parses.saturating_add(1) };
            self.doubt.0 = Doubt::MayBeAnothers;
        }
        (self.stage, self.is_of_batch) = (stage, false);
        may_be_discarded
    }

    /// A Close of it that may be discarded.
    pub fn close_perhaps(&mut self) {
        self.may_do_nothing();
        (self.stage, self.is_of_batch) = (Stage::Absent, false);
    }

    /// There is none for certain.
    pub fn forget(&mut self) {
        (self.stage, self.is_of_batch, self.doubt) = (Stage::Absent, false, (Doubt::No, Doubt::No));
    }

    /// The batch ends.
    pub fn sync(&mut self) {
        self.doubt = (Doubt::No, self.doubt());
        if std::mem::take(&mut self.is_of_batch) {
            self.stage = Stage::Absent;
        }
    }

    /// All is answered.
    #[inline]
    pub fn settle(&mut self) {
        self.doubt = (Doubt::No, Doubt::No);
    }

    /// Something has failed: whether the client has none any more, since it was not parsed.
    pub fn failed(&mut self) -> bool {
        let may_be_anothers = self.doubt() == Doubt::MayBeAnothers;
        if may_be_anothers {
            self.stage = Stage::Absent;
        }
        may_be_anothers && self.parses == 1
    }

    /// A Parse has come to its end, the oldest that was sent.
    #[inline]
    pub fn parsed(&mut self) {
        if self.parses == 1 && self.doubt() == Doubt::MayBeAnothers {
            self.settle();
        }
    }

    /// Whether what a message means depends on which one the server has, and that on answers that are still to come. Behind a Parse or Close of it in the same batch
    /// it does not: where that is not done, neither is what follows.
    #[inline]
    pub fn is_in_doubt(&self, kind: u8, body: &[u8]) -> bool {
        let (here, before) = self.doubt;
        before != Doubt::No
            && match (kind, body) {
                (b'Q', _) | (b'P', [0, ..]) | (b'C', [b'S', 0, ..]) => before == Doubt::MayBeDiscarded,
                (b'D', [b'S', 0, ..]) => here == Doubt::No,
                (b'B', _) => here == Doubt::No && matches!(message::bind(body), Ok((_, []))),
                _ => false,
            }
    }

    /// Where its last Parse or Close may be discarded: whether the server had one of the client's before.
    pub fn may_be_discarded(&self) -> Option<bool> {
        (self.doubt.0 == Doubt::MayBeDiscarded).then_some(self.was_here)
    }

    /// Its last Parse or Close has done nothing.
    pub fn put_back(&mut self, was_here: bool) {
        self.stage = if was_here { Stage::Bound } else { Stage::Absent };
        self.is_of_batch = self.was_of_batch;
    }

    fn doubt(&self) -> Doubt {
        self.doubt.0.max(self.doubt.1)
    }

    fn may_do_nothing(&mut self) {
        self.was_here = self.stage != Stage::Absent && self.doubt() == Doubt::No;
        self.was_of_batch = self.is_of_batch;
        self.doubt.0 = Doubt::MayBeDiscarded;
    }
}
