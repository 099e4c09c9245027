//! Cancel requests that came to another proxy than their client's, as a load balancer brings them: told by NOTIFY to those that share the budget, in the sessions that hold its slots.
//!
//! All hear all of them, and each answers whether the client was its own. What is told is not the client's key, but what can be derived from it; and no more in a time than a
//! server hardly notices, since nobody needs a password to send a cancel request.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_postgres::{Client, Error, Notification, Statement};

use crate::net::{Moment, now};

/// What can be derived from a client's cancel key, and from nothing else.
pub type Proof = [u8; 32];

/// A request to cancel what a client does.
#[derive(Debug)]
pub struct CancelRequest {
    /// The first word of the client's key.
    pub pid: u32,
    /// What only somebody who has the rest of the key can say.
    pub proof: Proof,
    /// Told where the client is nobody's here; else dropped, as soon as the cancel has been delivered or there is nothing to cancel.
    pub done: oneshot::Sender<()>,
}

/// Who has this proxy's own clients' work cancelled.
pub struct Deliver(pub Box<dyn Fn(CancelRequest) + Send>);

impl fmt::Debug for Deliver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Deliver(..)")
    }
}

/// What connects an upstream's session of slots with those who have clients.
#[derive(Debug)]
pub struct Post {
    /// What is to be told to others.
    pub(super) requests: mpsc::Receiver<CancelRequest>,
    /// Who is told what others ask for.
    pub(super) deliver: Deliver,
}

/// How many may wait to be told, to be heard, or to be carried out; more are lost.
pub(super) const MOST: usize = 256;
/// How many are told at once, and how long it takes until the next.
const BATCH: usize = 64;
const BETWEEN: Duration = Duration::from_millis(10);
/// How long the others have to answer.
const LIMIT: Duration = Duration::from_secs(5);

const TELL: &str = "SELECT pg_catalog.pg_notify($1, text) FROM pg_catalog.unnest($2::text[]) AS text";

/// One session's part in it.
pub(super) struct Astray {
    channel: String,
    tell: Statement,
    /// The server's process that speaks for this proxy.
    pid: i32,
    is_listening: bool,
    /// That nothing can be told is logged once.
    has_complained: bool,
    heard: mpsc::Receiver<Notification>,
    /// What was told and is not done yet.
    told: HashMap<u64, Told>,
    /// The number of what was told last.
    last: u64,
    /// What others have asked for, and is being carried out.
    here: JoinSet<Word>,
    /// When something may be told next.
    next: Moment,
}

/// A request that others know of.
struct Told {
    /// Dropped when it is done.
    _done: oneshot::Sender<()>,
    /// How many have said that the client is not theirs.
    strangers: u32,
    at: Moment,
}

/// What there is to be done.
pub(super) enum Event {
    Requests(Vec<CancelRequest>),
    Heard(Notification),
    CarriedOut(Word),
}

impl Astray {
    /// The part of a session that is the server's process `pid`. What it hears is to be put into `heard`.
    pub(super) async fn begin(client: &Client, class: i32, pid: i32, heard: mpsc::Receiver<Notification>) -> Result<Self, Error> {
        let tell = client.prepare(TELL).await?;
        Ok(Self {
            channel: format!("pgweir cancels {class:08x}"),
            tell,
            pid,
            is_listening: false,
            has_complained: false,
            heard,
            told: HashMap::new(),
            last: 0,
            here: JoinSet::new(),
            next: now(),
        })
    }

    /// Listens, unless it does already: where the server is no standby, which has no channels.
    pub(super) async fn listen(&mut self, client: &Client) -> Result<(), Error> {
        if !self.is_listening {
            client.batch_execute(&format!("LISTEN \"{}\"", self.channel)).await?;
            self.is_listening = true;
        }
        Ok(())
    }

    /// How many others hear what it tells, of so many that share the budget.
    pub(super) fn reach(&self, proxies: u32) -> u32 {
        if self.is_listening { proxies.saturating_sub(1) } else { 0 }
    }

    /// Waits until there is something to be done.
    ///
    /// Cancel safe.
    pub(super) async fn event(&mut self, requests: &mut mpsc::Receiver<CancelRequest>) -> Event {
        let wait = self.next.saturating_duration_since(now());
        let requested = async {
            sleep(wait).await;
            let mut batch = Vec::new();
            requests.recv_many(&mut batch, BATCH).await;
            batch
        };
        tokio::select! {
            Some(heard) = self.heard.recv() => Event::Heard(heard),
            Some(Ok(word)) = self.here.join_next() => Event::CarriedOut(word),
            requests = requested => Event::Requests(requests),
        }
    }

