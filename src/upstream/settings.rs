//! The run-time settings of a client's session, and how a server connection is brought from one client's to another's. Checklist I1-I6.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::wire::sql::quoted_literal;
use crate::wire::startup::Setting;

/// Whose rights a session has, by the names of the settings that say so. Who changes the first ends the second.
const USER: &str = "session_authorization";
const ROLE: &str = "role";

/// The settings that a client's session has and a fresh one would not have, in the order in which they are applied: those of its startup, and what it has set
/// since. Equal ones are shared within a pool.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Settings(Box<[Setting]>);

impl Settings {
    /// These settings. What begins with `pgweir.` is the proxy's own and never reaches a server.
    pub fn new(settings: Vec<Setting>) -> Self {
        Self(settings.into_iter().filter(|setting| !setting.name.starts_with(b"pgweir.")).collect())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Setting> {
        self.0.iter()
    }

    /// The value of one.
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        self.get(name.as_bytes())
    }

    /// The value of the setting of this name, which is compared as PostgreSQL does: without regard to case.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.0.iter().find(|setting| setting.name.eq_ignore_ascii_case(name)).map(|setting| &*setting.value)
    }

    /// The same with some of them changed: a new value, or none any more.
    #[must_use]
    pub fn changed(&self, changes: impl IntoIterator<Item = (Box<[u8]>, Option<Box<[u8]>>)>) -> Self {
        let mut all = self.0.to_vec();
        for (name, value) in changes {
            let at = all.iter().position(|setting| setting.name.eq_ignore_ascii_case(&name));
            match (at, value) {
                (Some(at), Some(value)) => all[at].value = value,
                (Some(at), None) => drop(all.remove(at)),
                (None, Some(value)) => all.push(Setting { name, value }),
                (None, None) => {}
            }
        }
        // A role may not be allowed what the session's user is, and that one not what the user is who has logged in.
        all.sort_by_key(|setting| whose_rights(&setting.name));
        Self(all.into())
    }

    /// The same without one: a client's `application_name` is always valid and differs from client to client.
    #[must_use]
    pub fn without(&self, name: &str) -> Self {
        Self(self.0.iter().filter(|setting| *setting.name != *name.as_bytes()).cloned().collect())
    }

    /// What of them decides the meaning of a statement's text: the search path and the user.
    pub fn context(&self) -> Vec<u8> {
        let mut context = Vec::new();
        for name in ["search_path", ROLE, USER] {
            context.extend_from_slice(self.value(name).unwrap_or_default());
            context.push(0);
        }
        context
    }

    /// Roughly what it takes in memory, in bytes.
    pub fn size(&self) -> usize {
        self.0.iter().map(|setting| setting.name.len() + setting.value.len() + size_of::<Setting>()).sum()
    }

    /// The query that asks for the values of these settings, one row of them; NULL for what there is not.
    pub fn question<'a>(names: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
        let calls: Vec<Vec<u8>> =
            names.map(|name| [b"pg_catalog.current_setting(", &quoted_literal(name)[..], b", true)"].concat()).collect();
        [b"SELECT ".as_slice(), &calls.join(&b", "[..])].concat()
    }

    /// The query that turns a connection with `from`'s settings into one with `to`'s; empty where there is nothing to do.
    ///
    /// It is one statement, so that it takes effect whole or not at all. A setting that only `from` has goes back to what it was when the connection was
    /// opened (`set_config` with NULL). What may need the rights of the user who has logged in is set by that one: another user, or role, leaves first and takes over last.
    pub fn transition(from: &Self, to: &Self) -> Vec<u8> {
        let is_same = |setting: &&Setting, other: &Self| other.iter().any(|other| other == *setting);
        let is_own = |setting: &&Setting| whose_rights(&setting.name) == 0;
        let ends: Vec<_> = from.iter().filter(is_own).filter(|old| !to.iter().any(|new| new.name == old.name)).collect();
        let begins: Vec<_> = to.iter().filter(is_own).filter(|new| !is_same(new, from)).collect();
        // Only a program's own settings have a dot in their names, mostly, and those are anybody's.
        let needs_rights = ends.iter().chain(&begins).any(|setting| !setting.name.contains(&b'.'));
        let [user, role] = [USER, ROLE].map(|name| (from.value(name), to.value(name)));
        let leaves_user = user.0 != user.1 || needs_rights;
        let leaves_role = role.0 != role.1 || leaves_user;

        let mut calls: Vec<Vec<u8>> = Vec::new();
        if leaves_role && role.0.is_some() {
            calls.push(call(ROLE.as_bytes(), Some(b"none")));
        }
        if leaves_user && user.0.is_some() {
            calls.push(call(USER.as_bytes(), None));
        }
        calls.extend(ends.iter().map(|old| call(&old.name, None)));
        calls.extend(begins.iter().map(|new| call(&new.name, Some(&new.value))));
        for (name, value) in [(USER, user.1.filter(|_| leaves_user)), (ROLE, role.1.filter(|_| leaves_role))] {
            calls.extend(value.map(|value| call(name.as_bytes(), Some(value))));
        }
        if calls.is_empty() {
            return Vec::new();
        }
        [b"SELECT ".as_slice(), &calls.join(&b", "[..])].concat()
    }
}

