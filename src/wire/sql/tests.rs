//! The reader against its table, and against texts that nobody wrote.

#![expect(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "a test may fail")]

mod statements;

use proptest::prelude::*;
use statements::{Row, STATEMENTS};

use super::{Effects, PinReason, digest, ends_transaction, needs_sound_transaction, session_state};

/// What the reader says, in the words of the table.
fn in_words(effects: Effects) -> String {
    let cleared = PinReason::ALL.into_iter().filter(|reason| effects.clears(*reason));
    let mut words: Vec<String> = effects.pins().map(|reason| reason.name().into()).collect();
    words.extend(cleared.map(|reason| format!("-{}", reason.name())));
    for (is_set, word) in
        [(effects.is_opaque(), "opaque"), (effects.clears_all(), "clears_all"), (effects.resets_settings(), "resets_settings")]
    {
        if is_set {
            words.push(word.into());
        }
    }
    words.join(" ")
}

fn read(sql: &str) -> String {
    in_words(session_state(sql.as_bytes()))
}

#[test]
fn each_statement_reads_as_the_table_says() {
    let wrong: Vec<String> = STATEMENTS
        .iter()
        .filter(|row| read(row.sql) != row.reads)
        .map(|row| format!("{:?} reads {:?}, not {:?}", row.sql, read(row.sql), row.reads))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(STATEMENTS.len() >= 200, "{} rows", STATEMENTS.len());
}

#[test]
fn names_are_distinct_and_each_reason_has_its_bit() {
    for (place, reason) in PinReason::ALL.into_iter().enumerate() {
        assert_eq!(reason.bit(), 1 << place);
        let same = PinReason::ALL.iter().filter(|other| other.name() == reason.name());
        assert_eq!(same.count(), 1, "{}", reason.name());
    }
}

#[test]
fn no_effect_is_empty_and_any_effect_is_not() {
    assert!(session_state(b"SELECT 1").is_empty());
    assert_eq!(session_state(b"SELECT 1").first_pin(), None);
    assert_eq!(session_state(b"LISTEN a; SET b = 1").first_pin(), Some(PinReason::Setting));
    for row in STATEMENTS {
        let effects = session_state(row.sql.as_bytes());
        let is_about_endings = effects.releases() || effects.deallocates() || effects.lists_statements() || effects.defines();
        assert_eq!(effects.is_empty(), row.reads.is_empty() && !is_about_endings, "{:?}", row.sql);
    }
}

#[test]
fn what_may_make_a_function_is_told() {
    for sql in
        ["CREATE FUNCTION f()", "create or replace view v", "CREATE EXTENSION x; CREATE TABLE t (a int)", "SELECT 1; CREATE TRIGGER t"]
    {
        assert!(session_state(sql.as_bytes()).defines(), "{sql}");
    }
    for sql in ["CREATE TABLE t (a int)", "CREATE UNIQUE INDEX i", "CREATE TEMP VIEW v", "SELECT 'CREATE FUNCTION f()'", "DROP FUNCTION f"]
    {
        assert!(!session_state(sql.as_bytes()).defines(), "{sql}");
    }
}

#[test]
fn d8_what_is_about_prepared_statements_is_told() {
    for sql in ["DEALLOCATE a", "deallocate prepare \"A\"", "SELECT 1; DEALLOCATE \"all\""] {
        assert!(session_state(sql.as_bytes()).deallocates(), "{sql}");
    }
    assert!(!session_state(b"DEALLOCATE ALL").deallocates());
    for sql in ["SELECT * FROM pg_prepared_statements", "TABLE pg_catalog.\"pg_prepared_statements\"", "SELECT pg_prepared_statement()"] {
        assert!(session_state(sql.as_bytes()).lists_statements(), "{sql}");
    }
    assert!(!session_state(b"SELECT 'pg_prepared_statements'").lists_statements());
}

#[test]
fn i7_what_may_end_something_is_told() {
    for sql in [
        "UNLISTEN a",
        "DROP TABLE t",
        "CLOSE c",
        "DEALLOCATE a",
        "DISCARD PLANS",
        "SELECT pg_advisory_unlock_all()",
        "SELECT 1; drop view v",
    ] {
        assert!(session_state(sql.as_bytes()).releases(), "{sql}");
    }
    for sql in ["SELECT 1", "ALTER TABLE t DROP COLUMN c", "SELECT drop FROM t", "LISTEN a"] {
        assert!(!session_state(sql.as_bytes()).releases(), "{sql}");
    }
}

