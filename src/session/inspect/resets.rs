//! In a session pool: which settings may have gone back to what the server connection began with. Pure.

use crate::wire::sql::{self, Effects};

/// Which they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reset {
    /// Some.
    pub any: bool,
    /// Those that say whose rights the session has.
    pub rights: bool,
}

impl Reset {
    /// What a text with these effects resets; one that is not all here may reset any.
    pub fn of(effects: Effects, text: &[u8], whole: bool) -> Self {
        let mut reset = Self::default();
        if effects.changes_settings() {
            let touched = sql::settings(text);
            reset.add(Self { any: !whole || touched.resets(), rights: touched.resets_a_right() });
        }
        // What is hidden in it says the word.
        let says = |word: &[u8]| text.windows(word.len()).any(|here| here.eq_ignore_ascii_case(word));
        if effects.is_opaque() && says(b"reset") {
            reset.add(Self { any: true, rights: says(b"role") || says(b"authorization") });
        }
        reset
    }

    fn add(&mut self, other: Self) {
        self.any |= other.any;
        self.rights |= other.rights;
    }
}

/// What has been run since this was asked last, and what may be run again.
#[derive(Debug, Clone, Copy, Default)]
pub struct Resets {
    now: Reset,
    unnamed: Reset,
    /// By any of the statements with names.
    named: Reset,
}

impl Resets {
    /// What has been run.
    #[inline]
    pub fn now(self) -> Reset {
        self.now
    }

    /// A text that is run.
    pub fn run(&mut self, reset: Reset) {
        self.now.add(reset);
    }

    /// A text that is prepared.
    pub fn parsed(&mut self, is_unnamed: bool, reset: Reset) {
        if is_unnamed {
            self.unnamed = reset;
        } else {
            self.named.add(reset);
        }
    }

    /// What was prepared is bound.
    #[inline]
    pub fn bound(&mut self, is_unnamed: bool) {
        self.now.add(if is_unnamed { self.unnamed } else { self.named });
    }

    /// Nothing has been run yet.
    #[must_use]
    pub fn again(self) -> Self {
        Self { now: Reset::default(), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reset(text: &str) -> Reset {
        Reset::of(sql::session_state(text.as_bytes()), text.as_bytes(), true)
    }

    #[test]
    fn what_is_hidden_resets_where_it_says_so() {
        assert_eq!(reset("DO $$ BEGIN PERFORM 1; END $$"), Reset::default());
        assert_eq!(reset("DO $$ BEGIN EXECUTE 'Reset work_mem'; END $$"), Reset { any: true, rights: false });
        assert_eq!(reset("DO $$ BEGIN EXECUTE 'RESET ROLE'; END $$"), Reset { any: true, rights: true });
        assert_eq!(reset("SELECT 'reset'"), Reset::default());
    }

    #[test]
    fn what_was_prepared_resets_whenever_it_is_bound() {
        let mut resets = Resets::default();
        resets.parsed(false, reset("RESET ROLE"));
        resets.parsed(false, reset("SELECT 1"));
        resets.parsed(true, reset("RESET work_mem"));
        assert_eq!(resets.now(), Reset::default());
        resets.bound(true);
        assert_eq!(resets.now(), Reset { any: true, rights: false });
        resets.bound(false);
        assert_eq!(resets.now(), Reset { any: true, rights: true });
        resets = resets.again();
        resets.parsed(true, reset("SET work_mem = '3MB'"));
        resets.bound(true);
        assert_eq!(resets.now(), Reset::default());
        resets.bound(false);
        assert!(resets.now().rights);
    }
}
