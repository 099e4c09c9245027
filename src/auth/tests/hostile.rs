//! Bytes from anybody: nothing panics, and nothing but the right message is taken.

use proptest::prelude::*;

use super::super::scram::client::{self, Binding, Challenged, WaitServerFinal};
use super::super::{Denied, Keys, Secret, Verifier, certificate_names, tls_server_end_point};
use super::{CLIENT_NONCE, PROCESS_KEY, SALT, challenged, few, verifier};

fn client() -> client::Start {
    client::start([&b"SCRAM-SHA-256"[..]], Binding::Unavailable, CLIENT_NONCE).unwrap()
}

/// Every message that differs from this one in a single byte, by one byte more or by one less.
fn neighbours(message: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let replaced = (0..message.len()).flat_map(move |at| {
        (0..=255).filter(move |byte| message[at] != *byte).map(move |byte| {
            let mut other = message.to_vec();
            other[at] = byte;
            other
        })
    });
    let removed = (0..message.len()).map(|at| [&message[..at], &message[at + 1..]].concat());
    let inserted =
        (0..=message.len()).flat_map(move |at| [b',', b'=', b'A', b'p', 0].map(|byte| [&message[..at], &[byte], &message[at..]].concat()));
    replaced.chain(removed).chain(inserted).filter(move |other| other != message)
}

fn server_final(challenge: Challenged, keys: &Keys) -> (WaitServerFinal, Vec<u8>) {
    challenge.answer(keys)
}

#[test]
fn no_neighbour_of_the_final_message_is_accepted() {
    let (stored, start) = (verifier("pencil"), client());
    let keys = Keys::derive(b"pencil", &SALT, few()).unwrap();
    let (_, server_first) = challenged(&stored, &start.message).unwrap();
    let (_, client_final) = server_final(start.next.challenge(&server_first).unwrap(), &keys);
    let answer = |message: &[u8]| challenged(&stored, &client().message).unwrap().0.finish(message);

    assert!(answer(&client_final).is_ok());
    // PostgreSQL too takes a comma after the last attribute.
    let with_comma = [&*client_final, b","].concat();
    for other in neighbours(&client_final).filter(|other| *other != with_comma) {
        assert!(answer(&other).is_err(), "{}", other.escape_ascii());
    }
}

#[test]
fn no_neighbour_of_the_first_message_leads_to_a_log_in() {
    let (stored, keys) = (verifier("pencil"), Keys::derive(b"pencil", &SALT, few()).unwrap());
    let first = client().message;
    for other in neighbours(&first) {
        let Ok((server, server_first)) = challenged(&stored, &other) else { continue };
        let Ok(challenge) = client().next.challenge(&server_first) else { continue };
        let (_, client_final) = challenge.answer(&keys);
        assert!(server.finish(&client_final).is_err(), "{}", other.escape_ascii());
    }
}

#[test]
fn no_neighbour_of_the_servers_messages_is_believed() {
    let (stored, start) = (verifier("pencil"), client());
    let (_, server_first) = challenged(&stored, &start.message).unwrap();
    for other in neighbours(&server_first) {
        let Ok(challenge) = client().next.challenge(&other) else { continue };
        if challenge.iterations().get() > 100 {
            continue;
        }
        let keys = Keys::derive(b"pencil", challenge.salt(), challenge.iterations()).unwrap();
        let (server, _) = challenged(&stored, &client().message).unwrap();
        assert!(server.finish(&challenge.answer(&keys).1).is_err(), "{}", other.escape_ascii());
    }

    let keys = Keys::derive(b"pencil", &SALT, few()).unwrap();
    let ends = || client().next.challenge(&server_first).unwrap().answer(&keys);
    let (server, _) = challenged(&stored, &client().message).unwrap();
    let accepted = server.finish(&ends().1).unwrap().server_final;
    assert_eq!(ends().0.verify(&accepted), Ok(()));
    assert_eq!(ends().0.verify(b"e=invalid-proof"), Err(Denied::RefusedByServer));
    for other in neighbours(&accepted).filter(|other| !other.starts_with(&[&*accepted, b","].concat())) {
        assert!(ends().0.verify(&other).is_err(), "{}", other.escape_ascii());
    }
}

/// Bytes at random, or pieces of the grammar in a random order.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "n",
        "y",
        "p=",
        "tls-server-end-point",
        ",",
        ",,",
        "a=",
        "n=",
        "r=",
        "m=",
        "c=",
        "biws",
        "s=",
        "i=",
        "v=",
        "e=",
        "4096",
        "=",
        "\0",
        "AAAA",
        "CQkJCQkJCQkJCQkJCQkJCQkJ",
        "99999999999999999999",
        "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    ]);
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        prop::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat().into_bytes()),
    ]
}

proptest! {
    #[test]
    fn a_server_survives_any_bytes(first in message(), last in message()) {
        let _ = challenged(&verifier("pencil"), &first);
        let (wait, _) = challenged(&verifier("pencil"), &client().message).unwrap();
        prop_assert!(wait.finish(&last).is_err());
    }

    #[test]
    fn a_client_survives_any_bytes(first in message(), last in message()) {
        let _ = client().next.challenge(&first);
        let (_, server_first) = challenged(&verifier("pencil"), &client().message).unwrap();
        let keys = Keys::derive(b"pencil", &SALT, few()).unwrap();
        let (wait, _) = client().next.challenge(&server_first).unwrap().answer(&keys);
        prop_assert!(wait.verify(&last).is_err());
    }

    #[test]
    fn a_mock_accepts_nobody(user in prop::collection::vec(any::<u8>(), 0..20), password in ".{0,12}") {
        let mock = Verifier::mock(&PROCESS_KEY, &user);
        let keys = Keys::derive(password.as_bytes(), mock.salt(), few()).unwrap();
        let (server, server_first) = challenged(&mock, &client().message).unwrap();
        let (_, client_final) = client().next.challenge(&server_first).unwrap().answer(&keys);
        prop_assert_eq!(server.finish(&client_final).unwrap_err(), Denied::WrongPassword);
    }

    #[test]
    fn stored_texts_are_read_without_panic(text in "(SCRAM-SHA-256\\$)?[0-9:$A-Za-z+/=]{0,80}|\\PC{0,40}") {
        let secret = Secret::parse(&text);
        if let Ok(Secret::Password(password)) = secret {
            prop_assert_eq!(&*password, &text);
        }
    }

    #[test]
    fn certificates_are_read_without_panic(at in 0usize..2000, byte in any::<u8>(), cut in 0usize..2000) {
        let mut certificate = include_bytes!("certificates/pss-sha512.der").to_vec();
        if let Some(target) = certificate.get_mut(at) {
            *target = byte;
        }
        certificate.truncate(cut.max(1));
        let _ = certificate_names(&certificate);
        let _ = tls_server_end_point(&certificate);
    }
}
