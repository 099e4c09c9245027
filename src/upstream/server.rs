//! One server connection as a pool has it: its socket, its account, its settings.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;

use super::broken::{Broken, ServerError};
use super::login::{Card, Fresh, Reported};
use super::owed::Owed;
use super::prepared::Prepared;
use super::settings::Settings;
use crate::net::{Io, Moment, Portable};
use crate::wire::message;
use crate::wire::say;
use crate::wire::scan::{Frames, Side};
use crate::wire::sqlstate;

/// How often a question is asked that the server cancels.
const TRIES: u32 = 3;

/// Everything of a server connection but its socket.
#[derive(Debug)]
pub struct State {
    /// Which answers are still to come.
    pub owed: Owed,
    /// Where the scanner stands in what the server sends.
    pub frames: Frames,
    /// Who it is, for cancels.
    pub card: Arc<Card>,
    /// What it has reported of its settings, as far as was seen.
    pub reported: Reported,
    /// The client's settings that are in force on it.
    pub settings: Arc<Settings>,
    /// The statements that are prepared on it.
    pub prepared: Prepared,
    /// A client has done something to the session that the next must not find: it must be reset first.
    pub dirty: bool,
    /// What its errors have shown since somebody looked.
    pub signs: Signs,
    /// When it was last given back.
    pub last_used: Moment,
    /// The notifications that have come among the answers to questions of the proxy's own, whole messages one after the other.
    pub heard: Vec<u8>,
}

/// What the errors of a server have shown.
#[derive(Debug, Clone, Copy, Default)]
pub struct Signs {
    /// It has refused to write: it may be a standby.
    pub refused_a_write: bool,
    /// Something was cancelled, so that whoever asked for it is not served.
    pub was_cancelled: bool,
    /// It ends the session: nobody is to have it after this.
    pub ends: bool,
}

/// A server connection of this thread's runtime.
#[derive(Debug)]
pub struct Server {
    /// The connection.
    pub io: Io,
    /// All else.
    pub state: Box<State>,
}

/// What an idle connection has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// Nothing that matters.
    Quiet,
    /// A setting has another value now.
    Changed,
    /// It is of no more use.
    Ended,
}

/// A server connection on its way to another thread.
#[derive(Debug)]
pub struct Travelling {
    portable: Portable,
    state: Box<State>,
}

impl Travelling {
    /// Takes a connection that was just opened out of its runtime.
    pub fn fresh(fresh: Fresh, now: Moment) -> io::Result<Self> {
        let state = State {
            owed: Owed::default(),
            frames: Frames::default(),
            card: Arc::new(fresh.card),
            reported: fresh.reported,
            settings: Arc::default(),
            prepared: Prepared::default(),
            dirty: false,
            signs: Signs::default(),
            last_used: now,
            heard: Vec::new(),
        };
        Ok(Self { portable: fresh.io.into_portable()?, state: Box::new(state) })
    }

    /// Who it is.
    pub fn card(&self) -> &Arc<Card> {
        &self.state.card
    }

    /// Arrives in this thread's runtime.
    pub fn arrive(self) -> io::Result<Server> {
        Ok(Server { io: self.portable.into_io()?, state: self.state })
    }
}

impl Server {
    /// Leaves this thread's runtime.
    pub fn travel(self) -> io::Result<Travelling> {
        Ok(Travelling { portable: self.io.into_portable()?, state: self.state })
    }

    /// Deals with what an idle connection may have been sent (G2). Costs no system call when nothing has come.
    pub fn look_after(&mut self, scratch: &mut [u8]) -> Sign {
        let mut sign = Sign::Quiet;
        while self.io.poll_readable_hint() {
            match self.io.poll_read(&mut Context::from_waker(Waker::noop()), scratch) {
                Poll::Pending => return sign,
                Poll::Ready(Ok(count)) if count > 0 => match self.note(scratch.get(..count).unwrap_or_default()) {
                    Sign::Quiet => {}
                    Sign::Changed => sign = Sign::Changed,
                    Sign::Ended => return Sign::Ended,
                },
                Poll::Ready(_) => return Sign::Ended,
            }
        }
        sign
    }

