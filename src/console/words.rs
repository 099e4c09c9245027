//! What an operator may say: from text to commands. Pure.
//!
//! PgBouncer's words and forms, and our own beside them. Words are known in any case; names of databases are as they are written, with or without quotes.

use std::iter::Peekable;
use std::str::CharIndices;

use super::complaint::Complaint;
use super::show::{SHOWS, Show};

/// One command.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Show something.
    Show(&'static Show),
    /// Show the commands that there are.
    Help,
    /// Show what drivers ask of any PostgreSQL.
    Setting(&'static str, &'static str),
    /// Give nobody a server connection, wait until all are closed.
    Pause(Option<String>),
    /// Go on.
    Resume(Option<String>),
    /// Close server connections as they become free.
    Reconnect(Option<String>),
    /// Wait until the server connections that RECONNECT means are closed.
    WaitClose(Option<String>),
    /// Take new clients again.
    Enable(String),
    /// Take no new clients.
    Disable(String),
    /// Pause, and end all sessions now.
    Kill(Option<String>),
    /// End one session.
    KillClient(u32),
    /// Read the configuration again.
    Reload,
    /// Stop as at SIGTERM.
    Drain,
    /// Stop.
    Shutdown(Shutdown),
    /// Change a setting until the process ends.
    Set {
        /// Its path, such as `defaults.queue_timeout`.
        path: String,
        /// Its value, as in the environment.
        value: String,
    },
    /// What drivers say to any PostgreSQL, and what means nothing here; the tag of the answer.
    Nothing(&'static str),
}

/// When to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Now; what runs is cancelled.
    Now,
    /// When open transactions are over, or the time for that is.
    WaitForServers,
    /// When all clients have left.
    WaitForClients,
}

/// Settings of PostgreSQL's that drivers ask for or set without being asked to, with what the console answers.
const SETTINGS: [(&str, &str); 13] = [
    ("application_name", ""),
    ("bytea_output", "hex"),
    ("client_encoding", "UTF8"),
    ("client_min_messages", "notice"),
    ("datestyle", "ISO, MDY"),
    ("default_transaction_isolation", "read committed"),
    ("extra_float_digits", "1"),
    ("intervalstyle", "postgres"),
    ("search_path", ""),
    ("server_encoding", "UTF8"),
    ("standard_conforming_strings", "on"),
    ("statement_timeout", "0"),
    ("timezone", "UTC"),
];

/// The commands of a text; none for an empty one.
///
/// # Errors
/// The first that is none.
pub fn commands(text: &str) -> Result<Vec<Command>, Complaint> {
    let words = words(text)?;
    words.split(|word| *word == Word::Mark(';')).filter(|words| !words.is_empty()).map(|words| command(words, text)).collect()
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    /// A name or number as it is written.
    Plain(String),
    /// A name in quotes.
    Quoted(String),
    /// A text.
    Text(String),
    /// Anything else.
    Mark(char),
}

impl Word {
    fn is(&self, word: &str) -> bool {
        matches!(self, Self::Plain(plain) if plain.eq_ignore_ascii_case(word))
    }

    fn value(&self) -> Option<&str> {
        match self {
            Self::Plain(text) | Self::Quoted(text) | Self::Text(text) => Some(text),
            Self::Mark(_) => None,
        }
    }
}

fn words(text: &str) -> Result<Vec<Word>, Complaint> {
    let mut words = Vec::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let next = chars.peek().map(|(_, c)| *c);
        match (c, next) {
            ('-', Some('-')) => while chars.next_if(|(_, c)| *c != '\n').is_some() {},
            ('/', Some('*')) => skip_comment(&mut chars),
            ('"', _) => words.push(Word::Quoted(quoted(&mut chars, '"').ok_or_else(|| Complaint::unknown(text))?)),
            ('\'', _) => words.push(Word::Text(quoted(&mut chars, '\'').ok_or_else(|| Complaint::unknown(text))?)),
            (c, _) if is_plain(c) => {
                let mut end = at + c.len_utf8();
                while let Some((at, c)) = chars.next_if(|(_, c)| is_plain(*c)) {
                    end = at + c.len_utf8();
                }
                words.push(Word::Plain(text.get(at..end).unwrap_or_default().to_owned()));
            }
            (c, _) if c.is_whitespace() => {}
            (c, _) => words.push(Word::Mark(c)),
        }
    }
    Ok(words)
}