/// The same change as a text of its own transaction, for a Query with something right behind it that is not to be run where it fails: then the transaction stays
/// open and has failed. It needs no snapshot of the kind that the session's own transactions may ask for.
pub fn in_own_transaction(transition: &[u8]) -> Vec<u8> {
    [b"BEGIN ISOLATION LEVEL READ COMMITTED; ", transition, b"; COMMIT"].concat()
}

/// The settings that the clients of one pool have come to; equal ones are one, so that to compare them is to compare two addresses.
#[derive(Debug, Default)]
pub struct SharedSettings(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    set: HashSet<Arc<Settings>, foldhash::fast::RandomState>,
    /// The size at which those that nobody has any more are dropped.
    sweep_at: usize,
}

impl SharedSettings {
    /// The shared form of these settings.
    pub fn share(&self, settings: Settings) -> Arc<Settings> {
        let mut known = self.0.lock();
        if let Some(shared) = known.set.get(&settings) {
            return Arc::clone(shared);
        }
        if known.set.len() >= known.sweep_at {
            known.set.retain(|shared| Arc::strong_count(shared) > 1);
            known.sweep_at = known.set.len().saturating_mul(2).max(64);
        }
        let shared = Arc::new(settings);
        known.set.insert(Arc::clone(&shared));
        shared
    }
}

/// Zero, or the place of a setting among those that decide whose rights the session has.
fn whose_rights(name: &[u8]) -> usize {
    [USER, ROLE].iter().position(|known| name.eq_ignore_ascii_case(known.as_bytes())).map_or(0, |place| place + 1)
}

