//! LISTEN follows its client: what it listens to when its transaction is done its pool's shared connection listens to for it, and its own server connection is free.
//!
//! A client that asks what it listens to, or wants to hear of less, is given a server connection that listens to the same first, so that the server answers as it
//! would; what is then left there is what it listens to. Notifications come outside of transactions only, and all that were sent before an answer come before it.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::BytesMut;

use super::client::Client;
use super::edit::Edit;
use super::end::Stop;
use super::phase::Phase;
use super::pins::{Pin, Pins};
use super::relay::Relay;
use crate::auth::random;
use crate::config::PoolMode;
use crate::fault::Fault;
use crate::pool::Lease;
use crate::pool::switchboard::{Channel, Ending, Found, Line, Operator, Orders, Subscription};
use crate::upstream::{Broken, Server, Settings};
use crate::wire::message;
use crate::wire::sql::{PinReason, quoted_name};
use crate::wire::{Status, say};

/// How often a client tries to join an operator that has just left.
const TRIES: u32 = 3;

/// What an idle client is told at a time, in bytes: the rest is kept once for all.
const AT_A_TIME: usize = 64 << 10;

/// ReadyForQuery outside of a transaction.
const READY: &[u8] = b"Z\0\0\0\x05I";

/// What the session listens to, and whether what was done in [`Relay::relisten`] has come to stay.
const LISTENS: &[u8] = b"SELECT pg_catalog.current_setting('pgweir.listening', true), channel \
    FROM (SELECT) AS one LEFT JOIN pg_catalog.pg_listening_channels() AS channel ON true";

/// Undone with what is done beside it.
const RELISTENED: &[u8] = b"SET pgweir.listening TO '1'; ";

const LISTEN: Pin = Pin::Sql(PinReason::Listen);

/// How a server connection has come to listen to what its client listens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relistened {
    /// For certain.
    Outside,
    /// In a transaction of the client's, which may have been undone.
    Inside,
}

/// What a lease needs beside whose client listens, or may have to hear of its settings before it hears that all is done.
#[derive(Debug, Default)]
pub struct Ears {
    /// The server connection listens to the same.
    pub(super) relistened: Option<Relistened>,
    /// What it was done for comes next.
    has_just_relistened: bool,
    /// The last ReadyForQuery has not been passed on yet.
    pub(super) holds_ready: bool,
    /// What is for the client, while it is collected.
    kept: Option<Vec<u8>>,
    /// A message that is not whole and may be a notification.
    cut: Vec<u8>,
    /// Bytes of the current message that are still to come.
    left: usize,
}

impl Ears {
    /// Whether these bytes for the client are kept back.
    pub(super) fn keeps(&mut self, bytes: &[u8]) -> bool {
        self.kept.as_mut().map(|kept| kept.extend_from_slice(bytes)).is_some()
    }

    /// What the proxy asks has failed: if that was to listen, the server connection does not.
    pub(super) fn failed(&mut self) {
        if self.has_just_relistened {
            self.relistened = None;
        }
    }

    /// The same bytes without what the shared connection tells of.
    fn without_doubles(&mut self, bytes: &[u8], channels: &BTreeSet<Channel>) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.cut);
        all.extend_from_slice(bytes);
        let (mut rest, mut out) = (&*all, Vec::with_capacity(all.len()));
        loop {
            let (passes, behind) = rest.split_at(self.left.min(rest.len()));
            out.extend_from_slice(passes);
            self.left -= passes.len();
            rest = behind;
            match (rest.first(), message::first(rest)) {
                (None, _) => break,
                (Some(b'A'), Some((notification, behind))) => {
                    if !is_of(notification, channels) {
                        out.extend_from_slice(notification);
                    }
                    rest = behind;
                }
                (Some(kind), None) if *kind == b'A' || rest.len() < 5 => {
                    self.cut = rest.to_vec();
                    break;
                }
                (Some(_), _) => {
                    let [_, a, b, c, d] = *rest.first_chunk::<5>().unwrap_or(&[0; 5]);
                    self.left = u32::from_be_bytes([a, b, c, d]) as usize + 1;
                }
            }
        }
        out
    }
}

/// Whether a NotificationResponse is of one of these channels.
fn is_of(notification: &[u8], channels: &BTreeSet<Channel>) -> bool {
    let body = notification.get(5..).unwrap_or_default();
    message::notification(body).is_ok_and(|(channel, _)| channels.contains(channel))
}

