//! The example of RFC 7677, whose nonces and user name our own messages would not have, and final messages that are rightly signed but odd.

use super::super::digests::xor;
use super::super::{DEFAULT_ITERATIONS, Denied, Keys, Verifier};
use super::server::WaitMechanism;
use super::{AuthMessage, decode_base64, decode_proof};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

#[test]
fn the_proofs_are_those_of_rfc_7677() {
    let salt = decode_base64(b"W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    let keys = Keys::derive(b"pencil", &salt, DEFAULT_ITERATIONS).unwrap();
    let message = AuthMessage {
        client_first_bare: b"n=user,r=rOprNGfwEbeRWgbNEkqO",
        server_first: b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        client_final_without_proof: b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
    };
    let proof = xor(keys.client.as_bytes(), &message.signed_with(keys.client.stored_key().as_bytes()));
    assert_eq!(Some(proof), decode_proof(b"dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="));
    let signature = message.signed_with(keys.server.as_bytes());
    assert_eq!(Some(signature), decode_proof(b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
}

#[test]
fn only_the_canonical_form_of_a_proof_is_taken() {
    let (proof, same_bits) = (b"dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=", b"dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVR=");
    assert!(decode_proof(proof).is_some());
    assert_eq!(decode_base64(proof), decode_base64(same_bits));
    assert!(decode_proof(same_bits).is_none());
}

/// What the server says to a final message of this shape, in which `NONCE` and `PROOF` stand for the right ones. The proof covers what
/// comes before `,p=`, as a client that knows the password would make it.
fn answer_to(shape: &str) -> Result<(), Denied> {
    let verifier = Verifier::from_password(b"pencil", b"salt", DEFAULT_ITERATIONS).unwrap();
    let keys = Keys::derive(b"pencil", b"salt", DEFAULT_ITERATIONS).unwrap();
    let wait = WaitMechanism::new(None).select(b"SCRAM-SHA-256").unwrap();
    let (server, server_first) = wait.challenge(b"n,,n=,r=ours", &verifier, [0; 18]).unwrap();
    let nonce = format!("ours{}", STANDARD.encode([0; 18]));

    let message = shape.replace("NONCE", &nonce);
    let signed = AuthMessage {
        client_first_bare: b"n=,r=ours",
        server_first: &server_first,
        client_final_without_proof: message.split(",p=").next().unwrap().as_bytes(),
    };
    let proof = xor(keys.client.as_bytes(), &signed.signed_with(keys.client.stored_key().as_bytes()));
    server.finish(message.replace("PROOF", &STANDARD.encode(proof)).as_bytes()).map(|_| ())
}

#[test]
fn a_right_proof_does_not_excuse_the_rest_of_the_message() {
    for good in ["c=biws,r=NONCE,p=PROOF", "c=biws,r=NONCE,x=ignored,y=,p=PROOF", "c=biws,r=NONCE,p=PROOF,"] {
        assert_eq!(answer_to(good), Ok(()), "{good}");
    }
    for bad in [
        "c=biws,r=ours,p=PROOF",
        "c=biws,r=NONCEx,p=PROOF",
        "c=biws,r=xNONCE,p=PROOF",
        "c=biws,r=,p=PROOF",
        "c=eSws,r=NONCE,p=PROOF",
        "c=,r=NONCE,p=PROOF",
        "r=NONCE,c=biws,p=PROOF",
        "c=biws,p=PROOF",
        "c=biws,r=NONCE,p=PROOF,x=y",
        "c=biws,r=NONCE,p=PROOF,p=PROOF",
        "c=biws,r=NONCE,1=x,p=PROOF",
        "c=biws,r=NONCE,p=AAAA",
        "c=biws,r=NONCE,p=",
        "c=biws,r=NONCE,",
        "c=biws,r=NONCE",
    ] {
        assert!(matches!(answer_to(bad), Err(Denied::Protocol(_))), "{bad}: {:?}", answer_to(bad));
    }
}
