//! The run-time settings of a client's session, and how a server connection is brought from one client's to another's. Checklist I1-I6.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::wire::sql::{RIGHTS, is_right, quoted_literal};
use crate::wire::startup::Setting;

/// Whose rights a session has, by the names of the settings that say so.
const USER: &str = RIGHTS[0];
const ROLE: &str = RIGHTS[1];

/// The settings that a client's session has and a fresh one would not have: those of its startup, and what it has set since. Before and behind a role or another
/// user they are in the order in which they were set, for what one may set is refused to another. Equal ones are shared within a pool. Names and values are in the
/// database's encoding, whatever the client's is.
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
            let has_rights = all.iter().any(|setting| is_right(&setting.name));
            match (all.iter().position(|setting| setting.name.eq_ignore_ascii_case(&name)), value) {
                (Some(at), Some(value)) if all[at].value == value || !has_rights => all[at].value = value,
                (at, value) => {
                    if let Some(at) = at {
                        all.remove(at);
                    }
                    all.extend(value.map(|value| Setting { name, value }));
                }
            }
        }
        let place = |name: &str| all.iter().position(|setting| whose_rights(&setting.name) == Some(name));
        if let (Some(role), Some(user)) = (place(ROLE), place(USER))
            && role < user
        {
            // Who changes the user ends the role.
            let role = all.remove(role);
            all.push(role);
        }
        Self(all.into())
    }

    /// Those of them that say whose rights the session has.
    #[must_use]
    pub fn rights(&self) -> Self {
        Self(self.0.iter().filter(|setting| is_right(&setting.name)).cloned().collect())
    }

    /// All but those.
    #[must_use]
    pub fn own(&self) -> Self {
        Self(self.0.iter().filter(|setting| !is_right(&setting.name)).cloned().collect())
    }

    /// The same without one: a client's `application_name` is always valid and differs from client to client.
    #[must_use]
    pub fn without(&self, name: &str) -> Self {
        Self(self.0.iter().filter(|setting| *setting.name != *name.as_bytes()).cloned().collect())
    }

    /// What of them decides the meaning of a statement with this definition: the search path and the user, and the encoding where not all of it is ASCII.
    pub fn context_of(&self, definition: &[u8]) -> Vec<u8> {
        let mut context = Vec::new();
        let encoding = (!definition.is_ascii()).then_some("client_encoding");
        for name in ["search_path", ROLE, USER].into_iter().chain(encoding) {
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
    pub fn question<'a>(names: impl Iterator<Item = &'a [u8]>, form: Form) -> Vec<u8> {
        let calls: Vec<Vec<u8>> =
            names.map(|name| form.of(&[b"pg_catalog.current_setting(", &literal(name)[..], b", true)"].concat())).collect();
        [b"SELECT ".as_slice(), &calls.join(&b", "[..])].concat()
    }

    /// The query that turns a connection with `from`'s settings into one with `to`'s; empty where there is nothing to do.
    ///
    /// It is one statement, so that it takes effect whole or not at all. A setting that only `from` has goes back to what it was when the connection was
    /// opened (`set_config` with NULL). Each is set, and goes back, with the rights that its client had when it set it: of whoever had logged in where a role or
    /// another user came later, of those where they were there before.
    pub fn transition(from: &Self, to: &Self) -> Vec<u8> {
        let ends = |old: &Setting| !to.iter().any(|new| new.name == old.name);
        let begins = |new: &Setting| !from.iter().any(|old| old == new);
        let leaves = |name: &str| from.value(name) != to.value(name) || from.own_before(name).any(ends) || to.own_before(name).any(begins);
        let leaves_user = leaves(USER);
        // With the user the role goes, too.
        let leaves_role = leaves(ROLE) || leaves_user;
        let leaves = |rights: &str| if rights == USER { leaves_user } else { leaves_role };

        let mut calls: Vec<Vec<u8>> = Vec::new();
        for Setting { name, value: _ } in from.0.iter().rev().filter(|old| whose_rights(&old.name).map_or_else(|| ends(old), leaves)) {
            // Nobody else may be what `none` is.
            calls.push(call(name, (whose_rights(name) == Some(ROLE)).then_some(b"none")));
        }
        for Setting { name, value } in to.iter().filter(|new| whose_rights(&new.name).map_or_else(|| begins(new), leaves)) {
            calls.push(call(name, Some(value)));
        }
        if calls.is_empty() {
            return Vec::new();
        }
        [b"SELECT ".as_slice(), &calls.join(&b", "[..])].concat()
    }

    /// The settings that were set before the one of this name, which says whose rights the session has; none where there is no such.
    fn own_before(&self, name: &str) -> impl Iterator<Item = &Setting> {
        let end = self.0.iter().position(|setting| whose_rights(&setting.name) == Some(name)).unwrap_or_default();
        self.0.iter().take(end).filter(|setting| !is_right(&setting.name))
    }
}

/// In which form a server is asked for texts that are wanted in the database's encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As they are: its client's encoding is the database's.
    Plain,
    /// Each byte as two digits.
    Hex,
}

impl Form {
    /// The expression that says in this form what `sql` is.
    pub fn of(self, sql: &[u8]) -> Vec<u8> {
        match self {
            Self::Plain => sql.to_vec(),
            Self::Hex => [b"pg_catalog.encode(pg_catalog.convert_to(", sql, b", pg_catalog.getdatabaseencoding()), 'hex')"].concat(),
        }
    }

