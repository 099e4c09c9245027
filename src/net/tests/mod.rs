//! The room against real sockets, with tokio-rustls as the oracle at the other end.

mod bad_wire;
mod certs;
mod connect;
mod listen;
mod negotiate;
mod plain;
mod stream;
mod trust;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::runtime::{Builder, LocalOptions};

use super::Io;

/// No test waits longer than this for anything.
const DEADLINE: Duration = Duration::from_secs(30);

/// Runs a test on a runtime that has timers, and ends it when it hangs.
fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
    runtime.block_on(async { tokio::time::timeout(DEADLINE, test).await.expect("it hangs") })
}

/// A runtime as workers have it: without timers.
fn worker() -> tokio::runtime::LocalRuntime {
    Builder::new_current_thread().enable_io().build_local(LocalOptions::default()).unwrap()
}

/// Two ends of a TCP connection.
async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// Two ends of every kind of plain connection, with the kind's name.
async fn plain_pairs() -> Vec<(&'static str, Io, Io)> {
    let (tcp, unix, pipe) = (tcp_pair().await, UnixStream::pair().unwrap(), tokio::io::duplex(5000));
    vec![("tcp", tcp.0.into(), tcp.1.into()), ("unix", unix.0.into(), unix.1.into()), ("pipe", pipe.0.into(), pipe.1.into())]
}

/// The first `total` bytes of the stream that is told from others by `seed`.
fn stream_of(total: usize, seed: u8) -> Vec<u8> {
    (0..total).map(|at| (at.wrapping_mul(31) ^ (at >> 8)).to_le_bytes()[0] ^ seed).collect()
}

/// How much to send and receive, and which streams.
#[derive(Clone, Copy)]
struct Exchange {
    total: usize,
    sends: u8,
    expects: u8,
}

impl Exchange {
    fn mirrored(self) -> Self {
        Self { sends: self.expects, expects: self.sends, ..self }
    }
}

/// One end of a connection as the test sees it: our own methods, or tokio's traits over the oracle.
trait End {
    fn receive(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>>;
    fn send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;
    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

impl End for Io {
    fn receive(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_read(cx, buf)
    }

    fn send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // As the relay does it: at once, and only then with a wait.
        match self.try_send(bytes) {
            Ok(0) => self.poll_send(cx, bytes),
            taken => Poll::Ready(taken),
        }
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

impl<E: End> End for &mut E {
    fn receive(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        (**self).receive(cx, buf)
    }

    fn send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        (**self).send(cx, bytes)
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        (**self).flush(cx)
    }
}

struct Oracle<S>(S);

impl<S: AsyncRead + AsyncWrite + Unpin> End for Oracle<S> {
    fn receive(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut read = ReadBuf::new(buf);
        Pin::new(&mut self.0).poll_read(cx, &mut read).map_ok(|()| read.filled().len())
    }

    fn send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
}

/// Sends and receives at once, from one task, never waiting for the one before the other.
async fn exchange(mut end: impl End, what: Exchange) {
    let (mut sent, mut received) = (0, 0);
    let mut buf = vec![0; 32 * 1024];
    let (ours, theirs) = (stream_of(what.total, what.sends), stream_of(what.total, what.expects));
    poll_fn(|cx| {
        while received < what.total {
            let Poll::Ready(count) = end.receive(cx, &mut buf) else { break };
            let count = count.unwrap();
            assert!(count > 0, "ended after {received} of {}", what.total);
            assert!(buf[..count] == theirs[received..received + count], "bytes after {received} differ");
            received += count;
        }
        while sent < what.total {
            // Uneven sizes, from one byte to several records.
            let size = (sent % 70_000 + 1).min(what.total - sent);
            let Poll::Ready(count) = end.send(cx, &ours[sent..sent + size]) else { break };
            sent += count.unwrap();
        }
        let flushed = end.flush(cx).map(Result::unwrap).is_ready();
        if received == what.total && sent == what.total && flushed { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Reads exactly `count` bytes.
async fn read_exactly(io: &mut Io, count: usize) -> Vec<u8> {
    let mut got = vec![0; count];
    let mut filled = 0;
    while filled < count {
        let read = io.read(&mut got[filled..]).await.unwrap();
        assert!(read > 0, "ended after {filled} of {count}");
        filled += read;
    }
    got
}
