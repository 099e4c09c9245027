//! Invocations that need no connection to the database: their statements go to `POST /query` of a pgweir, over an HTTP connection that the environment keeps or not.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{Connection, SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_postgres::error::SqlState;
use tokio_rustls::TlsConnector;

use super::invocation::{Fate, Outcome, TOLD_EARLIER, after};
use super::scenario::Behaviour;
use crate::net::tls::{CaSource, https};
use crate::net::{ConnectOptions, Io, connect};

/// How long connecting may take, whatever the invocation has left.
const CONNECTING: Duration = Duration::from_secs(30);

/// A pgweir that answers SQL over HTTP.
#[derive(Clone)]
pub(super) struct Endpoint {
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
    authorization: String,
    database: Option<String>,
}

/// An HTTP connection that an environment has open. Like a database connection it is only served while an invocation runs.
pub(super) struct Line {
    sender: SendRequest<Full<Bytes>>,
    connection: Pin<Box<dyn Future<Output = hyper::Result<()>>>>,
}

impl Endpoint {
    /// Reads a URL such as `https://user:password@host:8443/database?sslrootcert=ca.pem`; none where it is not of HTTP. The URL is never repeated in an error: it holds a password.
    ///
    /// # Errors
    /// What is wrong with the URL, or with the authorities that it names.
    pub(super) fn of(url: &str) -> anyhow::Result<Option<Self>> {
        let (is_tls, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            (None, None) => return Ok(None),
        };
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = place.split_once('/').unwrap_or((place, ""));
        let (login, address) = authority.rsplit_once('@').context("the URL names no user")?;
        let (user, password) = login.split_once(':').context("the URL has no password")?;
        let decoded = |text: &str| {
            percent_decode_str(text).decode_utf8().map(std::borrow::Cow::into_owned).context("the URL holds a %XX that is no UTF-8")
        };
        let (host, port) = address.rsplit_once(':').context("the URL names no port")?;
        let port = port.parse().context("the URL's port is no number")?;
        let mut ca = CaSource::System;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslrootcert", file)) if file != "system" => ca = CaSource::File(decoded(file)?.into()),
                Some(("sslrootcert", _)) => {}
                _ => bail!("of the URL's query only sslrootcert is understood"),
            }
        }
        let tls = is_tls.then(|| https(ca)).transpose()?;
        let login = format!("{}:{}", decoded(user)?, decoded(password)?);
        let database = Some(decoded(database)?).filter(|name| !name.is_empty());
        Ok(Some(Self { host: host.to_owned(), port, tls, authorization: format!("Basic {}", STANDARD.encode(login)), database }))
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn open(&self) -> Result<Line, Outcome> {
        let options = ConnectOptions { timeout: CONNECTING, keepalive: None, user_timeout: None };
        let found = connect(&self.host, self.port, &options).await.map_err(lost)?;
        let Some(tls) = &self.tls else { return Line::over(TokioIo::new(found.io)).await };
        let name = ServerName::try_from(self.host.clone()).map_err(lost)?;
        let secured = TlsConnector::from(Arc::clone(tls)).connect::<Io>(name, found.io).await.map_err(lost)?;
        Line::over(TokioIo::new(secured)).await
    }

    /// Runs an invocation's statements: one is a request by itself, several are one transaction.
    ///
    /// # Errors
    /// How the invocation came out instead of answered.
    pub(super) async fn run(&self, line: &mut Line, behaviour: &Behaviour, fate: Fate, deadline: Instant) -> Result<(), Outcome> {
        sleep(behaviour.work.0).await;
        if fate.frozen {
            sleep(behaviour.freeze_for.0).await;
        }
        let mut request = Request::post("/query")
            .header(HOST, &self.host)
            .header(AUTHORIZATION, &self.authorization)
            .header(CONTENT_TYPE, "application/json");
        if behaviour.tell_deadline {
            let left = deadline.saturating_duration_since(Instant::now()).saturating_sub(TOLD_EARLIER).as_millis();
            request = request.header("pgweir-deadline-ms", left.to_string());
        }
        let request = request.body(Full::new(self.body(&behaviour.statements).into())).map_err(lost)?;
        let kill = fate.killed.map(|(_, after)| after);
        let Line { sender, connection } = line;
        let answering = async {
            let answer = sender.send_request(request).await.map_err(lost)?;
            let is_good = answer.status().is_success();
            let body = answer.into_body().collect().await.map_err(lost)?.to_bytes();
            if is_good { Ok(()) } else { Err(refusal(&body)) }
        };
        tokio::select! {
            biased;
            answered = answering => if kill.is_some() { Err(Outcome::Killed) } else { answered },
            ended = connection => Err(ended.map_or_else(lost, |()| Outcome::Lost("the proxy closed the connection".to_owned()))),
            () = after(kill) => Err(Outcome::Killed),
        }
    }

    fn body(&self, statements: &[String]) -> String {
        // A transaction is a request's, so that the words for it are not needed.
        let is_meant = |text: &&String| !["begin", "commit"].contains(&text.trim().trim_end_matches(';').to_ascii_lowercase().as_str());
        let statements: Vec<&String> = statements.iter().filter(is_meant).collect();
        let mut body = match statements[..] {
            [one] => json!({ "sql": one }),
            _ => json!({ "statements": statements.iter().map(|sql| json!({ "sql": sql })).collect::<Vec<_>>() }),
        };
        if let (Some(object), Some(database)) = (body.as_object_mut(), &self.database) {
            object.insert("database".to_owned(), Value::from(database.as_str()));
        }
        body.to_string()
    }
}

