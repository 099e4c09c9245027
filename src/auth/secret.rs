//! What is known of a user's password, and what can be checked with it.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::digests::sha256;
use super::saslprep::prepare;
use super::verifier::SCHEME;
use super::{DEFAULT_ITERATIONS, Denied, Md5Hash, Verifier};

/// A text from which no secret can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnusableSecret {
    /// PostgreSQL knows no empty password either: it stores none.
    #[error("the password is empty")]
    Empty,
    /// It begins as a verifier and is none. Taking it for a password would make the verifier's own text the password.
    #[error("it begins with SCRAM-SHA-256$ but is not a verifier")]
    MalformedVerifier,
    /// A password never holds a zero byte: the protocol ends strings with one.
    #[error("it contains a zero byte")]
    ZeroByte,
}

/// What is known of a user: the password, or what PostgreSQL stores in its place. `Debug` shows none of it.
#[derive(Clone)]
pub enum Secret {
    /// The password itself.
    Password(Zeroizing<String>),
    /// A SCRAM-SHA-256 verifier.
    Scram(Verifier),
    /// An md5 hash.
    Md5(Md5Hash),
}

impl Secret {
    /// Reads `pg_authid.rolpassword`, or a configured password, and tells by its form which of the three it is, as PostgreSQL does.
    pub fn parse(text: &str) -> Result<Self, UnusableSecret> {
        if text.is_empty() {
            return Err(UnusableSecret::Empty);
        }
        if text.contains('\0') {
            return Err(UnusableSecret::ZeroByte);
        }
        if let Some(hash) = Md5Hash::parse(text) {
            return Ok(Self::Md5(hash));
        }
        if text.starts_with(SCHEME) {
            return text.parse().map(Self::Scram).map_err(|_| UnusableSecret::MalformedVerifier);
        }
        Ok(Self::Password(Zeroizing::new(text.to_owned())))
    }

    /// Checks a password that a client sent in the clear. Against a verifier it costs a PBKDF2, about a millisecond: never on a worker.
    pub fn check_password(&self, user: &[u8], password: &[u8]) -> Result<(), Denied> {
        // PostgreSQL refuses these before it looks at what is stored.
        if password.is_empty() {
            return Err(Denied::WrongPassword);
        }
        let matches = match self {
            Self::Scram(verifier) => return verifier.check_password(password),
            Self::Md5(hash) => hash.matches(&Md5Hash::from_password(user, password)),
            // Digests are compared, so that the time says nothing of the password's length.
            Self::Password(known) => {
                sha256(&[&prepare(known.as_bytes())]).ct_eq(&sha256(&[&prepare(password)])).into() && !known.is_empty()
            }
        };
        if matches { Ok(()) } else { Err(Denied::WrongPassword) }
    }

    /// Checks a client's answer to `AuthenticationMD5Password`. A verifier cannot be checked so, and refuses everybody, as in PostgreSQL.
    pub fn check_md5(&self, user: &[u8], salt: [u8; 4], response: &[u8]) -> Result<(), Denied> {
        match self.md5_hash(user) {
            Some(hash) if hash.matches_response(salt, response) => Ok(()),
            _ => Err(Denied::WrongPassword),
        }
    }

    /// The verifier to check this user's SCRAM log-ins with. Of a password it is made here, at the cost of a PBKDF2: once, when the secret is
    /// loaded, and never on a worker. Of an md5 hash none can be made, and the user is refused as one that does not exist, as in PostgreSQL.
    pub fn scram_verifier(&self, process_key: &[u8; 32], user: &[u8]) -> Result<Verifier, Denied> {
        match self {
            Self::Password(password) => {
                Verifier::from_password(password.as_bytes(), &Verifier::stable_salt(process_key, user), DEFAULT_ITERATIONS)
            }
            Self::Scram(verifier) => Ok(verifier.clone()),
            Self::Md5(_) => Ok(Verifier::mock(process_key, user)),
        }
    }

    /// The hash to log in with at a server that asks for md5; none if only a verifier is known.
    pub fn md5_hash(&self, user: &[u8]) -> Option<Md5Hash> {
        match self {
            Self::Password(password) => Some(Md5Hash::from_password(user, password.as_bytes())),
            Self::Md5(hash) => Some(hash.clone()),
            Self::Scram(_) => None,
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password(..)",
            Self::Scram(_) => "Scram(..)",
            Self::Md5(_) => "Md5(..)",
        })
    }
}
