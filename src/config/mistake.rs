//! What is wrong with a configuration, where, and what to write instead; and how that is printed.
//! A printed source line shows no text but the one at fault: the others may be secrets.

use std::fmt;
use std::ops::Range;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can, but probably does not do what was meant.
    Warning,
}

/// Where the mistake was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a line of the file.
    Line(Line),
    /// In the file, or by something missing from it.
    File(String),
    /// In a variable of the environment, or an option of the command line.
    Variable(String),
}

/// A place in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The file as it was named.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// How many characters are at fault.
    pub width: usize,
    /// The line's text, secrets hidden.
    pub source: String,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// How bad it is.
    pub severity: Severity,
    /// Where it was made.
    pub place: Place,
    /// The setting, such as `upstreams.main.max_connections`; empty when the file is not TOML at all.
    pub path: String,
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub remedy: Option<String>,
}

impl Mistake {
    /// Whether the configuration cannot be used because of it.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// In one line, without the place.
    pub fn in_short(&self) -> String {
        match &self.remedy {
            Some(remedy) => format!("{} ({remedy})", self.what),
            None => self.what.clone(),
        }
    }

    /// For sorting: by line, those without one last.
    pub(super) fn position(&self) -> (usize, usize) {
        match &self.place {
            Place::Line(line) => (line.line, line.column),
            Place::File(_) | Place::Variable(_) => (usize::MAX, 0),
        }
    }
}

impl fmt::Display for Mistake {
    /// The form of compilers, which editors and people can follow: `pgweir.toml:12:7: error: ..`, the line, a caret, the help.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let mut margin = 0;
        match &self.place {
            Place::Line(at) => {
                let number = at.line.to_string();
                margin = number.len() + 1;
                writeln!(f, "{}:{number}:{}: {severity}: {}", at.file, at.column, self.what)?;
                writeln!(f, "{:margin$}|", "")?;
                writeln!(f, "{number} | {}", at.source)?;
                let before: String = at.source.chars().take(at.column - 1).map(as_blank).collect();
                write!(f, "{:margin$}| {before}{}", "", "^".repeat(at.width))?;
            }
            Place::File(name) | Place::Variable(name) => write!(f, "{name}: {severity}: {}", self.what)?,
        }
        match &self.remedy {
            Some(remedy) => write!(f, "\n{:margin$}help: {remedy}", ""),
            None => Ok(()),
        }
    }
}

/// Keeps the caret under its character where the line is indented by tabs.
fn as_blank(c: char) -> char {
    if c == '\t' { '\t' } else { ' ' }
}

/// A file's name and text, to find lines in.
pub(super) struct Source<'a> {
    pub(super) file: &'a str,
    pub(super) text: &'a str,
}

impl Source<'_> {
    /// The place of a range of bytes. `hide` keeps what is at fault from being shown too.
    pub(super) fn place(&self, span: &Range<usize>, hide: bool) -> Place {
        let start = floor_char(self.text, span.start);
        let end = floor_char(self.text, span.end.max(start));
        let (before, after) = (self.text.get(..start).unwrap_or(""), self.text.get(start..).unwrap_or(""));
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = after.find('\n').map_or(self.text.len(), |newline| start + newline);
        let line = self.text.get(line_start..line_end).unwrap_or("").trim_end_matches('\r');
        let inside = start - line_start..end.min(line_end).max(start) - line_start;
        let chars = |text: Option<&str>| text.map_or(0, |text| text.chars().count());
        Place::Line(Line {
            file: self.file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: chars(self.text.get(line_start..start)) + 1,
            width: chars(line.get(inside.clone())).max(1),
            source: masked(line, if hide { 0..0 } else { inside }),
        })
    }
}

fn floor_char(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The line with every quoted text but the one in `shown` replaced by stars, and with everything after a key that names a secret replaced.
fn masked(line: &str, shown: Range<usize>) -> String {
    let lower = line.to_ascii_lowercase();
    let secret_from = lower.find('=').filter(|equals| {
        let key = lower.get(..*equals).unwrap_or("");
        let names_a_secret = ["pass", "secret", "verifier"].iter().any(|word| key.contains(word));
        names_a_secret && !key.trim_end().ends_with("_file")
    });
    let mut quote = None;
    let mut escaped = false;
    let hide = |(at, c): (usize, char)| {
        if secret_from.is_some_and(|equals| at > equals + 1) {
            return '*';
        }
        match quote {
            None => {
                quote = (c == '"' || c == '\'').then_some(c);
                c
            }
            Some(open) if c == open && !escaped => {
                quote = None;
                c
            }
            Some(open) => {
                escaped = open == '"' && c == '\\' && !escaped;
                if shown.contains(&at) { c } else { '*' }
            }
        }
    };
    line.char_indices().map(hide).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_at_fault_is_shown() {
        let line = "keys = [{ id = \"a\", secret = \"hunter2\", usr = \"app\" }]";
        let at = line.find("usr").unwrap();
        let shown = masked(line, at..at + 3);
        assert!(!shown.contains("hunter2") && shown.contains("usr"), "{shown}");
        assert_eq!(shown.len(), line.len());
        assert!(!masked("password = hunter2", 11..18).contains("hunter2"));
        assert!(!masked("pasword = 'hun\"ter2'", 0..7).contains("ter2"));
        assert!(!masked("pasword = \"hun\\\"ter2", 0..7).contains("ter2"));
    }

    #[test]
    fn places_are_counted_in_lines_and_characters() {
        let source = Source { file: "p.toml", text: "a = 1\r\n# é\nbé = \"x\"\n" };
        let at = source.text.find("\"x\"").unwrap();
        let Place::Line(line) = source.place(&(at..at + 3), false) else { panic!("no line") };
        assert_eq!((line.line, line.column, line.width), (3, 6, 3));
        assert_eq!(line.source, "bé = \"x\"");
        // Beyond the end, in the middle of a character: still an answer.
        let _ = source.place(&(10_000..20_000), false);
        let _ = source.place(&(source.text.find('é').unwrap() + 1..3), false);
    }

    #[test]
    fn a_mistake_is_printed_like_a_compilers() {
        let source = Source { file: "p.toml", text: "[listen]\n\thtp = \"x\"\n" };
        let mistake = Mistake {
            severity: Severity::Error,
            place: source.place(&(10..13), false),
            path: "listen.htp".to_owned(),
            what: "unknown key `htp`".to_owned(),
            remedy: Some("did you mean `http`?".to_owned()),
        };
        let expected = "p.toml:2:2: error: unknown key `htp`\n  |\n2 | \thtp = \"*\"\n  | \t^^^\n  help: did you mean `http`?";
        assert_eq!(mistake.to_string(), expected);
    }
}
