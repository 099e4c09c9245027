//! The WebSocket tunnel, as Neon's driver uses it: the PostgreSQL protocol in binary frames, in at the front door like everybody's.

use std::rc::Rc;

use futures_util::SinkExt;
use futures_util::stream::StreamExt;
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
const CHUNK: usize = 16 << 10;

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

/// Passes bytes on, both ways, until either side ends.
async fn pass(upgraded: Upgraded, mut line: Io, limit: usize) {
    let config = WebSocketConfig::default()
        .read_buffer_size(4096)
        .write_buffer_size(CHUNK)
        .max_write_buffer_size(4 * CHUNK)
        .max_message_size(Some(limit))
        .max_frame_size(Some(limit));
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    let (mut sink, mut stream) = socket.split();
    let mut chunk = vec![0; CHUNK];
    let ended: Result<(), Error> = loop {
        tokio::select! {
            message = stream.next() => match message {
                Some(Ok(Message::Binary(bytes))) => if let Err(error) = line.write_all(&bytes).await {
                    break Err(error.into());
                },
                // Pings are answered by the library.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Text(_) | Message::Frame(_) | Message::Close(_))) | None => break Ok(()),
                Some(Err(error)) => break Err(error),
            },
            count = line.read(&mut chunk) => match count {
                Ok(0) => break Ok(()),
                Ok(count) => if let Err(error) = sink.send(Message::binary(chunk.get(..count).unwrap_or_default().to_vec())).await {
                    break Err(error);
                },
                Err(error) => break Err(error.into()),
            },
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a tunnel broke");
    }
    // Its client may have gone before it.
    let _ = sink.close().await;
}
