//! Statements that follow their client, against a model of servers: what a client hears over several of them is what it would hear from one of its own.

use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::session::inspect::{Inspector, Turn, Verdict};
use crate::session::names::NAME_LENGTH;
use crate::upstream::Answer;
use crate::wire::message::Fields;
use crate::wire::scan::{Frames, Side};

/// A server that knows named statements, portals and transactions as PostgreSQL does.
#[derive(Default)]
struct Postgres {
    named: HashMap<Vec<u8>, Vec<u8>>,
    portal: Option<Vec<u8>>,
    status: Status,
    skipping: bool,
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[kind], &length[..], body].concat()
}

fn error(code: &str) -> Vec<u8> {
    frame(b'E', format!("SERROR\0C{code}\0\0").as_bytes())
}

fn string(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.iter().position(|byte| *byte == 0).unwrap()].to_vec()
}

impl Postgres {
    /// What running a text does: its tag, or an error's code.
    fn run(&mut self, text: &[u8]) -> Result<String, &'static str> {
        if self.status == Status::Failed && !sql::ends_transaction(text) {
            return Err("25P02");
        }
        match text {
            b"BEGIN" => self.status = Status::InTransaction,
            b"COMMIT" => self.status = Status::Idle,
            b"FAIL" => return Err("22012"),
            b"DEALLOCATE ALL" => self.named.clear(),
            _ => {
                if let [(_, sql::Mention::Drops(name))] = &sql::spoken(text)[..] {
                    self.named.remove(name).ok_or("26000")?;
                    return Ok("DEALLOCATE".to_owned());
                }
            }
        }
        Ok(String::from_utf8(text.to_vec()).unwrap())
    }

    fn extended(&mut self, kind: u8, body: &[u8]) -> Result<Vec<u8>, &'static str> {
        let aborted = |server: &Self, text: &[u8]| server.status == Status::Failed && !sql::ends_transaction(text);
        match kind {
            b'P' => {
                let (name, definition) = message::definition(body).unwrap();
                let text = string(definition);
                if !text.is_empty() && aborted(self, &text) {
                    return Err("25P02");
                }
                if text == b"NONSENSE" {
                    return Err("42601");
                }
                if self.named.contains_key(name) {
                    return Err("42P05");
                }
                self.named.insert(name.to_vec(), text);
                Ok(frame(b'1', b""))
            }
            b'B' | b'D' => {
                let name = if kind == b'B' { message::bind(body).unwrap().1 } else { message::describe(body).unwrap().1 };
                let text = self.named.get(name).ok_or("26000")?.clone();
                if aborted(self, &text) {
                    return Err("25P02");
                }
                if kind == b'D' {
                    return Ok([frame(b't', &text), frame(b'n', b"")].concat());
                }
                self.portal = Some(text);
                Ok(frame(b'2', b""))
            }
            b'C' => {
                self.named.remove(message::describe(body).unwrap().1);
                Ok(frame(b'3', b""))
            }
            _ => {
                let text = self.portal.clone().ok_or("34000")?;
                Ok(frame(b'C', format!("{}\0", self.run(&text)?).as_bytes()))
            }
        }
    }

    fn fail(&mut self) {
        if self.status == Status::InTransaction {
            self.status = Status::Failed;
        }
    }

    fn ready(&mut self) -> Vec<u8> {
        if self.status != Status::InTransaction {
            self.portal = None;
        }
        let status = [b'I', b'T', b'E'][self.status as usize];
        frame(b'Z', &[status])
    }

    /// Takes one message: what it answers.
    fn take(&mut self, message: &[u8]) -> Vec<u8> {
        let (kind, body) = (message[0], &message[5..]);
        match kind {
            b'S' => {
                self.skipping = false;
                self.ready()
            }
            _ if self.skipping => Vec::new(),
            b'Q' => {
                self.portal = None;
                let said = match self.run(&string(body)) {
                    Ok(tag) => frame(b'C', format!("{tag}\0").as_bytes()),
                    Err(code) => {
                        self.fail();
                        error(code)
                    }
                };
                [said, self.ready()].concat()
            }
            _ => self.extended(kind, body).unwrap_or_else(|code| {
                self.fail();
                self.skipping = true;
                error(code)
            }),
        }
    }
}

