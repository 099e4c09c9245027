//! What calling a function may leave in its session, read from the function's body.
//!
//! A body in SQL or PL/pgSQL is statements with some words around them. Which words begin a statement is all that is known of the language, and what is run from
//! a literal is judged by the literals that the body has; where neither tells, anything may be left.

use super::tokens::{Backslash, Token, Tokens};
use super::{Effects, PinReason, session_state, settings};

/// What a call may leave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traces {
    /// The settings that may have other values afterwards, by their names in lower case, in order.
    pub settings: Vec<Box<[u8]>>,
    /// Whatever else there is, or settings whose names the body does not say.
    pub is_hidden: bool,
}

impl Traces {
    /// Anything at all.
    pub const ANY: Self = Self { settings: Vec::new(), is_hidden: true };

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty() && !self.is_hidden
    }

    /// Adds what another call may leave; whether that is more than was known.
    pub fn add(&mut self, other: &Self) -> bool {
        let before = (self.settings.len(), self.is_hidden);
        for name in &other.settings {
            if let Err(place) = self.settings.binary_search(name) {
                self.settings.insert(place, name.clone());
            }
        }
        self.is_hidden |= other.is_hidden;
        before != (self.settings.len(), self.is_hidden)
    }

    fn add_statement(&mut self, statement: &[u8]) {
        let effects = session_state(statement);
        if effects.changes_settings() {
            let touched = settings(statement);
            let names = [touched.set, touched.set_before, touched.reset].concat();
            self.add(&Self { settings: Vec::new(), is_hidden: touched.is_unknown || touched.resets_all || effects.is_opaque() });
            for name in names {
                self.add(&Self { settings: vec![name], is_hidden: false });
            }
        }
        self.is_hidden |= leaves_more(effects) || unlistens(statement);
    }
}

/// Whether a statement ends something that its client listens to, perhaps by a connection that is not the one that runs it.
fn unlistens(statement: &[u8]) -> bool {
    matches!(Tokens::new(statement, Backslash::Plain).next(), Some(Token::Word(word)) if word.eq_ignore_ascii_case(b"unlisten"))
}

/// Whether something other than a setting is left; the last value of a sequence is asked for by those who know of it.
fn leaves_more(effects: Effects) -> bool {
    // EXECUTE is another statement in PL/pgSQL.
    effects.pins().any(|reason| !matches!(reason, PinReason::Setting | PinReason::Sequence | PinReason::Prepare))
}

/// The words behind which a statement begins.
const BEFORE_STATEMENTS: [&[u8]; 5] = [b"begin", b"then", b"else", b"loop", b"atomic"];

/// The words by which a literal is known for a statement.
const VERBS: [&[u8]; 18] = [
    b"select",
    b"insert",
    b"update",
    b"delete",
    b"create",
    b"alter",
    b"drop",
    b"truncate",
    b"refresh",
    b"grant",
    b"revoke",
    b"comment",
    b"with",
    b"merge",
    b"analyze",
    b"vacuum",
    b"copy",
    b"notify",
];

