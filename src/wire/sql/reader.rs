//! One walk over the tokens of a text: which statement begins, what its head decides, and which words of its body count.
//!
//! The head is a state that names what it waits for ([`Expect`]); the body remembers one word back. Nothing is read twice.

use super::tokens::{Backslash, Token, Tokens};
use super::words::{Function, Word, is_temp_schema};
use super::{Effects, PinReason};

/// What the next token of a statement is expected to decide.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// Which statement this is.
    Statement,
    /// After SET: for how long.
    Scope,
    /// After SET LOCAL, SET TRANSACTION, SET CONSTRAINTS: whether that word was a setting's own name after all.
    NameAfterAll,
    /// After RESET.
    Reset,
    /// After DISCARD.
    Discard,
    /// After DEALLOCATE.
    Deallocate,
    /// After DEALLOCATE PREPARE: a name, or that was one.
    DeallocateName,
    /// After PREPARE.
    Prepare,
    /// After PREPARE TRANSACTION: a literal, or it is a statement of that name.
    TransactionName,
    /// After UNLISTEN.
    Unlisten,
    /// After CLOSE.
    Close,
    /// After CREATE: whether it is temporary.
    Persistence,
    /// Nothing any more about the statement itself, only what stands in it.
    Body,
}

/// The statements in whose body some words have a meaning of their own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Create,
    Declare,
    Explain,
    Other,
}

/// The arguments of a `set_config`.
struct Arguments {
    depth: u32,
    commas: u32,
    /// What is known of the third argument: nothing yet; that it is TRUE so far; that it is not just TRUE.
    is_true: Option<bool>,
}

