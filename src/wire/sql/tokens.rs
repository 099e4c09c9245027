//! Statement text cut into tokens, as PostgreSQL's own scanner (`src/backend/parser/scan.l`) cuts it.
//!
//! It knows where words end, and above all what is *not* a word: literals of every kind, quoted identifiers, comments that
//! nest, dollar quotes. It never judges whether the text is valid. Each byte is looked at a bounded number of times.
//!
//! White space and words are most of any text: what is rarer is kept out of line, so that the walk over them stays in registers.

use memchr::{memchr, memchr2, memmem};

/// What a backslash means in a plain literal: PostgreSQL's `standard_conforming_strings`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Backslash {
    /// The setting is on: a backslash is a character like others.
    Plain,
    /// The setting is off: it takes the next character with it, as in `E''`.
    Escapes,
}

/// One token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Token<'a> {
    /// A keyword or an unquoted identifier, in whatever case it was written.
    Word(&'a [u8]),
    /// What stands between the quotes of a quoted identifier, a doubled quote still doubled.
    Quoted(&'a [u8]),
    /// A string, a bit string, a number or a parameter.
    Literal,
    /// Any other byte.
    Mark(u8),
}

/// The tokens of a text, from left to right.
pub(super) struct Tokens<'a> {
    rest: &'a [u8],
    backslash: Backslash,
    /// A plain literal was seen that ends elsewhere when backslashes escape.
    pub(super) depends_on_backslash: bool,
    /// Something was seen whose end or name only the server can tell.
    pub(super) is_undecided: bool,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(sql: &'a [u8], backslash: Backslash) -> Self {
        Self { rest: sql, backslash, depends_on_backslash: false, is_undecided: false }
    }

    /// How many bytes are behind the last token.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    #[inline]
    fn word(&mut self, text: &'a [u8]) -> Token<'a> {
        let (word, rest) = split(text, word_length(text));
        self.rest = rest;
        // One letter may be the prefix of a literal: it touches the quote.
        if let ([letter], [b'\'' | b'&', ..]) = (word, rest) {
            return self.prefixed(*letter).unwrap_or(Token::Word(word));
        }
        Token::Word(word)
    }

    /// `E''`, `B''`, `X''`, `U&''` and `U&""`. What `N''` holds is a plain literal, so its letter may stay a word.
    #[cold]
    fn prefixed(&mut self, letter: u8) -> Option<Token<'a>> {
        match (letter.to_ascii_lowercase(), self.rest) {
            (b'e', [b'\'', body @ ..]) => self.rest = self.after_escaped(body),
            // No escapes in these, whatever the setting.
            (b'b' | b'x', [b'\'', body @ ..]) | (b'u', [b'&', b'\'', body @ ..]) => {
                self.rest = after(body, b'\'');
            }
            (b'u', [b'&', b'"', body @ ..]) => {
                // Its characters may be spelled by code point, with any escape character that a later UESCAPE names.
                self.is_undecided = true;
                return Some(self.quoted(body));
            }
            _ => return None,
        }
        Some(Token::Literal)
    }

    /// The text after a plain literal, whose opening quote is already taken. A doubled quote reads as the end of one
    /// literal and the start of the next, which covers the same bytes.
    fn after_plain(&mut self, body: &'a [u8]) -> &'a [u8] {
        if self.backslash == Backslash::Escapes {
            return self.after_escaped(body);
        }
        let Some(quote) = memchr(b'\'', body) else {
            return &[];
        };
        let (inside, rest) = split(body, quote);
        if inside.ends_with(b"\\") {
            self.depends_on_backslash = true;
        }
        split(rest, 1).1
    }

    /// The text after a literal in which a backslash takes the next byte with it.
    #[inline(never)]
    fn after_escaped(&mut self, mut body: &'a [u8]) -> &'a [u8] {
        while let Some(at) = memchr2(b'\\', b'\'', body) {
            let (inside, rest) = split(body, at);
            match rest {
                [b'\\', taken, more @ ..] => {
                    // In Shift JIS, Big5 and GBK a backslash may be the second half of a character, and then it escapes nothing.
                    if *taken == b'\'' && inside.last().is_some_and(|byte| !byte.is_ascii()) {
                        self.is_undecided = true;
                    }
                    body = more;
                }
                [b'\'', b'\'', more @ ..] => body = more,
                [b'\'', more @ ..] => match continuation(more) {
                    Some(next) => body = next,
                    None => return more,
                },
                _ => return &[],
            }
        }
        &[]
    }

    /// A quoted identifier, whose opening quote is already taken.
    #[inline(never)]
    fn quoted(&mut self, body: &'a [u8]) -> Token<'a> {
        let mut rest = body;
        loop {
            rest = after(rest, b'"');
            match rest {
                [b'"', more @ ..] => rest = more,
                _ => break,
            }
        }
        self.rest = rest;
        let inside = split(body, body.len().saturating_sub(rest.len())).0;
        Token::Quoted(inside.strip_suffix(b"\"").unwrap_or(inside))
    }

    /// What a dollar sign opens: a parameter, a dollar-quoted literal, or nothing.
    #[inline(never)]
    fn dollar(&mut self, text: &'a [u8]) -> Token<'a> {
        let tail = split(text, 1).1;
        let (tag, rest) = split_where(tail, |byte| byte == b'$' || !class(byte).continues_word());
        if tag.first().is_some_and(u8::is_ascii_digit) {
            self.rest = split_where(tail, |byte| !byte.is_ascii_digit()).1;
            return Token::Literal;
        }
        if let [b'$', body @ ..] = rest {
            let fence = split(text, tag.len().saturating_add(2)).0;
            self.rest = match memmem::find(body, fence) {
                Some(at) => split(body, at.saturating_add(fence.len())).1,
                None => &[],
            };
            return Token::Literal;
        }
        // A tag in Shift JIS, Big5 or GBK may go on with bytes that look like punctuation.
        if !tag.is_ascii() {
            self.is_undecided = true;
        }
        self.rest = tail;
        Token::Mark(b'$')
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.step()
    }
}

impl<'a> Tokens<'a> {
    /// The next one, for whoever reads all texts that there are: a call for each would cost a third of the walk.
    #[expect(clippy::inline_always, reason = "the compiler thinks it too large, and there is one such reader")]
    #[inline(always)]
    pub(super) fn step(&mut self) -> Option<Token<'a>> {
        let mut text = self.rest;
        loop {
            let (&byte, tail) = text.split_first()?;
            match class(byte) {
                Class::Space => text = tail,
                Class::Letter => return Some(self.word(text)),
                Class::Digit => {
                    self.rest = split_where(tail, |byte| !byte.is_ascii_digit()).1;
                    return Some(Token::Literal);
                }
                Class::Quote => {
                    self.rest = self.after_plain(tail);
                    return Some(Token::Literal);
                }
                Class::DoubleQuote => return Some(self.quoted(tail)),
                Class::Dollar => return Some(self.dollar(text)),
                Class::Dash if tail.starts_with(b"-") => text = after_line(tail),
                Class::Slash if tail.starts_with(b"*") => text = after_block(tail),
                Class::Mark | Class::Dash | Class::Slash => {
                    self.rest = tail;
                    return Some(Token::Mark(byte));
                }
            }
        }
    }
}

/// The text after the comment that `--` opens.
#[inline(never)]
fn after_line(text: &[u8]) -> &[u8] {
    memchr2(b'\n', b'\r', text).map_or(&[], |end| split(text, end).1)
}

/// The text after a block comment, which may hold others. `text` starts at the star of its opening.
#[inline(never)]
fn after_block(text: &[u8]) -> &[u8] {
    let mut text = split(text, 1).1;
    let mut depth = 1_usize;
    while let Some(at) = memchr2(b'*', b'/', text) {
        text = match split(text, at).1 {
            [b'/', b'*', more @ ..] => {
                depth = depth.saturating_add(1);
                more
            }
            [b'*', b'/', more @ ..] => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return more;
                }
                more
            }
            other => split(other, 1).1,
        };
    }
    &[]
}

/// Where a literal that just closed goes on, in the same kind: at a quote after white space (or `--` comments) with a line break.
fn continuation(mut text: &[u8]) -> Option<&[u8]> {
    let mut broke_line = false;
    loop {
        text = match text {
            [b'\'', body @ ..] if broke_line => return Some(body),
            [b'-', b'-', comment @ ..] => after_line(comment),
            [byte, more @ ..] if class(*byte) == Class::Space => {
                broke_line |= matches!(byte, b'\n' | b'\r');
                more
            }
            _ => return None,
        };
    }
}

/// The text after the first `end`; empty if there is none.
fn after(text: &[u8], end: u8) -> &[u8] {
    memchr(end, text).map_or(&[], |at| split(text, at.saturating_add(1)).1)
}

/// Both parts of a text; where it is too short, all of it and nothing.
#[inline]
fn split(text: &[u8], at: usize) -> (&[u8], &[u8]) {
    text.split_at_checked(at).unwrap_or((text, &[]))
}

/// A text in two, before the first byte that ends the first part.
#[inline]
fn split_where(text: &[u8], ends: impl Fn(u8) -> bool) -> (&[u8], &[u8]) {
    let at = text.iter().position(|&byte| ends(byte));
    split(text, at.unwrap_or(text.len()))
}

/// How many bytes of a word a text starts with: eight at a time, for words end at no predictable place.
#[inline]
fn word_length(text: &[u8]) -> usize {
    let mut rest = text;
    let mut length = 0_usize;
    while let Some((eight, more)) = rest.split_first_chunk() {
        let others = !word_bytes(u64::from_le_bytes(*eight)) & HIGH_BITS;
        if others != 0 {
            let at = usize::try_from(others.trailing_zeros() / 8).unwrap_or_default();
            return length.wrapping_add(at);
        }
        length = length.wrapping_add(eight.len());
        rest = more;
    }
    let ended = rest.iter().position(|&byte| !class(byte).continues_word());
    length.wrapping_add(ended.unwrap_or(rest.len()))
}

const HIGH_BITS: u64 = u64::from_ne_bytes([0x80; 8]);

/// Sets the high bit of each byte that may stand in a word, as [`Class::continues_word`] has it. Sums of two seven-bit
/// numbers never carry into the next byte.
#[inline]
fn word_bytes(bytes: u64) -> u64 {
    const fn each(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    let ascii = bytes & !HIGH_BITS;
    let at_least = |bytes: u64, low: u8| bytes.wrapping_add(each(0x80_u8.wrapping_sub(low)));
    let lower = ascii | each(0x20);
    let letters = at_least(lower, b'a') & !at_least(lower, b'{');
    let digits = at_least(ascii, b'0') & !at_least(ascii, b':');
    let underscores = !at_least(ascii ^ each(b'_'), 1);
    let dollars = !at_least(ascii ^ each(b'$'), 1);
    bytes | letters | digits | underscores | dollars
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Mark,
    Space,
    Quote,
    DoubleQuote,
    Dash,
    Slash,
    Letter,
    Digit,
    Dollar,
}

impl Class {
    #[inline]
    fn continues_word(self) -> bool {
        matches!(self, Self::Letter | Self::Digit | Self::Dollar)
    }
}

#[inline]
fn class(byte: u8) -> Class {
    CLASSES.get(usize::from(byte)).copied().unwrap_or(Class::Mark)
}

static CLASSES: [Class; 256] = classes();

#[expect(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions, reason = "only the compiler runs it")]
const fn classes() -> [Class; 256] {
    let mut classes = [Class::Mark; 256];
    let mut byte = 0_u8;
    loop {
        classes[byte as usize] = match byte {
            // The vertical tab is white space since PostgreSQL 16, and an error before.
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => Class::Space,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80..=0xff => Class::Letter,
            b'0'..=b'9' => Class::Digit,
            b'$' => Class::Dollar,
            b'\'' => Class::Quote,
            b'"' => Class::DoubleQuote,
            b'-' => Class::Dash,
            b'/' => Class::Slash,
            _ => Class::Mark,
        };
        if byte == u8::MAX {
            return classes;
        }
        byte += 1;
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may fail")]
mod tests {
    use super::*;

    #[test]
    fn eight_bytes_at_a_time_see_the_words_that_one_at_a_time_sees() {
        for byte in 0..=u8::MAX {
            for place in 0..8 {
                let mut bytes = [b' '; 8];
                bytes[place] = byte;
                let expected = if class(byte).continues_word() { 0x80 } else { 0 };
                let seen = (word_bytes(u64::from_le_bytes(bytes)) & HIGH_BITS).to_le_bytes();
                assert_eq!(seen[place], expected, "{byte:#x}");
                assert_eq!(seen.iter().filter(|seen| **seen != 0).count(), usize::from(expected != 0));
            }
        }
        for length in 0..40 {
            let text = "a".repeat(length) + " b";
            assert_eq!(word_length(text.as_bytes()), length);
            assert_eq!(word_length(&text.as_bytes()[..length]), length);
        }
    }
}
