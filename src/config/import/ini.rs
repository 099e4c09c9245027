//! PgBouncer's file, read as PgBouncer reads it: sections, `name = value`, comments on lines of their own, `%include`.

use super::ReadFile;

/// A setting as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its name.
    pub(super) name: String,
    /// Its value, without the blanks around it.
    pub(super) value: String,
    /// The file and line that it is on.
    pub(super) place: String,
}

/// A file and all that it includes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ini {
    pub(super) databases: Vec<Entry>,
    pub(super) users: Vec<Entry>,
    pub(super) peers: Vec<Entry>,
    pub(super) settings: Vec<Entry>,
    /// What is none of these.
    pub(super) strange: Vec<String>,
}

/// How deep files may include each other, as in PgBouncer.
const DEPTH: usize = 10;

impl Ini {
    /// Reads a file's text; `read` answers with those that it includes.
    pub(super) fn read(name: &str, text: &str, read: ReadFile<'_>) -> Self {
        let mut ini = Self::default();
        let mut section = String::new();
        ini.take(name, text, &mut section, (read, DEPTH));
        ini
    }

    fn take(&mut self, file: &str, text: &str, section: &mut String, (read, depth): (ReadFile<'_>, usize)) {
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            let place = format!("{file}:{number}");
            if line.is_empty() || line.starts_with([';', '#']) {
                continue;
            }
            if let Some(included) = line.strip_prefix("%include") {
                let included = included.trim();
                match read(included) {
                    Ok(text) if depth > 0 => self.take(included, &text, section, (read, depth - 1)),
                    Ok(_) => self.strange.push(format!("{place}: {line} (files include each other too deeply)")),
                    Err(error) => self.strange.push(format!("{place}: {line} ({error})")),
                }
            } else if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                name.trim().to_lowercase().clone_into(section);
            } else if let Some((name, value)) = line.split_once('=') {
                let entry = Entry { name: unquoted(name.trim()), value: value.trim().to_owned(), place };
                match section.as_str() {
                    "databases" => self.databases.push(entry),
                    "users" => self.users.push(entry),
                    "peers" => self.peers.push(entry),
                    "pgbouncer" => self.settings.push(entry),
                    _ => self.strange.push(format!("{}: {line} (in no section that is known)", entry.place)),
                }
            } else {
                self.strange.push(format!("{place}: {line}"));
            }
        }
    }
}

/// A name that may be in double quotes.
fn unquoted(name: &str) -> String {
    name.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).map_or_else(|| name.to_owned(), |inside| inside.replace("\"\"", "\""))
}

/// The parts of a connection string: `name=value` with blanks between, values in single quotes where they must be; and from where on it is none.
pub(super) fn parts(text: &str) -> (Vec<(String, String)>, Option<String>) {
    let mut parts = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let Some((name, value, left)) = part(rest) else { return (parts, Some(rest.to_owned())) };
        parts.push((name.to_owned(), value));
        rest = left.trim_start();
    }
    (parts, None)
}

fn part(text: &str) -> Option<(&str, String, &str)> {
    let (name, after) = text.split_once('=')?;
    let after = after.trim_start();
    let (value, left) = if after.starts_with('\'') { in_quotes(after, '\'')? } else { plain(after) };
    Some((name.trim(), value, left))
}

fn plain(text: &str) -> (String, &str) {
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let (value, rest) = text.split_at(end);
    (value.to_owned(), rest)
}

/// What stands in quotes, which are doubled inside, and what is behind it; none where it does not begin or does not end.
fn in_quotes(text: &str, quote: char) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text.strip_prefix(quote)?;
    loop {
        let (before, after) = rest.split_once(quote)?;
        value.push_str(before);
        match after.strip_prefix(quote) {
            Some(more) => {
                value.push(quote);
                rest = more;
            }
            None => return Some((value, after)),
        }
    }
}

/// The users of an `auth_file`: names and what is kept of their passwords. Lines are `"name" "password"`; what follows is ignored.
pub(super) fn users(text: &str) -> Vec<(String, String)> {
    let user = |line: &str| {
        let (name, rest) = in_quotes(line.trim(), '"')?;
        Some((name, in_quotes(rest.trim_start(), '"').map_or_else(String::new, |(secret, _)| secret)))
    };
    text.lines().filter_map(user).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_section_by_section_with_what_it_includes() {
        let read = |name: &str| match name {
            "more.ini" => Ok("listen_port = 1\n[databases]\nsecond =\n".to_owned()),
            _ => Err(std::io::Error::from(std::io::ErrorKind::NotFound)),
        };
        let text = "[pgbouncer]\n; a comment = 1\n%include more.ini\n\"th ird\" = host=x\n%include none.ini\nnonsense\n[other]\na = b\n";
        let ini = Ini::read("p.ini", text, &read);
        assert_eq!(ini.settings, [Entry { name: "listen_port".into(), value: "1".into(), place: "more.ini:1".into() }]);
        let names: Vec<&str> = ini.databases.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["second", "th ird"], "a section goes on behind the file that began it");
        assert_eq!(ini.strange.len(), 3, "{:?}", ini.strange);
        let endless = Ini::read("p.ini", "%include p.ini", &|_| Ok("%include p.ini".to_owned()));
        assert_eq!(endless.strange.len(), 1);
    }

    #[test]
    fn connection_strings_and_users_are_read_as_pgbouncer_reads_them() {
        let (found, rest) = parts("host=localhost  port = 300 connect_query='SELECT ''a b'''");
        assert_eq!(rest, None);
        let pairs: Vec<(&str, &str)> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("host", "localhost"), ("port", "300"), ("connect_query", "SELECT 'a b'")]);
        assert_eq!(parts(""), (vec![], None));
        assert_eq!(parts("a=1 host").1.as_deref(), Some("host"));
        assert_eq!(parts("a='b").1.as_deref(), Some("a='b"));
        let text = "\"marko\" \"as\"\"d\"\n; no user\n\"nobody\"\n  \"x\" \"md5abc\" ignored\n";
        let found = users(text);
        let pairs: Vec<(&str, &str)> = found.iter().map(|(name, secret)| (name.as_str(), secret.as_str())).collect();
        assert_eq!(pairs, [("marko", "as\"d"), ("nobody", ""), ("x", "md5abc")]);
    }
}
