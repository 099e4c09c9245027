//! Bytes in, frames out: the scanner, the messages that must be read, and the bytes that the proxy itself says.
//!
//! This room has no socket, no clock and no log, and it panics on no input.
//! The rules are those of the PostgreSQL manual's chapter "Frontend/Backend Protocol".
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions))]

pub mod message;
pub mod options;
pub mod read;
pub mod say;
pub mod scan;
pub mod sql;
pub mod sqlstate;
pub mod startup;

/// Where a session stands between two requests, as ReadyForQuery says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Status {
    /// Outside a transaction: `I`.
    #[default]
    Idle,
    /// Inside a transaction: `T`.
    InTransaction,
    /// Inside a transaction that has failed: `E`.
    Failed,
}

impl Status {
    /// The status that this byte of a ReadyForQuery says.
    pub fn read(byte: u8) -> Option<Self> {
        match byte {
            b'I' => Some(Self::Idle),
            b'T' => Some(Self::InTransaction),
            b'E' => Some(Self::Failed),
            _ => None,
        }
    }
}

/// What a peer sent that no PostgreSQL peer may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The length of a message is below 4 or above what its type may have.
    #[error("invalid message length")]
    Length {
        /// The message's type byte.
        kind: u8,
        /// The length it claims, in bytes, itself included.
        length: u32,
    },
    /// The type byte is none that this peer may send.
    #[error("invalid frontend message type {0}")]
    Kind(u8),
    /// The body of a message is not laid out as its type demands.
    #[error("invalid message format")]
    Body,
}
