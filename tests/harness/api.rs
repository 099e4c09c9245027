//! A caller of SQL over HTTP: whole requests, whole answers, with TLS or without, signed or not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::{digest, hmac};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{HeaderMap, Method, Request};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::{Proxy, in_time};

/// What came back.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, as JSON; null where it is none.
    pub json: Value,
}

impl Reply {
    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// What the body has at this JSON pointer.
    pub fn at(&self, pointer: &str) -> &Value {
        self.json.pointer(pointer).unwrap_or(&Value::Null)
    }
}

/// One connection for SQL over HTTP. Dropping it closes it.
pub struct Caller {
    sender: SendRequest<Full<Bytes>>,
    connection: JoinHandle<()>,
    host: String,
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Caller {
    /// Connects in plaintext.
    pub async fn connect(proxy: &Proxy) -> Self {
        Self::connect_to(proxy.api_address()).await
    }

    /// The same, to any address.
    pub async fn connect_to(address: SocketAddr) -> Self {
        in_time("a connection", async {
            let stream = TcpStream::connect(address).await.unwrap();
            let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
            Self { sender, connection: tokio::spawn(async { drop(connection.await) }), host: address.to_string() }
        })
        .await
    }

    /// Connects over TLS, with these protocols offered by ALPN.
    pub async fn connect_tls(proxy: &Proxy, config: &rustls::ClientConfig, alpn: &[&str]) -> Result<Self, std::io::Error> {
        let mut config = config.clone();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(proxy.api_address()).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let secured = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let (sender, connection) = Box::pin(handshake(TokioIo::new(secured))).await.unwrap();
        Ok(Self { sender, connection: tokio::spawn(async { drop(connection.await) }), host: "localhost".to_owned() })
    }

    /// Sends a request and reads its whole answer; an error where the connection ends first.
    pub async fn try_send(&mut self, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> hyper::Result<Reply> {
        let mut request = Request::builder().method(method).uri(path).header("host", &self.host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        in_time(path, async {
            self.sender.ready().await?;
            let (parts, body) = self.sender.send_request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok(Reply { status: parts.status.as_u16(), headers: parts.headers, json: serde_json::from_slice(&body).unwrap_or_default() })
        })
        .await
    }

    /// POSTs.
    pub async fn post(&mut self, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
        self.try_send(Method::POST, path, headers, body).await.unwrap()
    }

    /// `POST /query` as the user `app`.
    pub async fn query(&mut self, body: &Value) -> Reply {
        self.post("/query", &[APP], body.to_string()).await
    }

    /// `POST /sql` with this connection string.
    pub async fn neon(&mut self, url: &str, headers: &[(&str, &str)], body: &Value) -> Reply {
        let all: Vec<_> = [("neon-connection-string", url)].into_iter().chain(headers.iter().copied()).collect();
        self.post("/sql", &all, body.to_string()).await
    }

    /// An operation of the Data API, signed with a key of this id and secret.
    pub async fn signed(&mut self, (id, secret): (&str, &str), operation: &str, headers: &[(&str, &str)], body: &Value) -> Reply {
        let (path, body) = (format!("/{operation}"), body.to_string());
        let signature = Signature::of(&path, &self.host, &body, (id, secret));
        let own = [("content-type", "application/json"), ("x-amz-date", &signature.date), ("authorization", &signature.authorization)];
        let all: Vec<_> = own.into_iter().chain(headers.iter().copied()).collect();
        self.post(&path, &all, body.clone()).await
    }
}

/// The user `app` with its password.
pub const APP: (&str, &str) = ("authorization", "Basic YXBwOnNlY3JldA==");

/// A signature of version 4, as the AWS documentation spells it out.
struct Signature {
    date: String,
    authorization: String,
}

impl Signature {
    fn of(path: &str, host: &str, body: &str, (id, secret): (&str, &str)) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let now = time::OffsetDateTime::from_unix_timestamp(now.try_into().unwrap()).unwrap();
        let day = format!("{:04}{:02}{:02}", now.year(), u8::from(now.month()), now.day());
        let date = format!("{day}T{:02}{:02}{:02}Z", now.hour(), now.minute(), now.second());
        let signed = "content-type;host;x-amz-date";
        let hash = |text: &str| hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
        let canonical =
            format!("POST\n{path}\n\ncontent-type:application/json\nhost:{host}\nx-amz-date:{date}\n\n{signed}\n{}", hash(body));
        let scope = format!("{day}/eu-west-1/rds-data/aws4_request");
        let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hash(&canonical));
        let mac = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec();
        let key = scope.split('/').fold(format!("AWS4{secret}").into_bytes(), |key, part| mac(&key, part));
        let signature = hex(&mac(&key, &text));
        let authorization = format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={signed}, Signature={signature}");
        Self { date, authorization }
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
