//! A client that is small enough to have ten thousand of: blocking, no runtime, no buffers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use pgweir::auth::scram::client::{self, Binding};
use pgweir::auth::{CacheKey, KeyCache, Keys, random};

use super::{PATIENCE, frames};

/// A client that needs a socket and nothing else, so that ten thousand of them fit beside everything else of a test.
pub struct Light {
    /// Its socket.
    pub socket: TcpStream,
}

impl Light {
    /// Logs in by SCRAM. The keys are derived once: the proxy's salt for a user stays the same.
    pub fn login(to: SocketAddr, keys: &mut KeyCache) -> Self {
        let socket = TcpStream::connect(to).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut light = Self { socket };
        light.send(&frames::startup(0x0003_0000, &[("user", "app"), ("database", "app")]));
        let (_, offered) = light.read();
        let start = client::start(offered[4..].split(|byte| *byte == 0), Binding::Unavailable, random().unwrap()).unwrap();
        light.send(&frames::sasl_initial(start.mechanism.name(), &start.message));
        let (_, first) = light.read();
        let challenged = start.next.challenge(&first[4..]).unwrap();
        let key = CacheKey::new(b"secret", challenged.salt(), challenged.iterations());
        let found = keys.find(&key).unwrap_or_else(|| {
            let derived = Keys::derive(b"secret", challenged.salt(), challenged.iterations()).unwrap();
            keys.insert(key, derived.clone());
            derived
        });
        let (wait, answer) = challenged.answer(&found);
        light.send(&frames::sasl(&answer));
        let (_, last) = light.read();
        wait.verify(&last[4..]).unwrap();
        light.until_ready();
        light
    }

    /// Sends all of it.
    pub fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    /// Sends a request whose answer is as long as `answer`, which it fills; allocates nothing.
    pub fn exchange(&mut self, request: &[u8], answer: &mut [u8]) {
        self.send(request);
        self.take(answer);
        // The last message is ReadyForQuery, outside a transaction.
        assert_eq!(answer.last_chunk(), Some(b"Z\0\0\0\x05I"), "{}", String::from_utf8_lossy(answer));
    }

    /// Takes an answer as long as this; allocates nothing.
    pub fn take(&mut self, answer: &mut [u8]) {
        self.socket.read_exact(answer).unwrap();
    }

    /// How long the answer to this request is.
    pub fn answer_length(&mut self, request: &[u8]) -> usize {
        self.send(request);
        let mut length = 0;
        loop {
            let (kind, body) = self.read();
            length += 5 + body.len();
            if kind == b'Z' {
                return length;
            }
        }
    }

    /// The next message; an error fails the test.
    pub fn read(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 5];
        self.socket.read_exact(&mut head).unwrap();
        let [kind, length @ ..] = head;
        let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
        self.socket.read_exact(&mut body).unwrap();
        assert_ne!(kind, b'E', "{}", String::from_utf8_lossy(&body));
        (kind, body)
    }

    /// Reads up to ReadyForQuery: the rows' bodies.
    pub fn until_ready(&mut self) -> Vec<Vec<u8>> {
        let mut rows = Vec::new();
        loop {
            match self.read() {
                (b'Z', _) => return rows,
                (b'D', row) => rows.push(row),
                _ => {}
            }
        }
    }

    /// A query of one row and one column.
    pub fn value(&mut self, sql: &str) -> String {
        self.send(&frames::query(sql));
        let rows = self.until_ready();
        String::from_utf8(rows[0][6..].to_vec()).unwrap()
    }
}
