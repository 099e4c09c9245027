//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802 and 7677, as PostgreSQL speaks them): what both sides share.

mod attributes;
pub mod client;
pub mod server;

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};

use attributes::Attributes;

use super::Denied;
use crate::wire::say;

use super::digests::{LENGTH, hmac_sha256};

/// The longest SCRAM message that is taken from a client; PostgreSQL's own limit for SASL.
pub const MAX_CLIENT_MESSAGE: usize = 1024;

/// The longest SCRAM message that is taken from a server: a salt may be long.
pub const MAX_SERVER_MESSAGE: usize = 4096;

/// The random bytes in a nonce; in base64 they are 24 characters, as PostgreSQL has them.
pub const NONCE_LENGTH: usize = 18;

/// The two mechanisms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// SCRAM-SHA-256, without channel binding.
    ScramSha256,
    /// SCRAM-SHA-256-PLUS, bound to the TLS certificate.
    ScramSha256Plus,
}

impl Mechanism {
    /// The name in `AuthenticationSASL` and `SASLInitialResponse`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ScramSha256 => say::SCRAM,
            Self::ScramSha256Plus => say::SCRAM_PLUS,
        }
    }
}

/// The head of every bound exchange, which the `c` attribute repeats.
const GS2_BOUND: &[u8] = b"p=tls-server-end-point,,";
/// The head when the client cannot or will not bind.
const GS2_UNBOUND: &[u8] = b"n,,";
/// The head when the client could bind but was not offered to.
const GS2_NOT_OFFERED: &[u8] = b"y,,";

/// The value of the `c` attribute: the head and the binding data, in base64.
fn channel_attribute(gs2_header: &[u8], binding: &[u8]) -> Vec<u8> {
    STANDARD.encode([gs2_header, binding].concat()).into_bytes()
}

/// RFC 5802's `AuthMessage`, which both proofs are over.
struct AuthMessage<'a> {
    client_first_bare: &'a [u8],
    server_first: &'a [u8],
    client_final_without_proof: &'a [u8],
}

impl AuthMessage<'_> {
    /// `HMAC(key, AuthMessage)`.
    fn signed_with(&self, key: &[u8; LENGTH]) -> [u8; LENGTH] {
        hmac_sha256(key, &[self.client_first_bare, b",", self.server_first, b",", self.client_final_without_proof])
    }
}

/// Takes what PostgreSQL takes: padded base64 whose last bits may be anything.
pub(super) fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurpose =
        GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));
    LENIENT.decode(text).ok()
}

/// A proof or signature. Only its canonical base64 is taken, so that every changed byte of it is noticed.
fn decode_proof(text: &[u8]) -> Option<[u8; LENGTH]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

/// The checks that come before all parsing: length, and no byte that would end a string early.
fn check_shape(message: &[u8], limit: usize) -> Result<(), Denied> {
    if message.is_empty() {
        Err(Denied::Protocol("the message is empty"))
    } else if message.len() > limit {
        Err(Denied::Protocol("the message is too long"))
    } else if message.contains(&0) {
        Err(Denied::Protocol("a zero byte in the message"))
    } else {
        Ok(())
    }
}

/// RFC 5802's `printable`: ASCII that is visible, without the comma.
fn is_printable(text: &[u8]) -> bool {
    text.iter().all(|byte| matches!(byte, 0x21..=0x7e) && *byte != b',')
}

#[cfg(test)]
mod tests;
