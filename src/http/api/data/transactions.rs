//! Transactions that are held between calls: each is a line of its own, and so a client that holds a server connection.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::time::sleep;

use super::complaint::Complaint;
use crate::auth::random;
use crate::fault::Fault;
use crate::http::api::line::Line;
use crate::http::api::trouble::Trouble;
use crate::net::{Moment, now};
use crate::session::House;

/// How long a transaction may last in all.
const LONGEST: Duration = Duration::from_hours(24);

/// How soon it is looked again whether a call still has one.
const LOOK: Duration = Duration::from_secs(1);

/// The longest name of a replica within an id, in bytes.
const LONGEST_NAME: usize = 64;

/// The transactions that are held.
#[derive(Debug)]
pub(crate) struct Transactions {
    house: Arc<House>,
    replica: String,
    held: RefCell<HashMap<String, Held>>,
}

#[derive(Debug)]
struct Held {
    /// The access key that has begun it; nobody else may go on with it.
    owner: String,
    /// None while a call has it.
    line: Option<Line>,
    last_call: Rc<Cell<Moment>>,
}

/// A transaction that a call has.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) id: String,
    pub(super) line: Line,
    /// Drops the entry where the call does not come to its end.
    guard: Guard,
}

#[derive(Debug)]
struct Guard {
    id: String,
    transactions: Rc<Transactions>,
    is_over: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.is_over {
            self.transactions.end(&self.id);
        }
    }
}

impl Transactions {
    pub(crate) fn new(house: Arc<House>) -> Rc<Self> {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let replica = URL_SAFE_NO_PAD.encode(name.as_bytes().get(..LONGEST_NAME).unwrap_or(name.as_bytes()));
        Rc::new(Self { house, replica, held: RefCell::default() })
    }

    /// Holds a transaction that has just begun: its id, which names this replica. It is rolled back when it lies idle for so long.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub(super) fn hold(self: &Rc<Self>, owner: &str, line: Line, idle: Duration) -> Result<String, Complaint> {
        let secret: [u8; 24] = random().map_err(|_| Trouble::from(Fault::Internal))?;
        let id = format!("{}.{}", self.replica, URL_SAFE_NO_PAD.encode(secret));
        let last_call = Rc::new(Cell::new(now()));
        let held = Held { owner: owner.to_owned(), line: Some(line), last_call: Rc::clone(&last_call) };
        self.held.borrow_mut().insert(id.clone(), held);
        self.house.metrics.api.transactions.add(1);
        let (all, name) = (Rc::downgrade(self), id.clone());
        tokio::task::spawn_local(async move {
            let until = now() + LONGEST;
            loop {
                let due = (last_call.get() + idle).min(until);
                sleep(due - now()).await;
                let Some(all) = all.upgrade() else { return };
                let is_idle = all.held.borrow().get(&name).map(|held| held.line.is_some());
                match is_idle {
                    None => return,
                    Some(true) if now() >= (last_call.get() + idle).min(until) => {
                        tracing::info!("a transaction of the Data API was left for too long, and is rolled back");
                        return all.end(&name);
                    }
                    // A call has it: its own limits hold, and then it is looked again.
                    Some(false) => sleep(LOOK).await,
                    Some(true) => {}
                }
            }
        });
        Ok(id)
    }

    /// Takes a transaction for one call.
    ///
    /// # Errors
    /// When there is none of this id for this caller, or another call has it.
    pub(super) fn take(self: &Rc<Self>, id: &str, owner: &str) -> Result<Taken, Complaint> {
        let mut held = self.held.borrow_mut();
        let Some(found) = held.get_mut(id).filter(|held| held.owner == owner) else {
            let elsewhere = id.split_once('.').is_some_and(|(replica, _)| replica != self.replica && !replica.is_empty());
            return Err(Complaint::no_transaction(id, if elsewhere { "it is held by another replica" } else { "" }));
        };
        let line = found.line.take().ok_or_else(Complaint::busy_transaction)?;
        let guard = Guard { id: id.to_owned(), transactions: Rc::clone(self), is_over: false };
        Ok(Taken { id: id.to_owned(), line, guard })
    }

    /// Holds it on for the next call.
    pub(super) fn put_back(&self, taken: Taken) {
        let Taken { id, line, mut guard } = taken;
        guard.is_over = true;
        if let Some(held) = self.held.borrow_mut().get_mut(&id) {
            held.line = Some(line);
            held.last_call.set(now());
        }
    }

    /// Ends one: what it holds is rolled back.
    fn end(&self, id: &str) {
        let ended = self.held.borrow_mut().remove(id);
        if ended.is_some() {
            self.house.metrics.api.transactions.add(-1);
        }
    }

    /// Ends all of them.
    pub(crate) fn end_all(&self) {
        let ids: Vec<String> = self.held.borrow().keys().cloned().collect();
        for id in ids {
            self.end(&id);
        }
    }
}
