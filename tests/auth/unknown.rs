//! A user whom nobody knows cannot be told from a wrong password: not by the words, not by what comes before them. Checklist A11.

use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};

use super::harness::{Ca, Postgres, Proxy, ServerError, Wire, frames};

/// What a guess is answered with, frame by frame: types and lengths, and the error.
async fn heard(mut wire: Wire, user: &str) -> (String, ServerError) {
    wire.start(&[("user", user), ("database", "app")]).await;
    let error = wire.authenticate(user, "guessed").await.expect_err("a refusal");
    (wire.transcript(), error)
}

#[tokio::test]
async fn a11_an_unknown_user_and_a_wrong_password_hear_the_same() {
    let (pg, ca) = (Postgres::start().await, Ca::new());
    for method in ["scram-sha-256", "md5", "cleartext"] {
        let proxy = Proxy::new(&pg).set("auth.method", method).tls("prefer", &ca.server()).start().await;
        for tls in [true, false] {
            let connect = async || {
                let mut wire = Wire::connect(&proxy).await;
                if tls {
                    assert_eq!(wire.ask(&frames::ssl_request()).await, b'S');
                    wire = Box::pin(wire.tls(ca.client_config(None))).await.unwrap();
                }
                wire
            };
            // Names of one length, so that the frames are, too.
            let (known, wrong) = heard(connect().await, "app").await;
            let (unknown, nobody) = heard(connect().await, "ape").await;
            assert_eq!(known, unknown.replace("\"ape", "\"app").replace("\\\"ape", "\\\"app"), "{method}");
            let named = |error: &ServerError| error.fields.iter().map(|(at, text)| (*at, text.replace("ape", "app"))).collect::<Vec<_>>();
            assert_eq!(named(&wrong), named(&nobody), "{method}");
            if method != "cleartext" || tls {
                assert_eq!((wrong.severity(), wrong.code()), ("FATAL", "28P01"), "{method}: {wrong}");
                assert_eq!(wrong.message(), "password authentication failed for user \"app\"");
            }
        }
    }
}

/// The server's first SCRAM message: its salt and its iterations.
async fn challenge(proxy: &Proxy, user: &str) -> (String, String) {
    let mut wire = Wire::connect(proxy).await;
    wire.start(&[("user", user), ("database", "app")]).await;
    wire.expect(b'R').await;
    let scram = ScramSha256::new(b"guessed", ChannelBinding::unsupported());
    wire.send(&frames::sasl_initial(SCRAM_SHA_256, scram.message())).await;
    let first = wire.expect(b'R').await.body;
    let first = String::from_utf8(first[4..].to_vec()).unwrap();
    let part = |name: &str| first.split(',').find_map(|part| part.strip_prefix(name)).expect("a part of the message").to_owned();
    (part("s="), part("i="))
}

#[tokio::test]
async fn a11_an_unknown_users_salt_is_its_own_and_stays() {
    let pg = Postgres::start().await;
    let proxy = Proxy::new(&pg).start().await;
    let known = challenge(&proxy, "app").await;
    assert_eq!(challenge(&proxy, "app").await, known);
    let unknown = challenge(&proxy, "nobody").await;
    assert_eq!(challenge(&proxy, "nobody").await, unknown, "a salt that changes gives the user away");
    assert_ne!(challenge(&proxy, "no one").await.0, unknown.0, "so does one that all share");
    assert_eq!((known.0.len(), &known.1), (unknown.0.len(), &unknown.1), "the length of the salt, and the iterations");
}
