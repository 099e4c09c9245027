//! How all clients of a pool listen with one server connection (LISTEN), however many they are.
//!
//! The connection with which the first of them has said LISTEN becomes the shared one, and is an [`Operator`]'s from then on; when the last has gone it goes back. Who joins
//! listens on its own connection until the shared one does, and then sends itself a notification through both: what came before that mark it has from its own, what
//! comes after it from the shared one. The server puts notifications in one order for all, so nothing is lost and nothing comes twice.

mod inbox;
mod operator;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::task::Waker;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

pub use inbox::{Ending, Inbox};
pub use operator::Operator;

use operator::Order;

/// A channel's name, as the server has it.
pub type Channel = Box<[u8]>;

/// Where a pool's clients find its shared listening connection.
#[derive(Debug, Default)]
pub struct Switchboard {
    line: Mutex<Option<Line>>,
    marks: AtomicU64,
    clients: Arc<AtomicI64>,
}

/// The way to an operator.
#[derive(Debug, Clone)]
pub struct Line {
    orders: mpsc::UnboundedSender<Order>,
    clients: Arc<AtomicI64>,
    /// The channel of the marks.
    pub mark: Channel,
    /// The encoding in which the server sends payloads.
    pub encoding: Channel,
}

/// What a client that wants to listen finds.
#[derive(Debug)]
pub enum Found {
    /// Somebody listens for all.
    Line(Line),
    /// Nobody does: the client's own connection may, and what is ordered waits until it does. Dropped unused, this gives those up who have ordered meanwhile.
    Vacant(Line, Orders),
}

/// What is ordered of an operator.
#[derive(Debug)]
pub struct Orders(mpsc::UnboundedReceiver<Order>);

impl Switchboard {
    /// The way to the operator; where there is none, `encoding` is what the one to come has, and `mark` the channel of its marks.
    pub fn find(&self, mark: impl FnOnce() -> Channel, encoding: &[u8]) -> Found {
        let mut line = self.line.lock();
        if let Some(line) = &*line
            && !line.orders.is_closed()
        {
            return Found::Line(line.clone());
        }
        let (orders, receiver) = mpsc::unbounded_channel();
        let new = Line { orders, clients: Arc::clone(&self.clients), mark: mark(), encoding: encoding.into() };
        *line = Some(new.clone());
        Found::Vacant(new, Orders(receiver))
    }

    /// How many clients listen by way of it.
    pub fn clients(&self) -> u64 {
        self.clients.load(Ordering::Relaxed).try_into().unwrap_or(0)
    }

    /// A number for a mark that no other has.
    pub fn next_mark(&self) -> u64 {
        self.marks.fetch_add(1, Ordering::Relaxed)
    }

    /// The operator leaves: false where somebody has ordered something meanwhile.
    fn close(&self, orders: &mut mpsc::UnboundedReceiver<Order>) -> bool {
        let mut line = self.line.lock();
        if !orders.is_empty() {
            return false;
        }
        orders.close();
        *line = None;
        true
    }
}

/// A client's part: what it listens to by way of the shared connection. Dropped, it listens to nothing there any more.
#[derive(Debug)]
pub struct Subscription {
    inbox: Arc<Inbox>,
    line: Line,
    channels: BTreeSet<Channel>,
}

impl Subscription {
    /// To no channel yet; `waker` wakes the client's task.
    pub fn new(line: Line, waker: Waker) -> Self {
        line.clients.fetch_add(1, Ordering::Relaxed);
        Self { inbox: Arc::new(Inbox::new(waker)), line, channels: BTreeSet::new() }
    }

    /// What has come for the client.
    pub fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// The way to its operator.
    pub fn line(&self) -> &Line {
        &self.line
    }

    /// What it listens to.
    pub fn channels(&self) -> &BTreeSet<Channel> {
        &self.channels
    }

    /// The operator is to listen to these channels, for this client from the mark on. The outcome is told when it does; it is an error where it cannot.
    pub fn ask(&self, channels: &[Channel], mark: u64) -> oneshot::Receiver<()> {
        let (listens, told) = oneshot::channel();
        // An operator that has left drops what it is told, which is told by `told`.
        let _ = self.line.orders.send(Order::Join { inbox: Arc::clone(&self.inbox), channels: channels.to_vec(), mark, listens });
        told
    }

    /// What was asked for has come about.
    pub fn joined(&mut self, channels: impl IntoIterator<Item = Channel>) {
        self.channels.extend(channels);
    }

    /// The client listens to these no more, or has not come to.
    pub fn leave(&mut self, channels: Vec<Channel>) {
        self.channels.retain(|channel| !channels.contains(channel));
        let _ = self.line.orders.send(Order::Leave { inbox: Arc::clone(&self.inbox), channels: Some(channels) });
    }

    /// Returns when everything that was notified before is in the inbox, or the operator has left.
    pub async fn catch_up(&self) {
        let (done, told) = oneshot::channel();
        let _ = self.line.orders.send(Order::CatchUp(done));
        let _ = told.await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.line.clients.fetch_sub(1, Ordering::Relaxed);
        let _ = self.line.orders.send(Order::Leave { inbox: Arc::clone(&self.inbox), channels: None });
    }
}