fn call(name: &[u8], value: Option<&[u8]>) -> Vec<u8> {
    let value = value.map_or_else(|| b"NULL".to_vec(), quoted_literal);
    [b"pg_catalog.set_config(".as_slice(), &quoted_literal(name), b", ", &value, b", false)"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        Settings::new(pairs.iter().map(|(name, value)| Setting { name: name.as_bytes().into(), value: value.as_bytes().into() }).collect())
    }

    fn transition(from: &[(&str, &str)], to: &[(&str, &str)]) -> String {
        String::from_utf8(Settings::transition(&settings(from), &settings(to))).unwrap()
    }

    #[test]
    fn only_what_differs_is_set() {
        assert_eq!(transition(&[], &[]), "");
        assert_eq!(transition(&[("a", "1")], &[("a", "1")]), "");
        assert_eq!(transition(&[("a", "1"), ("b", "2")], &[("a", "1"), ("b", "3")]), "SELECT pg_catalog.set_config(E'b', E'3', false)");
        assert_eq!(
            transition(&[("a", "1")], &[("b", "2")]),
            "SELECT pg_catalog.set_config(E'a', NULL, false), pg_catalog.set_config(E'b', E'2', false)"
        );
    }

    #[test]
    fn i4_what_is_set_is_changed_and_what_is_reset_is_gone() {
        let before = settings(&[("TimeZone", "UTC"), ("role", "reader")]);
        let change = |name: &str, value: Option<&str>| (Box::from(name.as_bytes()), value.map(|value| Box::from(value.as_bytes())));
        let after = before.changed([change("timezone", Some("CET")), change("work_mem", Some("3MB")), change("nothing", None)]);
        assert_eq!(after, settings(&[("TimeZone", "CET"), ("work_mem", "3MB"), ("role", "reader")]), "the role comes last");
        assert_eq!(after.changed([change("ROLE", None), change("TIMEZONE", None)]), settings(&[("work_mem", "3MB")]));
        assert_eq!(after.get(b"WORK_MEM"), Some(&b"3MB"[..]));
    }

    #[test]
    fn another_role_takes_over_last_and_leaves_first() {
        assert_eq!(
            transition(&[("a", "1"), ("role", "x")], &[("a", "2"), ("role", "y")]),
            "SELECT pg_catalog.set_config(E'role', E'none', false), pg_catalog.set_config(E'a', E'2', false), \
             pg_catalog.set_config(E'role', E'y', false)"
        );
    }

    #[test]
    fn what_needs_rights_is_set_by_who_has_logged_in() {
        let session = |value| [("log_duration", value), ("app.mine", "1"), ("session_authorization", "x"), ("role", "y")];
        assert_eq!(
            transition(&session("on"), &session("off")),
            "SELECT pg_catalog.set_config(E'role', E'none', false), pg_catalog.set_config(E'session_authorization', NULL, false), \
             pg_catalog.set_config(E'log_duration', E'off', false), pg_catalog.set_config(E'session_authorization', E'x', false), \
             pg_catalog.set_config(E'role', E'y', false)"
        );
        assert_eq!(
            transition(&session("on"), &[]),
            "SELECT pg_catalog.set_config(E'role', E'none', false), pg_catalog.set_config(E'session_authorization', NULL, false), \
             pg_catalog.set_config(E'log_duration', NULL, false), pg_catalog.set_config(E'app.mine', NULL, false)"
        );
        let anybodys = |value| [("app.mine", value), ("role", "y")];
        assert_eq!(transition(&anybodys("1"), &anybodys("2")), "SELECT pg_catalog.set_config(E'app.mine', E'2', false)");
        assert_eq!(
            transition(&[("role", "y")], &[("session_authorization", "x"), ("role", "y")]),
            "SELECT pg_catalog.set_config(E'role', E'none', false), pg_catalog.set_config(E'session_authorization', E'x', false), \
             pg_catalog.set_config(E'role', E'y', false)"
        );
    }

    #[test]
    fn equal_settings_are_one_and_what_nobody_has_is_dropped() {
        let pool = SharedSettings::default();
        let kept = pool.share(settings(&[("a", "kept")]));
        for number in 0..1_000 {
            pool.share(settings(&[("a", &number.to_string())]));
            assert!(pool.0.lock().set.len() <= 64);
        }
        assert!(Arc::ptr_eq(&kept, &pool.share(settings(&[("a", "kept")]))));
    }

    #[test]
    fn values_cannot_end_their_literal() {
        assert_eq!(transition(&[], &[("a", r"x'; \")]), r"SELECT pg_catalog.set_config(E'a', E'x''; \\', false)");
    }

    #[test]
    fn the_proxys_own_settings_stay_here() {
        assert!(settings(&[("pgweir.tenant", "x")]).is_empty());
    }
}
