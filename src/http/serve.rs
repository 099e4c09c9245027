//! Accepting and serving connections.
//!
//! Whatever a caller can hold has a limit: how many connections, how large a request's head may be, how long a connection may go without a new request.
//! That last one bounds a silent caller, a head that drips in and an answer that is never fetched alike. No endpoint reads a body.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::Operations;
use super::answer::{Desk, answer_to};
use super::callers::{Call, Callers};
use crate::net::{Io, Listener};

/// How many connections are served at once. One more, and whoever has been without a request for longest goes, so that callers that say nothing cannot
/// lock a health check out.
pub(super) const MAX_CONNECTIONS: usize = 64;

/// How large a request's head may be, in bytes; hyper takes no less than 8 KiB.
pub(super) const MAX_HEAD: usize = 16 * 1024;

/// How long a connection may go without a new request: longer than Prometheus' usual minute between two scrapes.
const PATIENCE: Duration = Duration::from_secs(75);

/// Answers requests until it is dropped, which ends its connections as well. Runs in a local runtime that has timers.
pub async fn serve(listener: Listener, operations: Rc<dyn Operations>) {
    serve_with(listener, operations, PATIENCE).await;
}

pub(super) async fn serve_with(listener: Listener, operations: Rc<dyn Operations>, patience: Duration) {
    let callers = Callers::new(MAX_CONNECTIONS);
    let desk = Rc::new(Desk::new(operations));
    loop {
        match listener.accept().await {
            Ok((io, _)) => {
                let desk = Rc::clone(&desk);
                callers.admit(|call| connection(io, call, desk, patience));
            }
            Err(error) => tracing::warn!(%error, "cannot accept an HTTP connection"),
        }
    }
}

async fn connection(io: Io, call: Call, desk: Rc<Desk>, patience: Duration) {
    let service = service_fn(|request: Request<Incoming>| {
        call.touch();
        let answer = answer_to(request.method(), request.uri(), &desk);
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    // hyper's own limit on the head would also run between two requests, where more patience is due; `too_long` covers both.
    let connection = http1::Builder::new().header_read_timeout(None).max_buf_size(MAX_HEAD).serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    let mut too_long = pin!(call.without_request_for(patience));
    poll_fn(|cx| {
        if let Poll::Ready(outcome) = connection.as_mut().poll(cx) {
            if let Err(error) = outcome {
                tracing::debug!(%error, "an HTTP connection broke");
            }
            return Poll::Ready(());
        }
        too_long.as_mut().poll(cx)
    })
    .await;
}
