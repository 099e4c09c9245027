//! Whether what the texts of a lease say has been run, too: a statement that was prepared need not have been, or has been once more behind others. Pure.

use crate::wire::message;

/// How far the last statement with effects has come that was not run at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Step {
    /// There is none that was not executed.
    #[default]
    Done,
    Prepared,
    Bound,
}

/// Follows statements with effects from their Parse to their Execute, as far as nothing comes between.
#[derive(Debug, Default)]
pub struct Course {
    /// The type of the message at hand, and whether the portal that it names, if it names one, is the unnamed one.
    at_hand: (u8, bool),
    /// Effects were noted: until then there is nothing to follow.
    has_effects: bool,
    step: Step,
    is_partial: bool,
}

impl Course {
    /// A message comes.
    #[inline]
    pub fn message(&mut self, kind: u8, body: &[u8]) {
        self.at_hand = (kind, body.first() == Some(&0));
        if self.has_effects {
            self.follow(kind, body);
        }
    }

    /// The text of the message at hand, or of the statement that it speaks of, has effects.
    #[cold]
    pub fn has_effects(&mut self) {
        self.has_effects = true;
        match self.at_hand {
            (b'P' | b'D', _) => self.step = Step::Prepared,
            (b'B', true) => self.step = Step::Bound,
            // It can be executed at any time.
            (b'B', false) => self.is_partial = true,
            _ => {}
        }
    }

    /// Whether some of the effects that were noted may not have come, or have come in another order.
    pub fn is_partial(&self) -> bool {
        self.is_partial || self.step != Step::Done
    }

    #[cold]
    fn follow(&mut self, kind: u8, body: &[u8]) {
        match kind {
            b'E' if self.step == Step::Bound && body.first() == Some(&0) => self.step = Step::Done,
            b'B' if self.step == Step::Prepared && body.starts_with(&[0, 0]) => self.step = Step::Bound,
            b'Q' | b'F' | b'S' | b'P' | b'B' => {
                self.is_partial |= self.step != Step::Done;
                self.step = Step::Done;
                // What the unnamed statement does was noted when it was parsed, which may be before what has been noted since.
                self.is_partial |= kind == b'B' && !matches!(message::bind(body), Ok((_, [_, ..])));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages by their letters, with a portal's and a statement's name behind a `B`, a portal's behind an `E`, and `!` where the text has effects.
    fn is_partial(said: &str) -> bool {
        let mut course = Course::default();
        for word in said.split_whitespace() {
            let (message, has_effects) = word.strip_suffix('!').map_or((word, false), |message| (message, true));
            let body = message[1..].replace(['/', '.'], "\0").into_bytes();
            course.message(message.as_bytes()[0], &body);
            if has_effects {
                course.has_effects();
            }
        }
        course.is_partial()
    }

    #[test]
    fn what_is_executed_at_once_has_been_run() {
        for said in [
            "Q!",
            "Q! S",
            "P! B/. D E. S",
            "P! D B/. E. S Q",
            "B/n.! E. S",
            "B/.! E. S",
            "D! B/. E. S",
            "P! B/. E. P! B/. E. S",
            "P! B/. E. B/n. E. S",
        ] {
            assert!(!is_partial(said), "{said}");
        }
    }

    #[test]
    fn i4_what_is_not_executed_or_in_another_order_may_not_have_been_run() {
        for said in [
            "P!",
            "P! S",
            "P! B/. S",
            "P! B/.",
            "P! P B/. E. S",
            "P! Bp/. Ep. S",
            "P! B/. Ep. S",
            "P! Q",
            "P! B/. F",
            "B/n.! B/o. E. S",
            "Bp/n.! Ep. S",
            "P! B/n. E. S",
            "P! B/. E. B/n.! E. B/. E. S",
            "P! B/. E. S Q! B/. E. S",
            "P! B/. E. S B S",
        ] {
            assert!(is_partial(said), "{said}");
        }
    }
}