/// A server behind the proxy.
#[derive(Default)]
struct Behind {
    server: Postgres,
    owed: Owed,
    prepared: Prepared,
    frames: Frames,
    /// Bytes that the server has not read yet.
    inbox: VecDeque<Vec<u8>>,
    outbox: VecDeque<Vec<u8>>,
}

fn cut(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let Some(&[_, a, b, c, d]) = bytes.first_chunk::<5>() {
        let (one, rest) = bytes.split_at(u32::from_be_bytes([a, b, c, d]) as usize + 1);
        messages.push(one.to_vec());
        bytes = rest;
    }
    messages
}

/// What a client hears, as far as it matters: kinds, tags, codes, statuses.
fn heard(bytes: &[u8]) -> Vec<String> {
    cut(bytes)
        .iter()
        .map(|message| match message[0] {
            b'E' => {
                let code = Fields::new(&message[5..]).sqlstate().unwrap();
                format!("E {}", String::from_utf8_lossy(code))
            }
            kind => format!("{} {}", char::from(kind), String::from_utf8_lossy(&message[5..])),
        })
        .collect()
}

/// The proxy with one client, as far as statements go.
struct Proxy {
    behind: Vec<Behind>,
    names: Names,
    notes: Notes,
    known: Statements,
    bound: usize,
    lease: Option<(usize, Inspector)>,
    may_drop: bool,
    said: Vec<u8>,
}

impl Proxy {
    fn new(servers: usize, bound: usize) -> Self {
        Self {
            behind: (0..servers).map(|_| Behind::default()).collect(),
            names: Names::default(),
            notes: Notes::default(),
            known: Statements::default(),
            bound,
            lease: None,
            may_drop: false,
            said: Vec::new(),
        }
    }

    /// A message of the client's; `luck` says which server it gets where it has none.
    fn send(&mut self, message: &[u8], luck: usize) {
        let count = self.behind.len();
        let (at, inspector) = self.lease.get_or_insert_with(|| (luck % count, Inspector::new(true)));
        let Behind { owed, prepared, inbox, .. } = &mut self.behind[*at];
        prepared.next_turn();
        self.may_drop &= !owed.is_settled();
        let turn = Turn { is_skipping: owed.is_skipping(), in_batch: owed.has_open_batch() && owed.owes(), owes: owed.owes() };
        let verdict = inspector.read(message, turn, |kind| owed.sent(kind));
        self.may_drop |= inspector.take_drops();
        if verdict == Verdict::Forward(message.len()) {
            inbox.push_back(message.to_vec());
        } else {
            if must_wait(message[0], owed, self.may_drop) {
                while self.step(true) {}
                return self.send(message, luck);
            }
            let mut out = Vec::new();
            let mut clerk = Clerk {
                tells_all: false,
                unnamed_before: None,
                has_prepared: false,
                names: &mut self.names,
                notes: &mut self.notes,
                owed,
                prepared,
                known: &self.known,
                settings: &Settings::default(),
                bound: self.bound,
                out: &mut out,
            };
            let piece = Piece { bytes: message, total: message.len() };
            let rewritten = clerk.rewrite(message[0], piece, b"");
            if matches!(rewritten, Rewritten::Later) {
                while self.step(true) {}
                return self.send(message, luck);
            }
            match rewritten {
                Rewritten::AsItIs | Rewritten::Speaks => {}
                Rewritten::Runs(statement) => inspector.expect(statement.effects(), statement.text(), true),
                other => panic!("{other:?}"),
            }
            inbox.extend(cut(&out));
            while owed.take_local() {
                self.notes.say_local(&mut self.said);
            }
        }
    }

