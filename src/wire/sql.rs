//! What a statement's text tells about the server session it runs in: whether running it may leave something behind that
//! outlives its transaction, and would be lost or leaked when the next transaction runs elsewhere (checklist I3, I7, E5).
//!
//! The reader knows the words and the shape of statements, never their full grammar, and errs on the side of caution: what
//! the text can tell it does not miss, and now and then it names a reason where nothing is left. What no text tells is not
//! its business: what functions set or lock inside, which [`routine()`] reads of their bodies. It allocates nothing, and takes time in
//! proportion to the text.

mod deadline;
mod reader;
mod routine;
mod settings;
mod spoken;
mod tokens;
mod words;

#[cfg(test)]
mod tests;

use std::ops::Range;

pub use deadline::{Term, Terms, comment, is_neutral, neutral, terms};
pub use routine::{Traces, mentions, routine};
pub use settings::{RIGHTS, Touched, is_right, settings};
pub use spoken::{Mention, spoken};

use reader::Reader;
use tokens::{Backslash, Token, Tokens};

/// Why a client must keep its server connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PinReason {
    /// A setting, the role or the session's user: SET, RESET, `set_config`.
    Setting,
    /// LISTEN.
    Listen,
    /// Something in the session's temporary schema.
    Temp,
    /// A lock that only its session can release.
    AdvisoryLock,
    /// A cursor WITH HOLD.
    Cursor,
    /// A statement prepared with PREPARE, or the use of one.
    Prepare,
    /// A library that LOAD put into the server process.
    Load,
    /// `currval` or `lastval`: they read what an earlier `nextval` left in the session.
    Sequence,
    /// Something else that lives and dies with the session: a seed, a backup, a replication slot, a dblink connection.
    Session,
}

impl PinReason {
    /// Every reason, in the order of [`Effects::pins`].
    pub const ALL: [Self; 9] = [
        Self::Setting,
        Self::Listen,
        Self::Temp,
        Self::AdvisoryLock,
        Self::Cursor,
        Self::Prepare,
        Self::Load,
        Self::Sequence,
        Self::Session,
    ];

    /// The name in metrics and logs, which does not change.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Setting => "setting",
            Self::Listen => "listen",
            Self::Temp => "temp",
            Self::AdvisoryLock => "advisory_lock",
            Self::Cursor => "cursor",
            Self::Prepare => "prepare",
            Self::Load => "load",
            Self::Sequence => "sequence",
            Self::Session => "session",
        }
    }

    /// Its place in [`ALL`](Self::ALL).
    pub const fn place(self) -> usize {
        match self {
            Self::Setting => 0,
            Self::Listen => 1,
            Self::Temp => 2,
            Self::AdvisoryLock => 3,
            Self::Cursor => 4,
            Self::Prepare => 5,
            Self::Load => 6,
            Self::Sequence => 7,
            Self::Session => 8,
        }
    }

    const fn bit(self) -> u16 {
        1 << self.place()
    }
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, and none implies another")]
/// What running a text may do to its server session.
///
/// A text may both leave and clear; which came first is not kept. Take what it clears off what the session had before, then add
/// what it leaves. It clears only if it succeeds, and if its transaction commits: the server's answer tells that, not the text.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Effects {
    leaves: u16,
    clears: u16,
    is_opaque: bool,
    clears_all: bool,
    resets_settings: bool,
    deallocates: bool,
    lists_statements: bool,
    executes: bool,
    releases: bool,
    defines: bool,
}

impl Effects {
    /// Whether the text does nothing to its session, neither for certain nor perhaps, and is not about prepared statements.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Whether a setting may have another value afterwards.
    pub const fn changes_settings(self) -> bool {
        self.leaves & PinReason::Setting.bit() != 0 || self.is_opaque || self.resets_settings
    }

    /// DEALLOCATE of one statement.
    pub const fn deallocates(self) -> bool {
        self.deallocates
    }

    /// EXECUTE of a prepared statement: that is a reason to stay ([`PinReason::Prepare`]) where PREPARE has made it.
    pub const fn executes(self) -> bool {
        self.executes
    }

    /// The same where all that is executed was prepared through the protocol, and follows its client.
    #[must_use]
    pub const fn but_executing(self) -> Self {
        Self { executes: false, ..self }
    }

