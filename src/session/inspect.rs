//! Reading what a client sends, as far as its session depends on it. Pure: bytes in, words out; everything else passes untouched.
//!
//! Only Query, Parse, Bind, Describe and Close have content that matters; CopyData streams through as it comes (B2). A message that is cut by the chunk's end is
//! held back until it is whole, so that the server never holds half of a small one; of what is larger than [`HELD`] so many bytes are awaited, which hold its
//! names, and the rest streams through.

use crate::wire::Malformed;
use crate::wire::message;
use crate::wire::scan::{Side, body_length};
use crate::wire::sql::{self, PinReason};

/// Messages up to this length, in bytes, reach the server whole or not at all; of longer ones this much is read before anything is sent on.
pub const HELD: usize = 32 << 10;

/// Why a client keeps its server connection beyond a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// What a statement's text says it leaves behind.
    Sql(PinReason),
    /// A named prepared statement.
    Statement,
    /// An unnamed prepared statement that is used in a later batch than its Parse.
    Unnamed,
}

/// The labels of all pins in metrics, by their number.
pub const PIN_LABELS: [&str; PinReason::ALL.len() + 2] = {
    let mut labels = ["statement"; PinReason::ALL.len() + 2];
    let mut at = 0;
    while at < PinReason::ALL.len() {
        labels[at] = PinReason::ALL[at].name();
        at += 1;
    }
    labels[PinReason::ALL.len() + 1] = "unnamed_statement";
    labels
};

impl Pin {
    /// Its number: the place of its label in [`PIN_LABELS`].
    pub fn number(self) -> usize {
        match self {
            Self::Sql(reason) => PinReason::ALL.iter().position(|known| *known == reason).unwrap_or(0),
            Self::Statement => PinReason::ALL.len(),
            Self::Unnamed => PinReason::ALL.len() + 1,
        }
    }

    /// Its label.
    pub fn label(self) -> &'static str {
        PIN_LABELS[self.number()]
    }
}

/// What becomes of the unnamed statement, which lives on one server only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Unnamed {
    /// This server has none of the client's.
    #[default]
    Absent,
    /// It was parsed in this batch and not bound yet.
    Parsed,
    /// It was parsed and bound in this lease.
    Bound,
}

/// Where a client stands in its own stream, from the first byte of a lease to its last.
#[derive(Debug, Default)]
pub struct Inspector {
    /// Bytes of a streaming message that are still to come.
    left: u32,
    unnamed: Unnamed,
    pin: Option<Pin>,
    dirty: bool,
    /// Something was left that no reset ends.
    lasting: bool,
}

/// What is to be done with a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send so many bytes on; what is behind them is a message that is not whole, to be held back.
    Forward(usize),
    /// Send so many bytes on; the client takes its leave behind them.
    Terminate(usize),
    /// Send so many bytes on; the message behind them uses an unnamed statement that this server does not have.
    NoUnnamed(usize),
}

impl Inspector {
    /// Whether the client is between two messages.
    pub fn at_edge(&self) -> bool {
        self.left == 0
    }

    /// Why the client keeps its server connection, if it does.
    pub fn pin(&self) -> Option<Pin> {
        self.pin
    }

    /// Whether the server may be left in a state that the next client must not find.
    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Whether something was left on the server that no reset ends, so that its connection must be closed: a loaded library, a backup, a replication slot.
    pub fn is_lasting(&self) -> bool {
        self.lasting
    }

    /// The server's session has been taken back to what it was.
    pub fn forget(&mut self) {
        *self = Self { left: self.left, lasting: self.lasting, ..Self::default() };
    }

    /// Reads the next chunk of the client's stream. `sent` is told the type of each message that is to be sent on, in order.
    ///
    /// # Errors
    /// A message that no client may send.
    #[inline]
    pub fn read(&mut self, chunk: &[u8], mut sent: impl FnMut(u8)) -> Result<Verdict, Malformed> {
        let mut at = self.stream(chunk);
        loop {
            let rest = &chunk[at..];
            let Some(&[kind, a, b, c, d]) = rest.first_chunk::<5>() else { return Ok(Verdict::Forward(at)) };
            let length = body_length(Side::Client, kind, [a, b, c, d])?;
            if kind == b'X' {
                return Ok(Verdict::Terminate(at));
            }
            let total = length as usize + 5;
            if total <= rest.len() {
                if !self.message(kind, &rest[5..total], true) {
                    return Ok(Verdict::NoUnnamed(at));
                }
                sent(kind);
                at += total;
            } else if rest.len() < total.min(HELD) && kind != b'd' {
                // What a large message is about must not depend on where its sender, or the network, has cut it.
                return Ok(Verdict::Forward(at));
            } else {
                if !self.message(kind, &rest[5..], false) {
                    return Ok(Verdict::NoUnnamed(at));
                }
                sent(kind);
                self.left = u32::try_from(total - rest.len()).unwrap_or(u32::MAX);
                return Ok(Verdict::Forward(chunk.len()));
            }
        }
    }