    /// The server reads a message, or the proxy an answer: whether there was any.
    fn step(&mut self, server_first: bool) -> bool {
        let Some((at, _)) = self.lease else { return false };
        let behind = &mut self.behind[at];
        if (server_first || behind.outbox.is_empty())
            && let Some(message) = behind.inbox.pop_front()
        {
            behind.outbox.extend(cut(&behind.server.take(&message)));
            return true;
        }
        let Some(answer) = behind.outbox.pop_front() else { return false };
        let Behind { owed, prepared, frames, .. } = behind;
        let mut walk = frames.walk(Side::Server, &answer);
        let frame = walk.next().unwrap().unwrap();
        let mut is_shown = true;
        match owed.received(frame.kind, frame.status) {
            Answer::Passes => {}
            Answer::Ends => is_shown = self.notes.ended(),
            Answer::Fails => {
                if let Some(error) = self.notes.replacement(Fields::new(frame.body)) {
                    self.said.extend_from_slice(&error);
                    is_shown = false;
                }
            }
        }
        if frame.kind == b'E' {
            self.notes.take_back(owed.take_dropped() as usize, &mut self.names, prepared);
        }
        match (frame.kind, frame.body) {
            (b'Z', _) => self.notes.ready(owed.batch() - u64::from(owed.readies())),
            (b'C', b"DEALLOCATE\0") => self.notes.deallocated(&mut self.names),
            _ => {}
        }
        if frame.kind == b'C' && frame.body == b"DEALLOCATE ALL\0" {
            self.names.clear(&self.notes);
            prepared.clear_but(|id| self.notes.prepares(id));
        }
        if is_shown {
            self.said.extend_from_slice(&answer);
        }
        while owed.take_local() {
            self.notes.say_local(&mut self.said);
        }
        if frame.kind == b'Z' && owed.is_settled() && behind.inbox.is_empty() {
            assert!(self.notes.is_empty(), "settled with open notes: {:?}", self.notes);
            self.lease = None;
        }
        true
    }
}

#[test]
fn what_is_taken_back_leaves_no_note() {
    let (mut notes, mut names, mut prepared) = (Notes::default(), Names::default(), Prepared::default());
    notes.open.push_back(Note::new(Show::Swallow, Server::Untouched));
    let place = Place { ready: 1, is_query: true };
    notes.deallocates(place, Some(b"mine"[..].into()));
    notes.moves(place, Moves::default());
    notes.take_back_all(&mut names, &mut prepared);
    assert!(notes.is_empty(), "they are the next client's: {notes:?}");
}

fn parse(name: &str, text: &str) -> Vec<u8> {
    frame(b'P', format!("{name}\0{text}\0\0\0").as_bytes())
}

fn message(what: u8, name: u8, text: u8) -> Vec<u8> {
    let name = ["a", "b", "c"][usize::from(name) % 3];
    // The texts of a real workload are many; the longest is not, so that the bound of a server is met.
    let text = ["SELECT 1", "SELECT 2", "SELECT 3", "BEGIN", "COMMIT", "FAIL", "NONSENSE", "DEALLOCATE ALL"][usize::from(text) % 8];
    match what % 12 {
        0..=2 => parse(name, text),
        3..=4 => frame(b'B', format!("\0{name}\0\0\0\0\0\0\0").as_bytes()),
        5 => frame(b'D', format!("S{name}\0").as_bytes()),
        6 => frame(b'C', format!("S{name}\0").as_bytes()),
        7 => frame(b'E', b"\0\0\0\0\0"),
        8..=9 => frame(b'S', b""),
        10 => frame(b'Q', format!("DEALLOCATE {name}\0").as_bytes()),
        _ => frame(b'Q', format!("{text}\0").as_bytes()),
    }
}