    /// Whether the text speaks of prepared statements by name: what it says is not what the server is to be told.
    pub const fn mentions_statements(self) -> bool {
        self.deallocates || self.lists_statements || self.executes || self.leaves & PinReason::Prepare.bit() != 0
    }

    /// Whether the text may take back something that the session was left: DROP, UNLISTEN, CLOSE, DEALLOCATE, DISCARD, the release of an advisory lock.
    pub const fn releases(self) -> bool {
        self.releases
    }

    /// Whether the text may make a function, or something that calls one: CREATE, but of temporary things and of tables.
    pub const fn defines(self) -> bool {
        self.defines
    }

    /// Whether the text may show which statements are prepared: `pg_prepared_statements`.
    pub const fn lists_statements(self) -> bool {
        self.lists_statements
    }

    /// Whether the text may leave this behind.
    pub const fn may_leave(self, reason: PinReason) -> bool {
        self.leaves & reason.bit() != 0 || self.executes && matches!(reason, PinReason::Prepare)
    }

    /// The first reason to keep the client on its server connection.
    pub fn first_pin(self) -> Option<PinReason> {
        self.pins().next()
    }

    /// Every reason to keep the client on its server connection.
    pub fn pins(self) -> impl Iterator<Item = PinReason> {
        PinReason::ALL.into_iter().filter(move |reason| self.may_leave(*reason))
    }

    /// Whether a part of the text is hidden from the reader and may do anything: DO, CALL, a function that runs a literal.
    pub const fn is_opaque(self) -> bool {
        self.is_opaque
    }

    /// Whether the text ends everything of this kind in the session. LOAD and [`PinReason::Session`] nothing ends.
    pub const fn clears(self, reason: PinReason) -> bool {
        self.clears & reason.bit() != 0
    }

    /// DISCARD ALL. With [`clears`](Self::clears) of [`PinReason::Prepare`] (DEALLOCATE ALL does so too) the statements that
    /// were prepared through the protocol are gone as well.
    pub const fn clears_all(self) -> bool {
        self.clears_all
    }

    /// RESET ALL, also as part of DISCARD ALL: settings are again what they were when the server session began. By itself it
    /// does not [`clear`](Self::clears) [`PinReason::Setting`], for the role and the session's user stay.
    pub const fn resets_settings(self) -> bool {
        self.resets_settings
    }

    /// What either text may do.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self {
            leaves: self.leaves | other.leaves,
            clears: self.clears | other.clears,
            is_opaque: self.is_opaque || other.is_opaque,
            clears_all: self.clears_all || other.clears_all,
            resets_settings: self.resets_settings || other.resets_settings,
            deallocates: self.deallocates || other.deallocates,
            lists_statements: self.lists_statements || other.lists_statements,
            executes: self.executes || other.executes,
            releases: self.releases || other.releases,
            defines: self.defines || other.defines,
        }
    }

    fn leave(&mut self, reason: PinReason) {
        self.leaves |= reason.bit();
    }

    fn clear(&mut self, reason: PinReason) {
        self.clears |= reason.bit();
    }

    fn discard_all(&mut self) {
        for reason in PinReason::ALL {
            if !matches!(reason, PinReason::Load | PinReason::Session) {
                self.clear(reason);
            }
        }
        self.clears_all = true;
        self.resets_settings = true;
    }
}

/// Whether a transaction that has failed would still take this statement: one that ends it, or goes back to a savepoint.
pub fn ends_transaction(sql: &[u8]) -> bool {
    let mut tokens = Tokens::new(sql, Backslash::Plain);
    let Some(Token::Word(first)) = tokens.next() else { return false };
    if first.eq_ignore_ascii_case(b"prepare") {
        return matches!(tokens.next(), Some(Token::Word(word)) if word.eq_ignore_ascii_case(b"transaction"));
    }
    [&b"commit"[..], b"end", b"rollback", b"abort"].iter().any(|word| first.eq_ignore_ascii_case(word))
}

/// Whether a text is one statement, as far as can be seen at a glance, that a transaction that has failed would refuse: it begins with one of the common words
/// that such a transaction knows nothing to do with. What is not among them may be refused as well.
pub fn needs_sound_transaction(sql: &[u8]) -> bool {
    const WORDS: [&[u8]; 12] =
        [b"select", b"insert", b"update", b"delete", b"with", b"values", b"merge", b"begin", b"start", b"show", b"call", b"copy"];
    let Some(Token::Word(first)) = Tokens::new(sql, Backslash::Plain).next() else { return false };
    let mut end = sql.len();
    while let Some(b';' | b' ' | b'\t' | b'\r' | b'\n') = end.checked_sub(1).and_then(|last| sql.get(last)) {
        end = end.saturating_sub(1);
    }
    WORDS.iter().any(|word| first.eq_ignore_ascii_case(word)) && memchr::memchr(b';', sql.get(..end).unwrap_or_default()).is_none()
}

