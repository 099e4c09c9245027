//! The TLS stream of the data path.
//!
//! ```text
//! recv -> scratch -> rustls -> the caller's buffer        (what does not fit: `plain`; an incomplete record: `held`)
//! the caller's bytes -> rustls -> scratch -> send         (what the socket does not take: `unsent`)
//! ```
//! All three leftovers are empty, and hold no memory, on a connection that idles. While ciphertext is unsent no new plaintext is
//! taken, so a peer that does not read costs one scratch-full and then stops its sender.

use std::io::{self, ErrorKind};
use std::task::{Context, Poll, ready};

use rustls::pki_types::CertificateDer;
use rustls::{CipherSuite, ProtocolVersion};

use super::leftover::{Leftover, copy_prefix};
use super::scratch::{self, PLAINTEXT, RECORD, Scratch};
use super::session::{Next, Outgoing, Session};
use crate::net::Io;

/// Control records (answers to key updates, alerts) that a peer can make us owe it before we hang up.
const MOST_UNSENT: usize = 64 * 1024;

/// A connection with TLS over it, after its handshake. `L` is what lies under it: an [`Io`], or a `Portable` on its way.
#[derive(Debug)]
pub struct TlsIo<L = Io> {
    lower: L,
    session: Session,
    inbound: Inbound,
    /// Ciphertext that rustls wants to see again when more has come.
    held: Vec<u8>,
    /// Plaintext that the caller's buffer had no room for.
    plain: Leftover,
    /// Ciphertext that the socket has not taken yet.
    unsent: Leftover,
    /// The name that a client asked for.
    server_name: Option<Box<str>>,
}

/// Whether more can come from the peer.
#[derive(Debug)]
enum Inbound {
    Open,
    /// The peer has said `close_notify`: everything that it sent has been read.
    Ended,
    /// What came was not TLS. Every further read says so, after the plaintext before it.
    Broken(Box<rustls::Error>),
}

/// What was agreed on in the handshake.
#[derive(Debug, Clone, Copy)]
pub struct TlsInfo<'a> {
    /// As PostgreSQL's `pg_stat_ssl` writes it: `TLSv1.3`.
    pub version: &'static str,
    /// By its IANA name: `TLS_AES_256_GCM_SHA384`.
    pub cipher: &'static str,
    /// The peer's chain in DER, its own certificate first; empty when it showed none.
    pub peer_certificates: &'a [CertificateDer<'static>],
    /// The name that a client asked for.
    pub server_name: Option<&'a str>,
    /// The protocol agreed on by ALPN.
    pub alpn: Option<&'a [u8]>,
}

/// What a handshake leaves to the stream that follows it.
pub(super) struct Agreed {
    pub(super) session: Session,
    /// Bytes that have been looked at and must be seen again.
    pub(super) held: Vec<u8>,
    /// What the peer already sent after its last handshake message.
    pub(super) early: Leftover,
    pub(super) ended: bool,
    pub(super) server_name: Option<Box<str>>,
}

impl<L> TlsIo<L> {
    pub(super) fn new(lower: L, agreed: Agreed) -> Self {
        Self {
            lower,
            session: agreed.session,
            inbound: if agreed.ended { Inbound::Ended } else { Inbound::Open },
            // The handshake's buffer is a large one.
            held: if agreed.held.is_empty() { Vec::new() } else { agreed.held },
            plain: agreed.early,
            unsent: Leftover::default(),
            server_name: agreed.server_name,
        }
    }

    /// What lies under it.
    pub(in crate::net) fn lower(&self) -> &L {
        &self.lower
    }

    /// Puts the same TLS state over something else.
    pub(in crate::net) fn map_lower<M>(self, change: impl FnOnce(L) -> io::Result<M>) -> io::Result<TlsIo<M>> {
        Ok(TlsIo {
            lower: change(self.lower)?,
            session: self.session,
            inbound: self.inbound,
            held: self.held,
            plain: self.plain,
            unsent: self.unsent,
            server_name: self.server_name,
        })
    }