/// One reading of a text.
pub(super) struct Reader<'a> {
    tokens: Tokens<'a>,
    effects: Effects,
    expect: Expect,
    verb: Verb,
    /// The token before, if it was a word with a meaning.
    last: Word,
    /// The statement makes something temporary ..
    makes_temp: bool,
    /// .. that goes with the transaction.
    drops_on_commit: bool,
    arguments: Option<Arguments>,
    /// Only a word with a meaning can change anything now.
    is_calm: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(sql: &'a [u8], backslash: Backslash) -> Self {
        Self {
            tokens: Tokens::new(sql, backslash),
            effects: Effects::default(),
            expect: Expect::Statement,
            verb: Verb::Other,
            last: Word::Other,
            makes_temp: false,
            drops_on_commit: false,
            arguments: None,
            is_calm: false,
        }
    }

    /// The effects, and whether they depend on the meaning of backslashes.
    pub(super) fn read(mut self) -> (Effects, bool) {
        while let Some(token) = self.tokens.step() {
            let word = match token {
                Token::Word(word) => Word::unquoted(word),
                Token::Quoted(word) => Word::quoted(word),
                Token::Mark(b';') => {
                    self.end_statement();
                    continue;
                }
                Token::Literal | Token::Mark(_) => Word::Other,
            };
            if !(self.is_calm && matches!(word, Word::Other)) {
                self.weigh(token, word);
            }
        }
        self.end_statement();
        self.effects.is_opaque |= self.tokens.is_undecided;
        (self.effects, self.tokens.depends_on_backslash)
    }

    /// A token that may count.
    #[inline(never)]
    fn weigh(&mut self, token: Token<'a>, word: Word) {
        self.effects.lists_statements |= word == Word::PreparedStatements;
        if self.expect != Expect::Body {
            self.decide(token, word);
        } else if self.arguments.is_some() {
            self.read_argument(token, word);
        } else {
            self.read_body(token, word);
        }
        self.is_calm = self.expect == Expect::Body && self.arguments.is_none() && self.last == Word::Other && self.verb == Verb::Other;
    }

    #[inline(never)]
    fn end_statement(&mut self) {
        if self.makes_temp && !self.drops_on_commit {
            self.effects.leave(PinReason::Temp);
        }
        // `DEALLOCATE prepare`: the word was a name after all.
        self.effects.deallocates |= matches!(self.expect, Expect::Deallocate | Expect::DeallocateName);
        self.expect = Expect::Statement;
        self.verb = Verb::Other;
        self.last = Word::Other;
        self.makes_temp = false;
        self.drops_on_commit = false;
        self.arguments = None;
        self.is_calm = false;
    }

    /// The head of a statement, one token at a time.
    #[expect(clippy::match_same_arms, reason = "an arm is a rule of one statement")]
    fn decide(&mut self, token: Token<'a>, word: Word) {
        let effects = &mut self.effects;
        let mut next = Expect::Body;
        match (self.expect, word) {
            (Expect::Statement, _) => next = self.begin_statement(token, word),

            (Expect::Scope, Word::Local | Word::Transaction) => next = Expect::NameAfterAll,
            (Expect::Scope, _) => effects.leave(PinReason::Setting),
            // `SET local.x = 1`: the word was the first part of a name.
            (Expect::NameAfterAll, _) => {
                if token == Token::Mark(b'.') {
                    effects.leave(PinReason::Setting);
                }
            }

            (Expect::Reset, Word::All) => effects.resets_settings = true,
            (Expect::Reset, _) => effects.leave(PinReason::Setting),

            (Expect::Discard, Word::All) => effects.discard_all(),
            (Expect::Discard, Word::Temp) => effects.clear(PinReason::Temp),
            (Expect::Discard, Word::Sequences) => effects.clear(PinReason::Sequence),

            (Expect::Deallocate | Expect::DeallocateName, Word::All) => effects.clear(PinReason::Prepare),
            (Expect::Deallocate, Word::Prepare) => next = Expect::DeallocateName,
            (Expect::Deallocate | Expect::DeallocateName, _) => effects.deallocates = true,

            (Expect::Prepare, Word::Transaction) => next = Expect::TransactionName,
            (Expect::Prepare, _) => effects.leave(PinReason::Prepare),
            (Expect::TransactionName, _) => {
                if token != Token::Literal {
                    effects.leave(PinReason::Prepare);
                }
            }

            (Expect::Unlisten, _) => {
                if token == Token::Mark(b'*') {
                    effects.clear(PinReason::Listen);
                }
            }
            (Expect::Close, Word::All) => effects.clear(PinReason::Cursor),

            (Expect::Persistence, Word::Or | Word::Local) => next = Expect::Persistence,
            (Expect::Persistence, Word::Temp) => self.makes_temp = true,
            (Expect::Persistence, _) => {
                effects.defines |= !makes_only_data(token);
                self.last = word;
            }

            (Expect::Discard | Expect::Close | Expect::Body, _) => {}
        }
        self.expect = next;
    }

    /// The first word of a statement.
    fn begin_statement(&mut self, token: Token<'a>, word: Word) -> Expect {
        self.effects.releases |= matches!(word, Word::Discard | Word::Deallocate | Word::Unlisten | Word::Close | Word::Drop);
        match word {
            Word::Set => return Expect::Scope,
            Word::Reset => return Expect::Reset,
            Word::Discard => return Expect::Discard,
            Word::Deallocate => return Expect::Deallocate,
            Word::Prepare => return Expect::Prepare,
            Word::Unlisten => return Expect::Unlisten,
            Word::Close => return Expect::Close,
            Word::Create => {
                self.verb = Verb::Create;
                return Expect::Persistence;
            }
            Word::Listen => self.effects.leave(PinReason::Listen),
            Word::Load => self.effects.leave(PinReason::Load),
            Word::Execute => self.effects.executes = true,
            Word::Do | Word::Call => self.effects.is_opaque = true,
            Word::Declare => self.verb = Verb::Declare,
            Word::Explain => self.verb = Verb::Explain,
            _ => self.read_body(token, word),
        }
        Expect::Body
    }

    /// A token of a statement's body: words that mean something after another, and names of functions before a parenthesis.
    fn read_body(&mut self, token: Token<'a>, word: Word) {
        self.last = self.follow(token, word);
    }

    fn follow(&mut self, token: Token<'a>, word: Word) -> Word {
        match (self.last, word) {
            (Word::Function(function), _) if token == Token::Mark(b'(') => self.call(function),
            // SELECT INTO makes a table; INSERT INTO and MERGE INTO do not.
            (Word::Insert, Word::Into) => return Word::Other,
            (Word::Into, Word::Or | Word::Local) => return Word::Into,
            (Word::Into, Word::Temp) => self.effects.leave(PinReason::Temp),
            (Word::With, Word::Hold) if self.verb == Verb::Declare => {
                self.effects.leave(PinReason::Cursor);
            }
            (Word::On, Word::Commit) => return Word::OnCommit,
            (Word::OnCommit, Word::Drop) => self.drops_on_commit = true,
            (Word::As, Word::Execute) if self.verb == Verb::Create => self.effects.executes = true,
            (Word::Into, _) if names_temp_schema(token) => self.effects.leave(PinReason::Temp),
            _ => self.follow_verb(token, word),
        }
        word
    }

    fn follow_verb(&mut self, token: Token<'a>, word: Word) {
        match (self.verb, word) {
            (Verb::Create, _) if names_temp_schema(token) => self.makes_temp = true,
            // After FOR comes a query, in which WITH has its other meaning.
            (Verb::Declare, Word::For) => self.verb = Verb::Other,
            // What is explained may be run.
            (Verb::Explain, Word::Execute) => self.effects.executes = true,
            (Verb::Explain, Word::Create) => {
                self.verb = Verb::Create;
                self.expect = Expect::Persistence;
            }
            _ => {}
        }
    }

    fn call(&mut self, function: Function) {
        match function {
            Function::Leaves(reason) => self.effects.leave(reason),
            Function::Releases => self.effects.releases = true,
            Function::Runs => self.effects.is_opaque = true,
            Function::SetConfig => {
                self.arguments = Some(Arguments { depth: 1, commas: 0, is_true: None });
            }
        }
    }

    /// A token between the parentheses of `set_config`.
    fn read_argument(&mut self, token: Token<'a>, word: Word) {
        let Some(arguments) = &mut self.arguments else {
            return;
        };
        let mut is_over = false;
        match token {
            // One within another: only the inner would be read to its end, so neither is trusted.
            _ if word == Word::Function(Function::SetConfig) => {
                self.effects.leave(PinReason::Setting);
                is_over = true;
            }
            Token::Mark(b',') if arguments.depth == 1 => {
                arguments.commas = arguments.commas.saturating_add(1);
            }
            Token::Mark(b')') if arguments.depth == 1 => {
                if arguments.is_true != Some(true) {
                    self.effects.leave(PinReason::Setting);
                }
                is_over = true;
            }
            _ => {
                arguments.depth = match token {
                    Token::Mark(b'(') => arguments.depth.saturating_add(1),
                    Token::Mark(b')') => arguments.depth.saturating_sub(1),
                    _ => arguments.depth,
                };
                if arguments.commas == 2 {
                    let is_first = arguments.is_true.is_none();
                    arguments.is_true = Some(is_first && word == Word::True);
                }
            }
        }
        if is_over {
            self.arguments = None;
        }
        self.read_body(token, word);
    }
}

/// Behind CREATE: what calls no function, or hardly ever.
fn makes_only_data(token: Token<'_>) -> bool {
    let data: [&[u8]; 6] = [b"table", b"index", b"unique", b"unlogged", b"sequence", b"type"];
    matches!(token, Token::Word(word) if data.iter().any(|kind| word.eq_ignore_ascii_case(kind)))
}

fn names_temp_schema(token: Token<'_>) -> bool {
    match token {
        Token::Word(word) | Token::Quoted(word) => is_temp_schema(word),
        Token::Literal | Token::Mark(_) => false,
    }
}