    /// Passes over what the chunk has of a message that is streaming through.
    fn stream(&mut self, chunk: &[u8]) -> usize {
        let step = chunk.len().min(self.left as usize);
        self.left -= u32::try_from(step).unwrap_or(u32::MAX);
        step
    }

    /// Takes note of one message: false where it must not reach this server.
    #[inline]
    fn message(&mut self, kind: u8, body: &[u8], whole: bool) -> bool {
        match kind {
            b'Q' => {
                self.unnamed = Unnamed::Absent;
                self.unpin_unnamed();
                self.statement(message::query(body).unwrap_or(body), whole);
            }
            b'P' => self.parse(body, whole),
            b'B' => return self.bind(body, whole),
            b'D' => {
                // Describe of a statement (`S`) with an empty name.
                return !(body.first() == Some(&b'S') && body.get(1) == Some(&0) && self.lacks_unnamed());
            }
            b'S' => self.sync(),
            _ => {}
        }
        true
    }

    fn parse(&mut self, body: &[u8], whole: bool) {
        if let Ok((name, text)) = message::parse(body) {
            self.name(name);
            return self.statement(text, whole);
        }
        // The text goes on beyond what is here, or the name does.
        let name = memchr::memchr(0, body).map(|end| &body[..end]);
        self.name(name.unwrap_or(body));
        self.statement(body, false);
    }

    fn name(&mut self, name: &[u8]) {
        if name.is_empty() {
            self.unnamed = Unnamed::Parsed;
        } else {
            self.hold(Pin::Statement);
        }
    }

    fn bind(&mut self, body: &[u8], whole: bool) -> bool {
        match message::bind(body) {
            Ok((_, [])) => {}
            Ok(_) => return true,
            // The server will not understand it either.
            Err(_) if whole => return true,
            // The names go on beyond what is here, and might be about the unnamed statement.
            Err(_) => {}
        }
        if self.lacks_unnamed() {
            return false;
        }
        self.unnamed = Unnamed::Bound;
        true
    }

    fn lacks_unnamed(&self) -> bool {
        self.unnamed == Unnamed::Absent
    }

    /// The end of a batch: a statement that was parsed and not bound is meant for a later one.
    fn sync(&mut self) {
        if self.unnamed == Unnamed::Parsed {
            self.hold(Pin::Unnamed);
        }
    }

    fn unpin_unnamed(&mut self) {
        if self.pin == Some(Pin::Unnamed) {
            self.pin = None;
        }
    }

    /// The first reason is the one that is told.
    fn hold(&mut self, pin: Pin) {
        self.dirty = true;
        if self.pin.is_none() || self.pin == Some(Pin::Unnamed) {
            self.pin = Some(pin);
        }
    }

