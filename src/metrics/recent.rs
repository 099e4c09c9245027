//! The faults that clients were told last: who met them, when, and how often of late.

use std::collections::VecDeque;
use std::fmt::Display;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

/// So many are kept.
const KEPT: usize = 100;
/// The same fault of the same tenant, user and database is one entry, unless it was not met for so long.
const FOLDED: Duration = Duration::from_mins(1);
/// So many letters of a name that anybody may have sent.
const LETTERS: usize = 64;

/// Who has met a fault, as far as it is known.
#[derive(Debug, Clone, Copy, Default)]
pub struct Party<'a> {
    /// The tenant's name.
    pub tenant: Option<&'a str>,
    /// The user's name.
    pub user: Option<&'a str>,
    /// The database's name.
    pub database: Option<&'a str>,
}

/// A fault that one or more clients of a tenant, user and database were told.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecentFault {
    /// Its label.
    pub fault: &'static str,
    /// The tenant, where the client had one.
    pub tenant: Option<String>,
    /// The user, where it was said.
    pub user: Option<String>,
    /// The database, where it was said.
    pub database: Option<String>,
    /// The address of the first client.
    pub client: String,
    /// How often it was told since the first time.
    pub count: u64,
    /// When it was told first, in seconds since the beginning of 1970.
    pub first_seconds: f64,
    /// When it was told last.
    pub last_seconds: f64,
}

/// The newest faults of all workers.
#[derive(Debug, Default)]
pub struct Recent(Mutex<VecDeque<RecentFault>>);

impl Recent {
    /// Notes that a client at this address was told a fault, at a time since the beginning of 1970.
    pub fn note(&self, fault: &'static str, at: Duration, party: Party<'_>, client: impl Display) {
        let seconds = at.as_secs_f64();
        let Party { tenant, user, database } = party;
        let (user, database) = (user.map(clipped), database.map(clipped));
        let is_same = |one: &RecentFault| {
            let same = (one.tenant.as_deref(), one.user.as_deref(), one.database.as_deref()) == (tenant, user, database);
            one.fault == fault && same && seconds - one.last_seconds < FOLDED.as_secs_f64()
        };
        let mut kept = self.0.lock();
        let known = kept.iter().position(is_same).and_then(|place| kept.remove(place));
        let mut one = known.unwrap_or_else(|| RecentFault {
            fault,
            tenant: tenant.map(str::to_owned),
            user: user.map(str::to_owned),
            database: database.map(str::to_owned),
            client: client.to_string(),
            count: 0,
            first_seconds: seconds,
            last_seconds: seconds,
        });
        one.count += 1;
        one.last_seconds = seconds;
        kept.truncate(KEPT - 1);
        kept.push_front(one);
    }

    /// All that are kept, the newest first.
    pub fn all(&self) -> Vec<RecentFault> {
        self.0.lock().iter().cloned().collect()
    }
}

fn clipped(name: &str) -> &str {
    name.char_indices().nth(LETTERS).map_or(name, |(end, _)| &name[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_by_the_thousand_is_one_entry_and_the_newest_is_first() {
        let recent = Recent::default();
        let party = |tenant| Party { tenant: Some(tenant), user: Some("app"), database: None };
        let at = |seconds| Duration::from_secs(seconds);
        for second in 0..1000 {
            recent.note("queue_full", at(second), party("a"), "10.0.0.1:1");
        }
        recent.note("queue_full", at(1000), party("b"), "10.0.0.2:2");
        recent.note("shutdown", at(1000), party("a"), "10.0.0.3:3");
        recent.note("queue_full", at(1001), party("a"), "10.0.0.4:4");
        let all = recent.all();
        let told: Vec<_> = all.iter().map(|one| (one.fault, one.tenant.as_deref(), &*one.client, one.count)).collect();
        let expected = [
            ("queue_full", Some("a"), "10.0.0.1:1", 1001),
            ("shutdown", Some("a"), "10.0.0.3:3", 1),
            ("queue_full", Some("b"), "10.0.0.2:2", 1),
        ];
        assert_eq!(told, expected);
        let seconds = (all[0].first_seconds.round(), all[0].last_seconds.round());
        assert!(seconds.0 < 0.5 && seconds.1 > 1000.5, "{seconds:?}");
    }

    #[test]
    fn a_long_name_is_not_kept_whole() {
        let recent = Recent::default();
        let long = "é".repeat(10_000);
        recent.note("shutdown", Duration::ZERO, Party { user: Some(&long), ..Party::default() }, "");
        recent.note("shutdown", Duration::ZERO, Party { user: Some(&long[..1000]), ..Party::default() }, "");
        let all = recent.all();
        assert_eq!((all.len(), all[0].user.as_ref().map(|user| user.chars().count())), (1, Some(LETTERS)));
    }

    #[test]
    fn so_many_are_kept_and_an_old_one_is_told_anew() {
        let recent = Recent::default();
        for second in 0..500 {
            recent.note("queue_full", Duration::from_secs(60 * second), Party::default(), second);
        }
        let all = recent.all();
        assert_eq!((all.len(), &*all[0].client, &*all[KEPT - 1].client), (KEPT, "499", "400"));
    }
}
