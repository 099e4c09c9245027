//! The example of RFC 7677, whose nonces and user name our own messages would not have.

use super::super::{DEFAULT_ITERATIONS, Keys};
use super::{AuthMessage, decode_base64, decode_proof};
use crate::auth::digests::xor;

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
