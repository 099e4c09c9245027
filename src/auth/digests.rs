//! SHA-256, HMAC and random bytes in the shapes that the exchanges want.

use aws_lc_rs::{digest, hmac, rand};

use super::Denied;

/// The length of SHA-256 and of everything made from it.
pub(super) const LENGTH: usize = 32;

/// `SHA-256(parts)`, the parts one after the other.
pub(super) fn sha256(parts: &[&[u8]]) -> [u8; LENGTH] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    array(context.finish().as_ref())
}

/// `HMAC-SHA-256(key, parts)`, the parts one after the other.
pub(super) fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; LENGTH] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        context.update(part);
    }
    array(context.sign().as_ref())
}

/// `left XOR right`.
pub(super) fn xor(left: &[u8; LENGTH], right: &[u8; LENGTH]) -> [u8; LENGTH] {
    std::array::from_fn(|i| left.get(i).unwrap_or(&0) ^ right.get(i).unwrap_or(&0))
}

fn array(bytes: &[u8]) -> [u8; LENGTH] {
    let mut out = [0; LENGTH];
    out.copy_from_slice(bytes);
    out
}

/// Fresh random bytes, for a nonce, a salt or a process's key. Fails only where the system has none to give.
pub fn random<const N: usize>() -> Result<[u8; N], Denied> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| Denied::NoRandomness)?;
    Ok(bytes)
}
