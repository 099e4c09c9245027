//! A client that speaks frames: sends any bytes in any pieces, and reads what comes back one frame at a time.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::transcript::{Speaker, Transcript};
use super::{Endpoint, Frame, PATIENCE, ServerError, frames, in_time};

/// What bytes go over: TCP, a Unix socket, or TLS over either.
trait Io: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Io for T {}

/// A raw connection to a server or a proxy.
pub struct Wire {
    io: Box<dyn Io>,
    // Read, and not yet taken as a frame.
    inbound: BytesMut,
    transcript: Transcript,
    certificate_hash: Option<Vec<u8>>,
    /// The cancel key's pid, from login.
    pub pid: u32,
    /// The cancel key's secret, from login.
    pub secret: Bytes,
    /// Every `ParameterStatus` so far.
    pub parameters: BTreeMap<String, String>,
}

impl Wire {
    /// Connects and says nothing.
    pub async fn connect(to: impl Into<Endpoint>) -> Self {
        let to = to.into();
        Self::try_connect(to.clone()).await.unwrap_or_else(|error| panic!("{to:?}: {error}"))
    }

    /// Connects and says nothing, where that may fail.
    pub async fn try_connect(to: impl Into<Endpoint>) -> io::Result<Self> {
        let io: Box<dyn Io> = match to.into() {
            Endpoint::Tcp(address) => {
                let stream = in_time("a TCP connection", TcpStream::connect(address)).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Endpoint::Unix(path) => Box::new(in_time("a Unix connection", UnixStream::connect(path)).await?),
        };
        Ok(Self::over(io))
    }

    fn over(io: Box<dyn Io>) -> Self {
        Self {
            io,
            inbound: BytesMut::new(),
            transcript: Transcript::default(),
            certificate_hash: None,
            pid: 0,
            secret: Bytes::new(),
            parameters: BTreeMap::new(),
        }
    }

    /// Connects and logs in.
    pub async fn login(to: impl Into<Endpoint>, user: &str, password: &str, database: &str) -> Result<Self, ServerError> {
        let mut wire = Self::connect(to).await;
        wire.start(&[("user", user), ("database", database)]).await;
        wire.authenticate(user, password).await?;
        Ok(wire)
    }

    /// Connects, asks for TLS with `SSLRequest`, and logs in.
    pub async fn login_tls(
        to: impl Into<Endpoint>,
        config: Arc<rustls::ClientConfig>,
        user: &str,
        password: &str,
    ) -> Result<Self, ServerError> {
        let mut wire = Self::connect(to).await;
        assert_eq!(wire.ask(&frames::ssl_request()).await, b'S', "the answer to SSLRequest");
        let mut wire = Box::pin(wire.tls(config)).await.expect("a TLS handshake");
        wire.start(&[("user", user), ("database", "app")]).await;
        wire.authenticate(user, password).await?;
        Ok(wire)
    }

    /// Does the TLS handshake (to `localhost`) on this connection: after [`ask`](Self::ask), or at once for direct TLS.
    pub async fn tls(self, config: Arc<rustls::ClientConfig>) -> io::Result<Self> {
        assert!(self.inbound.is_empty(), "nothing may have come before the handshake");
        let name = ServerName::try_from("localhost").unwrap();
        let handshake = Box::pin(TlsConnector::from(config).connect(name, self.io));
        let stream = in_time("a TLS handshake", handshake).await?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let hash = certificate.map(|der| aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der).as_ref().to_vec());
        Ok(Self { certificate_hash: hash, ..Self::over(Box::new(stream)) })
    }

    /// Sends `SSLRequest` or `GSSENCRequest` and reads the answer's one byte.
    pub async fn ask(&mut self, request: &[u8]) -> u8 {
        self.send(request).await;
        assert!(self.fill_to(1).await.expect("an answer of one byte"), "an answer of one byte, not the end");
        self.inbound.get_u8()
    }

    /// Sends a `StartupMessage` of protocol 3.0.
    pub async fn start(&mut self, parameters: &[(&str, &str)]) {
        self.send(&frames::startup(frames::V3_0, parameters)).await;
    }

    /// Answers whatever authentication the server asks for, up to `ReadyForQuery`.
    pub async fn authenticate(&mut self, user: &str, password: &str) -> Result<(), ServerError> {
        let mut scram = None;
        loop {
            let frame = self.read().await;
            match frame.tag {
                b'R' => self.answer(frame.body, user, password, &mut scram).await,
                b'K' => {
                    let mut body = frame.body;
                    self.pid = body.get_u32();
                    self.secret = body;
                }
                b'E' => return Err(ServerError::read(&frame.body)),
                b'Z' => return Ok(()),
                b'S' | b'N' | b'v' => {}
                other => panic!("{:?} during login\n{}", char::from(other), self.transcript()),
            }
        }
    }

