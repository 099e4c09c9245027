//! One visitor's session: the protocol, simple and extended, as far as commands need it.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use bytes::BytesMut;

use super::Steward;
use super::complaint::Complaint;
use super::show::{SHOWS, Show, View};
use super::steer::carry_out;
use super::table::{Column, Formats, Kind, Row, data, describe};
use super::words::{Command, commands};
use crate::net::{Io, Peer, now};
use crate::session::{Role, Visit};
use crate::wire::scan::{Side, body_length};
use crate::wire::{Status, message, say, sqlstate};

/// The longest message that is read; commands are short.
const LONGEST: usize = 64 << 10;

/// A visitor that has been silent for so long is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_mins(1);

/// What a visitor is told of itself, as of any PostgreSQL. The version is the proxy's, in PgBouncer's form.
const REPORTED: [(&str, &str); 8] = [
    ("server_version", concat!(env!("CARGO_PKG_VERSION"), "/pgweir")),
    ("server_encoding", "UTF8"),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("TimeZone", "UTC"),
    ("integer_datetimes", "on"),
    ("standard_conforming_strings", "on"),
    ("is_superuser", "off"),
];

/// Tells one visitor too many so.
pub(super) async fn turn_away(visit: Visit) -> io::Result<()> {
    let mut out = BytesMut::new();
    Complaint::too_many().say(&mut out, "FATAL");
    visit.io.into_io()?.write_all(&out).await
}

/// Serves one visitor until it leaves.
pub(super) async fn receive(visit: Visit, steward: &dyn Steward) -> io::Result<()> {
    let Visit { io, rest, user, peer, role } = visit;
    let io = io.into_io()?;
    // One that has vanished without a word must not keep its place for ever. A socket that does not take the option ends soon anyway.
    let _ = io.set_keepalive(KEEPALIVE, KEEPALIVE / 6, 3);
    let mut session =
        Session { io, held: BytesMut::from(&rest[..]), out: BytesMut::new(), steward, user, peer, role, extended: Extended::default() };
    say::authentication_ok(&mut session.out);
    for (name, value) in REPORTED {
        say::parameter_status(&mut session.out, name.as_bytes(), value.as_bytes());
    }
    // Nothing here runs long but what waits, and what waits ends with its connection: a cancel has nothing to do.
    say::backend_key(&mut session.out, 0, &[0; 4]);
    say::ready(&mut session.out, Status::Idle);
    session.flush().await?;
    while let Some((kind, body)) = session.message().await? {
        if !session.answer(kind, &body).await? {
            break;
        }
    }
    Ok(())
}

struct Session<'s> {
    io: Io,
    held: BytesMut,
    out: BytesMut,
    steward: &'s dyn Steward,
    user: String,
    peer: Peer,
    role: Role,
    extended: Extended,
}

/// Where the extended protocol stands.
#[derive(Default)]
struct Extended {
    statements: HashMap<Vec<u8>, Option<Command>>,
    portals: HashMap<Vec<u8>, Portal>,
    /// What comes up to the next Sync is dropped.
    is_failed: bool,
}

struct Portal {
    command: Option<Command>,
    formats: Formats,
    /// Its rows, once it has been executed.
    rows: Option<VecDeque<Row>>,
}

