//! Where a text speaks of prepared statements by name, so that it can be made to speak of them by others.
//!
//! Statements prepared through the protocol and with PREPARE share one set of names on a server (checklist D8). Where the reader cannot be sure of the text
//! (a literal whose end depends on a setting, a name spelled by code points), it finds nothing.

use std::ops::Range;

use super::tokens::{Backslash, Token, Tokens};

/// What a text says of a prepared statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mention {
    /// `EXECUTE name`, also behind EXPLAIN and `CREATE TABLE .. AS`.
    Runs(Vec<u8>),
    /// `PREPARE name`.
    Makes(Vec<u8>),
    /// `DEALLOCATE name`.
    Drops(Vec<u8>),
    /// The view of the prepared statements, or its function, as a table of a query: under which name, where it is given no other.
    Lists(Option<&'static str>),
}

impl Mention {
    /// The name of the statement, where it is of one.
    pub fn name(&self) -> Option<&[u8]> {
        match self {
            Self::Runs(name) | Self::Makes(name) | Self::Drops(name) => Some(name),
            Self::Lists(_) => None,
        }
    }
}

/// What the statement has said so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Head {
    /// Nothing.
    Start,
    /// What comes next is a name to run, to make or to drop.
    Execute,
    Prepare,
    Deallocate,
    /// EXPLAIN and words of its own.
    Explain,
    /// CREATE: what it makes may be what a statement yields; a query in it is kept for later.
    Create,
    /// A query, or something with one in it.
    Query,
    /// It can say nothing more.
    Done,
}

struct Scout<'a> {
    sql: &'a [u8],
    tokens: Tokens<'a>,
    head: Head,
    /// How many parentheses are open.
    depth: usize,
    /// Whether the tokens are among a query's tables, for each parenthesis that is open.
    among_tables: Vec<bool>,
    before: Option<Token<'a>>,
    found: Vec<(Range<usize>, Mention)>,
}

/// The places at which a text speaks of prepared statements, in order: what stands there is a name, or a table of a query.
pub fn spoken(sql: &[u8]) -> Vec<(Range<usize>, Mention)> {
    let tokens = Tokens::new(sql, Backslash::Plain);
    let mut scout = Scout { sql, tokens, head: Head::Start, depth: 0, among_tables: vec![false], before: None, found: Vec::new() };
    while let Some(token) = scout.tokens.next() {
        scout.read(token);
        scout.before = Some(token);
    }
    if scout.tokens.depends_on_backslash || scout.tokens.is_undecided { Vec::new() } else { scout.found }
}

impl<'a> Scout<'a> {
    /// Where the token ends that was read last.
    fn here(&self) -> usize {
        self.sql.len().saturating_sub(self.tokens.left())
    }

    /// Where it stands.
    fn place(&self, token: Token<'_>) -> Range<usize> {
        let end = self.here();
        let length = match token {
            Token::Word(word) => word.len(),
            Token::Quoted(word) => word.len().saturating_add(2),
            Token::Literal | Token::Mark(_) => 1,
        };
        end.saturating_sub(length)..end
    }

    fn read(&mut self, token: Token<'a>) {
        match token {
            Token::Mark(b';') if self.depth == 0 => {
                self.head = Head::Start;
                self.among_tables = vec![false];
                return;
            }
            // Only the actions of a rule are written like that: whatever comes behind it runs nothing.
            Token::Mark(b';') if matches!(self.head, Head::Explain | Head::Create) => self.head = Head::Done,
            Token::Mark(b'(') => {
                self.depth = self.depth.saturating_add(1);
                self.among_tables.push(false);
            }
            Token::Mark(b')') => {
                self.depth = self.depth.saturating_sub(1);
                if self.among_tables.len() > 1 {
                    self.among_tables.pop();
                }
            }
            _ => {}
        }
        match self.head {
            Head::Start => self.begin(token),
            Head::Execute => self.name(token, Mention::Runs),
            Head::Prepare if !is(token, b"transaction") => self.name(token, Mention::Makes),
            Head::Deallocate => self.drop(token),
            Head::Explain => self.explain(token),
            Head::Create if is(token, b"execute") && self.before.is_some_and(|before| is(before, b"as")) => self.head = Head::Execute,
            Head::Query => self.query(token),
            Head::Create | Head::Prepare | Head::Done => {}
        }
    }

    fn begin(&mut self, token: Token<'a>) {
        let heads: [(&[u8], Head); 6] = [
            (b"execute", Head::Execute),
            (b"prepare", Head::Prepare),
            (b"deallocate", Head::Deallocate),
            (b"explain", Head::Explain),
            (b"create", Head::Create),
            (b"alter", Head::Done),
        ];
        self.head = heads.iter().find(|(word, _)| is(token, word)).map_or(Head::Query, |(_, head)| *head);
    }