/// Whether a text may be about what its session listens to: LISTEN, UNLISTEN, `pg_listening_channels`, DISCARD.
fn is_about_channels(text: &[u8]) -> bool {
    [&b"listen"[..], b"discard"].iter().any(|word| text.windows(word.len()).any(|here| here.eq_ignore_ascii_case(word)))
}

/// How many of these bytes there are up to the end of the first message behind which a server is ready again; all where there is none.
fn first_batch(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let Some((whole, behind)) = message::first(rest) {
        if matches!(whole.first(), Some(b'S' | b'Q' | b'F')) {
            return bytes.len() - behind.len();
        }
        rest = behind;
    }
    bytes.len()
}

impl Relay<'_> {
    /// Whether the client's settings may have gone back to what the server connection began with, where the client began with others.
    #[inline]
    pub(super) fn goes_back(&self) -> bool {
        self.inspector.may_go_back() && !self.client.startup.is_empty()
    }

    /// What has come from the server for a client that listens: all that was notified before it must come before the end of it. One whose settings have gone back, and that
    /// was told so, is told before the end what they are from now on: in what it says next it goes by its encoding.
    #[cold]
    pub(super) fn answer_with_ears(&mut self, bytes: &[u8]) -> Result<bool, Stop> {
        self.ears.get_or_insert_default().kept = Some(Vec::new());
        let outcome = self.answer_as_it_is(bytes);
        let Some(ears) = self.ears.as_deref_mut() else { return outcome };
        let mut kept = ears.kept.take().unwrap_or_default();
        if let Some(subscription) = &self.client.channels {
            kept = ears.without_doubles(&kept, subscription.channels());
        }
        let waits = self.client.channels.is_some() || self.has_reported;
        if waits && matches!(outcome, Err(Stop::Examine)) && kept.ends_with(READY) {
            kept.truncate(kept.len() - READY.len());
            ears.holds_ready = true;
        }
        if !kept.is_empty()
            && let Err(stop) = self.send_to_client(&kept)
            && outcome.is_ok()
        {
            return Err(stop);
        }
        outcome
    }

    /// Whether the server connection may have to listen to what the client listens to before it gets these bytes, or some of them.
    #[cold]
    pub(super) fn speaks_of_channels(&mut self, bytes: &[u8]) -> bool {
        let Some(ears) = self.ears.as_deref_mut().filter(|_| self.client.channels.is_some()) else { return false };
        if ears.relistened == Some(Relistened::Outside) {
            ears.has_just_relistened = false;
            return false;
        }
        // What is copied is no text, and there may be much of it.
        !self.lease.server().state.owed.is_copying_in() && self.has_such(bytes)
    }

    /// Whether some of these bytes are about channels.
    fn has_such(&self, bytes: &[u8]) -> bool {
        is_about_channels(bytes) || self.runs_such(bytes)
    }

    /// Sends these bytes on batch by batch, up to one before which the server connection must listen to what the client listens to. It is made to, as soon as all before
    /// that is answered.
    #[cold]
    pub(super) fn forward_by_batches(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let mut rest = bytes;
        while !rest.is_empty() {
            // The rest of a long message is no head.
            let whole = if self.inspector.at_edge() { first_batch(rest) } else { rest.len() };
            let (batch, behind) = rest.split_at(whole);
            let is_ready = self.ears.as_mut().is_none_or(|ears| std::mem::take(&mut ears.has_just_relistened));
            if !is_ready && self.has_such(batch) {
                let owed = &self.lease.server().state.owed;
                let is_outside = !owed.has_open_batch() && !owed.is_copying_in() && !owed.is_skipping() && self.inspector.at_edge();
                if is_outside && owed.owes() {
                    self.edit.get_or_insert_with(Edit::spare).later = rest.to_vec();
                    return Ok(());
                }
                if is_outside && owed.status() != Status::Failed && self.lease.server().state.frames.at_edge() && self.to_server.is_empty()
                {
                    return self.relisten(rest);
                }
            }
            self.forward_as_it_is(batch)?;
            // What was put off, or is to be run again, has the rest behind it.
            match self.edit.as_deref_mut() {
                Some(edit) if edit.healing => {
                    edit.retry.extend_from_slice(behind);
                    return Ok(());
                }
                Some(edit) if !edit.later.is_empty() => {
                    edit.later.extend_from_slice(behind);
                    return Ok(());
                }
                _ => rest = behind,
            }
        }
        Ok(())
    }

    /// Whether a statement that was prepared before, and is run here, is about channels, or one calls a function that may be.
    fn runs_such(&self, mut bytes: &[u8]) -> bool {
        let (_, functions) = self.client.watch.pool.functions.known();
        let calls_such = |text: &[u8]| functions.as_ref().and_then(|known| known.traces(text)).is_some_and(|traces| traces.is_hidden);
        while let Some((whole, rest)) = message::first(bytes) {
            let is_such = match whole {
                [b'B', _, _, _, _, body @ ..] => {
                    let text = message::bind(body).map_or(&[][..], |(_, name)| self.client.text_of(name));
                    is_about_channels(text) || calls_such(text)
                }
                [b'Q' | b'P', _, _, _, _, body @ ..] => calls_such(body),
                _ => false,
            };
            if is_such {
                return true;
            }
            bytes = rest;
        }
        false
    }

    /// Has the server connection listen to what the client listens to; these bytes go out when it does.
    #[cold]
    pub(super) fn relisten(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let is_again = self.ears.as_ref().is_some_and(|ears| ears.relistened.is_some());
        let listening = self.client.channels.as_ref().map(|subscription| listen_to(subscription.channels())).unwrap_or_default();
        let text = if is_again {
            // The client may have gone back to a savepoint of before; or not, and then it may listen to less by now.
            let (head, tail) = (
                &b"DO $pgweir$ BEGIN IF pg_catalog.current_setting('pgweir.listening', true) IS DISTINCT FROM '1' THEN "[..],
                b" END IF; END $pgweir$",
            );
            [head, RELISTENED, &listening, tail].concat()
        } else {
            [RELISTENED, &listening].concat()
        };
        let mut out = BytesMut::new();
        say::query_bytes(&mut out, &text);
        let state = &mut self.lease.server_mut().state;
        state.dirty = true;
        let how = if state.owed.status() == Status::Idle { Relistened::Outside } else { Relistened::Inside };
        state.owed.sent(b'Q');
        if let Some(ears) = &mut self.ears {
            ears.relistened = Some(how);
            ears.has_just_relistened = true;
        }
        self.send_to_server(&out)?;
        self.run_after_answer(bytes);
        Ok(())
    }

    /// Whether the client, which is idle but keeps its server connection, is to hear of something.
    #[inline]
    pub(super) fn heed_news_of_channels(&self) -> Option<Stop> {
        let is_idle = || self.client.watch.timing().phase == Phase::Pinned && self.inspector.at_edge() && self.to_server.is_empty();
        (self.ears.is_some() && self.client.has_news() && is_idle()).then_some(Stop::Examine)
    }
}