    /// What came while nothing was asked: settings are noted; an error or an answer means the end.
    fn note(&mut self, chunk: &[u8]) -> Sign {
        let mut sign = Sign::Quiet;
        let mut walk = self.state.frames.walk(Side::Server, chunk);
        while let Ok(Some(frame)) = walk.next() {
            match frame.kind {
                b'S' if frame.is_whole() => {
                    note_reported(&mut self.state.reported, frame.body);
                    sign = Sign::Changed;
                }
                b'S' | b'N' | b'A' => {}
                _ => return Sign::Ended,
            }
        }
        // A message that goes on: whoever takes the connection next would begin in its middle.
        if self.state.frames.at_edge() { sign } else { Sign::Ended }
    }

    /// Runs a command of the proxy's own and reads its whole answer; what the server said no to is in the inner result.
    ///
    /// Not cancel safe: a dropped future leaves the answer on its way.
    pub async fn run(&mut self, sql: &[u8]) -> Result<Result<(), ServerError>, Broken> {
        self.send_query(sql).await?;
        let (_, outcome) = self.whole_answer().await?;
        Ok(outcome)
    }

    /// The same, again where it was cancelled: a cancel of what ran before it may come late, and the session's own `statement_timeout` may be short.
    ///
    /// Not cancel safe, as `run`.
    pub async fn run_surely(&mut self, sql: &[u8]) -> Result<Result<(), ServerError>, Broken> {
        let mut tries = TRIES;
        loop {
            match self.run(sql).await? {
                Err(refusal) if tries > 1 && refusal.is(sqlstate::QUERY_CANCELED) => tries -= 1,
                outcome => return Ok(outcome),
            }
        }
    }

    /// The same for a question: the rows that it answers, each value as text.
    ///
    /// Not cancel safe, as `run`.
    pub async fn ask(&mut self, sql: &[u8]) -> Result<Result<Vec<Vec<Option<Box<[u8]>>>>, ServerError>, Broken> {
        let mut tries = TRIES;
        loop {
            match self.ask_once(sql).await? {
                // The session's own `statement_timeout` may be shorter than a busy server takes to answer.
                Err(refusal) if tries > 1 && refusal.is(sqlstate::QUERY_CANCELED) => tries -= 1,
                outcome => return Ok(outcome),
            }
        }
    }

    /// The same, with one try.
    ///
    /// Not cancel safe, as `run`.
    pub(super) async fn ask_once(&mut self, sql: &[u8]) -> Result<Result<Vec<Vec<Option<Box<[u8]>>>>, ServerError>, Broken> {
        self.send_query(sql).await?;
        let (answer, outcome) = self.whole_answer().await?;
        if let Err(refusal) = outcome {
            return Ok(Err(refusal));
        }
        let mut rows = Vec::new();
        let mut frames = Frames::default();
        let mut walk = frames.walk(Side::Server, &answer);
        while let Some(frame) = walk.next()? {
            if frame.kind == b'D' {
                rows.push(message::row(frame.body)?.into_iter().map(|value| value.map(Box::from)).collect());
            }
        }
        Ok(Ok(rows))
    }

    async fn send_query(&mut self, sql: &[u8]) -> io::Result<()> {
        let mut out = BytesMut::new();
        say::query_bytes(&mut out, sql);
        self.io.write_all(&out).await?;
        self.state.owed.sent(b'Q');
        Ok(())
    }

    /// Sends a command of the proxy's own, whose answer [`poll_messages`](Self::poll_messages) reads.
    pub async fn send(&mut self, sql: &[u8]) -> Result<(), Broken> {
        Ok(self.send_query(sql).await?)
    }

    /// Reads once, and hands out each message, head and body, that is whole now; what is not is kept in `cut` until the next time.
    pub fn poll_messages(&mut self, cx: &mut Context<'_>, cut: &mut Vec<u8>, mut each: impl FnMut(&[u8])) -> Poll<Result<(), Broken>> {
        let mut chunk = [0; 4096];
        let count = std::task::ready!(self.io.poll_read(cx, &mut chunk))?;
        let read = chunk.get(..count).filter(|read| !read.is_empty()).ok_or(Broken::Closed)?;
        self.state.account_for(read, |_| {})?;
        cut.extend_from_slice(read);
        let mut rest = &**cut;
        while let Some((message, behind)) = message::first(rest) {
            each(message);
            rest = behind;
        }
        let done = cut.len() - rest.len();
        cut.drain(..done);
        Poll::Ready(Ok(()))
    }

