//! Which run-time settings a text may change beyond its transaction, by name.
//!
//! Read only where [`session_state`](super::session_state) says that there are any: it may take its time, and it may err by naming too many, for whoever is told
//! asks the server for their values.

use super::routine::{Traces, inside, routine};
use super::tokens::{Backslash, Token, Tokens};

/// The settings that say whose rights the session has. RESET ALL leaves them as they are.
pub const RIGHTS: [&str; 2] = ["session_authorization", "role"];

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, and none implies another")]
/// The settings that a text may change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// Names that are given a value, in lower case.
    pub set: Vec<Box<[u8]>>,
    /// Names that go back to what they were when the session began, in lower case; none of them is among `set`.
    pub reset: Vec<Box<[u8]>>,
    /// All go back but for [`RIGHTS`]: RESET ALL, DISCARD ALL. What is in the other lists came after that, or is of those.
    pub resets_all: bool,
    /// Those go back, too: DISCARD ALL.
    pub resets_rights: bool,
    /// Names that were given a value before all went back, in lower case.
    pub set_before: Vec<Box<[u8]>>,
    /// Names that went back and were given a value since, in lower case: where that is undone, they have gone back.
    pub reset_before: Vec<Box<[u8]>>,
    /// Something is changed whose name the text does not say, or that no value describes.
    pub is_unknown: bool,
    /// Not all of it need hold: the text also begins, ends or undoes a transaction, or resets something by a call that it need not reach.
    pub is_doubtful: bool,
    /// A part of the text is hidden and may change any.
    pub is_hidden: bool,
}

impl Touched {
    /// Whether some may go back to what they were when the session began.
    pub fn resets(&self) -> bool {
        self.resets_all || self.all_reset().next().is_some()
    }

    /// Whether those may that say whose rights the session has.
    pub fn resets_a_right(&self) -> bool {
        self.resets_rights || self.all_reset().any(|name| is_right(name))
    }

    /// The names that have gone back, whether they were given a value since or not.
    pub fn all_reset(&self) -> impl Iterator<Item = &Box<[u8]>> {
        self.reset.iter().chain(&self.reset_before)
    }

    /// Adds what another text may change.
    pub fn add(&mut self, other: Self) {
        if other.resets_all {
            self.reset_all(other.resets_rights);
        }
        self.set_before.extend(other.set_before);
        for name in other.reset_before {
            self.note_reset_before(name);
        }
        for name in other.reset {
            self.note(name, true);
        }
        for name in other.set {
            self.note(name, false);
        }
        self.is_unknown |= other.is_unknown;
        self.is_doubtful |= other.is_doubtful;
        self.is_hidden |= other.is_hidden;
    }

    /// The same without the names that are not `known`, for what has them is hidden then.
    #[must_use]
    pub fn as_of(mut self, known: impl Fn(&[u8]) -> bool) -> Self {
        for names in [&mut self.set, &mut self.reset, &mut self.set_before, &mut self.reset_before] {
            let before = names.len();
            names.retain(|name| known(name));
            self.is_hidden |= names.len() < before;
        }
        self
    }
}

impl Touched {
    /// The last word about a name counts.
    fn note(&mut self, name: Box<[u8]>, is_reset: bool) {
        let (to, from) = if is_reset { (&mut self.reset, &mut self.set) } else { (&mut self.set, &mut self.reset) };
        let was_other = from.extract_if(.., |known| *known == name).count() > 0;
        if !to.contains(&name) {
            to.push(name.clone());
        }
        if was_other && !is_reset {
            self.note_reset_before(name);
        }
    }

    fn note_reset_before(&mut self, name: Box<[u8]>) {
        if !self.reset_before.contains(&name) {
            self.reset_before.push(name);
        }
    }

