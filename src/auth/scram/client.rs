//! The client's side: the proxy proves itself to a PostgreSQL server, and makes the server prove itself too.
//!
//! [`start`] → [`WaitServerFirst`] → [`Challenged`] → [`WaitServerFinal`]. The one dear step, PBKDF2, stands between the last two and is the
//! caller's: it asks a [`KeyCache`](super::super::KeyCache) first, or has the keys of a client's own log-in.

use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;

use super::super::digests::xor;
use super::super::{Denied, Keys, ServerKey};
use super::{
    Attributes, AuthMessage, GS2_BOUND, GS2_NOT_OFFERED, GS2_UNBOUND, MAX_SERVER_MESSAGE, Mechanism, NONCE_LENGTH, channel_attribute,
    check_shape, decode_base64, decode_proof, is_printable,
};

/// What there is to bind the exchange to: [`tls_server_end_point`](super::super::tls_server_end_point) of the server's certificate.
#[derive(Debug, Clone, Copy)]
pub enum Binding<'a> {
    /// No TLS, or a certificate that cannot be bound to.
    Unavailable,
    /// Bind if the server offers it; libpq's `channel_binding=prefer`.
    Prefer(&'a [u8]),
    /// Do not log in without it; libpq's `channel_binding=require`.
    Require(&'a [u8]),
}

/// The first step: what to put into `SASLInitialResponse`.
#[derive(Debug)]
pub struct Start {
    /// The mechanism that was chosen.
    pub mechanism: Mechanism,
    /// The client-first-message.
    pub message: Vec<u8>,
    /// What comes next.
    pub next: WaitServerFirst,
}

/// `SASLInitialResponse` is sent; `AuthenticationSASLContinue` is awaited.
#[derive(Debug)]
pub struct WaitServerFirst {
    nonce: String,
    channel_attribute: Vec<u8>,
}

/// The server has said its salt; now the keys are needed.
#[derive(Debug)]
pub struct Challenged {
    client_first_bare: String,
    server_first: Box<[u8]>,
    without_proof: Vec<u8>,
    salt: Vec<u8>,
    iterations: NonZeroU32,
}

/// `SASLResponse` is sent; `AuthenticationSASLFinal` is awaited, and must come before `AuthenticationOk`.
#[derive(Debug)]
pub struct WaitServerFinal {
    signature: [u8; 32],
}

/// Begins a log-in, choosing among the mechanisms that `AuthenticationSASL` names (its body, split at the zeros, will do: an empty name is
/// nobody's). `nonce` must be random, and never used before.
pub fn start<'a>(offered: impl IntoIterator<Item = &'a [u8]>, binding: Binding<'_>, nonce: [u8; NONCE_LENGTH]) -> Result<Start, Denied> {
    let (mut plain, mut plus) = (false, false);
    for name in offered {
        plain |= name == Mechanism::ScramSha256.name().as_bytes();
        plus |= name == Mechanism::ScramSha256Plus.name().as_bytes();
    }
    let (mechanism, gs2_header, data) = match binding {
        Binding::Prefer(data) | Binding::Require(data) if plus => (Mechanism::ScramSha256Plus, GS2_BOUND, data),
        Binding::Require(_) => {
            return Err(Denied::ChannelBinding("it is required, and the server does not offer it"));
        }
        // Says that we could have bound: a server that did offer it learns that its offer was taken away on the way.
        Binding::Prefer(_) if plain => (Mechanism::ScramSha256, GS2_NOT_OFFERED, &[][..]),
        Binding::Unavailable if plain => (Mechanism::ScramSha256, GS2_UNBOUND, &[][..]),
        Binding::Unavailable if plus => {
            return Err(Denied::ChannelBinding("the server insists on it, and there is nothing to bind to"));
        }
        _ => {
            return Err(Denied::Unsupported("none of the SASL mechanisms that the server offers"));
        }
    };
    let nonce = STANDARD.encode(nonce);
    let message = [gs2_header, bare(&nonce).as_bytes()].concat();
    let channel_attribute = channel_attribute(gs2_header, data);
    Ok(Start { mechanism, message, next: WaitServerFirst { nonce, channel_attribute } })
}