    fn explain(&mut self, token: Token<'a>) {
        if self.depth > 0 || token == Token::Mark(b')') || [&b"analyze"[..], b"analyse", b"verbose"].iter().any(|word| is(token, word)) {
            return;
        }
        self.begin(token);
        if matches!(self.head, Head::Prepare | Head::Deallocate) {
            // That is nothing to explain.
            self.head = Head::Done;
        }
    }

    /// `DEALLOCATE [PREPARE] name`.
    fn drop(&mut self, token: Token<'a>) {
        let is_prepare = is(token, b"prepare") && !self.before.is_some_and(|before| is(before, b"prepare"));
        if is_prepare && matches!(self.ahead().next(), Some(Token::Word(_) | Token::Quoted(_))) {
            return;
        }
        if is(token, b"all") {
            self.head = Head::Done;
        } else {
            self.name(token, Mention::Drops);
        }
    }

    fn ahead(&self) -> Tokens<'a> {
        Tokens::new(self.sql.get(self.here()..).unwrap_or_default(), Backslash::Plain)
    }

    fn name(&mut self, token: Token<'a>, mention: impl FnOnce(Vec<u8>) -> Mention) {
        self.head = Head::Done;
        let name = match token {
            Token::Word(word) => word.to_ascii_lowercase(),
            Token::Quoted(word) => unquoted(word),
            Token::Literal | Token::Mark(_) => return,
        };
        self.found.push((self.place(token), mention(name)));
    }

    /// A token of a query: whether it is the view, as one of its tables.
    fn query(&mut self, token: Token<'a>) {
        let starts_tables = self.before.is_some_and(|before| is(before, b"from") || is(before, b"join"));
        let is_among = self.among_tables.last().copied().unwrap_or_default();
        if let Some(among) = self.among_tables.last_mut()
            && let Token::Word(word) = token
        {
            let ends = ENDS_TABLES.iter().any(|end| word.eq_ignore_ascii_case(end));
            *among = word.eq_ignore_ascii_case(b"from") || *among && !ends;
        }
        if !(starts_tables || is_among && self.before == Some(Token::Mark(b','))) {
            return;
        }
        let start = self.place(token).start;
        let mut ahead = self.ahead();
        let mut table = token;
        if is_named(token, b"pg_catalog") && ahead.next() == Some(Token::Mark(b'.')) {
            let Some(second) = ahead.next() else { return };
            table = second;
        } else {
            ahead = self.ahead();
        }
        let name = if is_named(table, b"pg_prepared_statements") {
            "pg_prepared_statements"
        } else if is_named(table, b"pg_prepared_statement")
            && ahead.next() == Some(Token::Mark(b'('))
            && ahead.next() == Some(Token::Mark(b')'))
        {
            "pg_prepared_statement"
        } else {
            return;
        };
        let end = self.sql.len().saturating_sub(ahead.left());
        let has_own = match ahead.next() {
            Some(Token::Mark(b'.' | b'(' | b'*')) => return,
            Some(Token::Quoted(_)) => true,
            Some(Token::Word(word)) => !FOLLOWS_TABLE.iter().any(|known| word.eq_ignore_ascii_case(known)),
            Some(Token::Literal | Token::Mark(_)) | None => false,
        };
        self.found.push((start..end, Mention::Lists((!has_own).then_some(name))));
    }
}

/// The words behind which no more tables of the same query come.
const ENDS_TABLES: [&[u8]; 12] =
    [b"select", b"where", b"group", b"having", b"window", b"order", b"limit", b"offset", b"fetch", b"for", b"set", b"returning"];

/// The words that may stand behind a table and are no other name of it.
const FOLLOWS_TABLE: [&[u8]; 25] = [
    b"where",
    b"group",
    b"having",
    b"window",
    b"order",
    b"limit",
    b"offset",
    b"fetch",
    b"for",
    b"union",
    b"intersect",
    b"except",
    b"join",
    b"inner",
    b"left",
    b"right",
    b"full",
    b"cross",
    b"natural",
    b"on",
    b"using",
    b"tablesample",
    b"returning",
    b"set",
    b"into",
];

fn is(token: Token<'_>, word: &[u8]) -> bool {
    matches!(token, Token::Word(found) if found.eq_ignore_ascii_case(word))
}

/// Whether a token is this name, which is in lower case.
fn is_named(token: Token<'_>, name: &[u8]) -> bool {
    is(token, name) || token == Token::Quoted(name)
}

