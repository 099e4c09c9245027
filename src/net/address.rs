//! Where a connection leads: what must be kept so that a cancel goes to the very server that it means (checklist H7).

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// One place to connect to; a host name is resolved already.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket's file.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(file) => write!(f, "unix:{}", file.display()),
        }
    }
}

/// The name that PostgreSQL and its clients give the socket of `port` in `folder`.
pub fn socket_file(folder: &Path, port: u16) -> PathBuf {
    folder.join(format!(".s.PGSQL.{port}"))
}
