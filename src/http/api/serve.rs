//! Accepting callers, with TLS or without.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{oneshot, watch};

use super::caller::Guest;
use super::desk::Desk;
use super::front;
use crate::config::ClientTlsMode;
use crate::fault::Fault;
use crate::http::callers::{Call, Callers};
use crate::net::tls::{Opening, accept_tls};
use crate::net::{Io, Listener, Peer};
use crate::session::Worker;

/// How large a request's head may be, in bytes: a connection string in a header has a token for a password, perhaps.
const MAX_HEAD: usize = 64 * 1024;

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Serves callers until `stop` is dropped, and then until the last of them has its answer. Runs in a local runtime that has timers.
pub async fn serve(listener: Listener, worker: Rc<Worker>, mut stop: oneshot::Receiver<()>) {
    let settings = worker.house.config.load().api.clone();
    let callers = Callers::new(settings.max_connections);
    let desk = Desk::new(worker);
    let stopping = watch::Sender::new(false);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut stop => break,
        };
        match accepted {
            Ok((io, peer)) => {
                let (desk, stopping) = (Rc::clone(&desk), stopping.subscribe());
                callers.admit(|call| connection(io, peer, call, desk, (settings.idle_timeout, stopping)));
            }
            Err(error) => tracing::warn!(%error, "cannot accept a connection for SQL over HTTP"),
        }
    }
    drop(listener);
    stopping.send_replace(true);
    desk.dismiss();
    callers.last_left().await;
}

async fn connection(io: Io, peer: Peer, call: Call, desk: Rc<Desk>, (patience, mut stopping): (Duration, watch::Receiver<bool>)) {
    let _open = desk.opened();
    let Some((io, guest)) = greeted(io, peer, &desk).await else { return };
    // Whoever does not take its answer, or is not there any more, is given up. A socket that does not take the option ends sooner or later all the same.
    let _ = io.set_user_timeout(desk.config().client_tcp.working.user_timeout);
    let service = service_fn(|request: Request<Incoming>| {
        call.touch();
        let answer = front::answer(Rc::clone(&desk), request, guest.clone());
        async move { Ok::<_, Infallible>(Box::pin(answer).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // It also runs between two requests.
        .header_read_timeout(patience)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let mut stop = pin!(stopping.wait_for(|stopping| *stopping));
    let mut is_stopping = false;
    let outcome = poll_fn(|cx| {
        if !is_stopping && stop.as_mut().poll(cx).is_ready() {
            is_stopping = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(cx)
    })
    .await;
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection for SQL over HTTP broke");
    }
}

/// Agrees on TLS where the caller wants it: its connection, and who it is or what it must hear.
async fn greeted(io: Io, peer: Peer, desk: &Desk) -> Option<(Io, Result<Guest, Fault>)> {
    let speaks_tls = tokio::time::timeout(HANDSHAKE, io.speaks_tls()).await.ok()?.ok()?;
    if !speaks_tls {
        let guest = if may_come_without(peer, desk) { Ok(Guest { peer, tls_name: None }) } else { Err(Fault::TlsRequired) };
        return Some((io, guest));
    }
    let shown = desk.worker.house.certificate.load_full()?;
    match tokio::time::timeout(HANDSHAKE, Box::pin(accept_tls(io, &[], &shown.tls, Opening::Http))).await {
        Ok(Ok(io)) => {
            let tls_name = io.tls_info().and_then(|info| info.server_name.map(str::to_owned));
            Some((io, Ok(Guest { peer, tls_name })))
        }
        Ok(Err(why)) => {
            tracing::debug!(%why, "a TLS handshake with an HTTP caller failed");
            None
        }
        Err(_) => None,
    }
}

/// Whether a caller may come without TLS: from this machine, unless TLS is required of everybody, or where something in front of the proxy has ended it.
fn may_come_without(peer: Peer, desk: &Desk) -> bool {
    let config = desk.config();
    let is_local = match peer {
        Peer::Tcp(address) => IpAddr::is_loopback(&address.ip().to_canonical()),
        Peer::Unix { .. } | Peer::InProcess => true,
    };
    config.api.allow_plaintext || (is_local && config.client_tls.mode != ClientTlsMode::Require)
}
