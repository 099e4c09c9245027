//! Whole log-ins: ours with ours, and `postgres-protocol`'s client with our server.

use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

use super::super::scram::client::{self, Binding};
use super::super::scram::server::WaitMechanism;
use super::super::{Denied, Keys, Verifier};
use super::{CLIENT_NONCE, PROCESS_KEY, SERVER_NONCE, challenged, few, log_in, verifier};

const CERTIFICATE: &[u8] = b"the hash of a certificate";

#[test]
fn a_client_and_a_server_with_the_same_password_prove_themselves() {
    for (server, client) in [
        (None, Binding::Unavailable),
        (Some(CERTIFICATE), Binding::Unavailable),
        (None, Binding::Prefer(CERTIFICATE)),
        (Some(CERTIFICATE), Binding::Prefer(CERTIFICATE)),
        (Some(CERTIFICATE), Binding::Require(CERTIFICATE)),
    ] {
        assert!(log_in(&verifier("pencil"), "pencil", server, client).is_ok(), "{server:?} {client:?}");
        let wrong = log_in(&verifier("pencil"), "pencils", server, client);
        assert_eq!(wrong.unwrap_err(), Denied::WrongPassword, "{server:?} {client:?}");
    }
}

#[test]
fn the_client_of_another_project_logs_in() {
    for (server, binding) in [
        (None, ChannelBinding::unsupported()),
        (None, ChannelBinding::unrequested()),
        (Some(CERTIFICATE), ChannelBinding::unsupported()),
        (Some(CERTIFICATE), ChannelBinding::tls_server_end_point(CERTIFICATE.to_vec())),
    ] {
        let mut client = ScramSha256::new("caf\u{e9}".as_bytes(), binding);
        let mechanism: &[u8] = if client.message().starts_with(b"p=") { b"SCRAM-SHA-256-PLUS" } else { b"SCRAM-SHA-256" };
        let wait = WaitMechanism::new(server).select(mechanism).unwrap();
        let (wait, server_first) = wait.challenge(client.message(), &verifier("cafe\u{301}"), SERVER_NONCE).unwrap();
        client.update(&server_first).unwrap();
        let accepted = wait.finish(client.message()).unwrap();
        client.finish(&accepted.server_final).unwrap();
    }
}

#[test]
fn a_log_in_reveals_the_keys_to_log_in_elsewhere() {
    let stored = verifier("pencil");
    let learned = log_in(&stored, "pencil", None, Binding::Unavailable).unwrap().keys;
    assert!(learned.client.matches(&Keys::derive(b"pencil", stored.salt(), few()).unwrap().client));

    let start = client::start([&b"SCRAM-SHA-256"[..]], Binding::Unavailable, CLIENT_NONCE).unwrap();
    let (server, server_first) = challenged(&stored, &start.message).unwrap();
    let challenge = start.next.challenge(&server_first).unwrap();
    assert!(stored.is_salted_as(challenge.salt(), challenge.iterations()));
    let (client, client_final) = challenge.answer(&learned);
    client.verify(&server.finish(&client_final).unwrap().server_final).unwrap();
}

#[test]
fn a_server_that_does_not_know_the_password_is_found_out() {
    // It has the verifier of another password with the same salt, and lies that the proof was right.
    let start = client::start([&b"SCRAM-SHA-256"[..]], Binding::Unavailable, CLIENT_NONCE).unwrap();
    let (_, server_first) = challenged(&verifier("other"), &start.message).unwrap();
    let keys = Keys::derive(b"pencil", &super::SALT, few()).unwrap();
    let (client, _) = start.next.challenge(&server_first).unwrap().answer(&keys);
    assert_eq!(client.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Err(Denied::ServerNotProven));
}

#[test]
fn two_certificates_mean_somebody_is_between() {
    let denied = log_in(&verifier("pencil"), "pencil", Some(CERTIFICATE), Binding::Prefer(b"another")).unwrap_err();
    assert!(matches!(denied, Denied::ChannelBinding(_)), "{denied:?}");
}