impl Client {
    /// Whether what it listens to can be listened to for it.
    pub(super) fn shares_channels(&self) -> bool {
        let pool = &self.watch.pool;
        !self.keeps_channels && pool.mode != PoolMode::Session && pool.upstream.times.load().share_listen
    }

    /// Whether something has come for it by way of the shared connection.
    #[inline]
    pub(super) fn has_news(&self) -> bool {
        self.channels.as_ref().is_some_and(|subscription| subscription.inbox().has_news())
    }

    /// Writes what has come for it, about so many bytes at most; the outcome is why its session is over, if it is.
    pub(super) fn take_news(&mut self, out: &mut BytesMut, most: usize) -> Option<Ending> {
        let subscription = self.channels.as_ref()?;
        let (messages, ending) = subscription.inbox().take(most);
        let wanted = messages.iter().filter(|message| is_of(message, subscription.channels()));
        wanted.for_each(|message| out.extend_from_slice(message));
        self.watch.tenant.borrow().numbers.notifications.add(messages.len() as u64);
        ending
    }

    /// Tells an idle client what has come for it; false where its session is over.
    pub(super) async fn hear_idle(&mut self) -> bool {
        let mut news = BytesMut::new();
        let ending = self.take_news(&mut news, AT_A_TIME);
        self.unsent.extend_from_slice(&news);
        self.goes_on(ending).await
    }

    /// Ends the session of a client that will hear nothing more of what it listens to.
    pub(super) async fn goes_on(&mut self, ending: Option<Ending>) -> bool {
        match ending {
            None => true,
            Some(Ending::Lost) => {
                self.say_fault(&Fault::ServerLost, true).await;
                false
            }
            Some(Ending::Full) => {
                self.cut();
                false
            }
        }
    }

    /// Ends the session of a client that does not take what it listens to.
    pub(super) fn cut(&mut self) {
        tracing::info!(client = %self.watch.peer, "a client that does not take its notifications is cut");
        self.io.shutdown();
    }

