//! Stored secrets, their checks, and the cache of keys.

use proptest::prelude::*;

use super::super::{
    CacheKey, DEFAULT_ITERATIONS, Denied, KeyCache, Keys, MAX_DERIVED_ITERATIONS, Md5Hash, Secret, UnusableSecret, Verifier,
};
use super::{PROCESS_KEY, SALT, few, verifier};

fn from_hex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn postgres_stored_the_same_verifiers() {
    let lines = include_str!("postgres_verifiers.tsv").lines().filter(|line| !line.starts_with('#'));
    let mut compared = 0;
    for (password, stored) in lines.filter_map(|line| line.split_once('\t')) {
        let password = from_hex(password);
        let parsed: Verifier = stored.parse().unwrap();
        assert_eq!(parsed.to_string(), stored);
        let ours = Verifier::from_password(&password, parsed.salt(), parsed.iterations()).unwrap();
        assert_eq!(ours.to_string(), stored, "{}", String::from_utf8_lossy(&password).escape_unicode());
        compared += 1;
    }
    assert_eq!(compared, 26);
}

#[test]
fn a_password_that_is_not_utf8_is_taken_as_it_is() {
    let stored = Verifier::from_password(b"\xff\xad", &SALT, few()).unwrap();
    assert_eq!(stored.check_password(b"\xff\xad"), Ok(()));
    assert_eq!(stored.check_password(b"\xff"), Err(Denied::WrongPassword));
}

#[test]
fn a_text_is_told_by_its_form() {
    let kind = |text: &str| match Secret::parse(text) {
        Ok(Secret::Password(_)) => "password",
        Ok(Secret::Scram(_)) => "scram",
        Ok(Secret::Md5(_)) => "md5",
        Err(UnusableSecret::Empty) => "empty",
        Err(UnusableSecret::MalformedVerifier) => "malformed",
        Err(UnusableSecret::ZeroByte) => "zero byte",
    };
    let stored = verifier("pencil").to_string();
    assert_eq!(kind(&stored), "scram");
    assert_eq!(kind("md58bbf3f45673bf67d02e4214911f3417f"), "md5");
    assert_eq!(kind("md58BBF3F45673BF67D02E4214911F3417F"), "password");
    assert_eq!(kind("md58bbf3f45673bf67d02e4214911f3417"), "password");
    assert_eq!(kind("SCRAM-SHA-256"), "password");
    assert_eq!(kind("pencil"), "password");
    assert_eq!(kind(""), "empty");
    assert_eq!(kind("a\0b"), "zero byte");
    for broken in [&stored[..stored.len() - 1], "SCRAM-SHA-256$", "SCRAM-SHA-256$4096:AAAA$x:y"] {
        assert_eq!(kind(broken), "malformed", "{broken}");
    }
    for (iterations, expected) in
        [("0", "malformed"), ("-1", "malformed"), ("", "malformed"), ("2147483648", "malformed"), ("2147483647", "scram"), (" +5", "scram")]
    {
        assert_eq!(kind(&stored.replacen("$2:", &format!("${iterations}:"), 1)), expected, "{iterations}");
    }
}

#[test]
fn secrets_are_never_shown() {
    for text in ["pencil", "md58bbf3f45673bf67d02e4214911f3417f", &verifier("pencil").to_string()] {
        let shown = format!("{:?}", Secret::parse(text).unwrap());
        assert!(shown.ends_with("(..)"), "{shown}");
    }
    let keys = Keys::derive(b"pencil", &SALT, few()).unwrap();
    assert_eq!(format!("{keys:?}"), "Keys { client: ClientKey(..), server: ServerKey(..) }");
    assert_eq!(format!("{:?}", verifier("pencil")), "Verifier { iterations: 2, mock: false, .. }");
}

#[test]
fn a_password_in_the_clear_is_checked_against_every_kind_of_secret() {
    for stored in ["pencil", "md58bbf3f45673bf67d02e4214911f3417f", &verifier("pencil").to_string()] {
        let secret = Secret::parse(stored).unwrap();
        assert_eq!(secret.check_password(b"m", b"pencil"), Ok(()), "{stored}");
        for wrong in [&b"pencils"[..], b"penci", b"", stored.as_bytes()].into_iter().filter(|wrong| *wrong != b"pencil") {
            assert_eq!(secret.check_password(b"m", wrong), Err(Denied::WrongPassword), "{stored}");
        }
    }
    let of_another_user = Secret::parse("md58bbf3f45673bf67d02e4214911f3417f").unwrap();
    assert_eq!(of_another_user.check_password(b"n", b"pencil"), Err(Denied::WrongPassword));
}

