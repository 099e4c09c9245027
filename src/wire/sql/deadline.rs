//! What a text says of its client's deadline: `SET pgweir.deadline_ms = N`, which the proxy answers, and a comment `/* deadline_ms=N */`, which passes.

use std::time::Duration;

/// When a client's time is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Term {
    /// So long after the text was received.
    In(Duration),
    /// So long after the beginning of 1970.
    At(Duration),
    /// It has all the time there is.
    Never,
    /// The value is none.
    Invalid,
}

/// Statements at the beginning of a text that set its client's deadline.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Terms {
    /// What the last of them says.
    pub term: Term,
    /// The command tags of them all.
    pub tags: Vec<&'static str>,
    /// Where the rest of the text begins.
    pub end: usize,
    /// There is no rest but white space and comments.
    pub is_all: bool,
}

/// What a statement of this command tag becomes where a server has to answer in its place: it changes nothing, and is answered alike.
pub fn neutral(tag: &str) -> &'static [u8] {
    if tag == "RESET" { b"RESET pgweir.answered" } else { b"SET pgweir.answered TO DEFAULT" }
}

/// Whether a text is one of these.
pub fn is_neutral(text: &[u8]) -> bool {
    ["SET", "RESET"].iter().any(|tag| neutral(tag) == text)
}

const PREFIX: &[u8] = b"pgweir.deadline_";

/// The statements at the beginning of a text that set its client's deadline.
#[inline]
pub fn terms(text: &[u8]) -> Option<Terms> {
    match text.trim_ascii_start() {
        [b's' | b'S', b'e' | b'E', b't' | b'T', ..] | [b'r' | b'R', b'e' | b'E', b's' | b'S', ..] | [b'/' | b'-', ..] => {}
        _ => return None,
    }
    memchr::memmem::find(text, PREFIX)?;
    // With a zero within, the message is none that a server would read.
    if text.contains(&0) { None } else { read_terms(text) }
}

#[cold]
fn read_terms(text: &[u8]) -> Option<Terms> {
    let mut found: Option<Terms> = None;
    let mut rest = text;
    loop {
        rest = skip_space(rest);
        if let [b';', more @ ..] = rest
            && found.is_some()
        {
            rest = more;
            continue;
        }
        if let Some(terms) = &mut found {
            terms.end = text.len().saturating_sub(rest.len());
            terms.is_all = rest.is_empty();
        }
        let Some((term, tag, after)) = statement(rest) else { return found };
        let mut tags = found.map_or_else(Vec::new, |terms| terms.tags);
        tags.push(tag);
        rest = after;
        found = Some(Terms { term, tags, end: text.len().saturating_sub(rest.len()), is_all: rest.is_empty() });
    }
}

/// One statement, up to its semicolon or the end of the text.
fn statement(text: &[u8]) -> Option<(Term, &'static str, &[u8])> {
    let (first, rest) = word(text)?;
    if first.eq_ignore_ascii_case(b"reset") {
        let (_, rest) = name(skip_space(rest))?;
        return ends(skip_space(rest)).map(|rest| (Term::Never, "RESET", rest));
    }
    first.eq_ignore_ascii_case(b"set").then_some(())?;
    let mut rest = skip_space(rest);
    if let Some((scope, after)) = word(rest)
        && [&b"session"[..], b"local"].iter().any(|known| scope.eq_ignore_ascii_case(known))
    {
        rest = skip_space(after);
    }
    let (is_epoch, rest) = name(rest)?;
    let rest = match skip_space(rest) {
        [b'=', rest @ ..] => rest,
        other => word(other).filter(|(word, _)| word.eq_ignore_ascii_case(b"to"))?.1,
    };
    let rest = skip_space(rest);
    if let Some((value, rest)) = word(rest)
        && value.eq_ignore_ascii_case(b"default")
    {
        return ends(skip_space(rest)).map(|rest| (Term::Never, "SET", rest));
    }
    let (value, rest) = value(rest);
    let rest = ends(skip_space(rest))?;
    let term = match milliseconds(value) {
        Some(time) if is_epoch => Term::At(time),
        Some(time) => Term::In(time),
        None => Term::Invalid,
    };
    Some((term, "SET", rest))
}

/// The name of one of the two settings, and whether it is the one of a time of day.
fn name(text: &[u8]) -> Option<(bool, &[u8])> {
    let (name, rest) = match text {
        [b'"', quoted @ ..] => {
            let end = memchr::memchr(b'"', quoted)?;
            (quoted.get(..end)?, quoted.get(end.saturating_add(1)..)?)
        }
        _ => text.split_at(text.iter().take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.')).count()),
    };
    let what = name.get(PREFIX.len()..).filter(|_| name.get(..PREFIX.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(PREFIX)))?;
    match what.to_ascii_lowercase().as_slice() {
        b"ms" => Some((false, rest)),
        b"at" => Some((true, rest)),
        _ => None,
    }
}

/// A value as it is written, without its quotes.
fn value(text: &[u8]) -> (&[u8], &[u8]) {
    if let [b'\'', quoted @ ..] = text
        && let Some(end) = memchr::memchr(b'\'', quoted)
    {
        let (value, rest) = quoted.split_at(end);
        return (value, rest.get(1..).unwrap_or_default());
    }
    text.split_at(text.iter().take_while(|byte| !byte.is_ascii_whitespace() && **byte != b';').count())
}

/// A number of milliseconds, perhaps with a fraction; what is below zero is none at all.
fn milliseconds(value: &[u8]) -> Option<Duration> {
    let value = std::str::from_utf8(value).ok()?.trim();
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'+'));
    let millis: f64 = is_number.then(|| value.parse().ok())??;
    Some(Duration::try_from_secs_f64(millis.max(0.0) / 1000.0).unwrap_or(Duration::MAX))
}