    /// What was agreed on.
    pub fn info(&self) -> TlsInfo<'_> {
        let common = self.session.common();
        TlsInfo {
            version: match common.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                _ => "unknown",
            },
            cipher: common.negotiated_cipher_suite().map_or("unknown", |suite| iana(suite.suite())),
            peer_certificates: common.peer_certificates().unwrap_or_default(),
            server_name: self.server_name.as_deref(),
            alpn: common.alpn_protocol(),
        }
    }

    pub(in crate::net) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }
}

impl TlsIo {
    /// As [`Io::poll_read`]. A stream that is cut without `close_notify` ends in `UnexpectedEof`.
    pub(in crate::net) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if !self.plain.is_empty() {
            return Poll::Ready(Ok(self.plain.take_into(buf)));
        }
        if self.has_unsent() {
            // Whoever waits for an answer must not wait because nobody sent the question. An error here shows in the next
            // send; what the peer said before it went can still be read.
            let _ = self.poll_flush(cx);
        }
        scratch::with(|scratch| {
            loop {
                match &self.inbound {
                    Inbound::Open => {}
                    Inbound::Ended => return Poll::Ready(Ok(0)),
                    Inbound::Broken(error) => {
                        return Poll::Ready(Err(io::Error::new(ErrorKind::InvalidData, (**error).clone())));
                    }
                }
                let arrived = ready!(self.poll_receive(cx, &mut scratch.incoming, buf.len()))?;
                let incoming = scratch.incoming.get_mut(..arrived).unwrap_or_default();
                let owed = self.unsent.rest().len();
                let filled = self.decrypt(incoming, buf);
                if self.unsent.rest().len() > owed {
                    self.flush_control(cx)?;
                }
                if filled > 0 {
                    return Poll::Ready(Ok(filled));
                }
            }
        })
    }

    /// Receives behind a copy of what is held: the bytes of both. `held` itself stays until they have been looked at, so that
    /// `Pending` loses nothing.
    fn poll_receive(&mut self, cx: &mut Context<'_>, incoming: &mut [u8], wanted: usize) -> Poll<io::Result<usize>> {
        let held = copy_prefix(&self.held, incoming);
        // No more ciphertext than fits the caller's buffer as plaintext, but enough for one whole record.
        let most = match wanted.max(RECORD) {
            most if held < most => most,
            _ => held.saturating_add(RECORD),
        }
        .min(incoming.len());
        let room = incoming.get_mut(held..most).unwrap_or_default();
        if room.is_empty() {
            let error = io::Error::new(ErrorKind::InvalidData, "a TLS message is too long");
            return Poll::Ready(Err(error));
        }
        match ready!(self.lower.poll_read(cx, room))? {
            0 => Poll::Ready(Err(io::Error::new(ErrorKind::UnexpectedEof, "the connection was cut without TLS close_notify"))),
            received => Poll::Ready(Ok(held.saturating_add(received))),
        }
    }

    /// Decrypts what is whole in `incoming` into `buf`, keeping what does not fit and what is not whole: the bytes filled.
    fn decrypt(&mut self, incoming: &mut [u8], buf: &mut [u8]) -> usize {
        let mut filled = 0;
        let mut done = 0;
        self.inbound = loop {
            let rest = incoming.get_mut(done..).unwrap_or_default();
            let plain = &mut self.plain;
            let mut keep = |bytes: &[u8]| {
                let copied = copy_prefix(bytes, buf.get_mut(filled..).unwrap_or_default());
                filled = filled.saturating_add(copied);
                plain.push(bytes.get(copied..).unwrap_or_default());
            };
            let step = self.session.step(rest, &mut keep, self.unsent.tail());
            done = done.saturating_add(step.discard);
            match step.next {
                Ok(Next::Again) => {}
                Ok(Next::Wait) => break Inbound::Open,
                Ok(Next::Ended) => break Inbound::Ended,
                Err(error) => {
                    let rest = incoming.get_mut(done..).unwrap_or_default();
                    self.session.alerts(rest, self.unsent.tail());
                    break Inbound::Broken(Box::new(error));
                }
            }
        };
        let rest = incoming.get(done..).unwrap_or_default();
        if rest.is_empty() {
            self.held = Vec::new();
        } else {
            // In a long transfer almost every read ends amid a record: the buffer stays for the next.
            self.held.clear();
            self.held.extend_from_slice(rest);
        }
        filled
    }

    /// Sends the records that reading made necessary, now or when the socket takes them.
    fn flush_control(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        // A peer that is gone shows when it is next sent to; what it said before is still good.
        let _ = self.poll_flush(cx);
        if self.unsent.rest().len() > MOST_UNSENT {
            return Err(io::Error::new(ErrorKind::InvalidData, "the peer does not read what it asks for"));
        }
        Ok(())
    }

    /// As [`Io::try_send`]; takes nothing while ciphertext is left.
    pub(in crate::net) fn try_send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        if !self.try_flush()? {
            return Ok(taken);
        }
        scratch::with(|scratch| {
            for chunk in bytes.chunks(PLAINTEXT) {
                self.seal(Outgoing::Data(chunk), scratch)?;
                taken = taken.saturating_add(chunk.len());
                if !self.unsent.is_empty() {
                    break;
                }
            }
            Ok(taken)
        })
    }

    /// As [`Io::poll_send`].
    pub(in crate::net) fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(cx))?;
        Poll::Ready(self.try_send(bytes))
    }

    /// As [`Io::poll_flush`].
    pub(in crate::net) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            match ready!(self.lower.poll_send(cx, self.unsent.rest()))? {
                0 => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                sent => self.unsent.advance(sent),
            }
        }
        self.lower.poll_flush(cx)
    }

    /// Sends what is left as far as the socket takes it: whether nothing is left.
    fn try_flush(&mut self) -> io::Result<bool> {
        if !self.unsent.is_empty() {
            let sent = self.lower.try_send(self.unsent.rest())?;
            self.unsent.advance(sent);
        }
        Ok(self.unsent.is_empty())
    }

    /// Encrypts and sends; what the socket does not take is kept.
    fn seal(&mut self, what: Outgoing<'_>, scratch: &mut Scratch) -> io::Result<()> {
        // rustls would look at the bytes again that it could not make sense of.
        if matches!(self.inbound, Inbound::Broken(_)) {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let out = &mut scratch.outgoing;
        let written = self
            .session
            .encrypt(what, &mut self.held, out, self.unsent.tail())
            .map_err(|error| io::Error::new(ErrorKind::BrokenPipe, error))?;
        let records = out.get(..written).unwrap_or_default();
        // Records are numbered: those that must go first go first.
        let sent = if self.try_flush()? { self.lower.try_send(records)? } else { 0 };
        self.unsent.push(records.get(sent..).unwrap_or_default());
        Ok(())
    }

    /// As [`Io::poll_readable_hint`].
    pub(in crate::net) fn poll_readable_hint(&mut self) -> bool {
        !self.plain.is_empty() || !matches!(self.inbound, Inbound::Open) || self.lower.poll_readable_hint()
    }

    /// As [`Io::shutdown`], after a `close_notify`.
    pub(in crate::net) fn shutdown(&mut self) {
        // Best effort: without it the peer sees a cut, which PostgreSQL's clients are used to.
        let _ = scratch::with(|scratch| self.seal(Outgoing::CloseNotify, scratch));
        self.lower.shutdown();
    }
}

/// rustls names the suites of TLS 1.3 in its own way.
fn iana(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => other.as_str().unwrap_or("unknown"),
    }
}
