//! What was found, from what is well to what is wrong.

use std::io::{self, Write};

/// How grave it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Grade {
    /// As it should be.
    Well,
    /// To be known.
    Note,
    /// It works, and may not always.
    Risk,
    /// It does not work.
    Wrong,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    grade: Grade,
    about: String,
    what: String,
    remedy: String,
}

/// All that was found.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    /// Something was found about this; the remedy may be empty.
    pub(super) fn add(&mut self, grade: Grade, about: &str, what: impl Into<String>, remedy: impl Into<String>) {
        self.0.push(Finding { grade, about: about.to_owned(), what: what.into(), remedy: remedy.into() });
    }

    /// Something is as it should be.
    pub(super) fn well(&mut self, about: &str, what: impl Into<String>) {
        self.add(Grade::Well, about, what, "");
    }

    /// Whether something does not work.
    pub(super) fn are_wrong(&self) -> bool {
        self.count(Grade::Wrong) > 0
    }

    fn count(&self, grade: Grade) -> usize {
        self.0.iter().filter(|finding| finding.grade == grade).count()
    }

    /// One line for each, its remedy below; then how many there are.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        for Finding { grade, about, what, remedy } in &self.0 {
            let word = match grade {
                Grade::Well => "ok   ",
                Grade::Note => "note ",
                Grade::Risk => "RISK ",
                Grade::Wrong => "WRONG",
            };
            writeln!(out, "{word}  {about}: {what}")?;
            if !remedy.is_empty() {
                writeln!(out, "         -> {remedy}")?;
            }
        }
        writeln!(
            out,
            "\n{} wrong, {} at risk, {} to know, {} well",
            self.count(Grade::Wrong),
            self.count(Grade::Risk),
            self.count(Grade::Note),
            self.count(Grade::Well)
        )
    }
}
