//! A client's life, from its first byte to its last.
//!
//! `greeting` and `login` are the cold beginning; `client` is what is left of a client while it is idle; `relay` is a client with a server connection. `inspect`, `statements` and `phase`
//! are the pure parts. `worker` is the thread that all of its clients live on, `house` what the threads share.

mod acquire;
mod ahead;
mod census;
mod channels;
mod client;
mod deadline;
pub mod door;
mod edit;
mod end;
mod examine;
mod exchange;
mod folding;
mod gates;
mod greeting;
mod house;
mod inspect;
mod keys;
mod login;
pub mod names;
mod peer;
mod phase;
mod pins;
mod relay;
mod rewrite;
mod said;
mod secrets;
mod spares;
mod statements;
mod telling;
mod tokens;
mod turnstile;
mod visit;
mod watch;
mod worker;

use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;

use client::Client;
use door::Door;
use greeting::{Greeted, Hello};
use login::{Failed, LoggedIn};

use crate::fault::Fault;
use crate::metrics::Party;
use crate::net::{Io, Moment, Peer, now, since_1970};
use crate::wire::startup::Startup;

pub use census::{ClientEntry, Protection, Victims};
pub use gates::Gates;
pub use house::{Certificate, House, keep};
pub use inspect::{HELD, Inspector, Verdict};
pub use keys::CancelKeys;
pub use phase::Phase;
pub use pins::{PIN_LABELS, Pin};
pub use secrets::{Secrets, server_secret_of};
pub use tokens::{Believed, Keyring, keys_at};
pub use visit::{NAMES as CONSOLE_NAMES, Role, Visit};
pub use worker::{Mail, Mailbox, Worker};

/// Serves one connection from accept to its end.
///
/// Cancel safe: a dropped future closes the connection.
pub fn serve(io: Io, peer: Peer, worker: Rc<Worker>) -> impl Future<Output = ()> {
    serve_by(Door::Front, io, peer, worker)
}

/// The same by whatever door.
fn serve_by(door: Door, io: Io, peer: Peer, worker: Rc<Worker>) -> impl Future<Output = ()> {
    // On the heap, for as long as it takes: what an idle client keeps must stay small.
    let turnstile = Rc::clone(&worker.turnstile);
    let entering = Box::new(turnstile.through(Box::pin(enter(door, io, peer, worker))));
    async move {
        let mut client = entering.await;
        if let Some(client) = &mut client {
            client.live().await;
        }
    }
}

/// How long a login may take.
fn login_limit(worker: &Worker) -> Duration {
    worker.house.config.load().clients.login_timeout.unwrap_or(NO_LIMIT)
}

/// The cold beginning, within the time that a login may take.
async fn enter(door: Door, io: Io, peer: Peer, worker: Rc<Worker>) -> Option<Client> {
    let worker = &worker;
    let _entering = worker.house.enter();
    let began = now();
    let limit = login_limit(worker);
    let greeted = worker.clock.within(limit, Box::pin(greeting::greet(io, worker))).await?;
    let mut hello = match greeted {
        Greeted::Client(hello) => hello,
        Greeted::Done => return None,
        Greeted::Refused(io, fault) => {
            turn_away(io, BytesMut::new(), (peer, None, None), worker, &fault).await;
            return None;
        }
    };
    hello.door = door;
    if visit::is_console(&hello.startup.database) {
        let left = (began + limit).saturating_duration_since(now());
        let outcome = worker.clock.within(left, Box::pin(login::log_in_to_console(&mut hello, peer, worker))).await;
        receive_visitor(hello, peer, worker, outcome.unwrap_or(Err(Failed::With(Fault::LoginTimeout)))).await;
        return None;
    }
    settle(hello, peer, worker, (began, limit)).await
}

/// Logs a client in that has said who it is, in what is left of so long since it `began`.
async fn settle(mut hello: Box<Hello>, peer: Peer, worker: &Rc<Worker>, (began, limit): (Moment, Duration)) -> Option<Client> {
    let left = (began + limit).saturating_duration_since(now());
    let outcome = worker.clock.within(left, Box::pin(login::log_in(&mut hello, peer, worker, began))).await;
    match outcome.unwrap_or(Err(Failed::With(Fault::LoginTimeout))) {
        Ok((watch, slot, settings, admitted)) => {
            let hello = *hello;
            Some(Client::new(LoggedIn { io: hello.io, watch, slot, settings, rest: hello.rest, admitted }, worker))
        }
        Err(Failed::With(fault)) => {
            turn_away(hello.io, hello.unsaid, (peer, Some(&hello.startup), hello.tenant.as_deref()), worker, &fault).await;
            None
        }
        Err(Failed::Gone) => None,
    }
}

/// Shows a visitor of the admin database in, or says why not.
async fn receive_visitor(hello: Box<Hello>, peer: Peer, worker: &Rc<Worker>, outcome: Result<Role, Failed>) {
    let Hello { io, startup, rest, unsaid, .. } = *hello;
    match outcome {
        Ok(role) => {
            let user = String::from_utf8_lossy(&startup.user).into_owned();
            match io.into_portable() {
                // While the proxy starts, and where it ends, nobody is there: then the connection is closed.
                Ok(io) => drop(worker.house.show_in(Visit { io, rest, user, peer, role })),
                Err(error) => tracing::debug!(%error, "a visitor of the admin database was lost"),
            }
        }
        Err(Failed::With(fault)) => turn_away(io, unsaid, (peer, Some(&startup), None), worker, &fault).await,
        Err(Failed::Gone) => {}
    }
}

/// What stands for no limit.
const NO_LIMIT: Duration = Duration::from_hours(24);

/// How long a client that is turned away may take to hear why.
const LAST_WORD: Duration = Duration::from_secs(2);

/// Tells a client why it does not come in, behind what else it is to be told. One of a kind a second has a line of its own in the log; the sweep tells how many more there were.
async fn turn_away(
    mut io: Io,
    mut out: BytesMut,
    (peer, startup, tenant): (Peer, Option<&Startup>, Option<&str>),
    worker: &Rc<Worker>,
    fault: &Fault,
) {
    let text = |name: fn(&Startup) -> &[u8]| startup.map(|startup| String::from_utf8_lossy(name(startup)));
    let (user, database) = (text(|startup| &startup.user), text(|startup| &startup.database));
    let party = Party { tenant, user: user.as_deref(), database: database.as_deref() };
    if worker.turned_away.is_first(fault.number(), now()) {
        tracing::info!(tenant, client = %peer, user = user.as_deref(), database = database.as_deref(), fault = fault.label(), "a client is turned away");
    }
    worker.house.metrics.recent.note(fault.label(), since_1970(), party, peer);
    fault.say(&mut out, false);
    let said = worker.clock.within(LAST_WORD, async {
        if io.write_all(&out).await.is_ok() {
            io.shutdown();
            // What it still sends is read away: closing over unread bytes would reset the connection, and the client would never see why.
            let mut rest = [0; 512];
            while io.read(&mut rest).await.is_ok_and(|count| count > 0) {}
        }
    });
    said.await;
}