#[test]
fn an_offer_of_channel_binding_that_was_taken_away_is_noticed() {
    // The client, given a list without PLUS, says that it could have bound.
    let start = client::start([&b"SCRAM-SHA-256"[..]], Binding::Prefer(CERTIFICATE), CLIENT_NONCE).unwrap();
    assert!(start.message.starts_with(b"y,,"));
    let wait = WaitMechanism::new(Some(CERTIFICATE)).select(b"SCRAM-SHA-256").unwrap();
    let denied = wait.challenge(&start.message, &verifier("pencil"), SERVER_NONCE).unwrap_err();
    assert!(matches!(denied, Denied::ChannelBinding(_)), "{denied:?}");
}

#[test]
fn the_client_takes_the_best_mechanism_it_can() {
    let chosen = |offered: &[&str], binding| {
        client::start(offered.iter().map(|name| name.as_bytes()), binding, CLIENT_NONCE).map(|start| start.mechanism.name())
    };
    let (plain, plus) = ("SCRAM-SHA-256", "SCRAM-SHA-256-PLUS");
    assert_eq!(chosen(&[plus, plain], Binding::Prefer(CERTIFICATE)), Ok(plus));
    assert_eq!(chosen(&[plus], Binding::Prefer(CERTIFICATE)), Ok(plus));
    assert_eq!(chosen(&[plus, plain], Binding::Unavailable), Ok(plain));
    assert_eq!(chosen(&["OAUTHBEARER", plain], Binding::Prefer(CERTIFICATE)), Ok(plain));
    assert!(matches!(chosen(&[plain], Binding::Require(CERTIFICATE)), Err(Denied::ChannelBinding(_))));
    assert!(matches!(chosen(&[plus], Binding::Unavailable), Err(Denied::ChannelBinding(_))));
    assert!(matches!(chosen(&["OAUTHBEARER"], Binding::Unavailable), Err(Denied::Unsupported(_))));
    assert!(matches!(chosen(&[], Binding::Unavailable), Err(Denied::Unsupported(_))));
}

#[test]
fn the_flag_of_the_first_message_must_fit_the_mechanism() {
    let first = |tls: Option<&[u8]>, mechanism: &[u8], message: &[u8]| {
        WaitMechanism::new(tls).select(mechanism).and_then(|wait| wait.challenge(message, &verifier("pencil"), SERVER_NONCE)).map(|_| ())
    };
    let (plain, plus, tls) = (&b"SCRAM-SHA-256"[..], &b"SCRAM-SHA-256-PLUS"[..], Some(CERTIFICATE));

    assert_eq!(first(None, plain, b"n,,n=,r=x"), Ok(()));
    assert_eq!(first(None, plain, b"y,,n=,r=x"), Ok(()));
    assert_eq!(first(tls, plain, b"n,,n=,r=x"), Ok(()));
    assert_eq!(first(tls, plus, b"p=tls-server-end-point,,n=somebody,r=x,e=ignored"), Ok(()));

    for (tls, mechanism, message) in [
        (None, plus, &b"p=tls-server-end-point,,n=,r=x"[..]),
        (None, b"SCRAM-SHA-1", b"n,,n=,r=x"),
        (None, plain, b"p=tls-server-end-point,,n=,r=x"),
        (tls, plain, b"p=tls-server-end-point,,n=,r=x"),
        (tls, plus, b"n,,n=,r=x"),
        (tls, plus, b"y,,n=,r=x"),
        (tls, plus, b"p=tls-unique,,n=,r=x"),
        (tls, plus, b"p=tls-server-end-points,,n=,r=x"),
        (tls, plus, b"p=tls-server-end-point"),
        (None, plain, b"x,,n=,r=x"),
        (None, plain, b"n"),
        (None, plain, b"n,"),
        (None, plain, b"n,,"),
        (None, plain, b"n,x,n=,r=x"),
        (None, plain, b"n,,r=x"),
        (None, plain, b"n,,n="),
        (None, plain, b"n,,n=,r=\x7f"),
        (None, plain, b"n,,n=,r=x,1=x"),
        (None, plain, b"n,,n=,r=x,yy"),
        (None, plain, b"n,,n=,r=x\0"),
        (None, plain, b""),
    ] {
        let denied = first(tls, mechanism, message).unwrap_err();
        assert!(matches!(denied, Denied::Protocol(_)), "{:?}: {denied:?}", message.escape_ascii().to_string());
    }
    for message in [&b"n,a=admin,n=,r=x"[..], b"n,,m=x,n=,r=x"] {
        assert!(matches!(first(None, plain, message), Err(Denied::Unsupported(_))));
    }
    assert!(matches!(first(None, plain, &[b"n,,n=,r=", &[b'x'; 1100][..]].concat()), Err(Denied::Protocol(_))));
}

