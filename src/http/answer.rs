//! What each path answers.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Method, Response, StatusCode};

use super::Operations;

/// An answer.
pub(super) type Answer = Response<Full<Bytes>>;

const TEXT: &str = "text/plain; charset=utf-8";

/// An endpoint: where it is, and what it is for.
struct Endpoint {
    path: &'static str,
    about: &'static str,
    answer: fn(&dyn Operations) -> Answer,
}

/// Every endpoint; `/` lists them.
const ENDPOINTS: [Endpoint; 6] = [
    Endpoint { path: "/", about: "this list", answer: |_| index() },
    Endpoint { path: "/metrics", about: "all numbers, for Prometheus", answer: metrics },
    Endpoint { path: "/status", about: "the same numbers and every pool, as JSON", answer: status },
    Endpoint {
        path: "/pressure",
        about: "how hard each upstream is pressed, in all and by tenant, for whoever drives the callers, as JSON",
        answer: pressure,
    },
    Endpoint { path: "/healthz", about: "200 while the process works", answer: |_| answer(StatusCode::OK, TEXT, "ok\n") },
    Endpoint { path: "/readyz", about: "200 while clients should be sent here, else 503 with the reason", answer: readyz },
];

/// The answer to a request. hyper leaves the body out where the method is HEAD.
pub(super) fn answer_to(method: &Method, path: &str, operations: &dyn Operations) -> Answer {
    let Some(endpoint) = ENDPOINTS.iter().find(|endpoint| endpoint.path == path) else {
        return answer(StatusCode::NOT_FOUND, TEXT, "not found\n");
    };
    if method != Method::GET && method != Method::HEAD {
        let mut refusal = answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    (endpoint.answer)(operations)
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

fn index() -> Answer {
    let row = |Endpoint { path, about, .. }: &Endpoint| format!("<dt><a href=\"{path}\">{path}</a></dt><dd>{about}</dd>\n");
    let rows: String = ENDPOINTS.iter().map(row).collect();
    let page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>pgweir</title>\n<style>\n:root {{ color-scheme: light dark }}\nbody {{ font: 1rem/1.5 system-ui, sans-serif; margin: 3rem auto; max-width: 36rem; padding: 0 1rem }}\n\
         dt {{ font-family: ui-monospace, monospace }}\ndd {{ margin: 0 0 .75rem }}\n</style>\n<h1>pgweir {}</h1>\n<dl>\n{rows}</dl>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    );
    answer(StatusCode::OK, "text/html; charset=utf-8", page)
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