/// Whether a text does nothing but end a transaction, one that has failed: `ROLLBACK`, `COMMIT`, with `WORK` or `TRANSACTION` behind.
pub fn only_ends_transaction(sql: &[u8]) -> bool {
    let mut tokens = Tokens::new(sql, Backslash::Plain);
    let is_one_of = |token: Option<Token<'_>>, words: &[&[u8]]| match token {
        Some(Token::Word(word)) => words.iter().any(|known| word.eq_ignore_ascii_case(known)),
        _ => false,
    };
    if !is_one_of(tokens.next(), &[b"commit", b"end", b"rollback", b"abort"]) {
        return false;
    }
    let mut next = tokens.next();
    if is_one_of(next, &[b"work", b"transaction"]) {
        next = tokens.next();
    }
    while next == Some(Token::Mark(b';')) {
        next = tokens.next();
    }
    next.is_none()
}

/// A name as it is written in a statement, in quotes.
pub fn quoted_name(name: &[u8]) -> Vec<u8> {
    let mut quoted = vec![b'"'];
    for byte in name {
        if *byte == b'"' {
            quoted.push(b'"');
        }
        quoted.push(*byte);
    }
    quoted.push(b'"');
    quoted
}

/// An escape string, which means the same whatever `standard_conforming_strings` is.
pub fn quoted_literal(bytes: &[u8]) -> Vec<u8> {
    let mut quoted = b"E'".to_vec();
    for byte in bytes {
        if matches!(byte, b'\'' | b'\\') {
            quoted.push(*byte);
        }
        quoted.push(*byte);
    }
    quoted.push(b'\'');
    quoted
}

/// Where each statement of a text begins with its first word, and where it ends, without its semicolon.
pub fn statements(sql: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut tokens = Tokens::new(sql, Backslash::Plain);
    std::iter::from_fn(move || {
        let mut begin = None;
        loop {
            let token = tokens.next();
            let end = sql.len().saturating_sub(tokens.left());
            match (token, begin) {
                (None, None) => return None,
                (None, Some(begin)) => return Some(begin..trimmed(sql, begin, end)),
                (Some(Token::Mark(b';')), Some(begin)) => return Some(begin..trimmed(sql, begin, end.saturating_sub(1))),
                (Some(Token::Mark(b';')), None) | (Some(_), Some(_)) => {}
                (Some(Token::Word(word)), None) => begin = Some(end.saturating_sub(word.len())),
                (Some(_), None) => begin = Some(end.saturating_sub(1)),
            }
        }
    })
}

fn trimmed(sql: &[u8], begin: usize, end: usize) -> usize {
    let written = sql.get(begin..end).unwrap_or_default();
    begin.saturating_add(written.trim_ascii_end().len())
}

/// A number for the shape of a text: the same for texts that differ in their literals, white space, comments and the case of their words only.
pub fn digest(sql: &[u8]) -> u64 {
    // FNV-1a, 64 bit.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut take = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    for token in Tokens::new(sql, Backslash::Plain) {
        match token {
            Token::Word(word) => word.iter().for_each(|byte| take(byte.to_ascii_lowercase())),
            Token::Quoted(word) => word.iter().for_each(|byte| take(*byte)),
            Token::Literal => take(b'?'),
            Token::Mark(mark) => take(mark),
        }
        take(b' ');
    }
    hash
}

/// Reads a text of any number of statements, as a Query or Parse message carries it (without the final zero).
pub fn session_state(sql: &[u8]) -> Effects {
    let (effects, depends_on_backslash) = Reader::new(sql, Backslash::Plain).read();
    if !depends_on_backslash {
        return effects;
    }
    // Where a literal ends depends on a setting of the server's: both readings count. What only one of them clears does not.
    let (other, _) = Reader::new(sql, Backslash::Escapes).read();
    Effects {
        clears: effects.clears & other.clears,
        clears_all: effects.clears_all && other.clears_all,
        resets_settings: effects.resets_settings && other.resets_settings,
        ..effects.union(other)
    }
}
