//! One HTTP request of the proxy's own, over a connection that is there already.

use std::pin::pin;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper::rt::{Read, Write};

/// A request without a body.
pub type Bodiless = Request<Empty<Bytes>>;

/// Sends a request, and reads its answer of at most `longest` bytes whole. The connection is closed behind it.
///
/// # Errors
/// Why there is no answer, or that it does not say success; in words for the log.
///
/// Cancel safe: a dropped future closes the connection.
pub async fn exchange<T>(io: T, request: Bodiless, longest: usize) -> Result<Vec<u8>, String>
where
    T: Read + Write + Unpin + 'static,
{
    let (mut sender, connection) = handshake::<T, Empty<Bytes>>(io).await.map_err(|error| error.to_string())?;
    let answer = async move {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        if !answer.status().is_success() {
            return Err(format!("the answer is {}", answer.status()));
        }
        let body = Limited::new(answer.into_body(), longest).collect().await.map_err(|error| error.to_string())?;
        Ok(body.to_bytes().to_vec())
    };
    let mut answer = pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // How it ended the answer says itself, of which all that was read is on its way.
        _ = connection => answer.await,
    }
}
