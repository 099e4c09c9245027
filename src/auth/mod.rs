//! Both sides of PostgreSQL's authentication: SCRAM-SHA-256, md5, cleartext, certificates.
//!
//! Pure exchanges: bytes of a message in, bytes of the answer out. No socket, clock, lock or log; the only thing taken from outside is
//! randomness, and callers may pass their own. States are consumed and returned, each named for what it waits for. The rules are
//! those of the PostgreSQL manual, chapter "SASL Authentication", and of RFC 5802, 5929 and 7677; checklist A10, A11, J5.
//!
//! | a client logs in here | the proxy logs in at a server |
//! |---|---|
//! | [`scram::server`], from a [`Verifier`] (4 µs) | [`scram::client`], with [`Keys`] (a millisecond to derive, then in a [`KeyCache`]; or those that a client's own log-in revealed) |
//! | [`Secret::check_md5`] | [`Md5Hash::response`] |
//! | [`Secret::check_password`] | the password itself, or the token of an [`RdsLogin`] |
//! | [`certificate_names`] | |
//!
//! A name that nobody has goes through the same exchange with [`Verifier::mock`], and hears the same answer at the same time.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions))]

mod certificate;
mod channel_binding;
mod denied;
mod digests;
mod key_cache;
mod keys;
mod md5;
mod rds_token;
mod saslprep;
pub mod scram;
mod secret;
pub mod sigv4;
mod verifier;

pub use certificate::{CertificateNames, certificate_names};
pub use channel_binding::tls_server_end_point;
pub use denied::Denied;
pub use digests::random;
pub use key_cache::{CacheKey, KeyCache};
pub use keys::{ClientKey, DEFAULT_ITERATIONS, Keys, MAX_DERIVED_ITERATIONS, ServerKey, StoredKey};
pub use md5::Md5Hash;
pub use rds_token::{AwsKeys, RdsLogin, end_of_keys, region_of};
pub use secret::{Secret, UnusableSecret};
pub use verifier::{MalformedVerifier, SALT_LENGTH, Verifier};

#[cfg(test)]
mod tests;
