//! A session is examined: what its client has left in it, as far as the texts leave open what that is.
//!
//! Settings follow their client: after a transaction that may have changed some, their values are read, from what the server has reported or by asking it, and become
//! part of what the client's next server is brought to. What cannot follow (a temporary table, a lock) keeps the server connection for as long as it is there, which
//! the server is asked where a text may have ended it, or was hidden. Checklist I1-I5, I7.

use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;

use super::channels::Relistened;
use super::client::Client;
use super::pins::{Examination, Kept, Pin, Pins};
use super::relay::First;
use crate::config::PoolMode;
use crate::fault::Fault;
use crate::net::{Moment, now};
use crate::pool::Lease;
use crate::upstream::{Broken, Form, Known, Reported, Server, Settings};
use crate::wire::sql::{self, PinReason, RIGHTS, Touched};
use crate::wire::{Status, say};

/// What a client's settings may take, in bytes; with more it keeps its server connection.
const SETTINGS: usize = 64 << 10;

/// A lease whose transactions are done, but for what they have left.
#[derive(Debug)]
pub struct Change {
    /// The server connection.
    pub lease: Lease,
    /// What is to be found out.
    pub examination: Examination,
    /// The pin that was told.
    pub pin: Option<Pin>,
    /// Whether all that the texts say has happened: all was run, nothing has failed, and nothing was inside a transaction that could be undone.
    pub is_certain: bool,
    /// Which version of what is known of the database's functions it went by.
    pub version: u64,
    /// How the server connection has come to listen to what the client listens to, if it has.
    pub relistened: Option<Relistened>,
    /// The client has not been told yet that the server is ready.
    pub holds_ready: bool,
    /// When the last answer came.
    pub at: Moment,
}

/// What the session has of [`Pins::ASKED`], in that order.
///
/// The client's search path is in force: whose operators are meant must be said. What is temporary depends on its schema.
const LEFT: &[u8] = b"SELECT EXISTS (SELECT FROM pg_catalog.pg_listening_channels()), \
    EXISTS (SELECT FROM pg_catalog.pg_depend WHERE refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass \
    AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()), \
    EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory' \
    AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()), \
    EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable), \
    EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql OR NOT pg_catalog.starts_with(name, 'weir_'))";

/// A name, and its value now; `None` where it has that of a fresh session.
type Changes = Vec<(Box<[u8]>, Option<Box<[u8]>>)>;

impl Client {
    /// Finds out what a lease has left in its session. The server connection goes back, or stays with the client that has left something there. False where it cannot
    /// be found out: the client's next server would not be what it believes.
    pub(super) async fn examine(&mut self, change: Change) -> bool {
        let Change { mut lease, examination, pin, is_certain, version, relistened, holds_ready, at } = change;
        let limit = lease.pool().upstream.times.load().settle;
        // What the proxy heard there for whoever had it before is not this client's.
        lease.server_mut().state.heard.clear();
        // As far as is known: only what the functions do was to be asked.
        let is_session = self.watch.pool.mode == PoolMode::Session;
        let leaves_nothing = !is_session && examination.is_empty() && pin.is_none() && relistened.is_none();
        let (worker, resets) = (Rc::clone(&self.worker), examination.resets);
        let finding = async {
            if is_session {
                let mut told = self.begin_again(lease.server_mut(), resets.now().rights).await?;
                self.take_heard(&mut lease, None, &mut told);
                return Ok((told, Some(lease), examination.pins));
            }
            let (mut told, pins) = self.find_out(lease.server_mut(), examination, is_certain, version).await?;
            let listens = pins.has(Pin::Sql(PinReason::Listen));
            // Who has ceased to listen may begin again like anybody.
            self.keeps_channels &= listens;
            if self.channels.is_none() && !listens {
                return Ok((told, Some(lease), pins));
            }
            let (lease, pins) = Box::pin(self.settle_channels(lease, pins, relistened, &mut told)).await?;
            Ok((told, lease, pins))
        };
        let found = worker.clock.within(limit, finding).await;
        let (mut told, lease, pins) = match found.unwrap_or(Err(Broken::TimedOut(limit))) {
            Ok(found) => found,
            Err(why) if leaves_nothing => {
                tracing::info!(%why, "a server connection broke while it was asked what its database's functions do, and is closed");
                (BytesMut::new(), None, Pins::default())
            }
            Err(why) => {
                tracing::info!(%why, "a server connection broke while it was asked what its client has left, and is closed");
                self.pin_slot = None;
                self.say_fault(&Fault::ServerLost, true).await;
                return false;
            }
        };
        match lease {
            Some(lease) if is_session || !pins.is_empty() => {
                self.kept = Some(Kept { pins, told: pin, resets });
                self.leased = Some((lease, First::Nothing, at));
            }
            rest => {
                self.pin_slot = None;
                if let Some(lease) = rest {
                    lease.give_back(now().max(at));
                }
            }
        }
        if holds_ready {
            self.catch_up().await;
        }
        let ending = self.take_news(&mut told, usize::MAX);
        if holds_ready {
            say::ready(&mut told, Status::Idle);
        }
        (told.is_empty() || self.flush().await && self.say(&told).await) && self.goes_on(ending).await
    }

