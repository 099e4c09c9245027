//! A client of the proxy's own front door, through a pipe: it sends statements and reads what is answered, in text, whole.
//!
//! tokio-postgres is not used here: it asks for binary results and tells neither the command that was carried out nor a column's modifier, and callers of SQL over
//! HTTP are to hear all of that as the server says it. One line serves one request, or one transaction: nothing of one caller can be left for the next.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;

use bytes::{Buf, BytesMut};
use serde_json::Value;

use super::answer::{Answer, Column};
use super::caller::Caller;
use super::json;
use super::trouble::Trouble;
use crate::fault::Fault;
use crate::net::Io;
use crate::session::Worker;
use crate::session::door::let_in;
use crate::wire::read::Reader;
use crate::wire::scan::{Side, body_length};
use crate::wire::{Malformed, Status, message, say, sql};

/// Read at a time, in bytes: most answers are short, and room is cleared before it is read into.
const CHUNK: usize = 2 << 10;
const LARGE_CHUNK: usize = 32 << 10;

/// The most parameters that a statement can have: their number is two bytes long.
const MOST_PARAMETERS: usize = u16::MAX as usize;

/// A value for a statement's parameter, as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Parameter {
    /// Its type; 0 leaves that to the server.
    pub(super) oid: u32,
    /// Its text; none for NULL.
    pub(super) value: Option<String>,
}

/// A statement and its parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Statement {
    /// Its text.
    pub(super) sql: String,
    /// Its parameters, in order.
    pub(super) parameters: Vec<Parameter>,
}

impl Statement {
    /// A statement whose parameters come as JSON.
    pub(super) fn of(sql: &str, parameters: &[Value]) -> Self {
        let parameters = parameters.iter().map(|value| Parameter { oid: 0, value: json::parameter(value) }).collect();
        Self { sql: sql.to_owned(), parameters }
    }
}

impl From<&str> for Statement {
    fn from(sql: &str) -> Self {
        Self { sql: sql.to_owned(), parameters: Vec::new() }
    }
}

/// Statements as they go out: those of one batch, with a Sync behind the last.
#[derive(Debug, Default)]
pub(super) struct Batch {
    out: BytesMut,
    count: usize,
}

impl Batch {
    /// Adds a statement.
    ///
    /// # Errors
    /// A text that cannot be sent: a zero byte ends strings in the protocol, and there can be so many parameters.
    pub(super) fn add(&mut self, statement: &Statement) -> Result<(), Trouble> {
        if statement.sql.contains('\0') {
            return Err(Fault::BadRequest("the text of a statement cannot contain a zero byte".into()).into());
        }
        let parameters = &statement.parameters;
        // A server takes them, and then does not know what to do with them.
        if !parameters.is_empty() && sql::statements(statement.sql.as_bytes()).next().is_none() {
            return Err(Fault::BadRequest("an empty statement has no parameters".into()).into());
        }
        let count = u16::try_from(parameters.len());
        let count = count.map_err(|_| Fault::BadRequest(format!("a statement has at most {MOST_PARAMETERS} parameters")))?.to_be_bytes();
        let mut body = Vec::with_capacity(statement.sql.len() + 8 + parameters.len() * 4);
        body.push(0);
        body.extend_from_slice(statement.sql.as_bytes());
        body.push(0);
        body.extend_from_slice(&count);
        for parameter in parameters {
            body.extend_from_slice(&parameter.oid.to_be_bytes());
        }
        say::frame(&mut self.out, b'P', &body);
        body.clear();
        // Both names are empty, and all parameters come as text.
        body.extend_from_slice(&[0, 0, 0, 0]);
        body.extend_from_slice(&count);
        for Parameter { value, .. } in parameters {
            let length = value.as_ref().map_or(Ok(u32::MAX), |value| u32::try_from(value.len()));
            body.extend_from_slice(&length.unwrap_or(u32::MAX).to_be_bytes());
            body.extend_from_slice(value.as_deref().unwrap_or_default().as_bytes());
        }
        // All results as text.
        body.extend_from_slice(&[0, 0]);
        say::frame(&mut self.out, b'B', &body);
        say::frame(&mut self.out, b'D', b"P\0");
        say::frame(&mut self.out, b'E', &[0; 5]);
        self.count += 1;
        Ok(())
    }

    /// The same for several.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub(super) fn of<'s>(statements: impl IntoIterator<Item = &'s Statement>) -> Result<Self, Trouble> {
        let mut batch = Self::default();
        for statement in statements {
            batch.add(statement)?;
        }
        Ok(batch)
    }

    fn sealed(mut self) -> Vec<u8> {
        say::sync(&mut self.out);
        self.out.to_vec()
    }
}

/// A line into the proxy. Dropping it ends its session: what runs is cancelled, what is open is rolled back.
#[derive(Debug)]
pub(super) struct Line {
    io: Io,
    held: BytesMut,
    /// Whether the login is still to be answered.
    is_new: bool,
    /// How many statements are on their way.
    awaited: usize,
    /// What the session said last of its transaction.
    status: Status,
    /// Whether the session has ended.
    is_over: bool,
}

impl Line {
    /// A line of this caller's, with its first statements on their way already.
    ///
    /// # Errors
    /// Settings of the caller's that cannot be.
    pub(super) fn open(caller: Caller, batch: Batch, worker: &Rc<Worker>) -> Result<Self, Trouble> {
        let awaited = batch.count;
        let (side, startup, peer) = caller.into_client()?;
        let io = let_in(side, startup, batch.sealed(), peer, worker);
        Ok(Self { io, held: BytesMut::new(), is_new: true, awaited, status: Status::Idle, is_over: false })
    }