/// Reads the body of a function in SQL or PL/pgSQL.
pub fn routine(body: &[u8]) -> Traces {
    let mut found = Traces::default();
    let mut tokens = Tokens::new(body, Backslash::Plain);
    let (mut statement, mut to) = (0, 0);
    let mut depth = 0_u32;
    let mut runs_text = false;
    let mut has_verb = false;
    let mut has_traces = false;
    let mut previous: &[u8] = b"";
    while let Some(token) = tokens.next() {
        let from = std::mem::replace(&mut to, body.len().saturating_sub(tokens.left()));
        let word = if let Token::Word(word) = token { word } else { b"" };
        let is_execute = previous.eq_ignore_ascii_case(b"execute");
        runs_text |= is_execute && !is_one_of(word, &[b"function", b"procedure"]);
        previous = word;
        match token {
            Token::Mark(b'(') => depth = depth.saturating_add(1),
            Token::Mark(b')') => depth = depth.saturating_sub(1),
            Token::Mark(b';') => {
                found.add_statement(whole(body, statement, to.saturating_sub(1)));
                (statement, depth) = (to, 0);
            }
            // The end of a label.
            Token::Mark(b'>') if depth == 0 => {
                found.add_statement(whole(body, statement, to.saturating_sub(1)));
                statement = to;
            }
            // CASE has some of these, too: what stands behind them then is no statement that does anything, and it is part of the one that has the CASE.
            Token::Word(word) if depth == 0 && is_one_of(word, &BEFORE_STATEMENTS) => {
                found.add_statement(whole(body, statement, to.saturating_sub(word.len())));
                statement = to;
            }
            Token::Literal => {
                let text = inside(body.get(from..to).unwrap_or_default());
                has_verb |= matches!(Tokens::new(text, Backslash::Plain).next(), Some(Token::Word(word)) if is_one_of(word, &VERBS));
                let effects = session_state(text);
                has_traces |= effects.first_pin().is_some() || effects.is_opaque() || effects.resets_settings() || unlistens(text);
            }
            Token::Word(_) | Token::Quoted(_) | Token::Mark(_) => {}
        }
    }
    found.add_statement(whole(body, statement, body.len()));
    found.is_hidden |= runs_text && (has_traces || !has_verb);
    // Where a literal ends, and so what is a statement, depends on a setting of the server's.
    found.is_hidden |= tokens.depends_on_backslash || tokens.is_undecided;
    found
}

/// One statement, without a first word that says nothing: what CALL calls is looked up by its name, and DO NOTHING is no DO.
fn whole(body: &[u8], from: usize, to: usize) -> &[u8] {
    let statement = body.get(from..to).unwrap_or_default();
    let mut tokens = Tokens::new(statement, Backslash::Plain);
    let is_word =
        |token: Option<Token<'_>>, expected: &[u8]| matches!(token, Some(Token::Word(word)) if word.eq_ignore_ascii_case(expected));
    let first = tokens.next();
    let rest = statement.get(statement.len().saturating_sub(tokens.left())..).unwrap_or_default();
    if is_word(first, b"call") || is_word(first, b"do") && is_word(tokens.next(), b"nothing") { rest } else { statement }
}

/// What stands behind the first quote of a literal, or behind its first dollar quote but for the tag.
pub(super) fn inside(literal: &[u8]) -> &[u8] {
    let Some(quote) = memchr::memchr2(b'\'', b'$', literal) else { return &[] };
    let rest = literal.get(quote.saturating_add(1)..).unwrap_or_default();
    if literal.get(quote) == Some(&b'\'') {
        return rest;
    }
    memchr::memchr(b'$', rest).and_then(|end| rest.get(end.saturating_add(1)..)).unwrap_or_default()
}

fn is_one_of(word: &[u8], words: &[&[u8]]) -> bool {
    words.iter().any(|other| word.eq_ignore_ascii_case(other))
}

/// Tells the words of a text, of which some may be the names of functions or tables: in lower case, unless they are quoted.
pub fn mentions(text: &[u8], mut tell: impl FnMut(&[u8])) {
    for backslash in [Backslash::Plain, Backslash::Escapes] {
        let mut tokens = Tokens::new(text, backslash);
        for token in tokens.by_ref() {
            match token {
                Token::Word(word) => {
                    // Of a longer name the server keeps so much.
                    let mut lower = [0; NAME];
                    if let (Some(lower), Some(word)) = (lower.get_mut(..word.len().min(NAME)), word.get(..word.len().min(NAME))) {
                        lower.copy_from_slice(word);
                        lower.make_ascii_lowercase();
                        tell(lower);
                    }
                }
                Token::Quoted(word) => tell(word),
                Token::Literal | Token::Mark(_) => {}
            }
        }
        if !tokens.depends_on_backslash {
            break;
        }
    }
}