    fn reset_all(&mut self, with_rights: bool) {
        self.resets_all = true;
        self.resets_rights |= with_rights;
        let stays = |name: &[u8]| !with_rights && is_right(name);
        self.set_before.extend(self.set.extract_if(.., |name| !stays(name)));
        self.reset.retain(|name| stays(name));
        self.reset_before.retain(|name| stays(name));
    }
}

impl From<Traces> for Touched {
    fn from(traces: Traces) -> Self {
        Self { set: traces.settings, is_hidden: traces.is_hidden, ..Self::default() }
    }
}

/// Whether a setting is one of [`RIGHTS`].
pub fn is_right(name: &[u8]) -> bool {
    RIGHTS.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

/// Settings that describe the transaction, and end with it.
const OF_THE_TRANSACTION: [&[u8]; 3] = [b"transaction_isolation", b"transaction_read_only", b"transaction_deferrable"];

struct Walk<'a> {
    text: &'a [u8],
    tokens: Tokens<'a>,
    /// The token that comes next.
    ahead: Option<Token<'a>>,
    /// Where it begins, or the white space before it; and where it ends.
    from: usize,
    to: usize,
    found: Touched,
}

/// Reads the names of all settings that a text may change.
pub fn settings(sql: &[u8]) -> Touched {
    let mut walk = Walk { text: sql, tokens: Tokens::new(sql, Backslash::Plain), ahead: None, from: 0, to: 0, found: Touched::default() };
    walk.step();
    while walk.ahead.is_some() {
        walk.statement();
    }
    // Where a literal ends, and so what is a word, depends on a setting of the server's.
    walk.found.is_unknown |= walk.tokens.depends_on_backslash;
    walk.found
}

impl<'a> Walk<'a> {
    fn step(&mut self) {
        self.from = self.to;
        self.ahead = self.tokens.next();
        self.to = self.text.len().saturating_sub(self.tokens.left());
    }

    /// Takes the next token if it is one of these words.
    fn takes(&mut self, words: &[&str]) -> bool {
        let is_one = words.iter().any(|word| self.is(word));
        if is_one {
            self.step();
        }
        is_one
    }

    fn is(&self, expected: &str) -> bool {
        matches!(self.ahead, Some(Token::Word(word)) if word.eq_ignore_ascii_case(expected.as_bytes()))
    }

    fn statement(&mut self) {
        if self.takes(&["set"]) {
            self.set();
        } else if self.takes(&["reset"]) {
            self.reset();
        } else if self.takes(&["discard"]) {
            if self.is("all") {
                self.found.reset_all(true);
            }
        } else if self.takes(&["do"]) {
            self.block();
        } else if ["begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release", "prepare"]
            .iter()
            .any(|word| self.is(word))
        {
            self.found.is_doubtful = true;
        }
        loop {
            match self.ahead {
                None => return,
                Some(Token::Mark(b';')) => return self.step(),
                Some(Token::Word(word)) if word.eq_ignore_ascii_case(b"set_config") => self.set_config(),
                Some(Token::Quoted(b"set_config")) => self.set_config(),
                Some(_) => self.step(),
            }
        }
    }

    /// What DO runs: the names that it says are better than none.
    fn block(&mut self) {
        if self.takes(&["language"]) {
            self.step();
        }
        let written = self.text.get(self.from..self.to).unwrap_or_default();
        if self.ahead == Some(Token::Literal) {
            routine(inside(written)).settings.into_iter().for_each(|name| self.found.note(name, false));
        }
    }

