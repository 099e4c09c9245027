//! The one pair of record buffers of each thread.
//!
//! It is borrowed only inside a poll, never across an await, so all connections of a worker share it.

use std::cell::RefCell;

/// The longest record that rustls accepts: 16 KiB, what a cipher may add in TLS 1.2, and the head.
pub(super) const RECORD: usize = 16 * 1024 + 2048 + 5;

/// Most plaintext that is encrypted in one go: two full records.
pub(super) const PLAINTEXT: usize = 32 * 1024;

/// Ciphertext in: a record that an earlier read left incomplete, and a full read after it.
const INCOMING: usize = 2 * RECORD + 16 * 1024;

/// Ciphertext out: [`PLAINTEXT`], what two ciphers add, and a key update or an alert before it.
const OUTGOING: usize = PLAINTEXT + 1024;

/// Room for records on their way in and out.
pub(super) struct Scratch {
    pub(super) incoming: Box<[u8]>,
    pub(super) outgoing: Box<[u8]>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        incoming: vec![0; INCOMING].into_boxed_slice(),
        outgoing: vec![0; OUTGOING].into_boxed_slice(),
    });
}

/// Lends this thread's scratch. Not to be nested: whoever holds it reads from and sends to plain sockets only.
pub(super) fn with<R>(work: impl FnOnce(&mut Scratch) -> R) -> R {
    SCRATCH.with_borrow_mut(work)
}
