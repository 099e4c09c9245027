//! From accept to the startup packet: TLS in both its forms, GSS, cancels. Checklist A1-A6, A8, A14.

use std::rc::Rc;

use bytes::BytesMut;
use tokio::sync::oneshot;

use super::door::Door;
use super::house::Certificate;
use super::keys::proof_of;
use super::worker::Worker;
use crate::config::ClientTlsMode;
use crate::fault::Fault;
use crate::net::Io;
use crate::net::tls::{Opening, accept_tls};
use crate::pool::CancelRequest;
use crate::wire::startup::{self, Extent, Packet, Startup};

/// What became of a connection's first words.
#[derive(Debug)]
pub enum Greeted {
    /// A client that wants to log in.
    Client(Box<Hello>),
    /// Nothing more is to be done: a health check, a cancel, a handshake that failed.
    Done,
    /// It must hear this.
    Refused(Io, Fault),
}

/// A client that wants to log in.
#[derive(Debug)]
pub struct Hello {
    /// Its connection.
    pub io: Io,
    /// Its startup packet.
    pub startup: Startup,
    /// What it sent beyond that.
    pub rest: Vec<u8>,
    /// The certificate that it was shown, if it came over TLS.
    pub certificate: Option<std::sync::Arc<Certificate>>,
    /// By which door it came.
    pub door: Door,
    /// The tenant that it was found to be of, where it is turned away nevertheless.
    pub tenant: Option<String>,
    /// What it is to be told together with whatever comes next, as PostgreSQL does it with the end of a SCRAM exchange: a login costs a send less.
    pub unsaid: BytesMut,
}

/// Greets one connection.
///
/// Not cancel safe: a dropped future closes the connection.
pub async fn greet(mut io: Io, worker: &Rc<Worker>) -> Greeted {
    let mut buffer = BytesMut::with_capacity(512);
    let (mut asked_tls, mut asked_gss) = (false, false);
    let mut certificate = None;
    loop {
        let length = match packet_length(&mut io, &mut buffer, certificate.is_some()).await {
            Ok(Some(length)) => length,
            Ok(None) => {
                let Some(shown) = worker.house.certificate.load_full() else { return Greeted::Done };
                let Some(secured) = handshake(io, &buffer, &shown, Opening::Direct).await else { return Greeted::Done };
                (io, certificate) = (secured, Some(shown));
                buffer.clear();
                continue;
            }
            Err(Ended::Silently) => return Greeted::Done,
            Err(Ended::With(fault)) => return Greeted::Refused(io, fault),
        };
        let packet = buffer.split_to(length);
        match startup::read(&packet) {
            Ok(Packet::Ssl | Packet::GssEnc) if !buffer.is_empty() => return Greeted::Refused(io, Fault::EarlyData),
            Ok(Packet::Ssl) => {
                if std::mem::replace(&mut asked_tls, true) || certificate.is_some() {
                    return Greeted::Refused(io, Fault::AskedTwice);
                }
                let Some(shown) = worker.house.certificate.load_full() else {
                    if io.write_all(b"N").await.is_err() {
                        return Greeted::Done;
                    }
                    continue;
                };
                if io.write_all(b"S").await.is_err() {
                    return Greeted::Done;
                }
                let Some(secured) = handshake(io, &[], &shown, Opening::Requested).await else { return Greeted::Done };
                (io, certificate) = (secured, Some(shown));
            }
            Ok(Packet::GssEnc) => {
                if std::mem::replace(&mut asked_gss, true) || certificate.is_some() {
                    return Greeted::Refused(io, Fault::AskedTwice);
                }
                if io.write_all(b"N").await.is_err() {
                    return Greeted::Done;
                }
            }
            Ok(Packet::Cancel { pid, secret }) => {
                pass_cancel_on(worker, pid, secret).await;
                // libpq's encrypted cancels count an end without a goodbye as a failure.
                io.shutdown();
                return Greeted::Done;
            }
            Ok(Packet::Startup(startup)) => {
                let required = worker.house.config.load().client_tls.mode == ClientTlsMode::Require;
                if required && certificate.is_none() && !matches!(io, Io::Unix(_) | Io::Duplex(_)) {
                    return Greeted::Refused(io, Fault::TlsRequired);
                }
                return Greeted::Client(Box::new(Hello {
                    io,
                    startup,
                    rest: buffer.to_vec(),
                    certificate,
                    door: Door::Front,
                    tenant: None,
                    unsaid: BytesMut::new(),
                }));
            }
            Err(bad) => return Greeted::Refused(io, Fault::BadPacket(bad)),
        }
    }
}

enum Ended {
    Silently,
    With(Fault),
}

/// Reads until the first packet is whole: its length; `None` where the client speaks TLS instead.
async fn packet_length(io: &mut Io, buffer: &mut BytesMut, secured: bool) -> Result<Option<usize>, Ended> {
    loop {
        match startup::extent(buffer) {
            Ok(Extent::DirectTls) if secured => return Err(Ended::With(Fault::AskedTwice)),
            Ok(Extent::DirectTls) => return Ok(None),
            Ok(Extent::Packet(length)) if buffer.len() >= length => return Ok(Some(length)),
            Ok(Extent::Packet(_) | Extent::Unknown) => {}
            Err(bad) => return Err(Ended::With(Fault::BadPacket(bad))),
        }
        let mut chunk = [0; 1024];
        match io.read(&mut chunk).await {
            Ok(count) if count > 0 => buffer.extend_from_slice(&chunk[..count]),
            // A health check, or a client that changed its mind (A14).
            _ => return Err(Ended::Silently),
        }
    }
}

async fn handshake(io: Io, first: &[u8], shown: &Certificate, opening: Opening) -> Option<Io> {
    match accept_tls(io, first, &shown.tls, opening).await {
        Ok(io) => Some(io),
        Err(why) => {
            tracing::debug!(%why, "a TLS handshake with a client failed");
            None
        }
    }
}

/// Hands a cancel to the worker whose client it is for, or to the proxy, and waits until it has been delivered: a client takes the end of this connection for the
/// sign that its cancel has been sent.
async fn pass_cancel_on(worker: &Rc<Worker>, pid: u32, secret: &[u8]) {
    let (done, delivered) = oneshot::channel();
    let proof = proof_of(pid, secret);
    worker.house.cancel(CancelRequest { pid, proof, done });
    if delivered.await.is_ok() {
        Box::pin(worker.house.cancel_elsewhere(pid, proof)).await;
    }
}
