//! Bytes to and from the outside: listening, connecting, and the [`Io`] that every connection of the proxy is.
//!
//! The only room that names `tokio::net`. It knows nothing of PostgreSQL but the name of its Unix socket files and the one
//! byte that answers an `SSLRequest`; who may connect, and for how long, is decided in the rooms to its right.

mod bytes;
mod io;
mod peer;
mod portable;
mod socket;

pub use io::Io;
pub use peer::Peer;
pub use portable::Portable;