#[test]
fn a_digest_is_of_a_texts_shape() {
    let one = digest(b"SELECT * FROM t WHERE x = 1 -- one");
    assert_eq!(one, digest(b"select *  from T where X = 'two'"));
    assert_ne!(one, digest(b"SELECT * FROM u WHERE x = 1"));
    assert_ne!(digest(b"SELECT ab"), digest(b"SELECT a b"));
}

#[test]
fn e1_what_ends_a_transaction_a_failed_one_takes() {
    for sql in ["COMMIT", "end", " /* x */ Rollback TO a", "ABORT", "PREPARE TRANSACTION 'x'"] {
        assert!(ends_transaction(sql.as_bytes()), "{sql}");
    }
    for sql in ["SELECT 1", "PREPARE a AS SELECT 1", "BEGIN", "", "'commit'"] {
        assert!(!ends_transaction(sql.as_bytes()), "{sql}");
    }
}

#[test]
fn i6_what_a_failed_transaction_does_nothing_of() {
    for sql in ["SELECT 1", "-- x\ninsert into t values (1) ;\n", "WITH a AS (SELECT 1) DELETE FROM t", "BEGIN", "Copy t FROM STDIN"] {
        assert!(needs_sound_transaction(sql.as_bytes()), "{sql}");
        assert!(!ends_transaction(sql.as_bytes()), "{sql}");
    }
    for sql in
        ["COMMIT", "; SELECT 1", "ROLLBACK; SELECT 1", "SELECT 1; DISCARD ALL", "", "EXPLAIN EXECUTE a", "(SELECT 1)", "\"select\" 1"]
    {
        assert!(!needs_sound_transaction(sql.as_bytes()), "{sql}");
    }
}

#[test]
fn what_only_one_reading_clears_is_not_cleared() {
    // With escapes, `DISCARD ALL` stands in the literal.
    assert_eq!(read(r"SELECT 'a\'; DISCARD ALL --'"), "");
    assert_eq!(read(r"SELECT 'a\'; LISTEN c --'"), "listen");
    assert_eq!(read(r"DISCARD TEMP; SELECT 'a\'"), "-temp");
}

#[test]
fn bytes_that_only_the_server_can_split_are_opaque() {
    // In Shift JIS these two bytes are one character, so the quote ends the literal.
    assert_eq!(in_words(session_state(b"SELECT E'\x95\x5c'; LISTEN c --'")), "opaque");
    assert_eq!(in_words(session_state(b"SELECT $\x95\x5c$ ' $\x95\x5c$; LISTEN c --'")), "opaque");
}

#[test]
fn long_and_hostile_texts_take_time_in_proportion() {
    const LENGTH: usize = 2 << 20;
    let begun = std::time::Instant::now();
    for piece in [
        "/*",
        "*/",
        "(",
        "set_config(",
        "set_config('",
        "E''",
        "E''\n",
        "E''--\n",
        "'",
        "\\'",
        "E'\\",
        "\"",
        "$a",
        "$a$",
        "$$",
        "$a$$b$ ",
        "--",
        "\n",
        ";",
        "into ",
        "U&\"",
        "create ",
        "a.",
        "\u{e9}$",
        "on commit ",
        "explain ",
        "1",
        "$1",
    ] {
        for start in ["", "'", "E'", "\"", "$a$", "/*", "SELECT "] {
            let text = start.to_owned() + &piece.repeat(LENGTH / piece.len() / 8);
            session_state(text.as_bytes());
        }
    }
    // Twice the square of one text's length would take minutes.
    assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
}

fn any_row() -> impl Strategy<Value = &'static Row> {
    (0..STATEMENTS.len()).prop_map(|at| &STATEMENTS[at])
}

/// A row in which each blank and each of `(),;=.` stands between two tokens.
fn plain_row() -> impl Strategy<Value = &'static Row> {
    any_row().prop_filter("nothing quoted, no comment, no number with a point", |row| {
        !row.sql.contains(['\'', '"', '$', '\\', '/', '-', '\u{e9}']) && !row.sql.contains(".5")
    })
}

fn gap() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        " ",
        "\t",
        "\r\n",
        "\x0c",
        "/**/",
        "/* ; SET x = 1 */",
        "/* ' */",
        "/*/**/ \" */",
        "-- ' $$\n",
        "--\r",
        " -- ; LISTEN a /*\n",
    ]);
    prop::collection::vec(piece, 1..4).prop_map(|pieces| pieces.concat())
}

