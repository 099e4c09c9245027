//! The cancel keys that clients are given: ours, never a server's. Checklist H1, A8.
//!
//! The first word says where the client is; the rest is derived from a key of this process, so that nothing needs to be stored per client but four bytes.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use subtle::ConstantTimeEq;

use crate::auth::{Denied, random};
use crate::pool::Proof;

/// How many of the first word's bits name the worker.
const WORKER_BITS: u32 = 8;
/// The length of a secret in protocol 3.2, in bytes; in 3.0 it is four.
const LONG: usize = 32;

/// What cancel keys are made from.
pub struct CancelKeys {
    key: hmac::Key,
    mask: u32,
}

impl std::fmt::Debug for CancelKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CancelKeys(..)")
    }
}

impl CancelKeys {
    /// Keys of a new process.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new() -> Result<Self, Denied> {
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &random::<32>()?), mask: u32::from_be_bytes(random()?) })
    }

    /// The first word for a client in `slot` of `worker`.
    pub fn pid(&self, worker: u16, slot: u32) -> u32 {
        (slot << WORKER_BITS | u32::from(worker)) ^ self.mask
    }

    /// The worker of the client with this first word.
    pub fn worker(&self, pid: u32) -> u16 {
        u16::try_from((pid ^ self.mask) & ((1 << WORKER_BITS) - 1)).unwrap_or(u16::MAX)
    }

    /// Where that worker keeps it.
    pub fn slot(&self, pid: u32) -> u32 {
        (pid ^ self.mask) >> WORKER_BITS
    }

    /// The secret of the client with this first word and random part.
    pub fn secret(&self, pid: u32, nonce: u32, long: bool) -> Vec<u8> {
        let tag = hmac::sign(&self.key, &[pid.to_be_bytes(), nonce.to_be_bytes()].concat());
        tag.as_ref().iter().copied().take(if long { LONG } else { 4 }).collect()
    }

    /// Whether `proof` is of that client's secret, in a time that does not say where it differs.
    pub fn is_proof(&self, pid: u32, nonce: u32, long: bool, proof: &Proof) -> bool {
        proof_of(pid, &self.secret(pid, nonce, long)).ct_eq(proof).into()
    }
}

/// What shows that somebody has the whole key, and does not tell it.
pub fn proof_of(pid: u32, secret: &[u8]) -> Proof {
    let digest = digest(&SHA256, &[b"pgweir: a cancel key", &pid.to_be_bytes()[..], secret].concat());
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h1_a_key_names_its_client_and_no_other_secret_fits() {
        let keys = CancelKeys::new().unwrap();
        for (worker, slot) in [(0, 0), (3, 77), (255, (1 << 24) - 1)] {
            let pid = keys.pid(worker, slot);
            assert_eq!((keys.worker(pid), keys.slot(pid)), (worker, slot));
            for long in [false, true] {
                let secret = keys.secret(pid, 5, long);
                assert_eq!(secret.len(), if long { 32 } else { 4 });
                assert!(keys.is_proof(pid, 5, long, &proof_of(pid, &secret)));
                assert!(!keys.is_proof(pid, 6, long, &proof_of(pid, &secret)), "another client in the same slot");
                assert!(!keys.is_proof(pid ^ 1, 5, long, &proof_of(pid ^ 1, &secret)));
                assert!(!keys.is_proof(pid, 5, !long, &proof_of(pid, &secret)), "a long key is not cut short");
                assert!(!keys.is_proof(pid, 5, long, &proof_of(pid, &[])));
            }
        }
        assert_ne!(CancelKeys::new().unwrap().secret(1, 5, true), keys.secret(1, 5, true));
    }
}
