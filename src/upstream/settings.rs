//! The run-time settings that a client asked for at startup, and how a server connection is brought from one client's to another's.

use crate::wire::startup::Setting;

/// A client's startup settings, in the order in which they are applied. Equal ones are shared within a pool.
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
        self.0.iter().find(|setting| *setting.name == *name.as_bytes()).map(|setting| &*setting.value)
    }

    /// The same without one: a client's `application_name` is always valid and differs from client to client.
    #[must_use]
    pub fn without(&self, name: &str) -> Self {
        Self(self.0.iter().filter(|setting| *setting.name != *name.as_bytes()).cloned().collect())
    }

    /// What of them decides the meaning of a statement's text: the search path and the role.
    pub fn context(&self) -> Vec<u8> {
        let mut context = Vec::new();
        for name in ["search_path", "role"] {
            context.extend_from_slice(self.value(name).unwrap_or_default());
            context.push(0);
        }
        context
    }

    /// Roughly what it takes in memory, in bytes.
    pub fn size(&self) -> usize {
        self.0.iter().map(|setting| setting.name.len() + setting.value.len() + size_of::<Setting>()).sum()
    }

    /// The query that turns a connection with `from`'s settings into one with `to`'s; empty where there is nothing to do.
    ///
    /// It is one statement, so that it takes effect whole or not at all. A setting that only `from` has goes back to what it was when the connection was
    /// opened (`set_config` with NULL).
    pub fn transition(from: &Self, to: &Self) -> Vec<u8> {
        let mut calls: Vec<Vec<u8>> = Vec::new();
        for old in from.iter().filter(|old| !to.iter().any(|new| new.name == old.name)) {
            calls.push(call(&old.name, None));
        }
        for new in to.iter().filter(|new| !from.iter().any(|old| old == *new)) {
            calls.push(call(&new.name, Some(&new.value)));
        }
        if calls.is_empty() {
            return Vec::new();
        }
        [b"SELECT ".as_slice(), &calls.join(&b", "[..])].concat()
    }
}

fn call(name: &[u8], value: Option<&[u8]>) -> Vec<u8> {
    let value = value.map_or_else(|| b"NULL".to_vec(), literal);
    [b"pg_catalog.set_config(".as_slice(), &literal(name), b", ", &value, b", false)"].concat()
}

/// An escape string, which means the same whatever `standard_conforming_strings` is.
fn literal(bytes: &[u8]) -> Vec<u8> {
    let mut quoted = b"E'".to_vec();
    for byte in bytes {
        if matches!(byte, b'\'' | b'\\') {
            quoted.push(*byte);
        }
        quoted.push(*byte);
    }
    quoted.push(b'\'');
    quoted
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
    fn values_cannot_end_their_literal() {
        assert_eq!(transition(&[], &[("a", r"x'; \")]), r"SELECT pg_catalog.set_config(E'a', E'x''; \\', false)");
    }

    #[test]
    fn the_proxys_own_settings_stay_here() {
        assert!(settings(&[("pgweir.tenant", "x")]).is_empty());
    }
}