    /// What the session said last of its transaction.
    pub(super) fn status(&self) -> Status {
        self.status
    }

    /// Whether the session has ended, or is of no more use.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Sends a batch and reads its answers.
    ///
    /// Not cancel safe: a line that was dropped in the middle is of no more use.
    pub(super) async fn run(&mut self, batch: Batch, limit: usize) -> Result<Vec<Answer>, Trouble> {
        self.awaited = batch.count;
        self.exchange(batch.sealed(), limit).await
    }

    /// Reads the answers to what is on its way.
    ///
    /// Not cancel safe, as [`run`](Self::run).
    pub(super) async fn answers(&mut self, limit: usize) -> Result<Vec<Answer>, Trouble> {
        self.exchange(Vec::new(), limit).await
    }

    async fn exchange(&mut self, request: Vec<u8>, limit: usize) -> Result<Vec<Answer>, Trouble> {
        // Until all is read there is no telling where it stands.
        self.is_over = true;
        let mut rest = &request[..];
        let mut gathering =
            Gathering { answers: Vec::with_capacity(self.awaited), current: Answer::default(), trouble: None, length: 0, limit };
        loop {
            while let Some(kind) = self.whole()? {
                let length = usize::try_from(self.held.get_u32()).unwrap_or(usize::MAX) - 4;
                let body = self.held.split_to(length);
                if kind != b'Z' {
                    gathering.take(kind, &body)?;
                    continue;
                }
                self.status = body.first().copied().and_then(Status::read).unwrap_or(Status::Failed);
                if std::mem::take(&mut self.is_new) {
                    continue;
                }
                self.is_over = false;
                return gathering.done();
            }
            self.turn(&mut rest).await.map_err(|_| gathering.trouble.take().unwrap_or_else(Trouble::lost))?;
        }
    }

    /// The kind of the message at the front, taken off, if the message is whole.
    fn whole(&mut self) -> Result<Option<u8>, Trouble> {
        let Some(&[kind, a, b, c, d]) = self.held.first_chunk::<5>() else { return Ok(None) };
        let length = body_length(Side::Server, kind, [a, b, c, d]).map_err(|_| Trouble::lost())?;
        if self.held.len() < usize::try_from(length).unwrap_or(usize::MAX).saturating_add(5) {
            return Ok(None);
        }
        self.held.advance(1);
        Ok(Some(kind))
    }

    /// Sends what can be sent of `rest`, and reads once: a session that answers at length must be listened to while it is spoken to.
    async fn turn(&mut self, rest: &mut &[u8]) -> io::Result<()> {
        let before = self.held.len();
        self.held.resize(before + if before < CHUNK { CHUNK } else { LARGE_CHUNK }, 0);
        let (io, held) = (&mut self.io, &mut self.held);
        let read = poll_fn(|cx| {
            while !rest.is_empty() {
                match io.poll_send(cx, rest) {
                    Poll::Ready(Ok(sent)) => *rest = rest.get(sent..).unwrap_or_default(),
                    // Why it ended is what is read then.
                    Poll::Ready(Err(_)) => *rest = &[],
                    Poll::Pending => break,
                }
            }
            io.poll_read(cx, held.get_mut(before..).unwrap_or_default())
        })
        .await;
        self.held.truncate(before + read.as_ref().copied().unwrap_or(0));
        match read? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// Answers as they come in.
struct Gathering {
    answers: Vec<Answer>,
    current: Answer,
    /// The first thing that went wrong.
    trouble: Option<Trouble>,
    /// Bytes of rows so far.
    length: usize,
    limit: usize,
}

impl Gathering {
    /// # Errors
    /// What ends the line with it: an answer that is too long, or one that it cannot deal with.
    fn take(&mut self, kind: u8, body: &[u8]) -> Result<(), Trouble> {
        match kind {
            b'T' => self.current.columns = columns(body).map_err(|_| Trouble::lost())?,
            b'D' => {
                self.length += body.len();
                if self.length > self.limit {
                    return Err(Fault::TooLong { what: "answer", limit: self.limit }.into());
                }
                self.current.push(body);
            }
            b'C' => {
                self.current.tag = String::from_utf8_lossy(message::string(body).unwrap_or_default()).into_owned();
                self.answers.push(std::mem::take(&mut self.current));
            }
            // An empty statement.
            b'I' => self.answers.push(std::mem::take(&mut self.current)),
            b'E' => {
                let trouble = Trouble::read(body);
                self.trouble.get_or_insert(trouble);
            }
            b'G' | b'H' | b'W' => return Err(Fault::Unsupported("COPY over HTTP").into()),
            _ => {}
        }
        Ok(())
    }

    fn done(self) -> Result<Vec<Answer>, Trouble> {
        self.trouble.map_or(Ok(self.answers), Err)
    }
}

/// The columns that a RowDescription tells of.
fn columns(body: &[u8]) -> Result<Vec<Column>, Malformed> {
    let mut reader = Reader::new(body);
    let count = reader.u16()?;
    let mut columns = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let name = String::from_utf8_lossy(reader.string()?).into_owned();
        let (table, attribute, oid) = (reader.u32()?, reader.u16()?, reader.u32()?);
        let (size, modifier) = (reader.u16()?.cast_signed(), reader.u32()?.cast_signed());
        // The format: text, as it was asked for.
        reader.u16()?;
        columns.push(Column { name, table, attribute, oid, size, modifier });
    }
    reader.finish()?;
    Ok(columns)
}