    /// Does it. `others` hear what is told.
    pub(super) async fn attend(&mut self, client: &Client, event: Event, deliver: &Deliver, others: u32) -> Result<(), Error> {
        match event {
            // Nobody hears it: it is dropped, as a server drops what is for nobody.
            Event::Requests(_) if others == 0 => Ok(()),
            Event::Requests(requests) => {
                let words: Vec<Word> = requests.into_iter().map(|request| self.note(request)).collect();
                self.next = now() + BETWEEN;
                self.say(client, &words).await
            }
            Event::Heard(heard) if heard.channel() == self.channel && heard.process_id() != self.pid => {
                self.hear(heard.process_id(), heard.payload(), deliver, others);
                Ok(())
            }
            Event::Heard(_) => Ok(()),
            Event::CarriedOut(word) => {
                let more = std::iter::from_fn(|| self.here.try_join_next()).filter_map(Result::ok).take(BATCH);
                let words: Vec<Word> = std::iter::once(word).chain(more).collect();
                self.say(client, &words).await
            }
        }
    }

    fn note(&mut self, request: CancelRequest) -> Word {
        self.last += 1;
        self.told.insert(self.last, Told { _done: request.done, strangers: 0, at: now() });
        Word::Ask { number: self.last, pid: request.pid, proof: request.proof }
    }

    /// Tells all. What the server does not take is lost, and no reason to give up the session.
    async fn say(&mut self, client: &Client, words: &[Word]) -> Result<(), Error> {
        let texts: Vec<String> = words.iter().map(Word::to_string).collect();
        let Err(error) = client.query(&self.tell, &[&self.channel, &texts]).await else { return Ok(()) };
        let Some(said) = error.as_db_error() else { return Err(error) };
        for word in words {
            if let Word::Ask { number, .. } = word {
                self.told.remove(number);
            }
        }
        if !std::mem::replace(&mut self.has_complained, true) {
            tracing::warn!(error = said.message(), "cancel requests cannot be passed on to other proxies");
        }
        Ok(())
    }

    fn hear(&mut self, from: i32, text: &str, deliver: &Deliver, others: u32) {
        match Word::read(text) {
            Some(Word::Ask { number, pid, proof }) if self.here.len() < MOST => {
                let (done, delivered) = oneshot::channel();
                deliver.0(CancelRequest { pid, proof, done });
                self.here.spawn(async move { Word::Answer { to: from, number, is_mine: delivered.await.is_err() } });
            }
            Some(Word::Answer { to, number, is_mine }) if to == self.pid => {
                if let Some(told) = self.told.get_mut(&number) {
                    told.strangers += 1;
                    if is_mine || told.strangers >= others {
                        self.told.remove(&number);
                    }
                }
            }
            _ => {}
        }
    }

    /// Forgets what nobody answers any more.
    pub(super) fn expire(&mut self, others: u32) {
        let at = now();
        self.told.retain(|_, told| told.strangers < others && at.saturating_duration_since(told.at) < LIMIT);
    }
}

/// What is told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Whose client this is shall cancel what it does.
    Ask { number: u64, pid: u32, proof: Proof },
    /// That has been done, or the client is another's.
    Answer { to: i32, number: u64, is_mine: bool },
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ask { number, pid, proof } => {
                write!(f, "cancel {number} {pid} ")?;
                proof.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Self::Answer { to, number, is_mine } => write!(f, "{} {to} {number}", if *is_mine { "done" } else { "unknown" }),
        }
    }
}

impl Word {
    fn read(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split(' ').collect();
        match parts[..] {
            ["cancel", number, pid, proof] => {
                Some(Self::Ask { number: number.parse().ok()?, pid: pid.parse().ok()?, proof: bytes(proof)? })
            }
            [verdict @ ("done" | "unknown"), to, number] => {
                Some(Self::Answer { to: to.parse().ok()?, number: number.parse().ok()?, is_mine: verdict == "done" })
            }
            _ => None,
        }
    }
}

fn bytes(hex: &str) -> Option<Proof> {
    let digits: Vec<u8> = hex.chars().map(|digit| digit.to_digit(16)?.try_into().ok()).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect();
    (digits.len() == 64).then(|| bytes.try_into().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_told_is_what_is_heard(number: u64, pid: u32, proof: [u8; 32], to: i32, is_mine: bool) {
            for word in [Word::Ask { number, pid, proof }, Word::Answer { to, number, is_mine }] {
                let text = word.to_string();
                prop_assert!(text.len() < 128);
                prop_assert_eq!(Word::read(&text), Some(word));
            }
        }

        #[test]
        fn what_somebody_else_says_there_is_nothing(text in "(cancel|done|unknown|x)?( [0-9a-fé+-]{0,70}){0,4}") {
            if let Some(word) = Word::read(&text) {
                prop_assert_eq!(Word::read(&word.to_string()), Some(word));
            }
        }
    }
}
