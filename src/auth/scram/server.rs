//! The server's side: a client proves itself to us.
//!
//! [`WaitMechanism`] → [`WaitFirst`] → [`WaitFinal`] → [`Accepted`]. Checking from a stored verifier costs four HMACs, so this may run on a worker.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;

use super::super::digests::{sha256, xor};
use super::super::{ClientKey, Denied, Keys, ServerKey, StoredKey, Verifier};
use super::{
    Attributes, AuthMessage, GS2_BOUND, GS2_NOT_OFFERED, GS2_UNBOUND, MAX_CLIENT_MESSAGE, Mechanism, NONCE_LENGTH, channel_attribute,
    check_shape, decode_proof, is_printable,
};

/// `AuthenticationSASL` is sent; the client will choose a mechanism.
#[derive(Debug)]
pub struct WaitMechanism {
    binding: Option<Box<[u8]>>,
}

/// The mechanism is chosen; the client-first-message is awaited.
#[derive(Debug)]
pub struct WaitFirst {
    channel: Channel,
}

/// How the exchange is tied to TLS.
#[derive(Debug)]
enum Channel {
    /// Not at all: there was nothing to bind to.
    Unbound,
    /// Not at all, although we offered it.
    Declined,
    /// To this hash of our certificate.
    Bound(Box<[u8]>),
}

/// The challenge is sent; the client-final-message is awaited.
#[derive(Debug)]
pub struct WaitFinal {
    client_first_bare: Box<[u8]>,
    server_first: Box<[u8]>,
    nonce: Box<[u8]>,
    channel_attribute: Vec<u8>,
    is_bound: bool,
    stored_key: StoredKey,
    server_key: ServerKey,
    is_mock: bool,
}

/// The client knows the password.
#[derive(Debug)]
pub struct Accepted {
    /// The body of `AuthenticationSASLFinal`.
    pub server_final: Vec<u8>,
    /// The keys with which the proxy can log in as this user at every server that has the same verifier.
    pub keys: Keys,
}

impl WaitMechanism {
    /// Begins an exchange. `binding` is [`tls_server_end_point`](super::super::tls_server_end_point) of our own certificate, if the
    /// client came over TLS.
    pub fn new(binding: Option<&[u8]>) -> Self {
        Self { binding: binding.map(Into::into) }
    }

    /// The mechanisms to offer in `AuthenticationSASL`, the better one first.
    pub fn offer(&self) -> &'static [Mechanism] {
        match self.binding {
            Some(_) => &[Mechanism::ScramSha256Plus, Mechanism::ScramSha256],
            None => &[Mechanism::ScramSha256],
        }
    }

    /// Takes the mechanism's name from `SASLInitialResponse`. If that carries no data (a length of -1), answer it with an empty
    /// `AuthenticationSASLContinue`: the client-first-message comes next.
    pub fn select(self, mechanism: &[u8]) -> Result<WaitFirst, Denied> {
        let chosen = self.offer().iter().find(|offered| offered.name().as_bytes() == mechanism);
        let channel = match (chosen, self.binding) {
            (Some(Mechanism::ScramSha256Plus), Some(binding)) => Channel::Bound(binding),
            (Some(Mechanism::ScramSha256), Some(_)) => Channel::Declined,
            (Some(Mechanism::ScramSha256), None) => Channel::Unbound,
            _ => {
                return Err(Denied::Protocol("the client selected a SASL mechanism that was not offered"));
            }
        };
        Ok(WaitFirst { channel })
    }
}

impl WaitFirst {
    /// Reads the client-first-message and answers it with the body of `AuthenticationSASLContinue`. For a name that nobody has, pass
    /// [`Verifier::mock`]. `nonce` must be random, and never used before.
    pub fn challenge(self, message: &[u8], verifier: &Verifier, nonce: [u8; NONCE_LENGTH]) -> Result<(WaitFinal, Vec<u8>), Denied> {
        check_shape(message, MAX_CLIENT_MESSAGE)?;
        let (gs2_header, bare) = self.channel.split_header(message)?;
        let mut nonce_bytes = client_nonce(bare)?.to_vec();
        nonce_bytes.extend_from_slice(STANDARD.encode(nonce).as_bytes());

        let mut server_first = [b"r=", &*nonce_bytes].concat();
        let parameters = format!(",s={},i={}", STANDARD.encode(verifier.salt()), verifier.iterations());
        server_first.extend_from_slice(parameters.as_bytes());

        let (is_bound, binding) = match &self.channel {
            Channel::Bound(binding) => (true, &**binding),
            Channel::Unbound | Channel::Declined => (false, &[][..]),
        };
        let wait = WaitFinal {
            client_first_bare: bare.into(),
            server_first: server_first.clone().into(),
            nonce: nonce_bytes.into(),
            channel_attribute: channel_attribute(gs2_header, binding),
            is_bound,
            stored_key: verifier.stored_key().clone(),
            server_key: verifier.server_key().clone(),
            is_mock: verifier.is_mock(),
        };
        Ok((wait, server_first))
    }
}

