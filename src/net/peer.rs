//! Who is at the other end, for logs and trust rules.

use std::fmt;
use std::net::SocketAddr;

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A process of this machine, as the kernel vouches for it (`SO_PEERCRED`).
    Unix {
        /// Its user when it connected.
        uid: u32,
        /// Its process id when it connected; 0 where it is of another namespace, as in a container beside this one.
        pid: i32,
    },
    /// The proxy itself: SQL over HTTP.
    InProcess,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix { uid, pid } => write!(f, "unix(uid {uid}, pid {pid})"),
            Self::InProcess => f.write_str("in-process"),
        }
    }
}
