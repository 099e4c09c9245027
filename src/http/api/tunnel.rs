//! The WebSocket tunnel, as Neon's driver uses it: the PostgreSQL protocol in binary frames, in at the front door like everybody's.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use futures_util::{SinkExt, StreamExt};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::caller::Guest;
use super::desk::Desk;
use super::query;
use super::reply::{Reply, reply};
use crate::fault::Fault;
use crate::net::Io;

/// Read at a time, in bytes, either way.
const CHUNK: usize = 8 << 10;

/// Whether a request asks for a tunnel, at whatever path.
pub(super) fn is_asked_for(request: &Request<Incoming>) -> bool {
    let is = |headers: &HeaderMap, name, word: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        value.split(',').any(|part| part.trim().eq_ignore_ascii_case(word))
    };
    is(request.headers(), UPGRADE, "websocket") && is(request.headers(), CONNECTION, "upgrade")
}

/// Opens a tunnel: the answer to its request. It lives on by itself.
pub(super) fn open(desk: &Rc<Desk>, request: &mut Request<Incoming>, guest: Guest) -> Reply {
    let wrong = |what: &str| query::refusal(&Fault::BadRequest(what.to_owned()).into());
    if request.headers().get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version.as_bytes() != b"13") {
        let mut refusal = wrong("only version 13 of WebSocket is spoken");
        refusal.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return refusal;
    }
    let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY) else { return wrong("the header Sec-WebSocket-Key is missing") };
    let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) else {
        return wrong("the header Sec-WebSocket-Key is none");
    };
    let upgrade = hyper::upgrade::on(request);
    let (desk, limit) = (Rc::clone(desk), desk.config().api.max_request);
    tokio::task::spawn_local(async move {
        let _open = desk.opened();
        match upgrade.await {
            Ok(upgraded) => {
                let line = crate::session::door::tunnel(guest.tls_name, guest.peer, &desk.worker);
                pass(upgraded, line, limit).await;
            }
            Err(error) => tracing::debug!(%error, "a tunnel was not opened"),
        }
    });
    let mut reply = reply(101, "");
    let headers = reply.headers_mut();
    headers.clear();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    reply
}

/// So often something is passed on before others have a turn.
const TURNS: u32 = 32;

/// A tunnel: what is between its client and its session.
struct Passing {
    socket: WebSocketStream<TokioIo<Upgraded>>,
    line: Io,
    /// What came from the client and the session has not taken yet.
    rest: Bytes,
    /// Whether the client may not have all that was written for it.
    is_unflushed: bool,
    chunk: Vec<u8>,
}

/// Passes bytes on until either side ends.
async fn pass(upgraded: Upgraded, line: Io, limit: usize) {
    let config = WebSocketConfig::default()
        .read_buffer_size(4096)
        .write_buffer_size(CHUNK)
        .max_write_buffer_size(4 * CHUNK)
        .max_message_size(Some(limit))
        .max_frame_size(Some(limit));
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    let mut passing = Passing { socket, line, rest: Bytes::new(), is_unflushed: false, chunk: vec![0; CHUNK] };
    let ended = poll_fn(|cx| passing.poll(cx)).await;
    if let Err(error) = ended {
        tracing::debug!(%error, "a tunnel broke");
    }
    // Its client may have gone before it.
    let _ = passing.socket.close(None).await;
}

impl Passing {
    /// Each way goes on by itself: one that waits for room must not keep the other from making some.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        for _ in 0..TURNS {
            let Some(up) = self.up(cx)? else { return Poll::Ready(Ok(())) };
            let Some(down) = self.down(cx)? else { return Poll::Ready(Ok(())) };
            if !up && !down {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// From the client to the session: whether something moved; none at the end.
    fn up(&mut self, cx: &mut Context<'_>) -> Result<Option<bool>, Error> {
        if !self.rest.is_empty() {
            let Poll::Ready(sent) = self.line.poll_send(cx, &self.rest) else { return Ok(Some(false)) };
            self.rest.advance(sent?);
            return Ok(Some(true));
        }
        let Poll::Ready(message) = self.socket.poll_next_unpin(cx) else { return Ok(Some(false)) };
        match message.transpose()? {
            Some(Message::Binary(bytes)) => self.rest = bytes,
            // Pings are answered by the library.
            Some(Message::Ping(_) | Message::Pong(_)) => {}
            Some(Message::Text(_) | Message::Frame(_) | Message::Close(_)) | None => return Ok(None),
        }
        Ok(Some(true))
    }

    /// From the session to the client: the same.
    fn down(&mut self, cx: &mut Context<'_>) -> Result<Option<bool>, Error> {
        let Poll::Ready(ready) = self.socket.poll_ready_unpin(cx) else { return Ok(Some(false)) };
        ready?;
        if let Poll::Ready(count) = self.line.poll_read(cx, &mut self.chunk) {
            let count = count?;
            if count == 0 {
                return Ok(None);
            }
            self.socket.start_send_unpin(Message::binary(self.chunk.get(..count).unwrap_or_default().to_vec()))?;
            self.is_unflushed = true;
            return Ok(Some(true));
        }
        if self.is_unflushed
            && let Poll::Ready(flushed) = self.socket.poll_flush_unpin(cx)
        {
            flushed?;
            self.is_unflushed = false;
        }
        Ok(Some(false))
    }
}
