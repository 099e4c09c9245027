//! The TOML as it grows: values by section, what has become of PgBouncer's settings, and what somebody should look at.

use std::fmt::Write as _;

use super::Imported;
use super::ini::Entry;

/// The page.
pub(super) struct Page {
    name: String,
    sections: Vec<Section>,
    taken: Vec<String>,
    not_needed: Vec<String>,
    no_counterpart: Vec<String>,
    open: Vec<String>,
}

struct Section {
    name: String,
    lines: Vec<(String, String, String)>,
}

/// A text as a TOML value.
pub(super) fn text(value: &str) -> String {
    toml::Value::String(value.to_owned()).to_string()
}

/// A key as it stands in a path.
pub(super) fn key(name: &str) -> String {
    let is_bare = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if is_bare { name.to_owned() } else { text(name) }
}

/// A number of seconds, perhaps with a fraction, as our settings have it.
pub(super) fn seconds(value: &str) -> Option<String> {
    let seconds: f64 = value.parse().ok()?;
    let time = std::time::Duration::try_from_secs_f64(seconds).ok()?;
    let millis = time.as_millis();
    Some(match millis {
        0 => "0".to_owned(),
        millis if millis.is_multiple_of(1000) => format!("{}s", millis / 1000),
        millis => format!("{millis}ms"),
    })
}

impl Page {
    pub(super) fn new(name: &str) -> Self {
        let (taken, not_needed, no_counterpart, open) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { name: name.to_owned(), sections: Vec::new(), taken, not_needed, no_counterpart, open }
    }

    /// Sets a value, which is TOML already, with a comment if there is something to say.
    pub(super) fn set(&mut self, section: &str, name: &str, value: String, comment: &str) {
        let at = self.sections.iter().position(|known| known.name == section).unwrap_or_else(|| {
            self.sections.push(Section { name: section.to_owned(), lines: Vec::new() });
            self.sections.len() - 1
        });
        if let Some(section) = self.sections.get_mut(at) {
            section.lines.push((name.to_owned(), value, comment.to_owned()));
        }
    }

    /// A setting was taken over.
    pub(super) fn taken(&mut self, entry: &Entry, path: &str) {
        self.taken.push(format!("{}: {} -> {path}", entry.place, entry.name));
    }

    /// A setting is not needed.
    pub(super) fn not_needed(&mut self, entry: &Entry, why: &str) {
        self.not_needed.push(format!("{}: {}: {why}", entry.place, entry.name));
    }

    /// A setting has no counterpart.
    pub(super) fn no_counterpart(&mut self, entry: &Entry, advice: &str) {
        self.no_counterpart.push(format!("{}: {}: {advice}", entry.place, entry.name));
    }

    /// Somebody should look at this.
    pub(super) fn open(&mut self, what: String) {
        self.open.push(what);
    }

    pub(super) fn finish(self) -> Imported {
        let mut toml = format!("# Made of {} by `pgweir import pgbouncer`. Look at it, then: pgweir check FILE\n", in_a_line(&self.name));
        list(&mut toml, "To look at", &self.open);
        for Section { name, lines } in &self.sections {
            let _ = writeln!(toml, "\n[{name}]");
            for (key, value, comment) in lines {
                let comment = if comment.is_empty() { String::new() } else { format!(" # {}", in_a_line(comment)) };
                let _ = writeln!(toml, "{key} = {value}{comment}");
            }
        }
        list(&mut toml, "Taken over", &self.taken);
        list(&mut toml, "Not needed", &self.not_needed);
        list(&mut toml, "Without a counterpart", &self.no_counterpart);
        let mut open = self.open;
        open.extend(self.no_counterpart);
        Imported { toml, open }
    }
}

fn list(toml: &mut String, title: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(toml, "\n# {title}:");
    for line in lines {
        let _ = writeln!(toml, "#   {}", in_a_line(line));
    }
}

/// What a comment may hold: a line of the other file may hold anything.
fn in_a_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}