    /// Reads until nothing is owed and keeps it all: the answer to a question of the proxy's own, which is short.
    async fn whole_answer(&mut self) -> Result<(Vec<u8>, Result<(), ServerError>), Broken> {
        let mut answer = Vec::new();
        let outcome = self.read_answer(|bytes| answer.extend_from_slice(bytes)).await?;
        let mut rest = &*answer;
        while let Some((message, behind)) = message::first(rest) {
            if message.first() == Some(&b'A') {
                self.state.heard.extend_from_slice(message);
            }
            rest = behind;
        }
        Ok((answer, outcome))
    }

    /// Reads and drops until nothing is owed or the server waits for COPY data, from wherever in a message the last reader stopped; the last error on the way is in the
    /// inner result.
    ///
    /// Cancel safe in that the account stays true; what was read is gone.
    pub async fn finish(&mut self) -> Result<Result<(), ServerError>, Broken> {
        self.read_answer(|_| {}).await
    }

    async fn read_answer(&mut self, mut keep: impl FnMut(&[u8])) -> Result<Result<(), ServerError>, Broken> {
        let (mut outcome, mut ends) = (Ok(()), false);
        let mut chunk = vec![0; 8192];
        while self.state.owed.owes() && !self.state.owed.is_copying_in() || !self.state.frames.at_edge() {
            let count = self.io.read(&mut chunk).await?;
            if count == 0 {
                return Err(Broken::Closed);
            }
            let read = chunk.get(..count).unwrap_or_default();
            keep(read);
            self.state.account_for(read, |refusal| {
                ends |= refusal.fields().is_fatal();
                outcome = Err(refusal);
            })?;
            if ends {
                // Also where all is answered: these were its last words, perhaps right behind the answer.
                return Err(Broken::Closed);
            }
        }
        Ok(outcome)
    }

    /// Puts these settings in force, where they are not. Where they cannot be because of what is in force now, the connection is broken.
    ///
    /// Not cancel safe, as `run`.
    pub async fn apply(&mut self, settings: &Arc<Settings>) -> Result<Result<(), ServerError>, Broken> {
        if Arc::ptr_eq(&self.state.settings, settings) {
            return Ok(Ok(()));
        }
        let query = Settings::transition(&self.state.settings, settings);
        if !query.is_empty()
            && let Err(refusal) = self.run_surely(&query).await?
        {
            // The `statement_timeout` of whoever had it before is no fault of these settings.
            return if refusal.is(sqlstate::QUERY_CANCELED) { Err(Broken::Refused(refusal)) } else { Ok(Err(refusal)) };
        }
        self.state.settings = Arc::clone(settings);
        Ok(Ok(()))
    }

    /// Takes back everything that clients have done to the session.
    ///
    /// Not cancel safe, as `run`.
    pub async fn reset(&mut self) -> Result<Result<(), ServerError>, Broken> {
        let outcome = self.run_surely(b"DISCARD ALL").await?;
        self.state.heard = Vec::new();
        if outcome.is_ok() {
            self.state.settings = Arc::default();
            self.state.prepared.clear();
            self.state.dirty = false;
        }
        Ok(outcome)
    }
}

impl State {
    /// Takes note of what has come from the server.
    fn account_for(&mut self, chunk: &[u8], mut refused: impl FnMut(ServerError)) -> Result<(), Broken> {
        let Self { frames, owed, reported, .. } = self;
        let mut walk = frames.walk(Side::Server, chunk);
        while let Some(frame) = walk.next()? {
            // Whoever kept notes has left; what they were for goes with the reset that this session gets.
            let _ = owed.received(frame.kind, frame.status);
            match frame.kind {
                b'S' if frame.is_whole() => note_reported(reported, frame.body),
                b'E' => refused(ServerError::new(frame.body)),
                _ => {}
            }
        }
        Ok(())
    }

    /// The value that the server has reported of a setting.
    pub fn reported_value(&self, name: &[u8]) -> Option<&[u8]> {
        self.reported.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }
}

/// Takes a ParameterStatus into what a server has reported.
pub fn note_reported(reported: &mut Reported, body: &[u8]) {
    let Ok((name, value)) = message::parameter_status(body) else { return };
    match reported.iter_mut().find(|(known, _)| **known == *name) {
        Some((_, old)) if **old == *value => {}
        Some((_, old)) => *old = value.into(),
        None => reported.push((name.into(), value.into())),
    }
}
