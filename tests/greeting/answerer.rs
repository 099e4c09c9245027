//! A server that answers a request for encryption with anything at all, and remembers what it is told after that.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// It answers everyone alike, until it is dropped.
pub struct Answerer {
    port: u16,
    heard: Arc<Mutex<Vec<u8>>>,
    accepting: JoinHandle<()>,
}

impl Answerer {
    /// Listens; answers the first eight bytes of every connection with `answer`.
    pub async fn start(answer: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let accepting = tokio::spawn({
            let heard = Arc::clone(&heard);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, answer.clone(), Arc::clone(&heard)));
                }
            }
        });
        Self { port, heard, accepting }
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What came after the answer, from all connections.
    pub fn heard(&self) -> Vec<u8> {
        self.heard.lock().unwrap().clone()
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(mut stream: TcpStream, answer: Vec<u8>, heard: Arc<Mutex<Vec<u8>>>) {
    let mut request = [0; 8];
    // A probe connects and leaves.
    if stream.read_exact(&mut request).await.is_err() || stream.write_all(&answer).await.is_err() {
        return;
    }
    let mut rest = [0; 256];
    while let Ok(count @ 1..) = stream.read(&mut rest).await {
        heard.lock().unwrap().extend_from_slice(&rest[..count]);
    }
}
