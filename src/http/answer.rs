//! What each path answers.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Method, Response, StatusCode, Uri};
use percent_encoding::percent_decode_str;
use tokio::time::Instant;

use super::Operations;

/// An answer.
pub(super) type Answer = Response<Full<Bytes>>;

const TEXT: &str = "text/plain; charset=utf-8";

/// The page for people: one file, without anything from elsewhere.
const PAGE: &str = include_str!("page.html");
/// What the page may do: ask this server for numbers, and nothing else.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// For so long the page's numbers are the same for everybody who asks.
const LIVE: Duration = Duration::from_secs(1);

/// What answers are made from.
pub(super) struct Desk {
    operations: Rc<dyn Operations>,
    /// The numbers for the page, and when they were taken.
    live: RefCell<Option<(Instant, Bytes)>>,
}

impl Desk {
    pub(super) fn new(operations: Rc<dyn Operations>) -> Self {
        Self { operations, live: RefCell::default() }
    }

    /// Numbers for the page; of all tenants, however many pages are open, they are taken once a second.
    fn live(&self, tenant: Option<&str>) -> Option<Bytes> {
        if tenant.is_some() {
            return self.operations.snapshot().live_json(tenant).map(Bytes::from);
        }
        if let Some((at, live)) = &*self.live.borrow()
            && at.elapsed() < LIVE
        {
            return Some(live.clone());
        }
        let live = Bytes::from(self.operations.snapshot().live_json(None)?);
        *self.live.borrow_mut() = Some((Instant::now(), live.clone()));
        Some(live)
    }
}

/// An endpoint: where it is, and what it answers to whom asks with this behind the question mark.
struct Endpoint {
    path: &'static str,
    answer: fn(&Desk, Option<&str>) -> Answer,
}

/// Every endpoint.
const ENDPOINTS: [Endpoint; 8] = [
    Endpoint { path: "/", answer: |_, _| page() },
    Endpoint { path: "/live", answer: live },
    Endpoint { path: "/history", answer: |desk, _| answer(StatusCode::OK, "application/json", desk.operations.history()) },
    Endpoint { path: "/metrics", answer: |desk, _| metrics(&*desk.operations) },
    Endpoint { path: "/status", answer: |desk, _| status(&*desk.operations) },
    Endpoint { path: "/pressure", answer: |desk, _| pressure(&*desk.operations) },
    Endpoint { path: "/healthz", answer: |_, _| answer(StatusCode::OK, TEXT, "ok\n") },
    Endpoint { path: "/readyz", answer: |desk, _| readyz(&*desk.operations) },
];

/// The answer to a request. hyper leaves the body out where the method is HEAD.
pub(super) fn answer_to(method: &Method, uri: &Uri, desk: &Desk) -> Answer {
    let Some(endpoint) = ENDPOINTS.iter().find(|endpoint| endpoint.path == uri.path()) else {
        return answer(StatusCode::NOT_FOUND, TEXT, "not found\n");
    };
    if method != Method::GET && method != Method::HEAD {
        let mut refusal = answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    (endpoint.answer)(desk, uri.query())
}

fn live(desk: &Desk, query: Option<&str>) -> Answer {
    let named = query.and_then(|query| query.split('&').find_map(|part| part.strip_prefix("tenant=")));
    let named = named.map(|name| percent_decode_str(name).decode_utf8_lossy());
    match desk.live(named.as_deref()) {
        Some(live) => answer(StatusCode::OK, "application/json", live),
        None => answer(StatusCode::NOT_FOUND, TEXT, "there is no such tenant\n"),
    }
}

fn page() -> Answer {
    let mut page = answer(StatusCode::OK, "text/html; charset=utf-8", PAGE);
    page.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    page
}

fn metrics(operations: &dyn Operations) -> Answer {
    answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", operations.snapshot().prometheus())
}

fn status(operations: &dyn Operations) -> Answer {
    answer(StatusCode::OK, "application/json", operations.snapshot().json())
}

fn pressure(operations: &dyn Operations) -> Answer {
    answer(StatusCode::OK, "application/json", operations.snapshot().pressure_json())
}

fn readyz(operations: &dyn Operations) -> Answer {
    match operations.readiness() {
        Ok(()) => answer(StatusCode::OK, TEXT, "ready\n"),
        Err(reason) => answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{reason}\n")),
    }
}

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    // A health check that comes from a cache is none.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}
