//! The operator of a switchboard: it has the shared connection, listens there to what any client wants, and hands out what comes.
//!
//! It talks to the server in rounds, one at a time: all that was ordered since the last is one text.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{mpsc, oneshot};

use super::{Channel, Ending, Inbox, Line, Orders};
use crate::net::now;
use crate::pool::{Lease, Pool};
use crate::upstream::{Broken, ServerError};
use crate::wire::message;
use crate::wire::sql::quoted_name;

/// How often a round is tried that the server refuses: an operator may have cancelled what ran.
const TRIES: u32 = 3;

/// What is ordered.
#[derive(Debug)]
pub(super) enum Order {
    /// A client wants to hear of these channels, from the mark on.
    Join { inbox: Arc<Inbox>, channels: Vec<Channel>, mark: u64, listens: oneshot::Sender<()> },
    /// A client wants to hear of these no more, or of none.
    Leave { inbox: Arc<Inbox>, channels: Option<Vec<Channel>> },
    /// Somebody wants to know when all is here that was notified until now.
    CatchUp(oneshot::Sender<()>),
}

/// A client that hears of some channels from its mark on, which has not come yet.
#[derive(Debug)]
struct Joining {
    inbox: Arc<Inbox>,
    channels: Vec<Channel>,
    mark: u64,
}

/// What the server is asked, and who is told when it has answered.
#[derive(Debug, Default)]
struct Round {
    text: Vec<u8>,
    refusal: Option<ServerError>,
    /// What it listens to afterwards, where that is something else.
    listened: Option<HashSet<Channel>>,
    told: Vec<oneshot::Sender<()>>,
}

/// Who hands out what comes on the shared connection.
#[derive(Debug)]
pub struct Operator {
    lease: Lease,
    pool: Arc<Pool>,
    orders: mpsc::UnboundedReceiver<Order>,
    mark: Channel,
    listeners: HashMap<Channel, Vec<Arc<Inbox>>>,
    joining: Vec<Joining>,
    listened: HashSet<Channel>,
    /// Something else is to be listened to than the server knows of.
    has_changed: bool,
    waiting: Vec<oneshot::Sender<()>>,
    round: Option<Round>,
    /// How often the server has refused what is asked of it.
    tries: u32,
    /// The beginning of a message.
    cut: Vec<u8>,
}

impl Operator {
    /// With a connection that listens to these channels and to that of the marks, in no transaction, for one client.
    pub fn new(lease: Lease, orders: Orders, line: &Line, channels: &[Channel], inbox: &Arc<Inbox>) -> Self {
        Self {
            pool: Arc::clone(lease.pool()),
            lease,
            orders: orders.0,
            mark: line.mark.clone(),
            listeners: channels.iter().map(|channel| (channel.clone(), vec![Arc::clone(inbox)])).collect(),
            joining: Vec::new(),
            listened: channels.iter().cloned().collect(),
            has_changed: false,
            waiting: Vec::new(),
            round: None,
            tries: 0,
            cut: Vec::new(),
        }
    }

    /// Serves until nobody listens any more, or the connection is lost: then all who listen hear that.
    pub async fn serve(mut self) {
        let outcome = self.work().await;
        if let Err(why) = outcome {
            let pool = &self.pool;
            tracing::warn!(upstream = pool.upstream.name, %why, "the connection that listens for all is lost, and with it those who listen");
            self.orders.close();
            let inboxes = self.listeners.values().flatten().chain(self.joining.iter().map(|joining| &joining.inbox));
            inboxes.for_each(|inbox| inbox.end(Ending::Lost));
            return;
        }
        // It is reset before anybody else has it.
        self.lease.server_mut().state.dirty = true;
        self.lease.give_back(now());
    }

    async fn work(&mut self) -> Result<(), Broken> {
        loop {
            if self.round.is_none() {
                if let Some(round) = self.next_round() {
                    self.lease.server_mut().send(&round.text).await?;
                    self.round = Some(round);
                } else if self.is_alone() && self.pool.switchboard.close(&mut self.orders) {
                    return Ok(());
                }
            }
            std::future::poll_fn(|cx| self.poll_once(cx)).await?;
        }
    }

