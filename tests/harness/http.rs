//! One GET, as a scraper or a health check sends it.

use std::net::SocketAddr;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::in_time;

/// An answer: status and body.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body as text.
    pub body: String,
}

/// GETs `path` over a connection of its own.
pub async fn get(address: SocketAddr, path: &str) -> Result<Answer, Box<dyn std::error::Error>> {
    in_time(path, async {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request =
            hyper::Request::get(path).header("host", address.to_string()).header("connection", "close").body(Empty::<Bytes>::new())?;
        let answer = sender.send_request(request).await?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await?.to_bytes();
        Ok(Answer { status, body: String::from_utf8(body.to_vec())? })
    })
    .await
}
