//! A connection on its way from one runtime to another.
//!
//! A tokio socket belongs to the reactor that it was registered with. To move a connection between workers, or from the control
//! thread to a worker, it is taken out of the one reactor, sent as a [`Portable`], and registered with the other.

use std::io;

use tokio::io::DuplexStream;
use tokio::net::{TcpStream, UnixStream};

use super::Io;
use super::tls::TlsIo;

/// A connection that belongs to no runtime: `Send`, and good for nothing but [`into_io`](Self::into_io).
#[derive(Debug)]
pub struct Portable(Carried);

#[derive(Debug)]
enum Carried {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
    Duplex(Box<DuplexStream>),
    Tls(Box<TlsIo<Portable>>),
}

impl Io {
    /// Takes the connection out of this thread's runtime. When it fails the connection is closed.
    pub fn into_portable(self) -> io::Result<Portable> {
        Ok(Portable(match self {
            Self::Tcp(stream) => Carried::Tcp(stream.into_std()?),
            Self::Unix(stream) => Carried::Unix(stream.into_std()?),
            Self::Duplex(stream) => Carried::Duplex(stream),
            Self::Tls(stream) => Carried::Tls(Box::new(stream.map_lower(Self::into_portable)?)),
        }))
    }
}

impl Portable {
    /// Registers the connection with this thread's runtime. When it fails the connection is closed.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled, as tokio's own sockets do.
    pub fn into_io(self) -> io::Result<Io> {
        Ok(match self.0 {
            Carried::Tcp(stream) => Io::Tcp(TcpStream::from_std(stream)?),
            Carried::Unix(stream) => Io::Unix(UnixStream::from_std(stream)?),
            Carried::Duplex(stream) => Io::Duplex(stream),
            Carried::Tls(stream) => Io::Tls(Box::new(stream.map_lower(Self::into_io)?)),
        })
    }
}