fn word(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = text.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    (length > 0).then(|| text.split_at(length))
}

/// What is behind the end of a statement.
fn ends(text: &[u8]) -> Option<&[u8]> {
    match text {
        [] => Some(text),
        [b';', rest @ ..] => Some(rest),
        _ => None,
    }
}

/// The text behind white space and comments.
fn skip_space(mut text: &[u8]) -> &[u8] {
    loop {
        text = text.trim_ascii_start();
        text = match text {
            [b'-', b'-', line @ ..] => line.get(memchr::memchr2(b'\n', b'\r', line).unwrap_or(line.len())..).unwrap_or_default(),
            // One with others inside is not worth the trouble: its text is taken for no such statement.
            [b'/', b'*', body @ ..] => match memchr::memmem::find(body, b"*/") {
                Some(end) => body.get(end.saturating_add(2)..).unwrap_or_default(),
                None => return &[],
            },
            _ => return text,
        };
    }
}

/// The time that a comment at the beginning or the end of a text leaves it: `deadline_ms=N` among whatever else stands there.
#[inline]
pub fn comment(text: &[u8]) -> Option<Duration> {
    let text = text.trim_ascii();
    let first = text.strip_prefix(b"/*").and_then(|body| body.get(..memchr::memmem::find(body, b"*/")?));
    let text = text.strip_suffix(b";").unwrap_or(text).trim_ascii_end();
    let last = || text.strip_suffix(b"*/").and_then(|body| body.get(memchr::memmem::rfind(body, b"/*")?.saturating_add(2)..));
    first.and_then(term_of).or_else(|| last().and_then(term_of))
}

fn term_of(comment: &[u8]) -> Option<Duration> {
    const KEY: &[u8] = b"deadline_ms=";
    let at = memchr::memmem::find(comment, KEY)?;
    if comment.get(..at)?.last().is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_') {
        return None;
    }
    let value = comment.get(at.saturating_add(KEY.len())..)?;
    let value = value.strip_prefix(b"'").unwrap_or(value);
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    milliseconds(value.get(..digits)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn alone(text: &str) -> Option<Term> {
        let found = terms(text.as_bytes())?;
        assert!(found.is_all, "{text}");
        Some(found.term)
    }

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn every_form_of_it_is_read() {
        let forms = [
            ("SET pgweir.deadline_ms = 900", Term::In(ms(900))),
            ("set pgweir.deadline_ms to '900';", Term::In(ms(900))),
            ("  SET SESSION pgweir.deadline_ms=900 ; -- done", Term::In(ms(900))),
            ("SET LOCAL pgweir.deadline_ms TO 12.5", Term::In(Duration::from_micros(12_500))),
            ("/* why */ SET \"pgweir.deadline_ms\" = 1", Term::In(ms(1))),
            ("SET pgweir.deadline_ms = -5", Term::In(ms(0))),
            ("SET pgweir.deadline_at = 1790000000000", Term::At(ms(1_790_000_000_000))),
            ("SET pgweir.deadline_ms TO DEFAULT", Term::Never),
            ("RESET pgweir.deadline_ms", Term::Never),
            ("SET pgweir.deadline_ms = soon", Term::Invalid),
            ("SET pgweir.deadline_ms = ''", Term::Invalid),
            ("SET pgweir.deadline_ms = 1; SET pgweir.deadline_ms = 2", Term::In(ms(2))),
        ];
        for (text, term) in forms {
            assert_eq!(alone(text), Some(term), "{text}");
        }
    }

    #[test]
    fn what_stands_behind_it_is_the_rest() {
        let text = b"SET pgweir.deadline_ms = 5; RESET pgweir.deadline_at;\n SELECT 1";
        let found = terms(text).unwrap();
        assert_eq!((found.tags.as_slice(), &text[found.end..], found.is_all), (&["SET", "RESET"][..], &b"SELECT 1"[..], false));
    }

    #[test]
    fn other_texts_are_none() {
        for text in [
            "SELECT 'SET pgweir.deadline_ms = 5'",
            "SET pgweir.deadline_msx = 5",
            "SET pgweir.deadline = 5",
            "SET pgweir.deadline_ms = 5 AND more",
            "SET search_path = pgweir.deadline_ms",
            "BEGIN; SET pgweir.deadline_ms = 5",
            "SELECT 1",
            "SET",
            "",
        ] {
            assert_eq!(terms(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_comment_in_front_or_behind_says_it_too() {
        for text in [
            "/* deadline_ms=250 */ SELECT 1",
            "SELECT 1 /* deadline_ms=250 */",
            "SELECT 1 /*action='x',deadline_ms='250'*/ ;",
            "/* app */ SELECT 1 /* deadline_ms=250 */",
        ] {
            assert_eq!(comment(text.as_bytes()), Some(ms(250)), "{text}");
        }
        for text in
            ["SELECT /* deadline_ms=250 */ 1", "SELECT 1 /* my_deadline_ms=5 */", "SELECT 1 -- deadline_ms=5", "/* deadline_ms=x */", "*/"]
        {
            assert_eq!(comment(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(text in prop::collection::vec(any::<u8>(), 0..60), begin in 0usize..4) {
            let begin = [&b""[..], b"SET pgweir.deadline_ms ", b"/*deadline_ms=", b"RESET pgweir.deadline_at"][begin];
            let text = [begin, &text].concat();
            if let Some(found) = terms(&text) {
                prop_assert!(found.end <= text.len() && !found.tags.is_empty());
            }
            let _ = comment(&text);
        }
    }
}