#[test]
fn a_name_that_nobody_has_looks_like_one_that_somebody_has() {
    let salt = Verifier::stable_salt(&PROCESS_KEY, b"ghost");
    let real = Verifier::from_password(b"pencil", &salt, super::super::DEFAULT_ITERATIONS).unwrap();
    let mock = Verifier::mock(&PROCESS_KEY, b"ghost");
    let first = b"n,,n=,r=x";
    assert_eq!(challenged(&real, first).unwrap().1, challenged(&mock, first).unwrap().1);
    assert_eq!(Verifier::mock(&PROCESS_KEY, b"ghost").salt(), mock.salt());
    assert_ne!(Verifier::mock(&PROCESS_KEY, b"other").salt(), mock.salt());
    assert_ne!(Verifier::mock(&[4; 32], b"ghost").salt(), mock.salt());

    for password in ["pencil", "", "ghost"] {
        let denied = log_in(&mock, password, None, Binding::Unavailable).unwrap_err();
        assert_eq!(denied, Denied::WrongPassword);
        assert_eq!(mock.check_password(password.as_bytes()), Err(Denied::WrongPassword));
    }
}

#[test]
fn an_absurd_number_of_iterations_is_refused_before_it_is_computed() {
    let start = client::start([&b"SCRAM-SHA-256"[..]], Binding::Unavailable, CLIENT_NONCE).unwrap();
    let [_, nonce] = ["", std::str::from_utf8(&start.message).unwrap().strip_prefix("n,,n=,r=").unwrap()];
    let challenge = start.next.challenge(format!("r={nonce}x,s=AAAA,i=4000000000").as_bytes()).unwrap();
    let denied = Keys::derive(b"pencil", challenge.salt(), challenge.iterations()).unwrap_err();
    assert_eq!(denied, Denied::IterationsOverLimit { asked: 4_000_000_000, limit: 1_000_000 });
}

#[test]
fn a_malformed_challenge_of_a_server_is_refused() {
    let wait = || client::start([&b"SCRAM-SHA-256"[..]], Binding::Unavailable, CLIENT_NONCE).unwrap().next;
    let nonce = "CQkJCQkJCQkJCQkJCQkJCQkJCQkJ";
    let ours = client::start([&b"SCRAM-SHA-256"[..]], Binding::Unavailable, CLIENT_NONCE).unwrap().message;
    let ours = std::str::from_utf8(&ours).unwrap().strip_prefix("n,,n=,r=").unwrap();
    assert!(nonce.starts_with(ours));
    assert!(wait().challenge(format!("r={ours}x,s=AAAA,i=1,x=ignored").as_bytes()).is_ok());
    for bad in [
        format!("r={ours},s=AAAA,i=1"),
        format!("r=x{ours}x,s=AAAA,i=1"),
        format!("r={ours}\u{7f},s=AAAA,i=1"),
        format!("r={ours}x,s=AAA,i=1"),
        format!("r={ours}x,s=AAAA,i=0"),
        format!("r={ours}x,s=AAAA,i=-1"),
        format!("r={ours}x,s=AAAA,i=+1"),
        format!("r={ours}x,s=AAAA,i="),
        format!("r={ours}x,s=AAAA,i=4294967296"),
        format!("r={ours}x,s=AAAA"),
        format!("s=AAAA,r={ours}x,i=1"),
        "e=other-error".to_owned(),
        String::new(),
        format!("r={ours}x,s={},i=1", "AAAA".repeat(1100)),
    ] {
        assert!(matches!(wait().challenge(bad.as_bytes()), Err(Denied::Protocol(_))), "{bad}");
    }
    let denied = wait().challenge(format!("m=x,r={ours}x,s=AAAA,i=1").as_bytes()).unwrap_err();
    assert!(matches!(denied, Denied::Unsupported(_)));
}