impl Session<'_> {
    async fn flush(&mut self) -> io::Result<()> {
        let out = self.out.split();
        self.io.write_all(&out).await
    }

    /// The next whole message; none at the end.
    async fn message(&mut self) -> io::Result<Option<(u8, BytesMut)>> {
        loop {
            if let Some(&[kind, a, b, c, d]) = self.held.first_chunk::<5>() {
                let length = body_length(Side::Client, kind, [a, b, c, d]).map_or(usize::MAX, |length| length as usize);
                if length > LONGEST {
                    Complaint::malformed().say(&mut self.out, "FATAL");
                    self.flush().await?;
                    return Ok(None);
                }
                if self.held.len() >= length + 5 {
                    let mut message = self.held.split_to(length + 5);
                    return Ok(Some((kind, message.split_off(5))));
                }
            }
            let mut chunk = [0; 1024];
            let count = self.io.read(&mut chunk).await?;
            if count == 0 {
                return Ok(None);
            }
            self.held.extend_from_slice(&chunk[..count]);
        }
    }

    /// Answers one message; false where it was the last.
    async fn answer(&mut self, kind: u8, body: &[u8]) -> io::Result<bool> {
        match kind {
            b'X' => return Ok(false),
            b'Q' => {
                self.query(body).await?;
                say::ready(&mut self.out, Status::Idle);
            }
            b'S' => {
                self.extended.is_failed = false;
                say::ready(&mut self.out, Status::Idle);
            }
            b'H' => {}
            _ if self.extended.is_failed => return Ok(true),
            _ => {
                if let Err(complaint) = self.extend(kind, body).await? {
                    complaint.say(&mut self.out, "ERROR");
                    self.extended.is_failed = true;
                }
            }
        }
        // What belongs to a batch is told with its Sync, as a server does.
        if matches!(kind, b'Q' | b'S' | b'H') || self.extended.is_failed {
            self.flush().await?;
        }
        Ok(true)
    }

    async fn query(&mut self, body: &[u8]) -> io::Result<()> {
        let text = String::from_utf8_lossy(message::query(body).unwrap_or_default()).into_owned();
        let all = match commands(&text) {
            Ok(all) => all,
            Err(complaint) => {
                complaint.say(&mut self.out, "ERROR");
                return Ok(());
            }
        };
        if all.is_empty() {
            say::frame(&mut self.out, b'I', &[]);
        }
        for command in &all {
            if let Some(columns) = columns(command) {
                describe(&mut self.out, &columns, &Formats::default());
            }
            match self.run(command).await? {
                Ok(rows) => self.tell(command, &Formats::default(), rows.into_iter()),
                Err(complaint) => {
                    complaint.say(&mut self.out, "ERROR");
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Says all rows, and that the command was carried out.
    fn tell(&mut self, command: &Command, formats: &Formats, rows: impl Iterator<Item = Row>) {
        if let Some(columns) = columns(command) {
            for row in rows {
                data(&mut self.out, &columns, &row, formats);
            }
        }
        say::complete(&mut self.out, tag(command));
    }

    /// Carries out a command: its rows. While it waits, the client is watched: with its end the wait ends.
    async fn run(&mut self, command: &Command) -> io::Result<Result<Vec<Row>, Complaint>> {
        match command {
            Command::Show(show) => return Ok(Ok(self.rows(show).await)),
            Command::Setting(_, value) => return Ok(Ok(vec![vec![(*value).into()]])),
            Command::Help => {
                self.help();
                return Ok(Ok(Vec::new()));
            }
            Command::Nothing(_) => return Ok(Ok(Vec::new())),
            _ => {}
        }
        if self.role != Role::Admin {
            return Ok(Err(Complaint::not_allowed()));
        }
        let (what, about) = (tag(command), about(command));
        tracing::info!(user = self.user, client = %self.peer, command = what, about, "a command on the admin database");
        let Self { io, held, steward, .. } = self;
        let mut work = pin!(carry_out(command, *steward));
        poll_fn(|cx| {
            if let Poll::Ready(outcome) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(outcome.map(|()| Vec::new())));
            }
            let mut chunk = [0; 1024];
            while held.len() < LONGEST {
                match io.poll_read(cx, &mut chunk) {
                    Poll::Ready(Ok(count)) if count > 0 => held.extend_from_slice(&chunk[..count]),
                    Poll::Ready(Ok(_)) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => break,
                }
            }
            Poll::Pending
        })
        .await
    }

    async fn rows(&self, show: &Show) -> Vec<Row> {
        let house = self.steward.house();
        let clients = if show.counts_clients { house.census().await } else { Vec::new() };
        let at = now();
        let servers = house.upstreams().iter().flat_map(|upstream| upstream.servers(at)).collect();
        let view = View {
            house: house.clone(),
            snapshot: self.steward.snapshot(),
            clients,
            servers,
            period: self.steward.period(),
            now: SystemTime::now(),
        };
        (show.rows)(&view)
    }

    /// As PgBouncer: a notice with the commands.
    fn help(&mut self) {
        let names: Vec<String> = SHOWS.iter().map(|show| show.name.to_uppercase()).collect();
        let lines = [
            format!("\n\tSHOW HELP|{}", names.join("|")),
            "SET path.of.a.setting = value".into(),
            "RELOAD".into(),
            "PAUSE [<db>]".into(),
            "RESUME [<db>]".into(),
            "DISABLE <db>".into(),
            "ENABLE <db>".into(),
            "RECONNECT [<db>]".into(),
            "WAIT_CLOSE [<db>]".into(),
            "KILL [<db>]".into(),
            "KILL_CLIENT <client_id>".into(),
            "DRAIN".into(),
            "SHUTDOWN [WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS]".into(),
        ];
        let fields = [(b'S', "NOTICE"), (b'V', "NOTICE"), (b'C', sqlstate::SUCCESSFUL_COMPLETION), (b'M', "Console usage")];
        let mut fields: Vec<(u8, String)> = fields.into_iter().map(|(field, text)| (field, text.to_owned())).collect();
        fields.push((b'D', lines.join("\n\t")));
        say::notice(&mut self.out, fields);
    }

    async fn extend(&mut self, kind: u8, body: &[u8]) -> io::Result<Result<(), Complaint>> {
        Ok(match kind {
            b'P' => self.parse(body),
            b'B' => self.bind(body),
            b'D' => self.describe(body),
            b'E' => return self.execute(body).await,
            b'C' => self.close(body),
            _ => Err(Complaint::malformed()),
        })
    }

    fn parse(&mut self, body: &[u8]) -> Result<(), Complaint> {
        let (name, text) = message::parse(body).map_err(|_| Complaint::malformed())?;
        let mut all = commands(&String::from_utf8_lossy(text))?;
        if all.len() > 1 {
            return Err(Complaint::wrong("cannot insert multiple commands into a prepared statement"));
        }
        self.extended.statements.insert(name.to_vec(), all.pop());
        say::frame(&mut self.out, b'1', &[]);
        Ok(())
    }

    fn bind(&mut self, body: &[u8]) -> Result<(), Complaint> {
        let (portal, statement) = message::bind(body).map_err(|_| Complaint::malformed())?;
        let formats = message::result_formats(body).map_err(|_| Complaint::malformed())?;
        let command = self.extended.statements.get(statement).cloned().ok_or_else(|| missing(statement))?;
        self.extended.portals.insert(portal.to_vec(), Portal { command, formats: Formats(formats), rows: None });
        say::frame(&mut self.out, b'2', &[]);
        Ok(())
    }

    fn describe(&mut self, body: &[u8]) -> Result<(), Complaint> {
        let (kind, name) = message::describe(body).map_err(|_| Complaint::malformed())?;
        let (command, formats) = if kind == b'S' {
            let command = self.extended.statements.get(name).ok_or_else(|| missing(name))?;
            // Nothing here has parameters.
            say::frame(&mut self.out, b't', &[0, 0]);
            (command.as_ref(), Formats::default())
        } else {
            let portal = self.extended.portals.get(name).ok_or_else(|| missing(name))?;
            (portal.command.as_ref(), portal.formats.clone())
        };
        match command.and_then(columns) {
            Some(columns) => describe(&mut self.out, &columns, &formats),
            None => say::frame(&mut self.out, b'n', &[]),
        }
        Ok(())
    }

    async fn execute(&mut self, body: &[u8]) -> io::Result<Result<(), Complaint>> {
        let Ok((name, most)) = message::execute(body) else { return Ok(Err(Complaint::malformed())) };
        let Some(mut portal) = self.extended.portals.remove(name) else { return Ok(Err(missing(name))) };
        let Some(command) = portal.command.clone() else {
            say::frame(&mut self.out, b'I', &[]);
            return Ok(Ok(()));
        };
        let mut rows = match portal.rows.take() {
            Some(rows) => rows,
            None => match self.run(&command).await? {
                Ok(rows) => rows.into(),
                Err(complaint) => return Ok(Err(complaint)),
            },
        };
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let now = if most == 0 { rows.len() } else { rows.len().min(most) };
        let rest = rows.split_off(now);
        if rest.is_empty() {
            self.tell(&command, &portal.formats, rows.into_iter());
        } else {
            if let Some(columns) = columns(&command) {
                for row in &rows {
                    data(&mut self.out, &columns, row, &portal.formats);
                }
            }
            say::frame(&mut self.out, b's', &[]);
        }
        portal.rows = Some(rest);
        self.extended.portals.insert(name.to_vec(), portal);
        Ok(Ok(()))
    }

    fn close(&mut self, body: &[u8]) -> Result<(), Complaint> {
        let (kind, name) = message::describe(body).map_err(|_| Complaint::malformed())?;
        if kind == b'S' {
            self.extended.statements.remove(name);
        } else {
            self.extended.portals.remove(name);
        }
        say::frame(&mut self.out, b'3', &[]);
        Ok(())
    }
}

/// What a command is about, without what may be a secret.
fn about(command: &Command) -> Option<String> {
    match command {
        Command::Pause(name) | Command::Resume(name) | Command::Reconnect(name) | Command::WaitClose(name) | Command::Kill(name) => {
            name.clone()
        }
        Command::Enable(name) | Command::Disable(name) => Some(name.clone()),
        Command::KillClient(id) => Some(id.to_string()),
        Command::Set { path, .. } => Some(path.clone()),
        _ => None,
    }
}

fn missing(name: &[u8]) -> Complaint {
    Complaint::no_statement(&String::from_utf8_lossy(name))
}

/// The columns of what a command answers; none where it has no rows.
fn columns(command: &Command) -> Option<Vec<Column>> {
    match command {
        Command::Show(show) => Some(show.columns.to_vec()),
        Command::Setting(name, _) => Some(vec![Column { name, kind: Kind::Text }]),
        _ => None,
    }
}

/// The tag that says that a command was carried out.
fn tag(command: &Command) -> &'static str {
    match command {
        Command::Show(_) | Command::Help | Command::Setting(..) => "SHOW",
        Command::Pause(_) => "PAUSE",
        Command::Resume(_) => "RESUME",
        Command::Reconnect(_) => "RECONNECT",
        Command::WaitClose(_) => "WAIT_CLOSE",
        Command::Enable(_) => "ENABLE",
        Command::Disable(_) => "DISABLE",
        Command::Kill(_) => "KILL",
        Command::KillClient(_) => "KILL_CLIENT",
        Command::Reload => "RELOAD",
        Command::Drain => "DRAIN",
        Command::Shutdown(_) => "SHUTDOWN",
        Command::Set { .. } => "SET",
        Command::Nothing(tag) => tag,
    }
}