    fn set(&mut self) {
        if self.is("local") || self.is("transaction") || self.is("constraints") {
            let Some(Token::Word(first)) = self.ahead else { return };
            self.step();
            // `SET local.x = 1`: the word was the first part of a name.
            if self.ahead == Some(Token::Mark(b'.')) {
                self.assignment(first.to_ascii_lowercase());
            }
            return;
        }
        if self.takes(&["session"]) {
            if self.takes(&["characteristics"]) {
                for name in ["isolation", "read_only", "deferrable"] {
                    self.note([b"default_transaction_", name.as_bytes()].concat(), false);
                }
                return;
            }
            if self.takes(&["authorization"]) {
                return self.note_all(&RIGHTS, self.is("default"));
            }
        }
        if self.takes(&["time"]) {
            self.takes(&["zone"]);
            return self.note_all(&["timezone"], self.is("default") || self.is("local"));
        }
        if self.takes(&["names"]) {
            return self.note_all(&["client_encoding"], self.is("default") || matches!(self.ahead, None | Some(Token::Mark(_))));
        }
        if self.takes(&["schema"]) {
            return self.note_all(&["search_path"], false);
        }
        if self.takes(&["xml"]) {
            return self.note_all(&["xmloption"], false);
        }
        if let Some(name) = self.name_part() {
            self.assignment(name);
        } else {
            self.found.is_unknown = true;
        }
    }

    /// The first or a further part of a name.
    fn name_part(&mut self) -> Option<Vec<u8>> {
        let (Token::Word(part) | Token::Quoted(part)) = self.ahead? else { return None };
        self.step();
        (!part.contains(&b'"')).then(|| part.to_ascii_lowercase())
    }

    /// The rest of a name, and whether it is set or reset.
    fn assignment(&mut self, name: Vec<u8>) {
        self.name(name, false);
    }

    /// The rest of a name; where it is not reset in any case, its value tells whether it is.
    fn name(&mut self, mut name: Vec<u8>, is_reset: bool) {
        while self.ahead == Some(Token::Mark(b'.')) {
            self.step();
            let Some(part) = self.name_part() else {
                self.found.is_unknown = true;
                return;
            };
            name.push(b'.');
            name.extend(part);
        }
        if self.is("to") || self.ahead == Some(Token::Mark(b'=')) {
            self.step();
        }
        self.note(name, is_reset || self.is("default"));
    }

    fn note_all(&mut self, names: &[&str], is_reset: bool) {
        for name in names {
            self.note(name.as_bytes().to_vec(), is_reset);
        }
    }

    fn note(&mut self, name: Vec<u8>, is_reset: bool) {
        if OF_THE_TRANSACTION.contains(&&name[..]) {
            return;
        }
        // The seed of random() is no value that could be read.
        self.found.is_unknown |= name == b"seed";
        self.found.note(name.into(), is_reset);
    }

    fn reset(&mut self) {
        if self.takes(&["all"]) {
            self.found.reset_all(false);
        } else if self.takes(&["time"]) {
            self.note_all(&["timezone"], true);
        } else if self.is("transaction") {
            self.step();
        } else if self.takes(&["session"]) {
            self.note_all(&RIGHTS, true);
        } else if let Some(name) = self.name_part() {
            self.name(name, true);
        }
    }

    /// At the name of the function: its first argument names the setting.
    fn set_config(&mut self) {
        self.step();
        if self.ahead != Some(Token::Mark(b'(')) {
            return;
        }
        self.step();
        let name = self.literal().map(<[u8]>::to_ascii_lowercase);
        self.step();
        // `'a'::text`, as the server writes it.
        while self.ahead == Some(Token::Mark(b':')) {
            self.step();
        }
        self.takes(&["text"]);
        match name {
            Some(name) if self.ahead == Some(Token::Mark(b',')) => {
                self.step();
                let is_reset = self.is("null");
                // The call need not be reached.
                self.found.is_doubtful |= is_reset;
                self.note(name, is_reset);
            }
            _ => self.found.is_unknown = true,
        }
    }

