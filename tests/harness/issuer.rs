//! An issuer of tokens (JWT), and the keys that it publishes.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::Value;

/// An issuer of tokens, with one key.
pub struct Issuer {
    algorithm: Algorithm,
    key: EncodingKey,
    /// What it publishes: a JSON Web Key Set.
    pub set: Value,
}

impl Issuer {
    /// One whose key has this name.
    pub fn new(name: &str) -> Self {
        Self::signing(name, Algorithm::ES256)
    }

    /// The same with another algorithm: one of `ES256`, `ES384` and `RS256`.
    pub fn signing(name: &str, algorithm: Algorithm) -> Self {
        let elliptic = |kind| EncodingKey::from_ec_der(KeyPair::generate_for(kind).unwrap().serialized_der());
        let key = match algorithm {
            Algorithm::ES256 => elliptic(&PKCS_ECDSA_P256_SHA256),
            Algorithm::ES384 => elliptic(&PKCS_ECDSA_P384_SHA384),
            Algorithm::RS256 => {
                let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
                // PKCS #1, as it stands in PKCS #8 behind 26 bytes that say what it is.
                EncodingKey::from_rsa_der(&pair.serialized_der()[26..])
            }
            other => panic!("no key is made for {other:?}"),
        };
        let mut jwk = Jwk::from_encoding_key(&key, algorithm).unwrap();
        jwk.common.key_id = Some(name.to_owned());
        Self { algorithm, key, set: serde_json::to_value(JwkSet { keys: vec![jwk] }).unwrap() }
    }

    /// A token with these claims that says it is signed with the key of this name.
    pub fn token(&self, name: &str, claims: &Value) -> String {
        let header = Header { kid: Some(name.to_owned()), ..Header::new(self.algorithm) };
        encode(&header, claims, &self.key).unwrap()
    }
}

/// The time in an hour, as claims tell it.
pub fn in_an_hour() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 3600
}

/// These claims, but for what is changed.
pub fn with(claims: &Value, changes: &Value) -> Value {
    let mut claims = claims.clone();
    claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    claims
}