    /// What an answer in this form stands for; none where it is not of it.
    pub fn read(self, answer: Box<[u8]>) -> Option<Box<[u8]>> {
        match self {
            Self::Plain => Some(answer),
            Self::Hex => {
                let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                let byte = |pair: &[u8]| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?);
                answer.chunks(2).map(byte).collect()
            }
        }
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

/// Its name, for a setting that decides whose rights the session has.
fn whose_rights(name: &[u8]) -> Option<&'static str> {
    RIGHTS.into_iter().find(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

fn call(name: &[u8], value: Option<&[u8]>) -> Vec<u8> {
    // The client's own encoding need not have what it has set in another.
    let is_silent = if value.is_some_and(|value| !value.is_ascii()) { &b" IS NULL"[..] } else { b"" };
    let value = value.map_or_else(|| b"NULL".to_vec(), literal);
    [b"pg_catalog.set_config(".as_slice(), &literal(name), b", ", &value, b", false)", is_silent].concat()
}

/// An expression for these bytes of the database's encoding, in a text that any client encoding leaves as it is.
fn literal(bytes: &[u8]) -> Vec<u8> {
    if bytes.is_ascii() {
        return quoted_literal(bytes);
    }
    let mut hex = Vec::with_capacity(bytes.len().saturating_mul(2));
    for byte in bytes {
        let digit = |value: u8| b"0123456789abcdef"[usize::from(value)];
        hex.extend([digit(byte >> 4), digit(byte & 15)]);
    }
    [b"pg_catalog.convert_from(pg_catalog.decode('".as_slice(), &hex, b"', 'hex'), pg_catalog.getdatabaseencoding())"].concat()
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
        let before = settings(&[("TimeZone", "UTC"), ("search_path", "a")]);
        let change = |name: &str, value: Option<&str>| (Box::from(name.as_bytes()), value.map(|value| Box::from(value.as_bytes())));
        let after = before.changed([change("timezone", Some("CET")), change("work_mem", Some("3MB")), change("nothing", None)]);
        assert_eq!(after, settings(&[("TimeZone", "CET"), ("search_path", "a"), ("work_mem", "3MB")]));
        assert_eq!(after.changed([change("SEARCH_PATH", None), change("TIMEZONE", None)]), settings(&[("work_mem", "3MB")]));
        assert_eq!(after.get(b"WORK_MEM"), Some(&b"3MB"[..]));
        assert_eq!(after.changed([change("role", Some("x"))]).rights(), settings(&[("role", "x")]));
    }

    #[test]
    fn another_role_takes_over_last_and_leaves_first() {
        for role in ["x", "y"] {
            assert_eq!(
                transition(&[("a", "1"), ("role", "x")], &[("a", "2"), ("role", role)]),
                format!(
                    "SELECT pg_catalog.set_config(E'role', E'none', false), pg_catalog.set_config(E'a', E'2', false), \
                     pg_catalog.set_config(E'role', E'{role}', false)"
                )
            );
        }
    }

    #[test]
    fn each_is_set_and_goes_back_with_the_rights_of_who_set_it() {
        let session = |first, second, third| {
            [("log_duration", first), ("session_authorization", "x"), ("log_statement", second), ("role", "y"), ("app.mine", third)]
        };
        let one = session("on", "all", "1");
        let set = |name, value| format!("pg_catalog.set_config(E'{name}', {value}, false)");
        let (leave_role, leave_user) = (set("role", "E'none'"), set("session_authorization", "NULL"));
        let (user, role) = (set("session_authorization", "E'x'"), set("role", "E'y'"));
        let query = |calls: &[String]| format!("SELECT {}", calls.join(", "));

        assert_eq!(transition(&one, &one), "");
        assert_eq!(transition(&one, &session("on", "all", "2")), query(&[set("app.mine", "E'2'")]));
        assert_eq!(
            transition(&one, &session("on", "none", "1")),
            query(&[leave_role.clone(), set("log_statement", "E'none'"), role.clone()])
        );
        assert_eq!(
            transition(&one, &session("off", "all", "2")),
            query(&[
                leave_role.clone(),
                leave_user.clone(),
                set("log_duration", "E'off'"),
                user.clone(),
                role.clone(),
                set("app.mine", "E'2'")
            ])
        );
        let ends = [set("app.mine", "NULL"), leave_role, set("log_statement", "NULL"), leave_user, set("log_duration", "NULL")];
        assert_eq!(transition(&one, &[]), query(&ends));
        assert_eq!(
            transition(&[("role", "y")], &[("session_authorization", "x"), ("role", "y")]),
            query(&[set("role", "E'none'"), user.clone(), role.clone()])
        );
        assert_eq!(
            transition(&[], &one),
            query(&[set("log_duration", "E'on'"), user, set("log_statement", "E'all'"), role, set("app.mine", "E'1'")])
        );
    }

    #[test]
    fn what_is_set_anew_is_set_with_the_rights_there_are_by_then() {
        let before = settings(&[("a", "1"), ("b", "1"), ("role", "x"), ("c", "1")]);
        let change = |name: &str, value: &str| (Box::from(name.as_bytes()), Some(Box::from(value.as_bytes())));
        assert_eq!(before.changed([change("b", "1"), change("C", "1")]), before);
        assert_eq!(before.changed([change("a", "2")]), settings(&[("b", "1"), ("role", "x"), ("c", "1"), ("a", "2")]));
        let user = settings(&[("a", "1"), ("b", "1"), ("c", "1"), ("session_authorization", "y"), ("role", "x")]);
        assert_eq!(before.changed([change("session_authorization", "y")]), user);
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
