//! Which request goes where.

use std::rc::Rc;

use bytes::BytesMut;
use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE, ALLOW, HeaderValue,
};
use hyper::http::request::Parts;
use hyper::{Method, Request};

use super::caller::Guest;
use super::data::{self, Operation};
use super::desk::Desk;
use super::reply::{Reply, reply};
use super::trouble::Trouble;
use super::{neon, query, tunnel};
use crate::fault::Fault;
use crate::metrics::Api;
use crate::net::now;

/// How long a request's body may take to arrive.
const ARRIVAL: std::time::Duration = std::time::Duration::from_mins(1);

/// A body up to so many bytes finds room at once.
const SMALL: usize = 16 << 10;

/// What can be asked for by POST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Neon,
    Query,
    Data(Operation),
}

impl Place {
    fn of(path: &str) -> Option<Self> {
        match path {
            "/sql" => Some(Self::Neon),
            "/query" => Some(Self::Query),
            _ => Operation::at(path).map(Self::Data),
        }
    }

    fn api(self) -> Api {
        match self {
            Self::Neon => Api::Neon,
            Self::Query => Api::Query,
            Self::Data(_) => Api::Data,
        }
    }

    fn refusal(self, desk: &Desk, trouble: Trouble) -> Reply {
        match self {
            Self::Neon => neon::refusal(desk, &trouble),
            Self::Query => query::refusal(&trouble),
            Self::Data(_) => data::refusal(trouble),
        }
    }
}

/// Answers one request. Dropping it ends what was begun for it: its caller has left.
pub(super) async fn answer(desk: Rc<Desk>, mut request: Request<Incoming>, guest: Result<Guest, Fault>) -> Reply {
    let began = now();
    if tunnel::is_asked_for(&request) {
        let reply = match guest {
            Ok(guest) => tunnel::open(&desk, &mut request, guest),
            Err(fault) => query::refusal(&fault.into()),
        };
        desk.count(Api::Tunnel, &reply, began);
        return reply;
    }
    if *request.method() == Method::OPTIONS {
        return preflight();
    }
    let Some(place) = Place::of(request.uri().path()) else { return elsewhere(&request) };
    if *request.method() != Method::POST {
        let mut refusal = reply(405, r#"{"error":{"code":"08P01","message":"only POST"}}"#);
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("POST, OPTIONS"));
        return refusal;
    }
    let (parts, body) = request.into_parts();
    let read = match guest {
        Ok(guest) => read(body, &desk).await.map(|body| (guest, body)),
        Err(fault) => Err(fault),
    };
    let mut reply = match read {
        Ok((guest, body)) => Box::pin(carry_out(place, &desk, &parts, &body, guest)).await,
        Err(fault) => place.refusal(&desk, fault.into()),
    };
    reply.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    let exposed = HeaderValue::from_static("Retry-After, Retry-After-Ms");
    reply.headers_mut().insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    desk.count(place.api(), &reply, began);
    reply
}

async fn carry_out(place: Place, desk: &Rc<Desk>, parts: &Parts, body: &[u8], guest: Guest) -> Reply {
    let headers = &parts.headers;
    match place {
        Place::Neon => neon::answer(desk, headers, body, guest).await,
        Place::Query => query::answer(desk, headers, body, guest).await,
        Place::Data(operation) => Box::pin(data::answer(desk, operation, parts.uri.path(), (headers, body), guest)).await,
    }
}

/// The whole body. Whoever sends it is not known yet, so that large ones have only so much room together.
async fn read(body: Incoming, desk: &Desk) -> Result<Bytes, Fault> {
    let reading = Box::pin(gather(body, desk));
    let in_time = tokio::time::timeout(ARRIVAL, reading).await;
    in_time.unwrap_or_else(|_| Err(Fault::BadRequest("the body did not arrive in time".into())))
}

async fn gather(mut body: Incoming, desk: &Desk) -> Result<Bytes, Fault> {
    let limit = desk.config().api.max_request;
    let (mut whole, mut room) = (BytesMut::new(), None);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Fault::BadRequest("the body did not arrive whole".into()))?;
        let Some(data) = frame.data_ref() else { continue };
        if whole.len() + data.len() > limit {
            return Err(Fault::TooLong { what: "request", limit });
        }
        if room.is_none() && whole.len() + data.len() > SMALL {
            room = Some(desk.large.acquire().await.map_err(|_| Fault::Internal)?);
        }
        whole.extend_from_slice(data);
    }
    Ok(whole.freeze())
}

/// Pages of any origin may ask: they show a password or a token of their own, never a cookie.
fn preflight() -> Reply {
    let mut reply = reply(200, "");
    let headers = reply.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static("OPTIONS, POST"));
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("OPTIONS, POST"));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(neon::HEADERS));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    reply
}

fn elsewhere(request: &Request<Incoming>) -> Reply {
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/openapi.json") => reply(200, query::OPENAPI),
        _ => reply(
            404,
            r#"{"error":{"code":"08P01","message":"there is nothing here: POST to /query, /sql, or the operations of the RDS Data API"}}"#,
        ),
    }
}