    /// What a lease has left of channels is listened to for the client from now on, if it can be; its own server connection then listens to nothing that matters. `told`
    /// is what it is to hear. The outcome is the server connection, unless it is the shared one now, and what still pins it.
    pub(super) async fn settle_channels(
        &mut self,
        mut lease: Lease,
        mut pins: Pins,
        relistened: Option<Relistened>,
        told: &mut BytesMut,
    ) -> Result<(Option<Lease>, Pins), Broken> {
        self.take_heard(&mut lease, None, told);
        if self.channels.is_some() && !self.hears_in(lease.server()) {
            self.listen_alone(lease.server_mut()).await?;
            pins.add(LISTEN);
            return Ok((Some(lease), pins));
        }
        if relistened.is_none() && !pins.has(LISTEN) {
            return Ok((Some(lease), pins));
        }
        let (has_stayed, here) = ask_channels(lease.server_mut()).await?;
        self.take_heard(&mut lease, None, told);
        if relistened == Some(Relistened::Outside) || relistened == Some(Relistened::Inside) && has_stayed {
            self.keep_only(&here);
        }
        lease.server_mut().state.dirty |= !here.is_empty();
        let others = pins.but(LISTEN);
        let added: Vec<Channel> = here.into_iter().filter(|channel| !self.hears(channel)).collect();
        if added.is_empty() {
            self.keeps_channels = false;
            return Ok((Some(lease), others));
        }
        if !others.is_empty() || !self.shares_channels() {
            return Ok((Some(lease), pins));
        }
        for _ in 0..TRIES {
            let encoding: Channel = lease.server().state.reported_value(b"client_encoding").unwrap_or_default().into();
            let pool = Arc::clone(lease.pool());
            match pool.switchboard.find(new_mark, &encoding) {
                Found::Line(line) if line.encoding != encoding => break,
                Found::Line(line) => {
                    if self.join(&mut lease, line, &added, told).await? {
                        return Ok((Some(lease), others));
                    }
                }
                // Those it has joined before are lost, which it is about to hear; or there would be too few left for work.
                Found::Vacant(..) if self.channels.is_some() || !lease.listens() => break,
                Found::Vacant(line, orders) => {
                    self.lend(lease, line, orders, added, told).await?;
                    return Ok((None, others));
                }
            }
        }
        self.keeps_channels = true;
        Ok((Some(lease), pins))
    }

    fn hears(&self, channel: &Channel) -> bool {
        self.channels.as_ref().is_some_and(|subscription| subscription.channels().contains(channel))
    }

    /// It listens to no channels any more but these.
    fn keep_only(&mut self, channels: &BTreeSet<Channel>) {
        let Some(subscription) = &mut self.channels else { return };
        let gone: Vec<Channel> = subscription.channels().difference(channels).cloned().collect();
        if !gone.is_empty() {
            subscription.leave(gone);
        }
        if subscription.channels().is_empty() {
            self.channels = None;
        }
    }

    /// What has come on its own server connection while the proxy asked something there, up to a mark.
    pub(super) fn take_heard(&self, lease: &mut Lease, mark: Option<(&Line, &[u8])>, told: &mut BytesMut) -> bool {
        let heard = std::mem::take(&mut lease.server_mut().state.heard);
        let mut rest = &*heard;
        while let Some((notification, behind)) = message::first(rest) {
            rest = behind;
            let Ok((channel, payload)) = message::notification(notification.get(5..).unwrap_or_default()) else { continue };
            if let Some((line, mark)) = mark
                && channel == &*line.mark
            {
                if payload == mark {
                    return true;
                }
                // Another client's.
                continue;
            }
            if !self.hears(&channel.into()) {
                told.extend_from_slice(notification);
            }
        }
        false
    }