    async fn find_out(
        &mut self,
        server: &mut Server,
        examination: Examination,
        is_certain: bool,
        version: u64,
    ) -> Result<(BytesMut, Pins), Broken> {
        let Examination { mut touched, pins, mut asks_for_pins, cleared, .. } = examination;
        let mut told = BytesMut::new();
        let mut is_certain = is_certain;
        self.learn_functions(server).await?;
        let (now, known) = self.watch.pool.functions.known();
        if version != now
            && let Some(known) = known
        {
            // It did not know of them.
            let traces = known.all();
            asks_for_pins |= traces.is_hidden;
            touched.get_or_insert_default().add(traces.into());
        }
        if let Some(touched) = touched {
            is_certain &= !touched.is_doubtful;
            let form = form(server);
            let touched = touched.as_of(|name| is_askable(name, form));
            told = Box::pin(self.learn_settings(server, &touched, is_certain)).await?;
        }
        let mut left = if is_certain { pins.without(cleared) } else { pins };
        if self.settings.size() > SETTINGS {
            left.add(Pin::Sql(PinReason::Setting));
        }
        if asks_for_pins {
            left = left.not_asked();
            let row = server.ask(LEFT).await?.map_err(Broken::Refused)?.into_iter().next().unwrap_or_default();
            for (reason, _) in Pins::ASKED.into_iter().zip(row).filter(|(_, value)| value.as_deref() == Some(b"t")) {
                left.add(Pin::Sql(reason));
            }
        }
        Ok((told, left))
    }

    /// Asks what the database's functions leave, where it is time to.
    async fn learn_functions(&self, server: &mut Server) -> Result<(), Broken> {
        let functions = &self.watch.pool.functions;
        let Some(turn) = functions.turn(now()) else { return Ok(()) };
        let upstream = &self.watch.pool.upstream;
        let times = upstream.times.load();
        if !times.follow_functions {
            functions.learn(&turn, Some(Known::default()), now());
            return Ok(());
        }
        let limit = times.settle / 2;
        // The server is to give up before the proxy does, for then its connection is lost.
        let asking = Box::pin(Known::ask(server, limit * 4 / 5));
        let answer = self.worker.clock.within(limit, asking).await.unwrap_or(Err(Broken::TimedOut(limit)));
        let (known, outcome) = match answer {
            Ok(Ok(known)) => (Some(known), Ok(())),
            Ok(Err(refusal)) => (None, Err(Broken::Refused(refusal))),
            Err(why) => (None, Err(why)),
        };
        functions.learn(&turn, known, now());
        match outcome {
            Ok(()) => Ok(()),
            Err(why) => {
                tracing::warn!(upstream = upstream.name, %why, "the server does not tell what its functions leave in a session");
                if matches!(why, Broken::Refused(_)) { Ok(()) } else { Err(why) }
            }
        }
    }