    /// What a plain literal says, where that is what comes next.
    fn literal(&self) -> Option<&'a [u8]> {
        let written = self.text.get(self.from..self.to)?.trim_ascii();
        let inner = written.strip_prefix(b"'")?.strip_suffix(b"'")?;
        let is_plain = self.ahead == Some(Token::Literal) && memchr::memchr2(b'\'', b'\\', inner).is_none();
        is_plain.then_some(inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(list: &[Box<[u8]>]) -> String {
        list.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect::<Vec<_>>().join(" ")
    }

    #[track_caller]
    fn sets(sql: &str, expected: &str) {
        let found = settings(sql.as_bytes());
        assert_eq!((names(&found.set).as_str(), names(&found.reset).as_str(), found.is_unknown), (expected, "", false), "{sql}");
    }

    #[track_caller]
    fn resets(sql: &str, expected: &str) {
        let found = settings(sql.as_bytes());
        assert_eq!((names(&found.set).as_str(), names(&found.reset).as_str(), found.is_unknown), ("", expected, false), "{sql}");
    }

    #[test]
    fn i3_every_form_of_set_names_what_it_sets() {
        sets("SET work_mem = '3MB'", "work_mem");
        sets("SET SESSION Work_Mem TO 3000", "work_mem");
        sets("set /* x */ app.tenant = 7", "app.tenant");
        sets("SET \"App\".\"Tenant\" = 7", "app.tenant");
        sets("SET local.x = 1", "local.x");
        sets("SET search_path = a, \"B\"", "search_path");
        sets("SET TIME ZONE 'Europe/Berlin'", "timezone");
        sets("SET TIME ZONE INTERVAL '1' HOUR TO MINUTE", "timezone");
        sets("SET NAMES 'UTF8'", "client_encoding");
        sets("SET SCHEMA 'a'", "search_path");
        sets("SET XML OPTION DOCUMENT", "xmloption");
        sets("SET ROLE reader", "role");
        sets("SET role TO reader", "role");
        sets("SET SESSION AUTHORIZATION reader", "session_authorization role");
        sets(
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            "default_transaction_isolation default_transaction_read_only default_transaction_deferrable",
        );
        sets("SET a = 1; SELECT 1; SET b = 'x;SET c = 1'; SET d TO 2;", "a b d");
        sets("SELECT set_config('work_mem', '3MB', false)", "work_mem");
        sets("SELECT pg_catalog.\"set_config\"( 'app.a' , $1, false), set_config('app.B', $2, $3)", "app.a app.b");
        sets("SELECT set_config('app.a'::text, 'x'::text, false)", "app.a");
    }

    #[test]
    fn i3_every_form_of_reset_names_what_it_resets() {
        resets("RESET work_mem", "work_mem");
        resets("RESET app.tenant;", "app.tenant");
        resets("SET work_mem = DEFAULT", "work_mem");
        resets("SET work_mem TO DEFAULT", "work_mem");
        resets("SET TIME ZONE LOCAL", "timezone");
        resets("SET TIME ZONE DEFAULT", "timezone");
        resets("RESET TIME ZONE", "timezone");
        resets("SET NAMES", "client_encoding");
        resets("RESET ROLE", "role");
        resets("SELECT set_config('work_mem', NULL, false)", "work_mem");
        assert!(settings(b"SELECT set_config('a', null, false)").is_doubtful, "it may stand behind WHERE false");
        sets("SELECT set_config('a', 'NULL', false), set_config('b', nullif($1, ''), false)", "a b");
        resets("RESET SESSION AUTHORIZATION", "session_authorization role");
        assert!(settings(b"RESET ALL").resets_all && settings(b"SELECT 1; DISCARD ALL").resets_all);
        assert!(!settings(b"RESET ALL").resets_rights && settings(b"SELECT 1; DISCARD ALL; RESET ALL").resets_rights);
        for (text, set, before) in [("RESET ALL", "role", "a"), ("DISCARD ALL", "", "a role")] {
            let found = settings(format!("SET a = 1; SET role = x; {text}").as_bytes());
            assert_eq!((names(&found.set), names(&found.set_before)), (set.to_owned(), before.to_owned()));
        }
        for (text, expected) in
            [("RESET ROLE", true), ("SET SESSION AUTHORIZATION DEFAULT", true), ("DISCARD ALL", true), ("RESET ALL", false)]
        {
            assert_eq!(settings(text.as_bytes()).resets_a_right(), expected, "{text}");
        }
        assert!(!settings(b"DISCARD PLANS").resets_all);
    }

    #[test]
    fn the_last_word_about_a_name_counts() {
        resets("SET a = 1; RESET a", "a");
        sets("RESET a; SET a = 1", "a");
        let found = settings(b"SET a = 1; RESET b; RESET ALL; SET c = 1");
        assert_eq!((names(&found.set_before), names(&found.set), names(&found.reset)), ("a".into(), "c".into(), String::new()));
        let mut all = settings(b"SET a = 1; RESET b");
        all.add(settings(b"RESET a; SET b = 1"));
        assert_eq!((names(&all.set), names(&all.reset), names(&all.reset_before)), ("b".into(), "a".into(), "b".into()));
        assert!(all.all_reset().eq(&[Box::from(*b"a"), Box::from(*b"b")]));
        for _ in 0..2 {
            all.add(settings(b"RESET e; SET e = 1; SET b = 1"));
        }
        assert_eq!((names(&all.reset_before), names(&all.set)), ("b e".into(), "b e".into()), "however often it is said");
        all.add(settings(b"DISCARD ALL; SET d = 1"));
        assert_eq!((names(&all.set_before), names(&all.set), names(&all.reset)), ("b e".into(), "d".into(), String::new()));
        assert!(all.reset_before.is_empty());
        let mut twice = Touched { set: vec![Box::from(*b"a"), Box::from(*b"a")], ..Touched::default() };
        twice.add(settings(b"RESET a"));
        assert!(twice.set.is_empty(), "what functions set may be named more than once");
        assert!(settings(b"RESET a; SET a = 1").resets() && settings(b"RESET ROLE; SET ROLE x").resets_a_right());
    }

    #[test]
    fn what_ends_with_its_transaction_is_not_named() {
        for sql in [
            "SET LOCAL work_mem = '1MB'",
            "SET TRANSACTION READ ONLY",
            "SET CONSTRAINTS ALL DEFERRED",
            "SET transaction_isolation = 'serializable'",
        ] {
            sets(sql, "");
        }
    }

    #[test]
    fn what_the_text_does_not_name_is_unknown() {
        for sql in [
            "SELECT set_config($1, 'x', false)",
            "SELECT set_config('a' || 'b', 'x', false)",
            "SELECT set_config(E'a', 'x', false)",
            "SELECT set_config(name, setting, false) FROM kept",
            "SET seed = 0.5",
            "SET \"a\"\"b\" = 1",
            "SELECT set_config('a\\', ',b', false)",
        ] {
            assert!(settings(sql.as_bytes()).is_unknown, "{sql}");
        }
    }

    #[test]
    fn a_block_says_some_names() {
        sets("DO $$ BEGIN SET app.a = 1; PERFORM set_config('b', 'c', false); END $$", "app.a b");
        sets("DO LANGUAGE plpgsql 'BEGIN SET a = 1; END'", "a");
        sets("DO 'BEGIN EXECUTE q; END'", "");
    }

    #[test]
    fn a_transaction_within_the_text_is_told() {
        assert!(settings(b"BEGIN; SET a = 1; ROLLBACK").is_doubtful);
        assert!(!settings(b"SET a = 1; SELECT 1").is_doubtful);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(sql in prop::collection::vec(any::<u8>(), 0..120)) {
            settings(&sql);
        }

        #[test]
        fn no_text_makes_it_panic(words in prop::collection::vec(prop::sample::select(
            &["SET", "RESET", "local", "session", ".", "=", "TO", ";", "'x'", "\"y\"", "all", "default", "set_config", "(", ",", "time", "zone"][..]), 0..20)
        ) {
            settings(words.join(" ").as_bytes());
        }
    }
}