/// The messages as a client might send them: at their end everything is synced.
fn with_end(messages: &[(u8, u8, u8)]) -> Vec<Vec<u8>> {
    messages.iter().map(|(what, name, text)| message(*what, *name, *text)).chain([frame(b'S', b"")]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    /// One message after the other, each answered before the next: the client hears what it would hear directly.
    #[test]
    fn d2_to_d8_a_client_hears_what_its_own_server_would_say(
        messages in prop::collection::vec((any::<u8>(), any::<u8>(), any::<u8>()), 1..60),
        luck in prop::collection::vec(0usize..3, 1..20),
        bound in prop::sample::select(&[0usize, 600, 10_000][..]),
    ) {
        let (mut direct, mut proxy) = (Postgres::default(), Proxy::new(3, bound));
        let mut expected = Vec::new();
        for (at, message) in with_end(&messages).iter().enumerate() {
            expected.extend(direct.take(message));
            proxy.send(message, luck[at % luck.len()]);
            while proxy.step(true) {}
            prop_assert_eq!(heard(&proxy.said), heard(&expected));
        }
        // What the proxy believes of its servers is so.
        for behind in &proxy.behind {
            let on_server = behind.server.named.len();
            prop_assert!(behind.prepared.names() <= on_server, "{} believed, {on_server} there", behind.prepared.names());
        }
    }

    /// The same where messages and batches are sent without waiting, and answered at any time.
    #[test]
    fn d4_pipelines_are_answered_alike(
        messages in prop::collection::vec((any::<u8>(), any::<u8>(), any::<u8>()), 1..60),
        luck in prop::collection::vec(0usize..3, 1..20),
        order in prop::collection::vec(0u8..4, 0..200),
        bound in prop::sample::select(&[0usize, 600, 10_000][..]),
    ) {
        let messages = with_end(&messages);
        let (said, expected) = play(&messages, &luck, &order, bound);
        prop_assert_eq!(said, expected, "{:?}", texts(&messages));
    }
}

fn texts(messages: &[Vec<u8>]) -> Vec<String> {
    messages.iter().map(|message| String::from_utf8_lossy(message).into_owned()).collect()
}

/// What a client hears through the proxy and directly.
fn play(messages: &[Vec<u8>], luck: &[usize], order: &[u8], bound: usize) -> (Vec<String>, Vec<String>) {
    let (mut direct, mut proxy) = (Postgres::default(), Proxy::new(3, bound));
    let expected: Vec<u8> = messages.iter().flat_map(|message| direct.take(message)).collect();
    let mut order = order.iter().copied();
    for (at, message) in messages.iter().enumerate() {
        proxy.send(message, luck[at % luck.len()]);
        while let Some(step @ 1..=2) = order.next()
            && proxy.step(step == 1)
        {}
    }
    while proxy.step(true) {}
    (heard(&proxy.said), heard(&expected))
}

#[test]
fn d4_a_batch_does_not_count_on_what_an_earlier_one_may_not_have_done() {
    let batches = [
        vec![parse("a", "SELECT 1"), frame(b'S', b"")],
        vec![parse("b", "NONSENSE"), parse("c", "SELECT 2"), parse("d", "SELECT 1"), frame(b'S', b"")],
        vec![frame(b'B', b"\0a\0\0\0\0\0\0\0"), frame(b'S', b"")],
    ];
    let (said, expected) = play(&batches.concat(), &[0], &[], 10_000);
    assert_eq!(said, expected);
    assert_eq!(said.last().map(String::as_str), Some("Z I"));
    assert!(said.contains(&"2 ".to_owned()), "{said:?}");
}

#[test]
fn names_are_compared_as_postgresql_compares_them() {
    let long = |end: &str| format!("{}{end}", "n".repeat(NAME_LENGTH));
    let batch = [parse(&long("1"), "SELECT 1"), parse(&long("2"), "SELECT 2"), frame(b'S', b"")];
    let mut proxy = Proxy::new(1, 10_000);
    for message in &batch {
        proxy.send(message, 0);
        while proxy.step(true) {}
    }
    assert_eq!(heard(&proxy.said), ["1 ", "E 42P05", "Z I"]);
}