    /// Reads the settings and puts them down, at the client and at the server; what the client is to be told of them is the outcome.
    async fn learn_settings(&mut self, server: &mut Server, touched: &Touched, is_certain: bool) -> Result<BytesMut, Broken> {
        let (before, reported) = (Arc::clone(&server.state.settings), server.state.reported.clone());
        // What is hidden may have come behind what has been reset.
        let is_certain = is_certain && !touched.is_hidden;
        // What has been reset goes back to what the client began with: where it may have been undone, the server's list shows whether it has gone back.
        let began_with = |name: &[u8]| self.startup.get(name);
        let may_go_back = touched.resets_all || touched.all_reset().any(|name| began_with(name).is_some());
        let asks_all = touched.is_hidden || may_go_back && !is_certain;
        let is_told = |name: &[u8]| asks_all && !may_be_unlisted(name);
        // Where something may have been undone, what was set behind a reset has perhaps gone back.
        let is_set_since = |name: &[u8]| is_certain && touched.set.iter().any(|set| **set == *name);
        let has_gone_back = |name: &[u8]| (touched.resets_all || touched.all_reset().any(|reset| **reset == *name)) && !is_set_since(name);
        let set = touched.set.iter().filter(|name| !(has_gone_back(name) && is_told(name)));
        let mut names: Vec<Box<[u8]>> = set.cloned().collect();
        if !is_certain {
            let others = touched.reset.iter().chain(&touched.set_before);
            names.extend(others.filter(|name| !is_told(name)).cloned());
        }
        let (mut in_force, mut hidden_back) = ((*before).clone(), Vec::new());
        if touched.resets_all && is_certain {
            in_force = if touched.resets_rights { Settings::default() } else { before.rights() };
        }
        if asks_all {
            let listed = ask_all(server).await?;
            let is_unlisted = |name: &[u8]| !listed.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
            let unlisted = || before.iter().filter(|setting| is_unlisted(&setting.name)).map(|setting| &setting.name);
            let gone: Changes = unlisted().filter(|name| !may_be_unlisted(name)).map(|name| (name.clone(), None)).collect();
            // Whatever has reset them, it was not said where it could be read.
            hidden_back.extend(gone.iter().map(|(name, _)| name.clone()));
            names.extend(unlisted().filter(|name| name.contains(&b'.')).cloned().chain(RIGHTS.map(|name| Box::from(name.as_bytes()))));
            in_force = in_force.changed(gone).changed(listed);
        }
        let values = read(server, &names).await?;
        let is_back = |(name, value): &(Box<[u8]>, Option<Box<[u8]>>)| {
            name.contains(&b'.') && has_gone_back(name) && value.as_ref().is_some_and(|value| value.is_empty())
        };
        let is_gone = |change: &_| self.is_own(change) || is_back(change);
        in_force = in_force.changed(values.into_iter().map(|change| if is_gone(&change) { (change.0, None) } else { change }));
        let mut wanted = in_force.clone();
        if touched.resets_all {
            // What the client began with the server did not.
            let began = if touched.resets_rights { (*self.startup).clone() } else { self.startup.own() };
            wanted = began.changed(in_force.iter().map(|setting| (setting.name.clone(), Some(setting.value.clone()))));
        }
        let resets = || touched.all_reset().filter(|name| has_gone_back(name));
        if is_certain {
            in_force = in_force.changed(resets().map(|name| (name.clone(), None)));
        }
        let back = resets().filter(|name| in_force.get(name).is_none());
        wanted = wanted.changed(back.chain(&hidden_back).map(|name| (name.clone(), began_with(name).map(Box::from))).collect::<Changes>());
        if touched.is_hidden {
            // Settings of a program's own are in no list: whatever their names are, they end here.
            server.run(b"RESET ALL").await?.map_err(Broken::Refused)?;
            in_force = in_force.rights();
        }
        let shared = &self.watch.pool.settings;
        server.state.settings = if in_force == *before { before } else { shared.share(in_force) };
        self.settings = if wanted == *server.state.settings { Arc::clone(&server.state.settings) } else { shared.share(wanted) };
        self.watch.set_settings(&self.settings);
        self.go_on_to(server, &self.settings, &reported).await
    }

    /// Whether the session has the rights of who has logged in, as far as this setting says.
    fn is_own(&self, (name, value): &(Box<[u8]>, Option<Box<[u8]>>)) -> bool {
        match (&*name.to_ascii_lowercase(), value.as_deref()) {
            (b"role", Some(value)) => value == b"none",
            (b"session_authorization", Some(value)) => value == &*self.watch.pool.login.load().user,
            _ => false,
        }
    }