/// Texts made of what the reader looks for, seldom sensible.
fn soup() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "SET",
        "LOCAL",
        "x",
        "=",
        "1",
        " ",
        " ",
        "'",
        "''",
        "\\",
        "\\'",
        "E'",
        "\"",
        "$$",
        "$a$",
        "$a",
        "/*",
        "*/",
        "--",
        "\n",
        ";",
        "(",
        ")",
        ",",
        "set_config(",
        "true",
        "LISTEN",
        "CREATE",
        "TEMP",
        "TABLE",
        "INTO",
        "pg_temp",
        ".",
        "DO",
        "U&\"",
        "U&'",
        "B'",
        "\u{e9}",
        "ON ",
        "COMMIT ",
        "DROP ",
        "DISCARD ALL",
        "EXPLAIN ",
        "PREPARE ",
        "currval (",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![any_row().prop_map(|row| row.sql.to_owned()), soup(), any::<String>()]
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        session_state(&bytes);
    }

    #[test]
    fn no_cut_makes_it_panic(text in any_text(), at in any::<prop::sample::Index>()) {
        let bytes = text.as_bytes();
        session_state(&bytes[..at.index(bytes.len() + 1)]);
    }

    #[test]
    fn what_stands_between_tokens_does_not_count(row in plain_row(), gaps in prop::collection::vec(gap(), 1..20)) {
        let mut gaps = gaps.iter().cycle();
        let mut gap = || gaps.next().cloned().unwrap_or_default();
        let mut text = gap();
        for letter in row.sql.chars() {
            match letter {
                ' ' | '\n' => text += &gap(),
                '(' | ')' | ',' | ';' | '=' | '.' => text.extend([gap(), letter.to_string(), gap()]),
                _ => text.push(letter),
            }
        }
        prop_assert_eq!(read(&text), row.reads, "{:?}", text);
    }

    #[test]
    fn case_does_not_count_outside_quotes(row in plain_row(), upper in any::<u64>()) {
        let flip = |(at, letter): (usize, char)| {
            if upper >> (at % 64) & 1 == 1 { letter.to_ascii_uppercase() } else { letter.to_ascii_lowercase() }
        };
        let text: String = row.sql.chars().enumerate().map(flip).collect();
        prop_assert_eq!(read(&text), row.reads, "{:?}", text);
    }

    #[test]
    fn a_text_in_a_literal_has_no_effect(text in any_text()) {
        let doubled = text.replace('\'', "''");
        let without = doubled.replace('\\', "");
        let escaped = doubled.replace('\\', "\\\\");
        for wrapped in [format!("SELECT '{without}'"), format!("SELECT E'{escaped}', e'{escaped}'\n'{escaped}'")] {
            prop_assert_eq!(read(&wrapped), "", "{:?}", wrapped);
        }
    }

    #[test]
    fn a_text_in_dollar_quotes_has_no_effect(text in any_text()) {
        prop_assume!(!text.contains("$fence$"));
        let wrapped = format!("SELECT $fence${text}$fence$, 1");
        // A dollar at the text's end may be the start of the closing fence; PostgreSQL sees it so too.
        prop_assert_eq!(read(&wrapped), "", "{:?}", wrapped);
    }

    #[test]
    fn a_text_in_a_quoted_name_or_a_comment_has_no_effect(text in any_text()) {
        let name = format!("SELECT 1 AS \"{}\" FROM t", text.replace('"', "\"\""));
        prop_assert_eq!(read(&name), "", "{:?}", name);
        let apart = text.replace('/', "").replace(['\n', '\r'], " ");
        for comment in [format!("SELECT 1 /*{apart} */, 2"), format!("SELECT 1 --{apart}\n, 2")] {
            prop_assert_eq!(read(&comment), "", "{:?}", comment);
        }
    }

    #[test]
    fn statements_in_a_row_have_the_effects_of_each(first in any_row(), second in any_row()) {
        // A `--` at the end of the first would hide the second.
        let text = format!("{}\n;{}", first.sql, second.sql);
        let (a, b) = (session_state(first.sql.as_bytes()), session_state(second.sql.as_bytes()));
        let both = session_state(text.as_bytes());
        for reason in PinReason::ALL {
            prop_assert!(both.may_leave(reason) || !(a.may_leave(reason) || b.may_leave(reason)), "{}", text);
        }
        if !text.contains('\\') {
            prop_assert_eq!(both, a.union(b), "{:?}", text);
        }
    }
}