fn is_plain(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '*' | ':' | '/')
}

fn skip_comment(chars: &mut Peekable<CharIndices<'_>>) {
    let mut last = ' ';
    for (_, c) in chars.by_ref() {
        if (last, c) == ('*', '/') {
            return;
        }
        last = c;
    }
}

/// The rest of a name or text up to its quote, which is doubled inside; none where there is no end.
fn quoted(chars: &mut Peekable<CharIndices<'_>>, quote: char) -> Option<String> {
    let mut inside = String::new();
    loop {
        let (_, c) = chars.next()?;
        if c != quote {
            inside.push(c);
        } else if chars.next_if(|(_, c)| *c == quote).is_some() {
            inside.push(quote);
        } else {
            return Some(inside);
        }
    }
}

fn command(words: &[Word], text: &str) -> Result<Command, Complaint> {
    let unknown = || Complaint::unknown(text);
    let (first, rest) = words.split_first().ok_or_else(unknown)?;
    let Word::Plain(verb) = first else { return Err(unknown()) };
    let verb = verb.to_ascii_uppercase();
    match verb.as_str() {
        "SHOW" => return show(rest).ok_or_else(unknown),
        "SET" => return set(rest).ok_or_else(unknown),
        "BEGIN" | "START" => return Ok(Command::Nothing("BEGIN")),
        "COMMIT" | "END" => return Ok(Command::Nothing("COMMIT")),
        "ROLLBACK" | "ABORT" => return Ok(Command::Nothing("ROLLBACK")),
        "DISCARD" => return Ok(Command::Nothing("DISCARD ALL")),
        "RESET" => return Ok(Command::Nothing("RESET")),
        "DEALLOCATE" => return Ok(Command::Nothing("DEALLOCATE")),
        _ => {}
    }
    let name = match rest {
        [] => None,
        [one] => Some(one.value().ok_or_else(unknown)?.to_owned()),
        [kind, one] if verb == "KILL" && kind.is("client") => return client(one).ok_or_else(unknown),
        _ => return Err(unknown()),
    };
    let needed = || name.clone().ok_or_else(|| Complaint::wrong("a database is required"));
    Ok(match (verb.as_str(), &name) {
        ("PAUSE", _) => Command::Pause(name),
        ("RESUME", _) => Command::Resume(name),
        ("RECONNECT", _) => Command::Reconnect(name),
        ("WAIT_CLOSE", _) => Command::WaitClose(name),
        ("KILL", _) => Command::Kill(name),
        ("ENABLE", _) => Command::Enable(needed()?),
        ("DISABLE", _) => Command::Disable(needed()?),
        ("KILL_CLIENT", Some(_)) => rest.first().and_then(client).ok_or_else(unknown)?,
        ("RELOAD", None) => Command::Reload,
        ("DRAIN", None) => Command::Drain,
        ("SHUTDOWN", None) => Command::Shutdown(Shutdown::Now),
        ("SHUTDOWN", Some(when)) if when.eq_ignore_ascii_case("wait_for_servers") => Command::Shutdown(Shutdown::WaitForServers),
        ("SHUTDOWN", Some(when)) if when.eq_ignore_ascii_case("wait_for_clients") => Command::Shutdown(Shutdown::WaitForClients),
        ("SUSPEND", None) => {
            return Err(Complaint::unsupported(
                "SUSPEND is not supported: PAUSE waits for transactions, and a restart hands the port over",
            ));
        }
        _ => return Err(unknown()),
    })
}

fn client(word: &Word) -> Option<Command> {
    word.value()?.parse().ok().map(Command::KillClient)
}

fn show(words: &[Word]) -> Option<Command> {
    match words {
        [what] if what.is("help") => Some(Command::Help),
        [what] => {
            let show = SHOWS.iter().find(|show| what.is(show.name)).map(Command::Show);
            show.or_else(|| setting(what.value()?).map(|(name, value)| Command::Setting(name, value)))
        }
        [one, two, three] if one.is("transaction") && two.is("isolation") && three.is("level") => {
            Some(Command::Setting("transaction_isolation", "read committed"))
        }
        _ => None,
    }
}

