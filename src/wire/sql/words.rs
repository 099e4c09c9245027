//! The words that can matter to a server session: keywords and the functions of PostgreSQL that reach past their transaction.
//!
//! Most words of most statements are none of these, so the search is some multiplications, one look and seldom a comparison.

use super::PinReason;

/// What a word means, wherever it means anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Word {
    /// Nothing to us.
    Other,
    All,
    As,
    Call,
    Close,
    Commit,
    Create,
    Deallocate,
    Declare,
    Discard,
    Do,
    Drop,
    Execute,
    Explain,
    For,
    Hold,
    /// INSERT and MERGE: the INTO that follows names an existing table.
    Insert,
    Into,
    Listen,
    Load,
    Local,
    On,
    /// OR, REPLACE and GLOBAL: what may stand between CREATE and TEMP, beside LOCAL.
    Or,
    Prepare,
    /// The view of the prepared statements, or its function.
    PreparedStatements,
    Reset,
    Sequences,
    Set,
    Temp,
    /// TRANSACTION and CONSTRAINTS: what SET may name that ends with the transaction.
    Transaction,
    True,
    Unlisten,
    With,
    /// The name of a function, if a parenthesis follows.
    Function(Function),
    /// ON and COMMIT, one after the other; no single word means this.
    OnCommit,
}

/// A function that reaches past its transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Function {
    /// It leaves this behind, or reads what was left.
    Leaves(PinReason),
    /// It leaves a setting behind, unless its third argument says that the transaction is to undo it.
    SetConfig,
    /// It releases a lock that the session holds.
    Releases,
    /// It runs a statement that stands in a literal.
    Runs,
}

impl Word {
    /// An unquoted word, in any case.
    #[inline]
    pub(super) fn unquoted(word: &[u8]) -> Self {
        match entry(word) {
            Some((spelling, meaning)) if word.eq_ignore_ascii_case(spelling) => meaning,
            _ => Self::Other,
        }
    }

    /// A quoted word: never a keyword, and only in lower case the name of a function or view.
    pub(super) fn quoted(word: &[u8]) -> Self {
        match entry(word) {
            Some((spelling, meaning @ (Self::Function(_) | Self::PreparedStatements))) if word == spelling => meaning,
            _ => Self::Other,
        }
    }
}

/// Whether this names the session's own temporary schema: `pg_temp`, or `pg_temp_3`.
pub(super) fn is_temp_schema(word: &[u8]) -> bool {
    word.split_at_checked(7).is_some_and(|(name, number)| name.eq_ignore_ascii_case(b"pg_temp") && matches!(number, [] | [b'_', ..]))
}

const fn leaves(reason: PinReason) -> Word {
    Word::Function(Function::Leaves(reason))
}

/// Every word, in lower case. A word whose place in [`PLACES`] is taken stops the build; change the factors of [`place`] then.
static WORDS: [(&[u8], Word); 65] = [
    (b"all", Word::All),
    (b"as", Word::As),
    (b"call", Word::Call),
    (b"close", Word::Close),
    (b"commit", Word::Commit),
    (b"constraints", Word::Transaction),
    (b"create", Word::Create),
    (b"deallocate", Word::Deallocate),
    (b"declare", Word::Declare),
    (b"discard", Word::Discard),
    (b"do", Word::Do),
    (b"drop", Word::Drop),
    (b"execute", Word::Execute),
    (b"explain", Word::Explain),
    (b"for", Word::For),
    (b"global", Word::Or),
    (b"hold", Word::Hold),
    (b"insert", Word::Insert),
    (b"into", Word::Into),
    (b"listen", Word::Listen),
    (b"load", Word::Load),
    (b"local", Word::Local),
    (b"merge", Word::Insert),
    (b"on", Word::On),
    (b"or", Word::Or),
    (b"prepare", Word::Prepare),
    (b"pg_prepared_statement", Word::PreparedStatements),
    (b"pg_prepared_statements", Word::PreparedStatements),
    (b"replace", Word::Or),
    (b"reset", Word::Reset),
    (b"sequences", Word::Sequences),
    (b"set", Word::Set),
    (b"temp", Word::Temp),
    (b"temporary", Word::Temp),
    (b"transaction", Word::Transaction),
    (b"true", Word::True),
    (b"unlisten", Word::Unlisten),
    (b"with", Word::With),
    (b"set_config", Word::Function(Function::SetConfig)),
    (b"pg_advisory_lock", leaves(PinReason::AdvisoryLock)),
    (b"pg_advisory_lock_shared", leaves(PinReason::AdvisoryLock)),
    (b"pg_try_advisory_lock", leaves(PinReason::AdvisoryLock)),
    (b"pg_try_advisory_lock_shared", leaves(PinReason::AdvisoryLock)),
    (b"pg_advisory_unlock", Word::Function(Function::Releases)),
    (b"pg_advisory_unlock_all", Word::Function(Function::Releases)),
    (b"pg_advisory_unlock_shared", Word::Function(Function::Releases)),
    (b"currval", leaves(PinReason::Sequence)),
    (b"lastval", leaves(PinReason::Sequence)),
    (b"setseed", leaves(PinReason::Session)),
    (b"dblink_connect", leaves(PinReason::Session)),
    (b"dblink_connect_u", leaves(PinReason::Session)),
    (b"pg_backup_start", leaves(PinReason::Session)),
    (b"pg_start_backup", leaves(PinReason::Session)),
    (b"pg_replication_origin_session_setup", leaves(PinReason::Session)),
    (b"pg_create_physical_replication_slot", leaves(PinReason::Session)),
    (b"pg_create_logical_replication_slot", leaves(PinReason::Session)),
    (b"pg_copy_physical_replication_slot", leaves(PinReason::Session)),
    (b"pg_copy_logical_replication_slot", leaves(PinReason::Session)),
    (b"query_to_xml", Word::Function(Function::Runs)),
    (b"query_to_xmlschema", Word::Function(Function::Runs)),
    (b"query_to_xml_and_xmlschema", Word::Function(Function::Runs)),
    (b"cursor_to_xml", Word::Function(Function::Runs)),
    (b"cursor_to_xmlschema", Word::Function(Function::Runs)),
    (b"ts_rewrite", Word::Function(Function::Runs)),
    (b"ts_stat", Word::Function(Function::Runs)),
];

/// For each place, which of [`WORDS`] is there; [`NOWHERE`] if none is. Small, so that it stays in the cache.
static PLACES: [u8; 256] = places();

/// No index of [`WORDS`].
const NOWHERE: u8 = u8::MAX;

#[inline]
fn entry(word: &[u8]) -> Option<(&'static [u8], Word)> {
    let (first, last) = (word.first()?, word.last()?);
    let place = usize::from(place(*first, *last, word.len()));
    WORDS.get(usize::from(*PLACES.get(place)?)).copied()
}

/// A word's place, whatever its case.
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "a length past 255 may fall on any place: the words are compared in the end"
)]
#[inline]
const fn place(first: u8, last: u8, length: usize) -> u8 {
    (first | 0x20).wrapping_mul(5).wrapping_add((last | 0x20).wrapping_mul(111)).wrapping_add((length as u8).wrapping_mul(12))
}

#[expect(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions, reason = "only the compiler runs it")]
const fn places() -> [u8; 256] {
    let mut places = [NOWHERE; 256];
    let mut index = 0_u8;
    while (index as usize) < WORDS.len() {
        let word = WORDS[index as usize].0;
        let place = place(word[0], word[word.len() - 1], word.len()) as usize;
        assert!(places[place] == NOWHERE, "two words fall on one place");
        places[place] = index;
        index += 1;
    }
    places
}
