//! A Rust source told apart into code, comments and literals, as far as the law of the house needs it.
//!
//! Owns the reading; judges nothing. Lexical: no macro is expanded and no path resolved.

use std::ops::Range;

/// A source text with its comments and the insides of its literals blanked, byte for byte, so that offsets and lines stay true.
pub(super) struct Source<'a> {
    pub(super) path: &'a str,
    pub(super) text: &'a str,
    pub(super) code: String,
    /// Where the insides of the string literals are.
    pub(super) literals: Vec<Range<usize>>,
    /// Where the inline `#[cfg(test)] mod name { .. }` blocks are.
    tests: Vec<Range<usize>>,
}

impl<'a> Source<'a> {
    /// `path` is relative to `src/`, as in `session/phase.rs`.
    pub(super) fn read(path: &'a str, text: &'a str) -> Self {
        let (code, literals) = blank(text);
        let tests = test_blocks(&code);
        Self { path, text, code, literals, tests }
    }

    pub(super) fn room(&self) -> &'a str {
        self.path.split('/').next().unwrap_or("").trim_end_matches(".rs")
    }

    /// How many `super` lead from the top of this file to the root of the crate.
    fn depth(&self) -> usize {
        let path = self.path.trim_end_matches("/mod.rs").trim_end_matches(".rs");
        path.split('/').count()
    }

    pub(super) fn is_test(&self, at: usize) -> bool {
        let path = self.path;
        path.ends_with("/tests.rs")
            || path.ends_with("_tests.rs")
            || path.contains("/tests/")
            || self.tests.iter().any(|block| block.contains(&at))
    }

    fn line(&self, at: usize) -> usize {
        self.text[..at].matches('\n').count() + 1
    }

    pub(super) fn offence(&self, at: usize, what: &str) -> String {
        format!("src/{}:{}: {what}", self.path, self.line(at))
    }
}

/// What follows each `root::` in the code, group imports opened: `crate::{wire, pool::Lease}` names `wire` and `pool`.
pub(super) fn named_after(code: &str, root: &str) -> Vec<(usize, String)> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices(root) {
        let starts_a_word = !code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_');
        let Some(rest) = code[at + root.len()..].strip_prefix("::") else {
            continue;
        };
        if starts_a_word {
            names.extend(heads(rest).into_iter().map(|name| (at, name)));
        }
    }
    names
}

/// The rooms named by a chain of `super` long enough to reach the root of the crate.
pub(super) fn named_by_super(source: &Source<'_>) -> Vec<(usize, String)> {
    let mut names = Vec::new();
    for (at, _) in source.code.match_indices("super::") {
        if source.code[..at].ends_with("super::") {
            continue;
        }
        let mut rest = &source.code[at..];
        let mut climbed = 0;
        while let Some(after) = rest.strip_prefix("super::") {
            rest = after;
            climbed += 1;
        }
        if climbed >= source.depth() {
            let rooms = heads(rest).into_iter().filter(|name| name != "*");
            names.extend(rooms.map(|name| (at, name)));
        }
    }
    names
}

/// The first names of a path or of a braced group of paths.
fn heads(rest: &str) -> Vec<String> {
    let Some(group) = rest.strip_prefix('{') else {
        return vec![head(rest)];
    };
    let mut names = Vec::new();
    let mut depth = 0_usize;
    let mut start = 0;
    for (at, found) in group.char_indices() {
        match found {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            '}' | ',' if depth == 0 => {
                names.push(head(group[start..at].trim()));
                start = at + 1;
                if found == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names
}

fn head(path: &str) -> String {
    if path.starts_with('*') {
        return "*".to_owned();
    }
    path.chars().take_while(|&part| part.is_alphanumeric() || part == '_').collect()
}

/// The inline test modules, found by their braces in blanked code.
fn test_blocks(code: &str) -> Vec<Range<usize>> {
    let mut blocks = Vec::new();
    for (at, _) in code.match_indices("#[cfg(test)]") {
        let Some(open) = code[at..].find(['{', ';']).map(|offset| at + offset) else {
            continue;
        };
        if code.as_bytes()[open] == b';' {
            continue;
        }
        let mut depth = 0_usize;
        for (offset, found) in code[open..].char_indices() {
            match found {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                blocks.push(at..open + offset);
                break;
            }
        }
    }
    blocks
}

/// Blanks comments and the insides of literals, and says where the insides of string literals were.
fn blank(text: &str) -> (String, Vec<Range<usize>>) {
    let mut code = text.as_bytes().to_vec();
    let mut literals = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let token = Token::at(text, at);
        for byte in &mut code[token.inside.clone()] {
            // Line ends stay, and the rest keeps its width.
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        if token.is_string {
            literals.push(token.inside);
        }
        at = token.end;
    }
    (String::from_utf8_lossy(&code).into_owned(), literals)
}

/// One comment, literal or character of code.
struct Token {
    inside: Range<usize>,
    end: usize,
    is_string: bool,
}

impl Token {
    fn at(text: &str, at: usize) -> Self {
        let rest = &text[at..];
        let until = |end: usize| Self { inside: at..end, end, is_string: false };
        if rest.starts_with("//") {
            return until(rest.find('\n').map_or(text.len(), |length| at + length));
        }
        if rest.starts_with("/*") {
            return until(at + block_comment(rest));
        }
        let begins_a_word = !text[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_');
        if begins_a_word && let Some(raw) = Self::raw_string(text, at) {
            return raw;
        }
        if let Some(body) = rest.strip_prefix('"') {
            let close = at + 1 + unescaped(body, '"');
            return Self { inside: at + 1..close, end: (close + 1).min(text.len()), is_string: true };
        }
        if let Some(length) = char_literal(rest) {
            return Self { inside: at + 1..at + length - 1, end: at + length, is_string: false };
        }
        let width = rest.chars().next().map_or(1, char::len_utf8);
        Self { inside: at..at, end: at + width, is_string: false }
    }

    fn raw_string(text: &str, at: usize) -> Option<Self> {
        let rest = &text[at..];
        let body = rest.strip_prefix("br").or_else(|| rest.strip_prefix("cr")).or_else(|| rest.strip_prefix('r'))?;
        let hashes = body.bytes().take_while(|&byte| byte == b'#').count();
        body[hashes..].strip_prefix('"')?;
        let start = at + (rest.len() - body.len()) + hashes + 1;
        let closing = format!("\"{}", "#".repeat(hashes));
        let close = text[start..].find(&closing).map_or(text.len(), |length| start + length);
        Some(Self { inside: start..close, end: (close + closing.len()).min(text.len()), is_string: true })
    }
}

/// The length of a block comment, nested ones included.
fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        let step = rest.as_bytes()[at..].get(..2).unwrap_or_default();
        match step {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            break;
        }
    }
    at.min(rest.len())
}

/// Where the first `quote` is that no backslash takes away.
fn unescaped(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, found) in rest.char_indices() {
        if escaped {
            escaped = false;
        } else if found == '\\' {
            escaped = true;
        } else if found == quote {
            return at;
        }
    }
    rest.len()
}

/// The length of a character literal; nothing for a lifetime.
fn char_literal(rest: &str) -> Option<usize> {
    let mut inside = rest.strip_prefix('\'')?.chars();
    let first = inside.next()?;
    if first == '\\' {
        let close = unescaped(&rest[1..], '\'');
        return Some(close + 2).filter(|&length| length <= rest.len());
    }
    (inside.next()? == '\'').then(|| first.len_utf8() + 2)
}