impl Line {
    async fn over<T>(io: T) -> Result<Self, Outcome>
    where
        T: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
    {
        let (sender, connection): (_, Connection<T, Full<Bytes>>) = Box::pin(handshake(io)).await.map_err(lost)?;
        Ok(Self { sender, connection: Box::pin(connection) })
    }

    /// Whether another request can be sent.
    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }
}

fn lost(error: impl std::fmt::Display) -> Outcome {
    Outcome::Lost(error.to_string())
}

/// What the proxy says in place of an answer.
fn refusal(body: &[u8]) -> Outcome {
    let told: Value = serde_json::from_slice(body).unwrap_or_default();
    match told.pointer("/error/code").and_then(Value::as_str) {
        Some(code) => Outcome::Refused(SqlState::from_code(code)),
        None => Outcome::Lost("the answer is not one of pgweir's".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(url: &str) -> String {
        Endpoint::of(url).err().map(|error| format!("{error:#}")).unwrap_or_default()
    }

    #[test]
    fn only_urls_of_http_are_endpoints() {
        assert!(Endpoint::of("postgres://a:b@h:1/d").unwrap().is_none());
        let endpoint = Endpoint::of("http://a:b%40c@h:8443/d").unwrap().unwrap();
        assert_eq!(
            (endpoint.host.as_str(), endpoint.port, endpoint.database.as_deref(), endpoint.tls.is_some()),
            ("h", 8443, Some("d"), false)
        );
        assert_eq!(endpoint.authorization, format!("Basic {}", STANDARD.encode("a:b@c")));
        for url in [
            "http://h:1/d",
            "http://a@h:1/d",
            "http://a:secret@h/d",
            "http://a:secret@h:x/d",
            "https://a:secret@h:1/d?x=1",
            "http://a:%ff@h:1/",
        ] {
            assert!(!error(url).is_empty() && !error(url).contains("secret"), "{url}: {}", error(url));
        }
    }

    #[test]
    fn several_statements_are_one_transaction_without_its_words() {
        let endpoint = Endpoint::of("http://a:b@h:1").unwrap().unwrap();
        let body = |statements: &[&str]| {
            let statements: Vec<String> = statements.iter().map(ToString::to_string).collect();
            serde_json::from_str::<Value>(&endpoint.body(&statements)).unwrap()
        };
        assert_eq!(body(&["SELECT 1"]), json!({ "sql": "SELECT 1" }));
        assert_eq!(body(&["BEGIN", "SELECT 1", "commit;"]), json!({ "sql": "SELECT 1" }));
        assert_eq!(body(&["SELECT 1", "SELECT 2"]), json!({ "statements": [{ "sql": "SELECT 1" }, { "sql": "SELECT 2" }] }));
    }

    #[test]
    fn what_the_proxy_says_is_heard() {
        assert_eq!(refusal(br#"{"error":{"code":"53300","message":"x"}}"#), Outcome::Refused(SqlState::TOO_MANY_CONNECTIONS));
        assert!(matches!(refusal(b"<html>"), Outcome::Lost(_)));
    }
}