    /// In a session pool: what the client began with is in force again where it has reset it, for that went back to what the server connection began with. What it is to
    /// be told of that is the outcome.
    async fn begin_again(&mut self, server: &mut Server, with_rights: bool) -> Result<BytesMut, Broken> {
        let reported = server.state.reported.clone();
        let mut set = ask_all(server).await?;
        let unlisted: Vec<_> =
            self.startup.iter().filter(|setting| setting.name.contains(&b'.')).map(|setting| setting.name.clone()).collect();
        set.extend(read(server, &unlisted).await?.into_iter().filter(|(_, value)| value.as_ref().is_some_and(|value| !value.is_empty())));
        let names = |settings: Settings| settings.iter().map(|setting| setting.name.clone()).collect::<Vec<_>>();
        let mut reset = names(self.startup.own());
        reset.retain(|name| !set.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)));
        // Unless they have been set since.
        let rights = names(self.startup.rights());
        let lost_rights = with_rights && read(server, &rights).await?.iter().any(|change| self.is_own(change));
        let (shared, begins) = (&self.watch.pool.settings, self.startup.own());
        server.state.settings = shared.share(begins.changed(reset.into_iter().map(|name| (name, None))));
        let goal = if lost_rights { Arc::clone(&self.startup) } else { shared.share(begins) };
        let told = self.go_on_to(server, &goal, &reported).await?;
        server.state.settings = Arc::clone(&self.settings);
        Ok(told)
    }

    /// Where settings went back to what the server began with, they go on to what the client is to see; it is told what differs from what was `reported` to it.
    async fn go_on_to(&self, server: &mut Server, goal: &Arc<Settings>, reported: &Reported) -> Result<BytesMut, Broken> {
        let mut told = BytesMut::new();
        if Arc::ptr_eq(&server.state.settings, goal) {
            return Ok(told);
        }
        // What the server does not take the client hears when it next wants a server.
        if server.apply(goal).await?.is_ok() {
            for (name, value) in server.state.reported.iter().filter(|now| !reported.contains(now)) {
                say::parameter_status(&mut told, name, value);
            }
        }
        Ok(told)
    }
}

/// Whether a session may have it and `pg_settings` does not show it.
fn may_be_unlisted(name: &[u8]) -> bool {
    name.contains(&b'.') || sql::is_right(name)
}

/// In which form the server tells what is wanted in the database's encoding.
fn form(server: &Server) -> Form {
    let reported = |name: &[u8]| server.state.reported_value(name);
    if reported(b"client_encoding") == reported(b"server_encoding") { Form::Plain } else { Form::Hex }
}

/// Whether a setting of this name, as a client has written it, can be asked about: what is not ASCII has to be of the database's encoding.
fn is_askable(name: &[u8], form: Form) -> bool {
    name.is_ascii() || form == Form::Plain && std::str::from_utf8(name).is_ok()
}

/// All settings that the session has and a fresh one has not, as far as the server lists them.
async fn ask_all(server: &mut Server) -> Result<Changes, Broken> {
    let form = form(server);
    let sql = [
        b"SELECT name, ",
        &form.of(b"pg_catalog.current_setting(name)")[..],
        b" FROM pg_catalog.pg_settings WHERE source OPERATOR(pg_catalog.=) 'session' AND name OPERATOR(pg_catalog.!~) '^transaction_'",
    ];
    let rows = server.ask(&sql.concat()).await?.map_err(Broken::Refused)?;
    let pairs = rows.into_iter().filter_map(|row| <[_; 2]>::try_from(row).ok());
    Ok(pairs.filter_map(|[name, value]| Some((name?, value.and_then(|value| form.read(value))))).collect())
}

/// The values of these settings, in this order: reported, or asked for in one question.
async fn read(server: &mut Server, names: &[Box<[u8]>]) -> Result<Changes, Broken> {
    let form = form(server);
    let is_of_the_database = |value: &&[u8]| form == Form::Plain || value.is_ascii();
    let reported = |name: &[u8]| server.state.reported_value(name).filter(is_of_the_database).map(Box::from);
    let mut values: Changes = names.iter().map(|name| (name.clone(), reported(name))).collect();
    let mut asked: Vec<_> = values.iter_mut().filter(|(_, value)| value.is_none()).collect();
    if !asked.is_empty() {
        let sql = Settings::question(asked.iter().map(|(name, _)| &**name), form);
        let rows = server.ask(&sql).await?.map_err(Broken::Refused)?;
        for (asked, value) in asked.iter_mut().zip(rows.into_iter().next().unwrap_or_default()) {
            asked.1 = value.and_then(|value| form.read(value));
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::SERVER_NAME;

    #[test]
    fn the_proxys_own_statements_keep_nobody() {
        let pattern = [b"NOT pg_catalog.starts_with(name, '", SERVER_NAME, b"')"].concat();
        assert!(LEFT.windows(pattern.len()).any(|here| here == pattern));
    }
}
