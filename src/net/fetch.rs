//! One HTTP request of the proxy's own, over a connection of its own.

use std::pin::pin;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper::header::{HOST, HeaderValue};
use hyper::http::uri::PathAndQuery;
use hyper::rt::{Read, Write};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::tls::{CaSource, https};
use super::{ConnectOptions, Io, connect};

/// A request whose body is there.
pub type Whole = Request<Full<Bytes>>;

/// An answer.
#[derive(Debug)]
pub struct Fetched {
    /// Its status.
    pub status: StatusCode,
    /// Its body, whole.
    pub body: Vec<u8>,
}

impl Fetched {
    /// The body, where the status says success.
    ///
    /// # Errors
    /// What it says in place of that, in words for the log.
    pub fn good(self) -> Result<Vec<u8>, String> {
        if self.status.is_success() { Ok(self.body) } else { Err(format!("the answer is {}", self.status)) }
    }
}

/// The host of a URL as it is looked up and as certificates name it: an address of version 6 without its brackets.
pub fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Sends a request to where its URL leads, and reads its answer of at most `longest` bytes whole, within `limit`. By `https` one of the authorities that the
/// system trusts has to vouch for the server.
///
/// # Errors
/// Why there is no answer, in words for the log.
///
/// Cancel safe: a dropped future closes the connection.
pub async fn fetch(request: Whole, limit: Duration, longest: usize) -> Result<Fetched, String> {
    let fetched = tokio::time::timeout(limit, Box::pin(ask(request, limit, longest))).await;
    fetched.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

async fn ask(mut request: Whole, limit: Duration, longest: usize) -> Result<Fetched, String> {
    let uri = std::mem::take(request.uri_mut());
    let (Some(host), Some(authority)) = (uri.host().map(bare), uri.authority()) else { return Err("the URL has no host".to_owned()) };
    let is_tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err("the URL must begin with http:// or https://".to_owned()),
    };
    *request.uri_mut() = Uri::from(uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")));
    let authority = HeaderValue::from_str(authority.as_str()).map_err(|error| error.to_string())?;
    request.headers_mut().insert(HOST, authority);

    let options = ConnectOptions { timeout: limit, keepalive: None, user_timeout: None };
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let found = connect(host, port, &options).await.map_err(|error| error.to_string())?;
    if !is_tls {
        return exchange(TokioIo::new(found.io), request, longest).await;
    }
    let config = https(CaSource::System).map_err(|error| error.to_string())?;
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let secured = TlsConnector::from(config).connect::<Io>(name, found.io).await.map_err(|error| error.to_string())?;
    Box::pin(exchange(TokioIo::new(secured), request, longest)).await
}

/// The connection is closed behind the answer.
async fn exchange<T>(io: T, request: Whole, longest: usize) -> Result<Fetched, String>
where
    T: Read + Write + Unpin + 'static,
{
    let (mut sender, connection) = handshake::<T, Full<Bytes>>(io).await.map_err(|error| error.to_string())?;
    let answer = async move {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), longest).collect().await.map_err(|error| error.to_string())?;
        Ok(Fetched { status, body: body.to_bytes().to_vec() })
    };
    let mut answer = pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // How it ended the answer says itself, of which all that was read is on its way.
        _ = connection => answer.await,
    }
}
