//! A child's log, read for as long as it writes: the last lines kept for an error message, every line looked at once.

use std::collections::VecDeque;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;

/// Lines kept, and bytes kept of each.
const LINES_KEPT: usize = 20;
const LINE_BYTES_KEPT: usize = 500;

/// The last lines of a log that a thread of its own reads to its end, so that the child never waits for a reader.
#[derive(Clone, Default)]
pub(super) struct LogLines {
    kept: Arc<Mutex<VecDeque<String>>>,
}

impl LogLines {
    /// Reads `source` to its end, showing each line to `look`.
    pub(super) fn follow(source: impl Read + Send + 'static, mut look: impl FnMut(&str) + Send + 'static) -> io::Result<Self> {
        let log = Self::default();
        let writer = log.clone();
        thread::Builder::new().name("demo-log".into()).spawn(move || {
            let mut lines = BufReader::new(source).split(b'\n');
            while let Some(Ok(line)) = lines.next() {
                let line = String::from_utf8_lossy(&line);
                look(&line);
                writer.keep(&line);
            }
        })?;
        Ok(log)
    }

    /// The last lines of a file.
    pub(super) fn of_file(path: &Path) -> Self {
        let log = Self::default();
        for line in std::fs::read_to_string(path).unwrap_or_default().lines() {
            log.keep(line);
        }
        log
    }

    fn keep(&self, line: &str) {
        let mut kept = self.kept.lock();
        if kept.len() == LINES_KEPT {
            kept.pop_front();
        }
        kept.push_back(line[..line.floor_char_boundary(LINE_BYTES_KEPT)].to_owned());
    }

    /// What was kept, as the end of an error message.
    pub(super) fn text(&self) -> String {
        let lines: Vec<String> = self.kept.lock().iter().map(|line| format!("  | {line}")).collect();
        if lines.is_empty() { "  | (it wrote nothing)".into() } else { lines.join("\n") }
    }
}

#[cfg(test)]
mod tests {
    use super::{LINES_KEPT, LogLines};

    #[test]
    fn only_the_last_lines_are_kept() {
        let log = LogLines::default();
        for number in 0..LINES_KEPT + 3 {
            log.keep(&format!("line {number}"));
        }
        let text = log.text();
        assert!(!text.contains("line 2\n") && text.contains("line 3\n") && text.ends_with("line 22"), "{text}");
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let log = LogLines::default();
        log.keep(&"\u{e9}".repeat(1000));
        assert!(log.text().len() < 600);
    }
}
