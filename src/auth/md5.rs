//! md5 authentication, which PostgreSQL still speaks and is about to remove (J5).

use std::fmt;

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// What precedes the hexadecimal digits, in `pg_authid` and on the wire.
const PREFIX: &[u8; 3] = b"md5";

/// `md5(password ‖ user)` in hexadecimal: what `pg_authid` stores after its `md5`. As good as the password for an md5 log-in.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Md5Hash([u8; 32]);

impl Md5Hash {
    /// The hash of a user's password.
    pub fn from_password(user: &[u8], password: &[u8]) -> Self {
        Self(hex_md5(&[password, user]))
    }

    /// Reads the stored form: `md5` and 32 lower-case hexadecimal digits, nothing else.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: [u8; 32] = text.as_bytes().strip_prefix(PREFIX)?.try_into().ok()?;
        digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')).then_some(Self(digits))
    }

    /// The body of the `PasswordMessage` that answers `AuthenticationMD5Password` with this salt, without its final zero.
    pub fn response(&self, salt: [u8; 4]) -> [u8; 35] {
        let mut response = [0; 35];
        let digits = hex_md5(&[&self.0, &salt]);
        response.iter_mut().zip(PREFIX.iter().chain(&digits)).for_each(|(to, from)| *to = *from);
        response
    }

    /// Whether a client's answer to this salt is right, in a time that does not say where it is wrong.
    pub fn matches_response(&self, salt: [u8; 4], response: &[u8]) -> bool {
        self.response(salt).ct_eq(response).into()
    }

    /// Whether two hashes are equal, in a time that does not say where they differ.
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for Md5Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Md5Hash(..)")
    }
}

/// The MD5 of the parts, one after the other, in lower-case hexadecimal.
fn hex_md5(parts: &[&[u8]]) -> [u8; 32] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut hash = Md5::new();
    for part in parts {
        hash.update(part);
    }
    let mut hex = [0; 32];
    let nibbles = hash.finalize().into_iter().flat_map(|byte| [byte >> 4, byte & 0x0f]);
    hex.iter_mut().zip(nibbles.filter_map(|nibble| DIGITS.get(usize::from(nibble)))).for_each(|(to, from)| *to = *from);
    hex
}
