//! What is stored of a SCRAM password: enough to check a client, not enough to be one.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::digests::hmac_sha256;
use super::scram::decode_base64;
use super::{DEFAULT_ITERATIONS, Denied, Keys, ServerKey, StoredKey};

/// The length of the salts made here, as PostgreSQL makes them.
pub const SALT_LENGTH: usize = 16;

/// The scheme's name with its separator, with which every stored verifier begins.
pub(super) const SCHEME: &str = "SCRAM-SHA-256$";

/// Longer salts are refused: PostgreSQL 18 keeps no verifier over 512 bytes, and a salt is repeated in every challenge.
const MAX_SALT: usize = 512;

/// A text that is not `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a verifier of the form SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>")]
pub struct MalformedVerifier;

/// A user's SCRAM-SHA-256 verifier, as `pg_authid.rolpassword` holds it.
///
/// `Display` writes the stored form, which is a secret of the second rank (it can be attacked by guessing); `Debug` writes none of it.
#[derive(Clone)]
pub struct Verifier {
    iterations: NonZeroU32,
    salt: Box<[u8]>,
    stored_key: StoredKey,
    server_key: ServerKey,
    /// Made up for a name that nobody has: goes through every motion, accepts nobody.
    mock: bool,
}

impl Verifier {
    /// The verifier of a password. Costs as [`Keys::derive`] does, and fails as it does.
    pub fn from_password(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Result<Self, Denied> {
        let keys = Keys::derive(password, salt, iterations)?;
        Ok(Self { iterations, salt: salt.into(), stored_key: keys.client.stored_key(), server_key: keys.server, mock: false })
    }

    /// A verifier for a name that nobody has, so that asking for it tells nothing (A11): the salt stays the same for as long as
    /// `process_key` does, and no password fits.
    pub fn mock(process_key: &[u8; 32], user: &[u8]) -> Self {
        Self {
            iterations: DEFAULT_ITERATIONS,
            salt: Self::stable_salt(process_key, user).into(),
            stored_key: StoredKey::new(hmac_sha256(process_key, &[b"stored", user])),
            server_key: ServerKey::new(hmac_sha256(process_key, &[b"server", user])),
            mock: true,
        }
    }

    /// The salt that [`mock`](Self::mock) would use for this name. A verifier made here from a configured password should use it too:
    /// then a name that exists and one that does not look alike, also after a reload.
    pub fn stable_salt(process_key: &[u8; 32], user: &[u8]) -> [u8; SALT_LENGTH] {
        let mut salt = [0; SALT_LENGTH];
        let digest = hmac_sha256(process_key, &[b"salt", user]);
        salt.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        salt
    }

    /// Checks a password that a client sent in the clear. Costs as [`Keys::derive`] does (never on a worker), also for a mock.
    pub fn check_password(&self, password: &[u8]) -> Result<(), Denied> {
        let keys = Keys::derive(password, &self.salt, self.iterations)?;
        if keys.server.matches(&self.server_key) && !self.mock { Ok(()) } else { Err(Denied::WrongPassword) }
    }

    /// Whether keys that fit this verifier also fit a server that asks for this salt and this iteration count.
    pub fn is_salted_as(&self, salt: &[u8], iterations: NonZeroU32) -> bool {
        *self.salt == *salt && self.iterations == iterations
    }

    /// The iteration count that a client must use.
    pub fn iterations(&self) -> NonZeroU32 {
        self.iterations
    }

    /// The salt that a client must use.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// Checks a client's proof.
    pub fn stored_key(&self) -> &StoredKey {
        &self.stored_key
    }

    /// Proves the server to a client.
    pub fn server_key(&self) -> &ServerKey {
        &self.server_key
    }

    /// Whether it was made up by [`mock`](Self::mock) and accepts nobody.
    pub fn is_mock(&self) -> bool {
        self.mock
    }
}

impl FromStr for Verifier {
    type Err = MalformedVerifier;

    /// Splits where PostgreSQL splits, and takes the numbers that it takes, except counts below 1.
    fn from_str(text: &str) -> Result<Self, MalformedVerifier> {
        let fields = text.strip_prefix(SCHEME).ok_or(MalformedVerifier)?;
        let (iterations, fields) = fields.split_once(':').ok_or(MalformedVerifier)?;
        let (salt, fields) = fields.split_once('$').ok_or(MalformedVerifier)?;
        let (stored_key, server_key) = fields.split_once(':').ok_or(MalformedVerifier)?;

        let iterations: i32 = iterations.trim_ascii_start().parse().map_err(|_| MalformedVerifier)?;
        let iterations = u32::try_from(iterations).ok().and_then(NonZeroU32::new).ok_or(MalformedVerifier)?;
        let salt = decode_base64(salt.as_bytes()).filter(|salt| salt.len() <= MAX_SALT).ok_or(MalformedVerifier)?;
        Ok(Self {
            iterations,
            salt: salt.into(),
            stored_key: StoredKey::new(decode_key(stored_key)?),
            server_key: ServerKey::new(decode_key(server_key)?),
            mock: false,
        })
    }
}

fn decode_key(text: &str) -> Result<[u8; 32], MalformedVerifier> {
    decode_base64(text.as_bytes()).and_then(|key| key.try_into().ok()).ok_or(MalformedVerifier)
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [salt, stored, server] =
            [&*self.salt, self.stored_key.as_bytes(), self.server_key.as_bytes()].map(|bytes| STANDARD.encode(bytes));
        write!(f, "{SCHEME}{}:{salt}${stored}:{server}", self.iterations)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("iterations", &self.iterations).field("mock", &self.mock).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mock_refuses_even_the_password_that_would_fit() {
        let real = Verifier::from_password(b"pencil", b"salt", NonZeroU32::MIN).unwrap();
        let mock = Verifier { mock: true, ..real.clone() };
        assert_eq!(real.check_password(b"pencil"), Ok(()));
        assert_eq!(mock.check_password(b"pencil"), Err(Denied::WrongPassword));

        let log_in = |verifier: &Verifier| {
            use super::super::scram::{client, server};
            let start = client::start([&b"SCRAM-SHA-256"[..]], client::Binding::Unavailable, [1; 18])?;
            let wait = server::WaitMechanism::new(None).select(b"SCRAM-SHA-256")?;
            let (server, first) = wait.challenge(&start.message, verifier, [2; 18])?;
            let keys = Keys::derive(b"pencil", b"salt", NonZeroU32::MIN)?;
            let (_, last) = start.next.challenge(&first)?.answer(&keys);
            server.finish(&last).map(|_| ())
        };
        assert_eq!(log_in(&real), Ok(()));
        assert_eq!(log_in(&mock), Err(Denied::WrongPassword));
    }
}
