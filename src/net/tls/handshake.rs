//! From a connected socket to a TLS stream, in either role.
//!
//! The buffers live as long as the handshake. Nothing here has a time limit: workers have no timers, so whoever waits for a
//! handshake drops its future when the time is over, which closes the connection.

use std::sync::{Arc, OnceLock};

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ResolvesServerCert, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;

use super::clients::ClientTls;
use super::leftover::Leftover;
use super::session::{Next, Session};
use super::stream::{Agreed, TlsIo};
use crate::net::{HandshakeError, Io};

/// The protocol's name in ALPN.
pub(super) const ALPN: &[u8] = b"postgresql";

/// The name of HTTP there.
pub(super) const HTTP_ALPN: &[u8] = b"http/1.1";

/// The most that a peer may send before the handshake gets on: a certificate chain may be long, but not longer than rustls's own
/// limit for one message.
const LONGEST: usize = 0x1_0000 + 4096;

/// Read at a time; a client's whole part of a handshake is usually shorter.
const CHUNK: usize = 4096;

/// How a client came to speak TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// It asked with an `SSLRequest` and was told `S`. It may leave ALPN out.
    Requested,
    /// It spoke TLS from the first byte on. It must name `postgresql` by ALPN.
    Direct,
    /// It speaks HTTP inside. It must not name anything but `http/1.1` by ALPN, if it names anything.
    Http,
}

/// Greets a client that speaks TLS. `first` are bytes of it that were read already.
///
/// Not cancel safe: a dropped future closes the connection.
pub async fn accept_tls(io: Io, first: &[u8], tls: &ClientTls, opening: Opening) -> Result<Io, HandshakeError> {
    let presented = Arc::new(Presented { key: Arc::clone(tls.key()), asked: OnceLock::new() });
    let mut config = tls.config().clone();
    if opening == Opening::Http {
        config.alpn_protocols = vec![HTTP_ALPN.to_vec()];
    }
    config.cert_resolver = Arc::clone(&presented) as Arc<dyn ResolvesServerCert>;
    let session = Session::Server(UnbufferedServerConnection::new(Arc::new(config))?);
    let (mut io, mut agreed) = Box::pin(shake_hands(io, session, first)).await?;
    if opening == Opening::Direct && agreed.session.common().alpn_protocol() != Some(ALPN) {
        io.shutdown();
        return Err(HandshakeError::NoAlpn);
    }
    agreed.server_name = presented.asked.get().cloned();
    Ok(Io::Tls(Box::new(TlsIo::new(io, agreed))))
}

/// Speaks TLS to a server that expects it.
///
/// Not cancel safe: a dropped future closes the connection.
pub(super) async fn connect_tls(io: Io, config: Arc<rustls::ClientConfig>, name: ServerName<'static>) -> Result<Io, HandshakeError> {
    let session = Session::Client(UnbufferedClientConnection::new(config, name)?);
    let (io, agreed) = Box::pin(shake_hands(io, session, &[])).await?;
    Ok(Io::Tls(Box::new(TlsIo::new(io, agreed))))
}

async fn shake_hands(mut io: Io, mut session: Session, first: &[u8]) -> Result<(Io, Agreed), HandshakeError> {
    if io.is_tls() {
        return Err(HandshakeError::Twice);
    }
    let mut incoming = first.to_vec();
    let mut early = Leftover::default();
    let mut outgoing = Vec::new();
    loop {
        let step = session.step(&mut incoming, &mut |bytes| early.push(bytes), &mut outgoing);
        incoming.drain(..step.discard.min(incoming.len()));
        match step.next {
            Ok(Next::Again) => continue,
            Ok(Next::Wait | Next::Ended) => {}
            Err(error) => {
                session.alerts(&mut incoming, &mut outgoing);
                // The peer should hear why; if it cannot, the error is still the handshake's.
                let _ = io.try_send(&outgoing);
                io.shutdown();
                return Err(error.into());
            }
        }
        if !outgoing.is_empty() {
            io.write_all(&outgoing).await?;
            outgoing.clear();
        }
        let ended = step.next == Ok(Next::Ended);
        if !session.common().is_handshaking() {
            let server_name = None;
            return Ok((io, Agreed { session, held: incoming, early, ended, server_name }));
        }
        if ended {
            return Err(HandshakeError::Cut);
        }
        receive(&mut io, &mut incoming).await?;
    }
}

/// Appends one read to `incoming`.
async fn receive(io: &mut Io, incoming: &mut Vec<u8>) -> Result<(), HandshakeError> {
    let before = incoming.len();
    if before >= LONGEST {
        return Err(HandshakeError::TooLong);
    }
    incoming.resize(before.saturating_add(CHUNK), 0);
    let received = io.read(incoming.get_mut(before..).unwrap_or_default()).await?;
    incoming.truncate(before.saturating_add(received));
    if received == 0 { Err(HandshakeError::Cut) } else { Ok(()) }
}

/// The one certificate that we show, and the name that this client asked for: rustls tells it to nobody else.
#[derive(Debug)]
struct Presented {
    key: Arc<CertifiedKey>,
    asked: OnceLock<Box<str>>,
}

impl ResolvesServerCert for Presented {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Some(name) = hello.server_name() {
            // Asked once a connection; after a HelloRetryRequest the name is the same.
            let _ = self.asked.set(name.into());
        }
        Some(Arc::clone(&self.key))
    }
}