/// The longest name that a server keeps, in bytes.
const NAME: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn leaves(body: &str, settings: &str, is_hidden: bool) {
        let found = routine(body.as_bytes());
        let names: Vec<_> = found.settings.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        assert_eq!((names.join(" ").as_str(), found.is_hidden), (settings, is_hidden), "{body}");
    }

    #[test]
    fn what_a_body_sets_is_named() {
        leaves("BEGIN PERFORM set_config('app.tenant', t, false); END", "app.tenant", false);
        leaves(
            "DECLARE a int := 1;\nBEGIN\n  -- the zone\n  SET TimeZone = 'UTC';\n  IF a THEN SET b.c TO 1; ELSE RESET d; END IF; END",
            "b.c d timezone",
            false,
        );
        leaves("SELECT set_config('app.a', $1, false); SELECT set_config('app.b', $2, false)", "app.a app.b", false);
        leaves("<<outer>> BEGIN SET a = 1; END", "a", false);
        leaves("BEGIN FOR r IN SELECT 1 LOOP SET a = 1; END LOOP; RETURN set_config('b', 'c', x); END", "a b", false);
        leaves(" BEGIN ATOMIC SELECT set_config('a.b'::text, 'c'::text, false); END", "a.b", false);
        leaves("BEGIN PERFORM set_config('a', CASE WHEN b > c THEN d ELSE e END, false); END", "a", false);
        leaves("BEGIN x := CASE WHEN b THEN set_config('a', d, false) ELSE set_config('b', d, false) END; END", "a b", false);
    }

    #[test]
    fn what_ends_with_the_transaction_or_is_no_setting_leaves_nothing() {
        for body in [
            "BEGIN PERFORM set_config('app.tenant', t, true); SET LOCAL work_mem = '1MB'; END",
            "BEGIN UPDATE t\nSET a = CASE WHEN b THEN 1 ELSE 2 END, c = 3 WHERE d; RETURN NEW; END",
            "INSERT INTO t VALUES (1) ON CONFLICT DO UPDATE SET a = 1",
            "MERGE INTO t USING s ON true WHEN MATCHED THEN DO NOTHING WHEN NOT MATCHED THEN INSERT VALUES (1)",
            "BEGIN CALL other(); PERFORM nextval('s'); RETURN currval('s'); END",
            "BEGIN EXECUTE format('INSERT INTO %I VALUES ($1)', name) USING x; END",
            "BEGIN q := 'SELECT count(*) FROM ' || t; EXECUTE q INTO n; RETURN n; END",
            "SELECT current_setting('app.tenant')",
            "",
        ] {
            leaves(body, "", false);
        }
    }

    #[test]
    fn what_a_body_hides_may_be_anything() {
        for body in [
            "BEGIN EXECUTE q; END",
            "BEGIN EXECUTE 'SET work_mem = ' || quote_literal(x); END",
            "BEGIN EXECUTE format('SELECT set_config(%L, %L, false)', a, b); END",
            "BEGIN PERFORM set_config(name, value, false); END",
            "BEGIN CREATE TEMP TABLE t (a int); END",
            "BEGIN PERFORM pg_advisory_lock(1); END",
            "BEGIN LISTEN a; END",
            "BEGIN RESET ALL; END",
            "SELECT query_to_xml($1, true, true, '')",
        ] {
            leaves(body, "", true);
        }
        leaves("SELECT 'a\\', set_config('b', 'c', false) --'", "b", true);
    }

    #[test]
    fn names_are_found_wherever_they_stand() {
        let has = |text: &str, name: &str| {
            let mut found = false;
            mentions(text.as_bytes(), |word| found |= word == name.as_bytes());
            found
        };
        assert!(has("SELECT App.Set_Tenant(1)", "set_tenant") && has("SELECT \"Set\"()", "Set") && has("select 'a\\', f() --'", "f"));
        assert!(!has("SELECT 'set_tenant()' /* set_tenant */", "set_tenant") && !has("SELECT \"set\"()", "Set"));
        assert!(has(&"x".repeat(70), &"x".repeat(63)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..120)) {
            routine(&body);
            mentions(&body, |_| {});
        }

        #[test]
        fn what_is_more_is_told(names in prop::collection::vec("[a-c]", 0..6), more in "[a-d]") {
            let mut all = Traces::default();
            for name in &names {
                all.add(&Traces { settings: vec![name.as_bytes().into()], is_hidden: false });
            }
            prop_assert!(all.settings.is_sorted());
            let is_new = !names.contains(&more);
            prop_assert_eq!(all.add(&Traces { settings: vec![more.as_bytes().into()], is_hidden: false }), is_new);
        }
    }
}
