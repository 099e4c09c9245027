//! What a server reports to a client with given startup settings, remembered so that the next such login needs no server (A12).

use std::sync::Arc;

use crate::upstream::{Reported, Settings};

/// The most that a pool remembers, in bytes.
const MOST_BYTES: usize = 256 << 10;

/// A set of startup settings that a server has accepted, and what it reported with them.
#[derive(Debug, Clone)]
pub struct Profile {
    /// The settings, shared among all clients that have them.
    pub settings: Arc<Settings>,
    /// What a login is told.
    pub reported: Arc<Reported>,
}

/// One pool's profiles, the last used last.
#[derive(Debug, Default)]
pub struct Profiles {
    known: Vec<Profile>,
    bytes: usize,
}

impl Profiles {
    /// The profile of these settings.
    pub fn find(&mut self, settings: &Settings) -> Option<Profile> {
        let at = self.known.iter().position(|profile| *profile.settings == *settings)?;
        self.known[at..].rotate_left(1);
        self.known.last().cloned()
    }

    /// The profile of settings that differ from these in `application_name` only: any value of that is valid.
    pub fn find_but_for_name(&mut self, settings: &Settings) -> Option<Profile> {
        let bare = settings.without(NAME);
        let found = self.known.iter().find(|profile| profile.settings.without(NAME) == bare)?;
        let mut reported = (*found.reported).clone();
        let value = settings.value(NAME).map(clean);
        for (name, known) in &mut reported {
            if **name == *NAME.as_bytes()
                && let Some(value) = &value
            {
                *known = value.as_slice().into();
            }
        }
        let profile = Profile { settings: Arc::new(settings.clone()), reported: Arc::new(reported) };
        self.insert(profile.clone());
        Some(profile)
    }

    /// Remembers a profile; those that were used longest ago make room.
    pub fn insert(&mut self, profile: Profile) {
        self.known.retain(|known| known.settings != profile.settings);
        self.known.push(profile);
        self.bytes = self.known.iter().map(size).sum();
        while self.bytes > MOST_BYTES && self.known.len() > 1 {
            self.bytes -= size(&self.known.remove(0));
        }
    }

    /// A server with these settings reports this now. Where that is another thing than was remembered, nothing that was holds any more.
    pub fn learn(&mut self, settings: &Settings, reported: &Reported) {
        let known = self.known.iter().find(|profile| *profile.settings == *settings);
        if known.is_some_and(|profile| *profile.reported != *reported) {
            self.clear();
        }
    }

    /// Forgets everything: the server may be another one now.
    pub fn clear(&mut self) {
        self.known.clear();
        self.bytes = 0;
    }
}

const NAME: &str = "application_name";

fn size(profile: &Profile) -> usize {
    profile.settings.size() + profile.reported.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>()
}

/// What PostgreSQL makes of an `application_name`: 63 bytes, and what is not printable ASCII as `?` (`\xNN` from version 16 on; cut after that).
fn clean(name: &[u8]) -> Vec<u8> {
    name.iter().take(63).map(|byte| if (32..127).contains(byte) { *byte } else { b'?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::startup::Setting;

    fn settings(name: &str, path: &str) -> Settings {
        Settings::new(vec![
            Setting { name: b"search_path".as_slice().into(), value: path.as_bytes().into() },
            Setting { name: b"application_name".as_slice().into(), value: name.as_bytes().into() },
        ])
    }

    fn profile(name: &str, path: &str) -> Profile {
        let reported = vec![(b"application_name".as_slice().into(), name.as_bytes().into())];
        Profile { settings: Arc::new(settings(name, path)), reported: Arc::new(reported) }
    }

    #[test]
    fn equal_settings_share_one_profile() {
        let mut profiles = Profiles::default();
        profiles.insert(profile("a", "x"));
        let (one, two) = (profiles.find(&settings("a", "x")).unwrap(), profiles.find(&settings("a", "x")).unwrap());
        assert!(Arc::ptr_eq(&one.settings, &two.settings));
        assert!(profiles.find(&settings("a", "y")).is_none());
    }

    #[test]
    fn another_application_name_needs_no_server() {
        let mut profiles = Profiles::default();
        profiles.insert(profile("a", "x"));
        let found = profiles.find_but_for_name(&settings("b\u{e9}", "x")).unwrap();
        assert_eq!(*found.reported[0].1, *b"b??");
        assert!(profiles.find_but_for_name(&settings("b", "y")).is_none());
    }

    #[test]
    fn news_of_one_server_are_news_of_all() {
        let mut profiles = Profiles::default();
        profiles.insert(profile("a", "x"));
        profiles.insert(profile("b", "y"));
        let same = profile("a", "x");
        profiles.learn(&same.settings, &same.reported);
        assert!(profiles.find(&settings("b", "y")).is_some());
        profiles.learn(&same.settings, &vec![(b"TimeZone".as_slice().into(), b"UTC".as_slice().into())]);
        assert!(profiles.find(&settings("a", "x")).is_none() && profiles.find(&settings("b", "y")).is_none());
    }

    #[test]
    fn what_is_remembered_is_bounded_in_bytes() {
        let mut profiles = Profiles::default();
        for number in 0..10_000 {
            profiles.insert(profile(&format!("{number:050}"), "x"));
            assert!(profiles.bytes <= MOST_BYTES);
        }
        assert!(profiles.find(&settings(&format!("{:050}", 9_999), "x")).is_some());
        assert!(profiles.find(&settings(&format!("{:050}", 0), "x")).is_none());
    }
}
