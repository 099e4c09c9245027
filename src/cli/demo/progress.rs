//! What the demo says on stderr while it works: notes, and a bar where a person is watching.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

/// How often a bar is worth drawing anew.
pub(super) const REDRAW_EVERY: Duration = Duration::from_millis(100);

const BAR_WIDTH: usize = 40;

/// Says one line. Whether anyone can hear it does not matter to the demo.
pub(super) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A bar that fills as invocations come out; without a terminal one line that says what is going on.
pub(super) struct Progress {
    label: &'static str,
    total: u32,
    done: u32,
    is_watched: bool,
}

impl Progress {
    pub(super) fn new(label: &'static str, total: u32) -> Self {
        let is_watched = io::stderr().is_terminal();
        if !is_watched {
            note(&format!("{total} invocations, {label}"));
        }
        Self { label, total, done: 0, is_watched }
    }

    pub(super) fn advance(&mut self) {
        self.done += 1;
    }

    pub(super) fn draw(&self) {
        if self.is_watched {
            let _ = write!(io::stderr().lock(), "\r{}", self.bar());
        }
    }

    fn bar(&self) -> String {
        let filled = BAR_WIDTH * self.done as usize / self.total.max(1) as usize;
        let (full, empty) = ("#".repeat(filled), ".".repeat(BAR_WIDTH.saturating_sub(filled)));
        format!("  {:<15} [{full}{empty}] {:>5} of {}", self.label, self.done, self.total)
    }
}

impl Drop for Progress {
    /// Leaves a clean line behind, whatever ended the round.
    fn drop(&mut self) {
        if self.is_watched {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Progress;

    #[test]
    fn a_bar_fills_from_empty_to_full() {
        let bar = |done| Progress { label: "direct", total: 1000, done, is_watched: false }.bar();
        assert_eq!(bar(0).matches('#').count(), 0);
        assert_eq!(bar(500).matches('#').count(), 20);
        assert_eq!(bar(1000).matches('.').count(), 0);
        assert!(bar(1000).ends_with("1000 of 1000"));
    }
}
