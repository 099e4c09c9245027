//! The keys of SCRAM-SHA-256 (RFC 5802, section 3), each its own type so that none is taken for another.

use std::fmt;
use std::num::NonZeroU32;

use aws_lc_rs::pbkdf2;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::Denied;
use super::digests::{LENGTH, hmac_sha256, sha256};
use super::saslprep::prepare;

/// PostgreSQL's `scram_iterations` unless it is told otherwise.
pub const DEFAULT_ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).unwrap();

/// The most iterations that are ever computed here, about a quarter of a second of one CPU. The number comes from a server, or from a
/// verifier that any user may set for itself: without a limit it is a way to stop the proxy.
pub const MAX_DERIVED_ITERATIONS: u32 = 1_000_000;

macro_rules! key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Zeroize, ZeroizeOnDrop)]
        pub struct $name([u8; LENGTH]);

        impl $name {
            /// A key from its bytes.
            pub const fn new(bytes: [u8; LENGTH]) -> Self {
                Self(bytes)
            }

            /// Its bytes.
            pub const fn as_bytes(&self) -> &[u8; LENGTH] {
                &self.0
            }

            /// Whether two keys are equal, in a time that does not say where they differ.
            pub fn matches(&self, other: &Self) -> bool {
                self.0.ct_eq(&other.0).into()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    };
}

key!(
    /// What a client proves to have. As good as the password for every server that has the same verifier.
    ClientKey
);
key!(
    /// `SHA-256(ClientKey)`: what a server checks a client's proof with.
    StoredKey
);
key!(
    /// What a server proves to have.
    ServerKey
);

impl ClientKey {
    /// The key that a server stores in place of this one.
    pub fn stored_key(&self) -> StoredKey {
        StoredKey::new(sha256(&[&self.0]))
    }
}

/// All that is needed to log in at a server as a user, in place of the password.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Proves us to the server.
    pub client: ClientKey,
    /// Checks the server's own proof.
    pub server: ServerKey,
}

impl Keys {
    /// The keys of a password under a server's salt and iteration count.
    ///
    /// Costs about a millisecond for the default 4096 iterations, and is linear in them: never on a worker thread.
    /// Fails when the count is over [`MAX_DERIVED_ITERATIONS`].
    pub fn derive(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Result<Self, Denied> {
        if iterations.get() > MAX_DERIVED_ITERATIONS {
            return Err(Denied::IterationsOverLimit { asked: iterations.get(), limit: MAX_DERIVED_ITERATIONS });
        }
        let mut salted = Zeroizing::new([0; LENGTH]);
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, &prepare(password), salted.as_mut());
        Ok(Self {
            client: ClientKey::new(hmac_sha256(salted.as_ref(), &[b"Client Key"])),
            server: ServerKey::new(hmac_sha256(salted.as_ref(), &[b"Server Key"])),
        })
    }
}