    /// Joins an operator: false where it has left, or did not come to listen.
    async fn join(&mut self, lease: &mut Lease, line: Line, added: &[Channel], told: &mut BytesMut) -> Result<bool, Broken> {
        if self.channels.as_ref().is_none_or(|subscription| subscription.line().mark != line.mark) {
            if self.channels.is_some() {
                // It is about to hear that those it listens to are lost.
                return Ok(false);
            }
            self.channels = Some(Box::new(self.subscription(line.clone()).await));
        }
        let Some(subscription) = &mut self.channels else { return Ok(false) };
        let mark = lease.pool().switchboard.next_mark();
        let mut joined = subscription.ask(added, mark).await.is_ok();
        if joined {
            let mark = mark.to_string();
            let channel = quoted_name(&line.mark);
            let text = [b"LISTEN ".as_slice(), &channel, b"; NOTIFY ", &channel, b", '", mark.as_bytes(), b"'"].concat();
            joined = lease.server_mut().run(&text).await?.is_ok();
            let heard = self.take_heard(lease, Some((&line, mark.as_bytes())), told);
            joined &= heard;
            if !joined {
                // The client is not to hear of others' marks. In a transaction that has failed this has failed before.
                let _ = lease.server_mut().run(&[b"UNLISTEN ".as_slice(), &channel].concat()).await?;
            }
        }
        let Some(subscription) = &mut self.channels else { return Ok(false) };
        if joined {
            subscription.joined(added.iter().cloned());
            return Ok(true);
        }
        subscription.leave(added.to_vec());
        if subscription.channels().is_empty() {
            self.channels = None;
        }
        Ok(false)
    }

    /// Its own server connection becomes the shared one.
    async fn lend(
        &mut self,
        mut lease: Lease,
        line: Line,
        orders: Orders,
        channels: Vec<Channel>,
        told: &mut BytesMut,
    ) -> Result<(), Broken> {
        // Nothing of the client's is in force there any more but what decides how payloads are written.
        let encoding = lease.server().state.settings.get(b"client_encoding").map(Box::from);
        let only = Settings::default().changed(encoding.map(|encoding| (Box::from(&b"client_encoding"[..]), Some(encoding))));
        let server = lease.server_mut();
        server.apply(&Arc::new(only)).await?.map_err(Broken::Refused)?;
        server.run(&[b"LISTEN ".as_slice(), &quoted_name(&line.mark)].concat()).await?.map_err(Broken::Refused)?;
        self.take_heard(&mut lease, None, told);
        let mut subscription = self.subscription(line.clone()).await;
        subscription.joined(channels.iter().cloned());
        let operator = Operator::new(lease, orders, &line, &channels, subscription.inbox());
        self.channels = Some(Box::new(subscription));
        tracing::info!(upstream = self.watch.pool.upstream.name, "a server connection listens for all clients of its database and user");
        tokio::task::spawn_local(operator.serve());
        Ok(())
    }

    async fn subscription(&self, line: Line) -> Subscription {
        poll_fn(|cx| Poll::Ready(Subscription::new(line.clone(), cx.waker().clone()))).await
    }

    /// Whether the shared connection sends payloads as the client reads them.
    fn hears_in(&self, server: &Server) -> bool {
        let encoding = server.state.reported_value(b"client_encoding").unwrap_or_default();
        self.channels.as_ref().is_none_or(|subscription| *encoding == *subscription.line().encoding)
    }

    /// A client that has come to another encoding listens by its own server connection from now on. What is notified just now may come twice.
    async fn listen_alone(&mut self, server: &mut Server) -> Result<(), Broken> {
        let Some(subscription) = &self.channels else { return Ok(()) };
        server.run(&listen_to(subscription.channels())).await?.map_err(Broken::Refused)?;
        self.channels = None;
        self.keeps_channels = true;
        Ok(())
    }

    /// All that was notified until now comes before what is said next.
    pub(super) async fn catch_up(&self) {
        let Some(subscription) = &self.channels else { return };
        let worker = Rc::clone(&self.worker);
        let limit = self.watch.pool.upstream.times.load().settle;
        // A server that does not answer has other troubles, and its client hears of them.
        let _ = worker.clock.within(limit, subscription.catch_up()).await;
    }
}

fn listen_to(channels: &BTreeSet<Channel>) -> Vec<u8> {
    channels.iter().flat_map(|channel| [b"LISTEN ".as_slice(), &quoted_name(channel), b";"].concat()).collect()
}

/// Whether what was done in [`Relay::relisten`] has stayed, and to what the session listens.
async fn ask_channels(server: &mut Server) -> Result<(bool, BTreeSet<Channel>), Broken> {
    let rows = server.ask(LISTENS).await?.map_err(Broken::Refused)?;
    let has_stayed = rows.first().and_then(|row| row.first()).is_some_and(|value| value.as_deref() == Some(b"1"));
    let channels = rows.into_iter().filter_map(|mut row| row.pop().flatten()).collect();
    Ok((has_stayed, channels))
}

/// A channel that nobody else notifies.
fn new_mark() -> Channel {
    let number = random::<16>().map_or_else(|_| std::process::id().into(), u128::from_be_bytes);
    format!("pgweir.{number:032x}").into_bytes().into()
}