/// The client-first-message without its header. The name is empty, as libpq leaves it: the server knows it from the startup packet.
fn bare(nonce: &str) -> String {
    format!("n=,r={nonce}")
}

impl WaitServerFirst {
    /// Reads the body of `AuthenticationSASLContinue`.
    pub fn challenge(self, message: &[u8]) -> Result<Challenged, Denied> {
        check_shape(message, MAX_SERVER_MESSAGE)?;
        if message.first() == Some(&b'm') {
            return Err(Denied::Unsupported("a mandatory SCRAM extension"));
        }
        let mut attributes = Attributes::new(message);
        let nonce = attributes.expect(b'r', "the nonce was expected in the server-first-message")?;
        match nonce.strip_prefix(self.nonce.as_bytes()) {
            Some([_, ..]) if is_printable(nonce) => {}
            _ => {
                return Err(Denied::Protocol("the server's nonce does not continue ours"));
            }
        }
        let salt = attributes.expect(b's', "the salt was expected in the server-first-message")?;
        let salt = decode_base64(salt).ok_or(Denied::Protocol("malformed salt"))?;
        let iterations = attributes.expect(b'i', "the iteration count was expected in the server-first-message")?;
        let iterations = read_count(iterations).ok_or(Denied::Protocol("malformed iteration count"))?;

        Ok(Challenged {
            client_first_bare: bare(&self.nonce),
            server_first: message.into(),
            without_proof: [b"c=", &*self.channel_attribute, b",r=", nonce].concat(),
            salt,
            iterations,
        })
    }
}

fn read_count(text: &[u8]) -> Option<NonZeroU32> {
    // `parse` would also take a sign.
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

impl Challenged {
    /// The salt under which the server stores the password.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// The iteration count under which the server stores the password. [`Keys::derive`] refuses absurd ones.
    pub fn iterations(&self) -> NonZeroU32 {
        self.iterations
    }

    /// The body of `SASLResponse`, and what the server has to answer. The keys must be those of this salt and count.
    pub fn answer(self, keys: &Keys) -> (WaitServerFinal, Vec<u8>) {
        let auth_message = AuthMessage {
            client_first_bare: self.client_first_bare.as_bytes(),
            server_first: &self.server_first,
            client_final_without_proof: &self.without_proof,
        };
        let client_signature = auth_message.signed_with(keys.client.stored_key().as_bytes());
        let proof = STANDARD.encode(xor(keys.client.as_bytes(), &client_signature));
        let message = [&*self.without_proof, b",p=", proof.as_bytes()].concat();
        (WaitServerFinal::new(&auth_message, &keys.server), message)
    }
}

impl WaitServerFinal {
    fn new(auth_message: &AuthMessage<'_>, key: &ServerKey) -> Self {
        Self { signature: auth_message.signed_with(key.as_bytes()) }
    }

    /// Checks the body of `AuthenticationSASLFinal`. Only after `Ok` is the server known to be the right one.
    pub fn verify(self, message: &[u8]) -> Result<(), Denied> {
        check_shape(message, MAX_SERVER_MESSAGE)?;
        let mut attributes = Attributes::new(message);
        match attributes.next()? {
            Some((b'v', signature)) => {
                let signature = decode_proof(signature).ok_or(Denied::Protocol("malformed server signature"))?;
                if self.signature.ct_eq(&signature).into() { Ok(()) } else { Err(Denied::ServerNotProven) }
            }
            Some((b'e', _)) => Err(Denied::RefusedByServer),
            _ => Err(Denied::Protocol("the signature was expected in the server-final-message")),
        }
    }
}
