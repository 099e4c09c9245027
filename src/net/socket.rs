//! The options of the socket under a connection. They mean something for TCP only; elsewhere setting them is no error.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use super::{Io, Peer};

impl Io {
    /// Who is at the other end. Fails when it is gone already.
    pub fn peer(&self) -> io::Result<Peer> {
        match self {
            Self::Tcp(stream) => Ok(Peer::Tcp(stream.peer_addr()?)),
            Self::Unix(stream) => {
                // Not rustix's: there no process has the number 0, and whoever has is taken for an error.
                let who = stream.peer_cred()?;
                Ok(Peer::Unix { uid: who.uid(), pid: who.pid().unwrap_or(0) })
            }
            Self::Tls(stream) => stream.lower().peer(),
            Self::Duplex(_) => Ok(Peer::InProcess),
        }
    }

    /// Sends small messages at once (`TCP_NODELAY`).
    pub fn set_nodelay(&self) -> io::Result<()> {
        self.tcp().map_or(Ok(()), |socket| socket.set_tcp_nodelay(true))
    }

    /// Says that it is writable as soon as less than `bytes` wait to be sent, instead of when a good part of a large buffer is free: so a peer that reads
    /// slowly but steadily is not taken for one that does not read at all (`TCP_NOTSENT_LOWAT`).
    pub fn set_unsent_limit(&self, bytes: u32) -> io::Result<()> {
        self.tcp().map_or(Ok(()), |socket| socket.set_tcp_notsent_lowat(bytes))
    }

    /// Asks a silent peer whether it is still there: after `idle`, then every `interval`, giving it up after `count` questions.
    pub fn set_keepalive(&self, idle: Duration, interval: Duration, count: u32) -> io::Result<()> {
        let keepalive = TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(count);
        self.tcp().map_or(Ok(()), |socket| socket.set_tcp_keepalive(&keepalive))
    }

    /// Stops asking (see [`set_keepalive`](Self::set_keepalive)).
    pub fn clear_keepalive(&self) -> io::Result<()> {
        self.tcp().map_or(Ok(()), |socket| socket.set_keepalive(false))
    }

    /// Gives the peer up when what was sent stays unacknowledged this long (`TCP_USER_TIMEOUT`); `None` is the system's default.
    pub fn set_user_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        self.tcp().map_or(Ok(()), |socket| socket.set_tcp_user_timeout(limit))
    }

    fn tcp(&self) -> Option<SockRef<'_>> {
        match self {
            Self::Tcp(stream) => Some(SockRef::from(stream)),
            Self::Tls(stream) => stream.lower().tcp(),
            Self::Unix(_) | Self::Duplex(_) => None,
        }
    }
}