fn unquoted(word: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(word.len());
    let mut bytes = word.iter();
    while let Some(byte) = bytes.next() {
        name.push(*byte);
        if *byte == b'"' {
            bytes.next();
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found, and the words it is found in.
    fn found(sql: &str) -> Vec<(String, Mention)> {
        spoken(sql.as_bytes()).into_iter().map(|(place, mention)| (sql.get(place).unwrap_or("?").to_owned(), mention)).collect()
    }

    fn runs(written: &str, name: &str) -> (String, Mention) {
        (written.to_owned(), Mention::Runs(name.into()))
    }

    #[test]
    fn d8_statements_are_run_made_and_dropped_by_name() {
        assert_eq!(found("EXECUTE Abc (1, 'EXECUTE x')"), [runs("Abc", "abc")]);
        assert_eq!(found("/* execute no */ execute \"A\"\"b\"(1)"), [runs("\"A\"\"b\"", "A\"b")]);
        assert_eq!(found("EXPLAIN EXECUTE a(1)"), [runs("a", "a")]);
        assert_eq!(found("explain (analyze, format json) execute a"), [runs("a", "a")]);
        assert_eq!(found("EXPLAIN ANALYZE VERBOSE EXECUTE a"), [runs("a", "a")]);
        assert_eq!(found("CREATE TABLE t AS EXECUTE a(1) WITH NO DATA"), [runs("a", "a")]);
        assert_eq!(found("EXPLAIN CREATE TABLE t AS EXECUTE a"), [runs("a", "a")]);
        let all = found("BEGIN; EXECUTE a; DEALLOCATE prepare b; PREPARE c AS SELECT 1; deallocate d; COMMIT");
        let expected = [
            runs("a", "a"),
            ("b".into(), Mention::Drops("b".into())),
            ("c".into(), Mention::Makes("c".into())),
            ("d".into(), Mention::Drops("d".into())),
        ];
        assert_eq!(all, expected);
        for sql in ["DEALLOCATE prepare", "DEALLOCATE PREPARE prepare"] {
            assert_eq!(found(sql), [("prepare".into(), Mention::Drops("prepare".into()))], "{sql}");
        }
    }

    #[test]
    fn other_uses_of_the_words_are_none() {
        for sql in [
            "PREPARE TRANSACTION 'x'",
            "DEALLOCATE ALL",
            "DEALLOCATE PREPARE ALL",
            "SELECT execute FROM a",
            "EXPLAIN SELECT execute FROM a",
            "CREATE TRIGGER t AFTER INSERT ON a FOR EACH ROW EXECUTE FUNCTION f()",
            "DO $$ BEGIN EXECUTE a; END $$",
            "SELECT 'x; EXECUTE a'",
            "SELECT '\\'; EXECUTE a; --'",
            "EXPLAIN (ANALYZE; SET a = 1) EXECUTE a",
            "CREATE TABLE t AS (SELECT 1; SELECT 2) AS EXECUTE a",
            "EXPLAIN PREPARE a AS SELECT 1",
            "EXPLAIN DEALLOCATE a",
            "EXECUTE U&\"a\"",
            "EXECUTE",
            "EXECUTE 'a'",
            "",
        ] {
            assert_eq!(found(sql), [], "{sql}");
        }
    }

    #[test]
    fn the_view_is_found_where_it_is_a_table() {
        let view = "pg_prepared_statements";
        let lists = |written: &str, name: Option<&'static str>| [(written.to_owned(), Mention::Lists(name))];
        for sql in [
            "SELECT * FROM pg_prepared_statements",
            "SELECT * FROM pg_prepared_statements WHERE name = 'a'",
            "SELECT pg_prepared_statements.name FROM a, pg_prepared_statements ORDER BY 1",
            "SELECT (SELECT count(*) FROM pg_prepared_statements), 1",
            "SELECT * FROM a JOIN pg_prepared_statements ON true",
            "WITH x AS (SELECT * FROM pg_prepared_statements) SELECT * FROM x",
        ] {
            assert_eq!(found(sql), lists(view, Some(view)), "{sql}");
        }
        for sql in ["SELECT p.name FROM pg_prepared_statements p", "SELECT 1 FROM a JOIN pg_prepared_statements AS p USING (name)"] {
            assert_eq!(found(sql), lists(view, None), "{sql}");
        }
        assert_eq!(found("SELECT * FROM pg_catalog.\"pg_prepared_statements\" x"), lists("pg_catalog.\"pg_prepared_statements\"", None));
        let function = "pg_prepared_statement";
        assert_eq!(found("SELECT * FROM pg_prepared_statement ( )"), lists("pg_prepared_statement ( )", Some(function)));
    }

    #[test]
    fn the_view_is_left_where_it_is_none() {
        for sql in [
            "SELECT pg_prepared_statements FROM a",
            "SELECT a, pg_prepared_statements FROM b",
            "SELECT pg_prepared_statement()",
            "SELECT 'pg_prepared_statements'::regclass",
            "CREATE VIEW v AS SELECT * FROM pg_prepared_statements",
            "PREPARE p AS SELECT * FROM pg_prepared_statements",
            "SELECT * FROM mine.pg_prepared_statements",
            "SELECT extract(epoch FROM x), pg_prepared_statements.name FROM a",
        ] {
            let lists = found(sql).into_iter().filter(|(_, mention)| matches!(mention, Mention::Lists(_))).count();
            assert_eq!(lists, 0, "{sql}");
        }
    }
}
