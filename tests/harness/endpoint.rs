//! Where a client of the harness may connect to.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::{Faulty, Postgres, Proxy, Script};

/// Where a [`Wire`] may go.
#[derive(Clone, Debug)]
pub enum Endpoint {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl From<PathBuf> for Endpoint {
    fn from(path: PathBuf) -> Self {
        Self::Unix(path)
    }
}

impl From<&Postgres> for Endpoint {
    fn from(postgres: &Postgres) -> Self {
        Self::Tcp(postgres.address())
    }
}

impl From<&Proxy> for Endpoint {
    fn from(proxy: &Proxy) -> Self {
        Self::Tcp(proxy.address())
    }
}

impl From<&Script> for Endpoint {
    fn from(script: &Script) -> Self {
        Self::Tcp(script.address())
    }
}

impl From<&Faulty> for Endpoint {
    fn from(faulty: &Faulty) -> Self {
        Self::Tcp(faulty.address())
    }
}
