//! Which databases an operator has paused or disabled, by the names that clients use. It outlives reloads, and ends with the process.

use std::collections::HashSet;

use parking_lot::RwLock;

/// The gates of all databases.
#[derive(Debug, Default)]
pub struct Gates(RwLock<Closed>);

#[derive(Debug, Default)]
struct Closed {
    all: bool,
    paused: HashSet<String>,
    disabled: HashSet<String>,
}

impl Gates {
    /// Pauses one database, or all; false where that is so already.
    pub fn pause(&self, database: Option<&str>) -> bool {
        let mut closed = self.0.write();
        match database {
            Some(name) => closed.paused.insert(name.to_owned()),
            None => !std::mem::replace(&mut closed.all, true),
        }
    }

    /// Ends a pause: of one database, or the one of all; false where there is none.
    pub fn resume(&self, database: Option<&str>) -> bool {
        let mut closed = self.0.write();
        if let Some(name) = database {
            return closed.paused.remove(name);
        }
        let was_paused = std::mem::take(&mut closed.all) || !closed.paused.is_empty();
        closed.paused.clear();
        was_paused
    }

    /// Whether a database is paused, by itself or with all.
    pub fn is_paused(&self, database: &str) -> bool {
        let closed = self.0.read();
        closed.all || closed.paused.contains(database)
    }

    /// Whether all are paused at once.
    pub fn are_all_paused(&self) -> bool {
        self.0.read().all
    }

    /// Lets no new clients into a database, or lets them in again.
    pub fn set_disabled(&self, database: &str, disabled: bool) {
        let mut closed = self.0.write();
        if disabled {
            closed.disabled.insert(database.to_owned());
        } else {
            closed.disabled.remove(database);
        }
    }

    /// Whether a database lets no new clients in.
    pub fn is_disabled(&self, database: &str) -> bool {
        self.0.read().disabled.contains(database)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_of_all_and_one_of_a_single_database_are_two() {
        let gates = Gates::default();
        assert!(gates.pause(Some("app")) && !gates.pause(Some("app")));
        assert!(gates.is_paused("app") && !gates.is_paused("other") && !gates.are_all_paused());
        assert!(gates.pause(None) && !gates.pause(None));
        assert!(gates.is_paused("other"));
        assert!(gates.resume(Some("app")), "its own");
        assert!(gates.is_paused("app"), "that of all is still there");
        assert!(gates.resume(None) && !gates.resume(None));
        assert!(!gates.is_paused("app"));
        gates.pause(Some("app"));
        assert!(gates.resume(None) && !gates.is_paused("app"), "RESUME without a name is for all");
    }
}