    async fn answer(&mut self, mut body: Bytes, user: &str, password: &str, scram: &mut Option<ScramSha256>) {
        match body.get_u32() {
            0 => {}
            3 => self.send(&frames::password(password)).await,
            5 => {
                let salt = body.as_ref().try_into().expect("a salt of four bytes");
                self.send(&frames::password(&md5_hash(user.as_bytes(), password.as_bytes(), salt))).await;
            }
            10 => {
                let offered: Vec<&[u8]> = body.split(|byte| *byte == 0).collect();
                let plus = offered.contains(&SCRAM_SHA_256_PLUS.as_bytes());
                let (mechanism, binding) = match self.certificate_hash.clone() {
                    Some(hash) if plus => (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash)),
                    Some(_) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
                    None => (SCRAM_SHA_256, ChannelBinding::unsupported()),
                };
                let exchange = scram.insert(ScramSha256::new(password.as_bytes(), binding));
                self.send(&frames::sasl_initial(mechanism, exchange.message())).await;
            }
            11 => {
                let exchange = scram.as_mut().expect("SASLContinue follows SASL");
                exchange.update(&body).expect("a sound first answer of SCRAM");
                let message = frames::sasl(exchange.message());
                self.send(&message).await;
            }
            12 => scram.as_mut().expect("SASLFinal follows SASL").finish(&body).expect("the server knows the password"),
            other => panic!("authentication request {other}"),
        }
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).await.unwrap_or_else(|error| panic!("{error}\n{}", self.transcript()));
    }

    /// Sends bytes as they are, where the other side may have closed.
    pub async fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.transcript.add_bytes(bytes);
        in_time("the other side reads", async {
            self.io.write_all(bytes).await?;
            self.io.flush().await
        })
        .await
    }

    /// Sends bytes in pieces of `size`, each its own segment on loopback, letting the other side run in between. It may close before it has had all of
    /// them, when the first ones are no message: what it said is there to be read then.
    pub async fn send_in_pieces(&mut self, bytes: &[u8], size: usize) {
        self.transcript.add_bytes(bytes);
        for piece in bytes.chunks(size) {
            match in_time("the other side reads", self.io.write_all(piece)).await {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => return,
                Err(error) => panic!("{error}\n{}", self.transcript()),
            }
            in_time("a flush", self.io.flush()).await.unwrap();
            tokio::task::yield_now().await;
        }
    }

    /// Sends bytes while taking in what comes back, as a driver does that must not deadlock over a large batch.
    pub async fn send_while_reading(&mut self, bytes: &[u8]) {
        self.transcript.add_bytes(bytes);
        let mut sent = 0;
        let mut scratch = vec![0; 64 * 1024];
        let exchange = std::future::poll_fn(|context| {
            loop {
                let mut into = ReadBuf::new(&mut scratch);
                let read = Pin::new(&mut self.io).poll_read(context, &mut into)?;
                if read.is_ready() {
                    if into.filled().is_empty() {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                    self.inbound.extend_from_slice(into.filled());
                }
                if sent == bytes.len() {
                    return Pin::new(&mut self.io).poll_flush(context);
                }
                match Pin::new(&mut self.io).poll_write(context, &bytes[sent..])? {
                    Poll::Ready(count) => sent += count,
                    Poll::Pending if read.is_pending() => return Poll::Pending,
                    Poll::Pending => {}
                }
            }
        });
        in_time("the other side reads", exchange).await.unwrap();
    }

    /// Ends this side's direction: the other side reads an end of file and may still answer.
    pub async fn shut_down_writing(&mut self) {
        let _ = self.io.shutdown().await;
    }

    /// The next frame.
    pub async fn read(&mut self) -> Frame {
        match self.try_read().await {
            Ok(Some(frame)) => frame,
            Ok(None) => panic!("a frame was expected, not the end\n{}", self.transcript()),
            Err(error) => panic!("a frame was expected: {error}\n{}", self.transcript()),
        }
    }

    /// The next frame, or nothing when the other side has closed between two frames; a TLS peer that closes without a goodbye
    /// (`close_notify`) is an error.
    pub async fn try_read(&mut self) -> io::Result<Option<Frame>> {
        if !self.fill_to(5).await? {
            let between_frames = self.inbound.is_empty();
            return if between_frames { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        let tag = self.inbound[0];
        let length = u32::from_be_bytes(self.inbound[1..5].try_into().unwrap()) as usize;
        assert!((4..1 << 30).contains(&length), "{tag} with a length of {length}\n{}", self.transcript());
        if !self.fill_to(length + 1).await? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut whole = self.inbound.split_to(length + 1).freeze();
        let frame = Frame { tag, body: whole.split_off(5) };
        self.transcript.add(Speaker::Server, &frame);
        if tag == b'S' {
            let mut words = frame.body.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
            if let (Some(name), Some(value)) = (words.next(), words.next()) {
                self.parameters.insert(name, value);
            }
        }
        Ok(Some(frame))
    }

    /// Reads until this much is there; `false` when the other side has closed before.
    async fn fill_to(&mut self, count: usize) -> io::Result<bool> {
        while self.inbound.len() < count {
            let Ok(read) = tokio::time::timeout(PATIENCE, self.io.read_buf(&mut self.inbound)).await else {
                panic!("nothing came for {PATIENCE:?}\n{}", self.transcript());
            };
            if read? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The next frame, which must be of this type.
    pub async fn expect(&mut self, tag: u8) -> Frame {
        let frame = self.read().await;
        assert_eq!(char::from(frame.tag), char::from(tag), "the next frame's type\n{}", self.transcript());
        frame
    }

    /// The next frame, which must be `ReadyForQuery` with this status.
    pub async fn expect_ready(&mut self, status: u8) {
        let frame = self.expect(b'Z').await;
        assert_eq!(frame.body.as_ref(), [status], "the status of ReadyForQuery\n{}", self.transcript());
    }

    /// The next frame, which must be an `ErrorResponse` with this SQLSTATE.
    pub async fn expect_error(&mut self, code: &str) -> ServerError {
        let frame = self.expect(b'E').await;
        let error = ServerError::read(&frame.body);
        assert_eq!(error.code(), code, "SQLSTATE of: {error}\n{}", self.transcript());
        error
    }

    /// Every frame up to and with the next `ReadyForQuery`.
    pub async fn until_ready(&mut self) -> Vec<Frame> {
        let mut seen = Vec::new();
        while seen.last().is_none_or(|frame: &Frame| frame.tag != b'Z') {
            seen.push(self.read().await);
        }
        seen
    }

    /// Waits until the other side closes; whatever it says before is answered.
    pub async fn until_closed(&mut self) -> Vec<Frame> {
        let mut seen = Vec::new();
        loop {
            match self.try_read().await {
                Ok(Some(frame)) => seen.push(frame),
                Ok(None) => return seen,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return seen,
                Err(error) => panic!("the end was expected: {error}\n{}", self.transcript()),
            }
        }
    }

    /// Fails if anything comes within `time`: for what must stay silent.
    pub async fn expect_silence(&mut self, time: Duration) {
        if self.inbound.is_empty() {
            let _ = tokio::time::timeout(time, self.io.read_buf(&mut self.inbound)).await;
        }
        assert!(self.inbound.is_empty(), "silence was expected, not {:?}\n{}", self.inbound, self.transcript());
    }

    /// A simple query that must succeed; answers its rows as text.
    pub async fn query(&mut self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.try_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}\n{}", self.transcript()))
    }

    /// A simple query; answers its rows as text, or its error once `ReadyForQuery` has come.
    pub async fn try_query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, ServerError> {
        self.send(&frames::query(sql)).await;
        let answer = self.until_ready().await;
        if let Some(error) = answer.iter().find(|frame| frame.tag == b'E') {
            return Err(ServerError::read(&error.body));
        }
        let rows = answer.iter().filter(|frame| frame.tag == b'D').map(Frame::values);
        let text = |value: Option<Bytes>| value.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok(rows.map(|row| row.into_iter().map(text).collect()).collect())
    }

    /// The one value of a simple query that must succeed.
    pub async fn value(&mut self, sql: &str) -> String {
        match &self.query(sql).await[..] {
            [row] if row.len() == 1 => row[0].clone().unwrap_or_default(),
            rows => panic!("{sql}: one value was expected, not {rows:?}"),
        }
    }

    /// Asks `to` (usually where this connection goes) to cancel what runs here, and waits until it has closed that request.
    pub async fn cancel(&self, to: impl Into<Endpoint>) {
        let mut request = Self::connect(to).await;
        request.send(&frames::cancel(self.pid, &self.secret)).await;
        assert_eq!(request.until_closed().await, [], "a cancel request has no answer");
    }

    /// The conversation so far.
    pub fn transcript(&self) -> String {
        self.transcript.text()
    }

    /// Starts the transcript anew.
    pub fn clear_transcript(&mut self) {
        self.transcript.clear();
    }
}
