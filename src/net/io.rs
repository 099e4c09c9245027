//! One connection, whatever carries it.
//!
//! `Io` owns no buffer and starts no task: it is polled by the one task that owns it. Both directions may be polled in the same
//! turn. Reads go through tokio's readiness (one `recv` each); sends are tried at once, without asking whether the socket is
//! writable, because it nearly always is (the measured shape of the hot path).

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::tls::{TlsInfo, TlsIo};

/// The first byte of a TLS handshake.
const TLS_RECORD: u8 = 0x16;

/// One connection of the proxy, to a client or to a server.
#[derive(Debug)]
pub enum Io {
    /// Plain TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// TLS over one of the others.
    Tls(Box<TlsIo>),
    /// A pipe within the proxy: SQL over HTTP comes in through the same door as everyone else.
    Duplex(Box<DuplexStream>),
}

impl Io {
    /// Reads once: the bytes received, 0 at the end of the stream. `buf` may not be empty.
    ///
    /// Cancel safe: `Pending` has taken nothing.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        debug_assert!(!buf.is_empty(), "an empty read looks like the end of the stream");
        let mut read = ReadBuf::new(buf);
        ready!(match self {
            Self::Tls(stream) => return stream.poll_read(cx, read.initialize_unfilled()),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, &mut read),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, &mut read),
            Self::Duplex(stream) => Pin::new(&mut **stream).poll_read(cx, &mut read),
        })?;
        Poll::Ready(Ok(read.filled().len()))
    }

    /// Sends what the peer takes at once, without waiting and without asking the reactor first: the bytes taken, perhaps 0.
    ///
    /// Never `WouldBlock`. When it came up short, go on with [`poll_send`](Self::poll_send), which arranges to be woken.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => send_now(stream, bytes),
            Self::Unix(stream) => send_now(stream, bytes),
            Self::Tls(stream) => stream.try_send(bytes),
            Self::Duplex(stream) => {
                let mut cx = Context::from_waker(Waker::noop());
                match Pin::new(&mut **stream).poll_write(&mut cx, bytes) {
                    Poll::Ready(taken) => taken,
                    Poll::Pending => Ok(0),
                }
            }
        }
    }

    /// Whether bytes that [`try_send`](Self::try_send) or [`poll_send`](Self::poll_send) took are still on this side: then
    /// [`poll_flush`](Self::poll_flush) must be called until it is ready.
    pub fn has_unsent(&self) -> bool {
        match self {
            Self::Tls(stream) => stream.has_unsent(),
            Self::Tcp(_) | Self::Unix(_) | Self::Duplex(_) => false,
        }
    }

    /// Waits until the peer takes some of `bytes`: the bytes taken, at least 1 unless `bytes` is empty.
    ///
    /// Cancel safe: `Pending` has taken nothing. Readiness that the reactor still believes in after a direct send came up short
    /// is cleared by the attempt made here, so this neither spins nor misses the wake-up.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => stream.poll_send(cx, bytes),
            Self::Duplex(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
        }
    }

    /// Waits until nothing that was taken is left on this side. Cancel safe.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tls(stream) => stream.poll_flush(cx),
            Self::Tcp(_) | Self::Unix(_) | Self::Duplex(_) => Poll::Ready(Ok(())),
        }
    }

    /// Whether there may be something to read, by what the reactor has seen so far; no system call, and no waker is touched.
    ///
    /// `true` may be stale, so read and see; `false` means that nothing had arrived by the reactor's last turn. For connections
    /// that lie idle in a pool, where anything to read is an end of stream or a message that must be dealt with. A pipe within
    /// the proxy always says `false`.
    pub fn poll_readable_hint(&mut self) -> bool {
        match self {
            Self::Tcp(stream) => stream.try_io(Interest::READABLE, || Ok(())).is_ok(),
            Self::Unix(stream) => stream.try_io(Interest::READABLE, || Ok(())).is_ok(),
            Self::Tls(stream) => stream.poll_readable_hint(),
            Self::Duplex(_) => false,
        }
    }

    /// Waits for the first byte, without taking it: whether it is that of a TLS record. `false` where nothing comes any more, and where it cannot be told.
    ///
    /// Cancel safe.
    pub async fn speaks_tls(&self) -> io::Result<bool> {
        let Self::Tcp(stream) = self else { return Ok(false) };
        let mut first = [0];
        Ok(stream.peek(&mut first).await? > 0 && first == [TLS_RECORD])
    }

    /// Whether TLS protects it.
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// What was agreed on in the TLS handshake, if there was one.
    pub fn tls_info(&self) -> Option<TlsInfo<'_>> {
        match self {
            Self::Tls(stream) => Some(stream.info()),
            Self::Tcp(_) | Self::Unix(_) | Self::Duplex(_) => None,
        }
    }

    /// Tells the peer that nothing more will be sent, as far as that works without waiting: what was not flushed before is lost.
    /// Reading goes on.
    pub fn shutdown(&mut self) {
        // Whoever shuts down has nothing left to say: a peer that is gone already is no news.
        let _ = match self {
            Self::Tls(stream) => return stream.shutdown(),
            Self::Tcp(stream) => rustix::net::shutdown(stream, Shutdown::Write).map_err(io::Error::from),
            Self::Unix(stream) => rustix::net::shutdown(stream, Shutdown::Write).map_err(io::Error::from),
            Self::Duplex(stream) => {
                let mut cx = Context::from_waker(Waker::noop());
                match Pin::new(&mut **stream).poll_shutdown(&mut cx) {
                    Poll::Ready(done) => done,
                    Poll::Pending => Ok(()),
                }
            }
        };
    }

    /// Reads once, waiting for it; 0 at the end of the stream.
    ///
    /// Cancel safe: a dropped future has read nothing.
    pub async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read(cx, buf)).await
    }

    /// Sends all of `bytes` and flushes.
    ///
    /// Not cancel safe: a dropped future may have sent a part, so the connection is of no more use.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut sent = self.try_send(bytes)?;
        while let Some(rest @ [_, ..]) = bytes.get(sent..) {
            match poll_fn(|cx| self.poll_send(cx, rest)).await? {
                0 => return Err(ErrorKind::WriteZero.into()),
                taken => sent += taken,
            }
        }
        poll_fn(|cx| self.poll_flush(cx)).await
    }
}

/// One `send` that neither waits nor raises a signal; what the kernel does not take now is 0 bytes taken.
fn send_now(socket: &impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    loop {
        return match rustix::net::send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(taken) => Ok(taken),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => Ok(0),
            Err(error) => Err(error.into()),
        };
    }
}

impl From<TcpStream> for Io {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

impl From<UnixStream> for Io {
    fn from(stream: UnixStream) -> Self {
        Self::Unix(stream)
    }
}

impl From<DuplexStream> for Io {
    fn from(stream: DuplexStream) -> Self {
        Self::Duplex(Box::new(stream))
    }
}
