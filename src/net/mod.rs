//! Bytes to and from the outside: listening, connecting, and the [`Io`] that every connection of the proxy is.
//!
//! The only room that names `tokio::net`. It knows nothing of PostgreSQL but the name of its Unix socket files and the one
//! byte that answers an `SSLRequest`; who may connect, and for how long, is decided in the rooms to its right.

mod address;
mod bytes;
mod clock;
mod connect;
mod error;
pub mod fetch;
mod handed_over;
mod io;
mod listen;
mod moment;
mod pause;
mod peer;
mod portable;
mod socket;
mod timer;
pub mod tls;

#[cfg(test)]
mod tests;

pub use address::{Address, socket_file};
pub use clock::{Clock, SLOWEST, Sleep, TICK, now, since_1970};
pub use connect::{ConnectOptions, Found, Keepalive, connect, connect_to};
pub use error::{ConnectError, HandshakeError, ListenError, NegotiationError, TlsSettingError};
pub use handed_over::HandedOver;
pub use io::Io;
pub use listen::{Bound, ListenAt, Listener};
pub use moment::Moment;
pub use peer::Peer;
pub use portable::Portable;