    /// What a statement's text says it may leave behind; one that is not all here may leave anything.
    #[inline]
    fn statement(&mut self, text: &[u8], whole: bool) {
        let effects = sql::session_state(text);
        if !whole {
            self.dirty = true;
        }
        if effects.is_empty() {
            return;
        }
        self.dirty = true;
        self.lasting |= effects.may_leave(PinReason::Load) || effects.may_leave(PinReason::Session);
        if let Some(reason) = effects.first_pin() {
            self.hold(Pin::Sql(reason));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn parse(name: &str, text: &str) -> Vec<u8> {
        frame(b'P', format!("{name}\0{text}\0\0\0").as_bytes())
    }

    fn bind(statement: &str) -> Vec<u8> {
        frame(b'B', format!("\0{statement}\0\0\0\0\0\0\0").as_bytes())
    }

    fn query(text: &str) -> Vec<u8> {
        frame(b'Q', format!("{text}\0").as_bytes())
    }

    fn sync() -> Vec<u8> {
        frame(b'S', b"")
    }

    fn read(inspector: &mut Inspector, messages: &[Vec<u8>]) -> (Verdict, String) {
        let mut sent = String::new();
        let verdict = inspector.read(&messages.concat(), |kind| sent.push(char::from(kind))).unwrap();
        (verdict, sent)
    }

    #[test]
    fn ordinary_traffic_leaves_nothing_behind() {
        let mut inspector = Inspector::default();
        let messages = [query("SELECT 1"), parse("", "UPDATE t SET x = 1"), bind(""), frame(b'E', b"\0\0\0\0\0"), sync()];
        let (verdict, sent) = read(&mut inspector, &messages);
        assert_eq!((verdict, sent.as_str()), (Verdict::Forward(messages.concat().len()), "QPBES"));
        assert_eq!((inspector.pin(), inspector.is_dirty(), inspector.at_edge()), (None, false, true));
    }

    #[test]
    fn named_statements_and_what_the_text_says_pin() {
        let cases = [
            (parse("s1", "SELECT 1"), Pin::Statement),
            (query("SET search_path = a"), Pin::Sql(PinReason::Setting)),
            (parse("", "LISTEN x"), Pin::Sql(PinReason::Listen)),
        ];
        for (message, pin) in cases {
            let mut inspector = Inspector::default();
            read(&mut inspector, &[message]);
            assert_eq!((inspector.pin(), inspector.is_dirty()), (Some(pin), true));
        }
        assert_eq!(Pin::Statement.label(), "statement");
        assert_eq!(Pin::Unnamed.label(), "unnamed_statement");
    }

    #[test]
    fn c10_an_unnamed_statement_of_another_batch_pins_or_is_refused() {
        let mut inspector = Inspector::default();
        read(&mut inspector, &[parse("", "SELECT 1"), sync()]);
        assert_eq!(inspector.pin(), Some(Pin::Unnamed));
        assert_eq!(read(&mut inspector, &[bind(""), sync()]).1, "BS");
        read(&mut inspector, &[query("SELECT 1")]);
        assert_eq!(inspector.pin(), None, "a Query destroys it");
        let mut elsewhere = Inspector::default();
        assert_eq!(read(&mut elsewhere, &[bind(""), sync()]), (Verdict::NoUnnamed(0), String::new()));
    }

    #[test]
    fn a_terminate_is_not_sent_on() {
        let first = query("SELECT 1");
        let verdict = read(&mut Inspector::default(), &[first.clone(), frame(b'X', b""), query("SELECT 2")]);
        assert_eq!(verdict, (Verdict::Terminate(first.len()), "Q".to_owned()));
    }

    #[test]
    fn small_messages_are_held_until_whole_and_large_ones_stream() {
        let small = query("SELECT 1");
        assert_eq!(read(&mut Inspector::default(), &[small[..10].to_vec()]), (Verdict::Forward(0), String::new()));
        let large = query(&"x".repeat(HELD));
        let mut inspector = Inspector::default();
        assert_eq!(read(&mut inspector, &[large[..HELD - 1].to_vec()]), (Verdict::Forward(0), String::new()), "its names may be cut");
        let (head, tail) = large.split_at(HELD);
        assert_eq!(read(&mut inspector, &[head.to_vec()]), (Verdict::Forward(HELD), "Q".to_owned()));
        assert!(!inspector.at_edge() && inspector.is_dirty(), "what cannot be read whole may leave anything");
        assert_eq!(read(&mut inspector, &[tail.to_vec(), sync()]), (Verdict::Forward(tail.len() + 5), "S".to_owned()));
        assert!(inspector.at_edge());
    }

    proptest! {
        #[test]
        fn b2_any_split_sends_the_same_messages_on(
            kinds in prop::collection::vec((prop::sample::select(&b"QPBDECHSdcf"[..]), 0usize..60), 1..12),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let stream: Vec<u8> = kinds.iter().flat_map(|(kind, length)| {
                let body = if *kind == b'B' { [b"\0s\0".as_slice(), &vec![b'x'; *length]].concat() } else { vec![b'x'; *length] };
                frame(*kind, &body)
            }).collect();
            let mut edges: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).chain([0, stream.len()]).collect();
            edges.sort_unstable();
            let (mut inspector, mut held, mut sent, mut forwarded) = (Inspector::default(), Vec::new(), Vec::new(), Vec::new());
            for edge in edges.windows(2) {
                held.extend_from_slice(&stream[edge[0]..edge[1]]);
                match inspector.read(&held, |kind| sent.push(kind)).unwrap() {
                    Verdict::Forward(count) => forwarded.extend(held.drain(..count)),
                    other => prop_assert!(false, "unexpected {other:?}"),
                }
            }
            prop_assert_eq!(sent, kinds.iter().map(|(kind, _)| *kind).collect::<Vec<_>>());
            prop_assert_eq!(forwarded, stream);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in any::<prop::sample::Index>()) {
            let (a, b) = bytes.split_at(cut.index(bytes.len() + 1));
            let mut inspector = Inspector::default();
            if inspector.read(a, |_| ()).is_ok() {
                let _ = inspector.read(b, |_| ());
            }
        }
    }
}
