//! What goes back to a caller.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use hyper::{Response, StatusCode};

use super::trouble::{Kind, Trouble};
use crate::metrics::ApiOutcome;

/// An answer, whole: what is cut short on its way is seen to be.
pub(super) type Reply = Response<Full<Bytes>>;

/// The milliseconds of `Retry-After`, which itself knows only seconds.
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// A reply of JSON.
pub(super) fn reply(status: u16, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    reply
}

/// How the request ended that this is the reply to.
pub(super) fn outcome(reply: &Reply) -> ApiOutcome {
    let told = reply.extensions().get::<ApiOutcome>().copied();
    told.unwrap_or(if reply.status().is_success() || reply.status().is_informational() { ApiOutcome::Ok } else { ApiOutcome::Error })
}

/// A reply that tells of trouble, with the time to come back where that is known.
pub(super) fn refusal(status: u16, body: impl Into<Bytes>, trouble: &Trouble) -> Reply {
    let mut reply = reply(status, body);
    reply.extensions_mut().insert(match trouble.kind() {
        Kind::Denied => ApiOutcome::Denied,
        Kind::NoRoom | Kind::TooLate => ApiOutcome::Refused,
        Kind::Unavailable | Kind::Internal => ApiOutcome::Failed,
        Kind::TooLong | Kind::Statement => ApiOutcome::Error,
    });
    if let Some(wait) = trouble.retry_after() {
        let headers = reply.headers_mut();
        headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs() + u64::from(wait.subsec_nanos() > 0)));
        headers.insert(RETRY_AFTER_MS, HeaderValue::from(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)));
    }
    reply
}