impl Channel {
    /// Checks the GS2 header against what was offered and chosen, and splits it from the bare message.
    fn split_header<'a>(&self, message: &'a [u8]) -> Result<(&'static [u8], &'a [u8]), Denied> {
        let expected = match (message.first(), self) {
            (Some(b'n' | b'y'), Self::Bound(_)) => {
                return Err(Denied::Protocol("SCRAM-SHA-256-PLUS was selected, but the message has no channel binding"));
            }
            // Somebody between us took our offer away: to go on would let them.
            (Some(b'y'), Self::Declined) => {
                return Err(Denied::ChannelBinding("the client supports it but thinks that this server does not"));
            }
            (Some(b'n'), _) => GS2_UNBOUND,
            (Some(b'y'), Self::Unbound) => GS2_NOT_OFFERED,
            (Some(b'p'), Self::Bound(_)) if message.starts_with(b"p=tls-server-end-point,") => GS2_BOUND,
            (Some(b'p'), Self::Bound(_)) => {
                return Err(Denied::Protocol("unsupported type of channel binding"));
            }
            (Some(b'p'), _) => {
                return Err(Denied::Protocol("SCRAM-SHA-256 was selected, but the message has channel binding"));
            }
            _ => return Err(Denied::Protocol("unknown channel-binding flag")),
        };
        if let Some(bare) = message.strip_prefix(expected) {
            return Ok((expected, bare));
        }
        // The headers end in two commas; between them stands the identity that the client wants to act as.
        let flag = expected.strip_suffix(b",").unwrap_or(expected);
        match message.strip_prefix(flag) {
            Some([b'a', ..]) => Err(Denied::Unsupported("a SCRAM authorization identity")),
            _ => Err(Denied::Protocol("malformed header of the client-first-message")),
        }
    }
}

/// The nonce of a bare client-first-message. Its user name is ignored, as PostgreSQL ignores it: the startup packet has said who it is.
fn client_nonce(bare: &[u8]) -> Result<&[u8], Denied> {
    if bare.first() == Some(&b'm') {
        return Err(Denied::Unsupported("a mandatory SCRAM extension"));
    }
    let mut attributes = Attributes::new(bare);
    attributes.expect(b'n', "the user name was expected in the client-first-message")?;
    let nonce = attributes.expect(b'r', "the nonce was expected in the client-first-message")?;
    if !is_printable(nonce) {
        return Err(Denied::Protocol("non-printable characters in the nonce"));
    }
    // Optional extensions are ignored, but must be well formed.
    while attributes.next()?.is_some() {}
    Ok(nonce)
}

impl WaitFinal {
    /// Reads the client-final-message and checks its proof. The work is the same for a wrong password and for a name that nobody has.
    pub fn finish(self, message: &[u8]) -> Result<Accepted, Denied> {
        check_shape(message, MAX_CLIENT_MESSAGE)?;
        let (without_proof, proof) = self.read_proof(message)?;
        let auth_message = AuthMessage {
            client_first_bare: &self.client_first_bare,
            server_first: &self.server_first,
            client_final_without_proof: without_proof,
        };
        let client_key = ClientKey::new(xor(&proof, &auth_message.signed_with(self.stored_key.as_bytes())));
        let is_right = StoredKey::new(sha256(&[client_key.as_bytes()])).matches(&self.stored_key);
        if !is_right || self.is_mock {
            return Err(Denied::WrongPassword);
        }
        let signature = STANDARD.encode(auth_message.signed_with(self.server_key.as_bytes()));
        Ok(Accepted { server_final: [b"v=", signature.as_bytes()].concat(), keys: Keys { client: client_key, server: self.server_key } })
    }

    /// The message without its proof, and the proof.
    fn read_proof<'a>(&self, message: &'a [u8]) -> Result<(&'a [u8], [u8; 32]), Denied> {
        let mut attributes = Attributes::new(message);
        let channel = attributes.expect(b'c', "the channel binding was expected in the client-final-message")?;
        if !bool::from(channel.ct_eq(&self.channel_attribute)) {
            return Err(if self.is_bound {
                Denied::ChannelBinding("the client sees another certificate")
            } else {
                Denied::Protocol("the client-final-message repeats another channel-binding flag")
            });
        }
        let nonce = attributes.expect(b'r', "the nonce was expected in the client-final-message")?;
        if !bool::from(nonce.ct_eq(&self.nonce)) {
            return Err(Denied::Protocol("the nonce does not match"));
        }
        loop {
            let without_proof = attributes.read_so_far();
            match attributes.next()? {
                Some((b'p', proof)) if attributes.is_at_end() => {
                    let proof = decode_proof(proof).ok_or(Denied::Protocol("malformed proof"))?;
                    return Ok((without_proof, proof));
                }
                Some((b'p', _)) => return Err(Denied::Protocol("something follows the proof")),
                // Optional extensions are ignored; the proof covers them.
                Some(_) => {}
                None => return Err(Denied::Protocol("no proof in the client-final-message")),
            }
        }
    }
}