    /// Takes orders and what has come, until there is nothing of either.
    fn poll_once(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let mut moved = false;
        while let Poll::Ready(Some(order)) = self.orders.poll_recv(cx) {
            self.take(order);
            moved = true;
        }
        let mut messages = Vec::new();
        while let Poll::Ready(read) = self.lease.server_mut().poll_messages(cx, &mut self.cut, |message| messages.push(Arc::from(message)))
        {
            read?;
            moved = true;
        }
        for message in messages {
            self.hear(&message)?;
        }
        if moved { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Join { inbox, channels, mark, listens } => {
                self.has_changed |= channels.iter().any(|channel| !self.will_have_listened().contains(channel));
                self.joining.push(Joining { inbox, channels, mark });
                self.waiting.push(listens);
            }
            Order::Leave { inbox, channels } => {
                let is_meant = |channel: &Channel| channels.as_ref().is_none_or(|channels| channels.contains(channel));
                for (_, inboxes) in self.listeners.iter_mut().filter(|(channel, _)| is_meant(channel)) {
                    inboxes.retain(|known| !Arc::ptr_eq(known, &inbox));
                }
                for joining in self.joining.iter_mut().filter(|joining| Arc::ptr_eq(&joining.inbox, &inbox)) {
                    joining.channels.retain(|channel| !is_meant(channel));
                }
                self.listeners.retain(|_, inboxes| !inboxes.is_empty());
                self.joining.retain(|joining| !joining.channels.is_empty());
                self.has_changed = true;
            }
            Order::CatchUp(done) => self.waiting.push(done),
        }
    }

    /// What the server listens to once it has answered what it was asked: of the rest of what it listens to now it is letting go.
    fn will_have_listened(&self) -> &HashSet<Channel> {
        self.round.as_ref().and_then(|round| round.listened.as_ref()).unwrap_or(&self.listened)
    }

    /// Whether nobody listens.
    fn is_alone(&self) -> bool {
        self.listeners.is_empty() && self.joining.is_empty()
    }

    /// What is to be asked of the server next, if anything.
    fn next_round(&mut self) -> Option<Round> {
        if self.is_alone() && self.waiting.is_empty() || !self.has_changed && self.waiting.is_empty() {
            return None;
        }
        let mut round = Round { told: std::mem::take(&mut self.waiting), ..Round::default() };
        if std::mem::take(&mut self.has_changed) {
            let wanted: HashSet<Channel> =
                self.listeners.keys().chain(self.joining.iter().flat_map(|joining| &joining.channels)).cloned().collect();
            for channel in wanted.difference(&self.listened) {
                round.text.extend([b"LISTEN ".as_slice(), &quoted_name(channel), b";"].concat());
            }
            for channel in self.listened.difference(&wanted) {
                round.text.extend([b"UNLISTEN ".as_slice(), &quoted_name(channel), b";"].concat());
            }
            round.listened = Some(wanted);
        }
        Some(round)
    }

    /// One message of the server's.
    fn hear(&mut self, message: &Arc<[u8]>) -> Result<(), Broken> {
        match &**message {
            [b'A', _, _, _, _, body @ ..] => {
                let (channel, payload) = message::notification(body)?;
                if channel == &*self.mark {
                    self.passed(payload);
                } else if let Some(inboxes) = self.listeners.get(channel) {
                    for inbox in inboxes {
                        inbox.put(message);
                    }
                }
            }
            [b'E', _, _, _, _, body @ ..] => {
                let refusal = ServerError::new(body);
                if refusal.fields().is_fatal() {
                    return Err(Broken::Refused(refusal));
                }
                if let Some(round) = &mut self.round {
                    round.refusal = Some(refusal);
                }
            }
            [b'Z', ..] => return self.answered(),
            _ => {}
        }
        Ok(())
    }

    /// A mark has come: whose it is hears of its channels from here on.
    fn passed(&mut self, payload: &[u8]) {
        let mark = std::str::from_utf8(payload).ok().and_then(|text| text.parse::<u64>().ok());
        let Some(at) = self.joining.iter().position(|joining| Some(joining.mark) == mark) else { return };
        let Joining { inbox, channels, .. } = self.joining.swap_remove(at);
        for channel in channels {
            self.listeners.entry(channel).or_default().push(Arc::clone(&inbox));
        }
    }

    /// The server has answered a round.
    fn answered(&mut self) -> Result<(), Broken> {
        let Some(mut round) = self.round.take() else { return Ok(()) };
        if let Some(refusal) = round.refusal.take() {
            self.tries += 1;
            if self.tries == TRIES {
                return Err(Broken::Refused(refusal));
            }
            // With all that has been ordered since.
            self.has_changed |= round.listened.is_some();
            self.waiting.append(&mut round.told);
            return Ok(());
        }
        self.tries = 0;
        if let Some(listened) = round.listened {
            self.listened = listened;
        }
        for told in round.told {
            // Who has given up waiting has left, too, or will.
            let _ = told.send(());
        }
        Ok(())
    }
}