fn setting(name: &str) -> Option<(&'static str, &'static str)> {
    SETTINGS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).copied()
}

fn set(words: &[Word]) -> Option<Command> {
    let (first, rest) = words.split_first()?;
    if (first.is("session") || first.is("local")) && matches!(rest, [Word::Plain(_) | Word::Quoted(_), ..]) {
        return if rest.first()?.is("characteristics") { Some(Command::Nothing("SET")) } else { set(rest) };
    }
    let path = first.value()?;
    if setting(path).is_some() || first.is("names") || first.is("transaction") || first.is("time") {
        return Some(Command::Nothing("SET"));
    }
    let (equals, value) = rest.split_first()?;
    if *equals != Word::Mark('=') && !equals.is("to") {
        return None;
    }
    let values: Vec<&str> = value.iter().filter(|word| **word != Word::Mark(',')).map(Word::value).collect::<Option<_>>()?;
    (!values.is_empty()).then(|| Command::Set { path: path.to_owned(), value: values.join(",") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Command {
        let commands = commands(text).unwrap_or_else(|complaint| panic!("{text}: {complaint:?}"));
        assert_eq!(commands.len(), 1, "{text}");
        commands.into_iter().next().unwrap()
    }

    #[test]
    fn commands_are_known_in_any_case_and_dress() {
        for text in ["show pools", "SHOW POOLS;", " Show\n\tPools ; ", "/* who */ SHOW -- waits?\n pools"] {
            assert!(matches!(one(text), Command::Show(show) if show.name == "pools"), "{text}");
        }
        assert_eq!(one("PAUSE"), Command::Pause(None));
        assert_eq!(one("pause app;"), Command::Pause(Some("app".into())));
        assert_eq!(one(r#"RESUME "we""ird;name""#), Command::Resume(Some("we\"ird;name".into())));
        assert_eq!(one("kill my-db"), Command::Kill(Some("my-db".into())));
        assert_eq!(one("KILL client 7"), Command::KillClient(7));
        assert_eq!(one("KILL_CLIENT 7"), Command::KillClient(7));
        assert_eq!(one("SHUTDOWN wait_for_clients"), Command::Shutdown(Shutdown::WaitForClients));
        assert_eq!(commands("RELOAD; SHOW STATS;").unwrap().len(), 2);
        assert_eq!(commands(" ; ;-- nothing").unwrap(), []);
    }

    #[test]
    fn settings_are_paths_and_values() {
        let set = |path: &str, value: &str| Command::Set { path: path.into(), value: value.into() };
        assert_eq!(one("SET defaults.queue_timeout = '3s'"), set("defaults.queue_timeout", "3s"));
        assert_eq!(one("set upstreams.main.max_connections to 7;"), set("upstreams.main.max_connections", "7"));
        assert_eq!(one("SET console.stats_users = a, 'b c'"), set("console.stats_users", "a,b c"));
        assert!(commands("SET defaults.queue_timeout").is_err());
        assert!(commands("SET defaults.queue_timeout = ").is_err());
    }

    #[test]
    fn what_drivers_say_of_themselves_means_nothing() {
        for text in [
            "SET extra_float_digits = 3",
            "SET application_name = 'PostgreSQL JDBC Driver'",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            "SET client_encoding TO 'UTF8'",
            "SET TIME ZONE 'UTC'",
        ] {
            assert_eq!(one(text), Command::Nothing("SET"), "{text}");
        }
        assert_eq!(one("BEGIN READ ONLY"), Command::Nothing("BEGIN"));
        assert_eq!(one("show TimeZone"), Command::Setting("timezone", "UTC"));
        assert_eq!(one("SHOW TRANSACTION ISOLATION LEVEL"), Command::Setting("transaction_isolation", "read committed"));
    }

    #[test]
    fn what_is_no_command_is_told_with_its_text() {
        for text in
            ["SELECT 1", "SHOW", "SHOW everything", "PAUSE a b", "KILL client x", "ENABLE", "RELOAD now", "'x'", "PAUSE \"app", "SUSPEND"]
        {
            assert!(commands(text).is_err(), "{text}");
        }
        assert!(commands("SELECT 1").unwrap_err().message.contains("SELECT 1"));
    }
}
