//! The endpoints over real sockets, with hyper's client where a caller behaves and raw bytes where it does not.

mod endpoints;
mod limits;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};

use super::serve::serve_with;
use super::*;
use crate::metrics::{History, Lifecycle, Metrics, Pressure, PressureState, ProcessState, UpstreamState};
use crate::net::{Address, Bound, ListenAt};

/// No test waits longer than this for anything.
const DEADLINE: Duration = Duration::from_secs(20);

/// Longer than any test.
const EVER: Duration = Duration::from_hours(1);

/// A proxy that only has numbers.
struct Proxy {
    metrics: std::sync::Arc<Metrics>,
    readiness: RefCell<Result<(), String>>,
    upstreams: RefCell<Vec<UpstreamState>>,
}

impl Proxy {
    fn new() -> Rc<Self> {
        let metrics = Metrics::new(1, &["acme".to_owned()], &[], &[]);
        Rc::new(Self { metrics, readiness: RefCell::new(Ok(())), upstreams: RefCell::default() })
    }
}

impl Operations for Proxy {
    fn snapshot(&self) -> Snapshot {
        let process = ProcessState { state: Lifecycle::Ready, started: SystemTime::UNIX_EPOCH, uptime: Duration::from_secs(1) };
        self.metrics.collect(process, self.upstreams.borrow().clone())
    }

    fn history(&self) -> String {
        let mut history = History::default();
        history.note(Duration::ZERO, self.metrics.total(), BTreeMap::new());
        history.json(Duration::from_secs(1))
    }

    fn readiness(&self) -> Result<(), String> {
        self.readiness.borrow().clone()
    }
}

/// Runs a test beside a server, which is given where that listens.
fn beside<F: Future>(proxy: &Rc<Proxy>, patience: Duration, test: impl FnOnce(std::net::SocketAddr) -> F) -> F::Output {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
    let operations: Rc<dyn Operations> = Rc::<Proxy>::clone(proxy);
    runtime.block_on(async {
        let bound = Bound::bind(&ListenAt::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let Some(Address::Tcp(address)) = bound.address() else { panic!("not a TCP address") };
        let serving = tokio::task::spawn_local(serve_with(bound.listen().unwrap(), operations, patience));
        let outcome = tokio::time::timeout(DEADLINE, test(address)).await.expect("it hangs");
        assert!(!serving.is_finished(), "the server has ended");
        outcome
    })
}

/// Sends bytes over a connection of its own and answers with all that comes until the other end closes.
async fn say(address: std::net::SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    until_closed(&mut stream).await
}

async fn until_closed(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    // What came before a reset counts.
    let _ = stream.read_to_end(&mut all).await;
    String::from_utf8(all).unwrap()
}

/// One request, the connection closed after the answer: the head and the body.
async fn ask(address: std::net::SocketAddr, method: &str, path: &str) -> (String, String) {
    let answer = say(address, format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {answer:?}"));
    (head.to_owned(), body.to_owned())
}

/// Reads one answer that has a length, from a connection that stays open.
async fn answer(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&all);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
            if body.len() >= length.parse::<usize>().unwrap() {
                return text.into_owned();
            }
        }
        assert_ne!(stream.read_buf(&mut all).await.unwrap(), 0, "closed after {:?}", String::from_utf8_lossy(&all));
    }
}
