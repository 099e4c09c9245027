//! A server that does what PostgreSQL never does: it listens, logs a client in, and then follows the test's own script.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::frames::{self, server};
use super::received::Frame;
use super::{PATIENCE, eventually, in_time};

/// What a scripted server has seen.
#[derive(Default)]
struct Seen {
    accepted: usize,
    finished: usize,
    cancels: Vec<(u32, Bytes)>,
    failures: Vec<String>,
}

/// A scripted server; dropping it stops it, and fails the test if a script failed.
pub struct Script {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    accepting: JoinHandle<()>,
}

impl Script {
    /// Listens, and runs `script` for each connection that is no cancel request (those are only recorded).
    ///
    /// `SSLRequest` and `GSSENCRequest` are answered `N` before the script has its turn; the startup packet is in
    /// [`Peer::startup`], and usually the script begins with [`Peer::accept_login`].
    pub async fn start<S, F>(script: S) -> Self
    where
        S: Fn(Peer) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let script = Arc::new(Mutex::new(script));
        let accepting = tokio::spawn(accept(listener, Arc::clone(&seen), script));
        Self { address, seen, accepting }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many scripts were begun.
    pub fn accepted(&self) -> usize {
        self.look(|seen| seen.accepted)
    }

    /// The pids and secrets of the cancel requests so far.
    pub fn cancels(&self) -> Vec<(u32, Bytes)> {
        self.look(|seen| seen.cancels.clone())
    }

    /// Waits until `count` scripts have come to their end.
    pub async fn finished(&self, count: usize) {
        let what = format!("{count} scripts at their end");
        eventually(&what, PATIENCE, || async { self.look(|seen| seen.finished >= count || !seen.failures.is_empty()) }).await;
        self.look(|seen| assert!(seen.failures.is_empty(), "in a script: {:?}", seen.failures));
    }

    fn look<T>(&self, question: impl FnOnce(&Seen) -> T) -> T {
        question(&self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.accepting.abort();
        if !std::thread::panicking() {
            self.look(|seen| assert!(seen.failures.is_empty(), "in a script: {:?}", seen.failures));
        }
    }
}

async fn accept<S, F>(listener: TcpListener, seen: Arc<Mutex<Seen>>, script: Arc<Mutex<S>>)
where
    S: Fn(Peer) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let (stream, _) = listener.accept().await.expect("the scripted server accepts");
        stream.set_nodelay(true).unwrap();
        let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
        tokio::spawn(async move {
            let mut peer = Peer { stream, inbound: BytesMut::new(), startup: Bytes::new() };
            if let Some(key) = peer.greet().await {
                seen.lock().unwrap().cancels.push(key);
                return;
            }
            if peer.startup.is_empty() {
                return;
            }
            seen.lock().unwrap().accepted += 1;
            let running = script.lock().unwrap()(peer);
            match tokio::spawn(running).await {
                Ok(()) => seen.lock().unwrap().finished += 1,
                Err(error) => seen.lock().unwrap().failures.push(error.to_string()),
            }
        });
    }
}

/// The client, as a scripted server sees it.
pub struct Peer {
    stream: TcpStream,
    inbound: BytesMut,
    /// The startup packet after its length: version and parameters.
    pub startup: Bytes,
}

impl Peer {
    /// Reads up to the startup packet; answers the key of a cancel request.
    async fn greet(&mut self) -> Option<(u32, Bytes)> {
        loop {
            if !self.fill_to(8).await {
                return None;
            }
            let length = u32::from_be_bytes(self.inbound[..4].try_into().unwrap()) as usize;
            if !self.fill_to(length).await {
                return None;
            }
            let mut packet = self.inbound.split_to(length).freeze();
            packet.advance(4);
            match u32::from_be_bytes(packet[..4].try_into().unwrap()) {
                frames::SSL | frames::GSSENC => self.send(b"N").await,
                frames::CANCEL => {
                    packet.advance(4);
                    return Some((packet.get_u32(), packet));
                }
                _ => {
                    self.startup = packet;
                    return None;
                }
            }
        }
    }

    /// Lets the client in without a password, with the parameters of an ordinary server and this cancel key.
    pub async fn accept_login(&mut self, pid: u32, secret: &[u8]) {
        let mut greeting = server::authentication_ok();
        for (name, value) in [
            ("server_version", "15.0"),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO, MDY"),
            ("TimeZone", "UTC"),
            ("integer_datetimes", "on"),
            ("standard_conforming_strings", "on"),
        ] {
            greeting.extend(server::parameter(name, value));
        }
        greeting.extend(server::key(pid, secret));
        greeting.extend(server::ready(b'I'));
        self.send(&greeting).await;
    }

    /// Sends bytes; a client that has gone is no failure here.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = in_time("the client reads", self.stream.write_all(bytes)).await;
    }

    /// The next frame, or nothing when the client has closed.
    pub async fn read(&mut self) -> Option<Frame> {
        if !self.fill_to(5).await {
            return None;
        }
        let length = u32::from_be_bytes(self.inbound[1..5].try_into().unwrap()) as usize;
        if !self.fill_to(length + 1).await {
            return None;
        }
        let mut whole = self.inbound.split_to(length + 1).freeze();
        Some(Frame { tag: whole[0], body: whole.split_off(5) })
    }

    /// The next frame, which must be of this type.
    pub async fn expect(&mut self, tag: u8) -> Frame {
        let frame = self.read().await.unwrap_or_else(|| panic!("{:?} was expected, not the end", char::from(tag)));
        assert_eq!(char::from(frame.tag), char::from(tag), "the next frame's type");
        frame
    }

    /// Answers each simple query with one row that holds `value`, until the client leaves.
    pub async fn answer_queries(&mut self, value: &str) {
        while let Some(frame) = self.read().await {
            if frame.tag == b'Q' {
                let mut answer = server::columns(&["value"]);
                answer.extend(server::row(&[Some(value)]));
                answer.extend(server::complete("SELECT 1"));
                answer.extend(server::ready(b'I'));
                self.send(&answer).await;
            }
        }
    }

    /// Reads nothing and says nothing, until the test ends.
    pub async fn stall(self) {
        std::future::pending::<()>().await;
        drop(self);
    }

    /// Waits until the client closes, reading whatever comes.
    pub async fn until_closed(&mut self) {
        while self.read().await.is_some() {}
    }

    /// Ends the connection with RST.
    pub fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }

    async fn fill_to(&mut self, count: usize) -> bool {
        while self.inbound.len() < count {
            match self.stream.read_buf(&mut self.inbound).await {
                Ok(0) | Err(_) => return false,
                Ok(_) => {}
            }
        }
        true
    }
}