#[test]
fn every_secret_has_a_verifier_for_scram() {
    let made = |text: &str| Secret::parse(text).unwrap().scram_verifier(&PROCESS_KEY, b"m").unwrap();
    assert_eq!(made("pencil").check_password(b"pencil"), Ok(()));
    assert_eq!(made("pencil").salt(), Verifier::mock(&PROCESS_KEY, b"m").salt());
    let stored = verifier("pencil").to_string();
    assert_eq!(made(&stored).to_string(), stored);
    assert!(made("md58bbf3f45673bf67d02e4214911f3417f").is_mock());
}

#[test]
fn a_verifier_that_nobody_can_afford_is_refused() {
    let dear = verifier("pencil").to_string().replacen("$2:", "$2147483647:", 1);
    let denied = Secret::parse(&dear).unwrap().check_password(b"m", b"pencil").unwrap_err();
    assert_eq!(denied, Denied::IterationsOverLimit { asked: 2_147_483_647, limit: MAX_DERIVED_ITERATIONS });
}

#[test]
fn md5_answers_are_those_of_postgres() {
    let salt = [0x2a, 0x3d, 0x8f, 0xe0];
    let hash = Md5Hash::from_password(b"md5_user", b"password");
    assert_eq!(&hash.response(salt), b"md562af4dd09bbb41884907a838a3233294");
    let stored = Md5Hash::parse("md58bbf3f45673bf67d02e4214911f3417f").unwrap();
    assert!(stored.matches(&Md5Hash::from_password(b"m", b"pencil")));

    for secret in ["password", "md5d5a1d5f1b1d5d4ad1a1d5f1b1d5d4ad1"].map(|text| Secret::parse(text).unwrap()) {
        let right = matches!(secret, Secret::Password(_));
        let answer = secret.check_md5(b"md5_user", salt, b"md562af4dd09bbb41884907a838a3233294");
        assert_eq!(answer.is_ok(), right);
    }
    assert_eq!(
        Secret::parse(&verifier("password").to_string()).unwrap().check_md5(b"md5_user", salt, &hash.response(salt)),
        Err(Denied::WrongPassword)
    );
    for wrong in [&b""[..], b"md5", b"md562af4dd09bbb41884907a838a323329", b"md562af4dd09bbb41884907a838a32332944"] {
        assert!(!hash.matches_response(salt, wrong));
    }
}

#[test]
fn the_cache_forgets_what_was_used_longest_ago() {
    let key = |password: &str| CacheKey::new(password.as_bytes(), &SALT, DEFAULT_ITERATIONS);
    let keys = Keys::derive(b"pencil", &SALT, few()).unwrap();
    let mut cache = KeyCache::new(2);
    cache.insert(key("a"), keys.clone());
    cache.insert(key("b"), keys.clone());
    assert!(cache.find(&key("a")).is_some());
    cache.insert(key("b"), keys.clone());
    assert!(cache.find(&key("a")).is_some());
    cache.insert(key("c"), keys.clone());
    assert_eq!(cache.len(), 2);
    assert!(cache.find(&key("b")).is_none());
    assert!(cache.find(&key("a")).is_some_and(|found| found.client.matches(&keys.client)));

    let mut nothing = KeyCache::new(0);
    nothing.insert(key("a"), keys);
    assert!(nothing.is_empty());
}

#[test]
fn keys_are_cached_under_all_that_they_depend_on() {
    let key = |password: &[u8], salt: &[u8]| CacheKey::new(password, salt, DEFAULT_ITERATIONS);
    assert_eq!(key(b"ab", b"c"), key(b"ab", b"c"));
    assert_ne!(key(b"ab", b"c"), key(b"a", b"bc"));
    assert_ne!(key(b"ab", b"c"), key(b"xb", b"c"));
    assert_ne!(key(b"ab", b"c"), CacheKey::new(b"ab", b"c", few()));
}

proptest! {
    #[test]
    fn a_verifier_is_written_as_it_was_read(password in ".{1,12}", salt in prop::collection::vec(any::<u8>(), 0..40), iterations in 1u32..9) {
        let made = Verifier::from_password(password.as_bytes(), &salt, iterations.try_into().unwrap()).unwrap();
        let read: Verifier = made.to_string().parse().unwrap();
        prop_assert_eq!(read.to_string(), made.to_string());
        prop_assert_eq!(read.salt(), &*salt);
        prop_assert_eq!(read.check_password(password.as_bytes()), Ok(()));
    }

    #[test]
    fn md5_is_that_of_another_project(user in ".{0,12}", password in ".{1,12}", salt in any::<[u8; 4]>()) {
        let expected = postgres_protocol::authentication::md5_hash(user.as_bytes(), password.as_bytes(), salt);
        let ours = Md5Hash::from_password(user.as_bytes(), password.as_bytes());
        prop_assert_eq!(&ours.response(salt), expected.as_bytes());
        prop_assert!(ours.matches_response(salt, expected.as_bytes()));
    }
}
