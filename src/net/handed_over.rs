//! Sockets that the process was started with: systemd's socket activation (`LISTEN_FDS`). Whoever handed them over keeps them open, so that clients who come while
//! the process is not there wait for the next one.

use listenfd::ListenFd;

use super::Address;
use super::address::socket_file;
use super::listen::{Bound, ListenAt};

/// The sockets that were handed over and that nobody has taken yet.
#[derive(Debug, Default)]
pub struct HandedOver(Vec<Bound>);

impl HandedOver {
    /// Those of this process; to be asked once, before it has threads. What is no listening socket of TCP or of a Unix address is left alone.
    pub fn from_env() -> Self {
        let mut sockets = ListenFd::from_env();
        let count = sockets.len();
        let take = |at| {
            let tcp = sockets.take_tcp_listener(at).ok().flatten().map(Into::into);
            tcp.or_else(|| sockets.take_unix_listener(at).ok().flatten().map(Into::into))
        };
        Self((0..count).filter_map(take).filter_map(|socket| Bound::handed_over(socket).ok()).collect())
    }

    /// The one that listens there, if there is one.
    pub fn take(&mut self, at: &ListenAt) -> Option<Bound> {
        let wanted = match at {
            ListenAt::Tcp(address) => Address::Tcp(*address),
            ListenAt::Unix { folder, port } => Address::Unix(socket_file(folder, *port)),
        };
        let found = self.0.iter().position(|bound| bound.address().as_ref() == Some(&wanted))?;
        Some(self.0.swap_remove(found))
    }

    /// Where those listen that nobody has taken.
    pub fn left(&self) -> impl Iterator<Item = Address> {
        self.0.iter().filter_map(Bound::address)
    }
}
