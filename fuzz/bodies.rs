//! What each fuzz target does with its bytes: it runs a parser of outside bytes and asserts what must hold of any answer.
//!
//! The targets in `fuzz_targets/` include this file, and so does `tests/corpora.rs`, which replays the seeds in the ordinary test run.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a broken promise is a panic")]

use std::cell::OnceCell;
use std::num::NonZeroU32;

use bytes::BytesMut;
use pgweir::auth::scram::client::{self, Binding};
use pgweir::auth::scram::server::WaitMechanism;
use pgweir::auth::{Keys, Secret, Verifier, certificate_names, tls_server_end_point};
use pgweir::config::{ByteSize, Config, Glob, HttpAddress, ListenAddress, Loaded, Mistake, Network, Period, Variables, diff, parse_str};
use pgweir::http::api::readers;
use pgweir::wire::message::{self, Fields};
use pgweir::wire::scan::{Frames, Side, body_length};
use pgweir::wire::sql::{self, Mention, PinReason, session_state};
use pgweir::wire::startup::{self, Extent, Packet, Setting, Startup};
use pgweir::wire::{Malformed, options, say};

/// What a target does with its bytes.
pub type Body = fn(&[u8]);

/// Every target: its name, which is that of its seeds' folder and of its file, and its body.
pub const TARGETS: [(&str, Body); 11] = [
    ("statement", statement),
    ("scan", scan),
    ("startup", startup),
    ("client_messages", client_messages),
    ("server_messages", server_messages),
    ("options", options),
    ("scram", scram),
    ("certificate", certificate),
    ("config", config),
    ("values", values),
    ("requests", requests),
];

/// The statement reader: what surrounds a text changes its answer only as it must.
pub fn statement(text: &[u8]) {
    let effects = session_state(text);
    let shifted = [b"\n/* SET a = 1 */ ", text].concat();
    assert_eq!(session_state(&shifted), effects, "after a comment");
    let after_another = [b"LISTEN a;", text].concat();
    assert_eq!(session_state(&after_another), effects.union(session_state(b"LISTEN a")), "after another statement");

    let fence = b"$fence$";
    if !text.windows(fence.len()).any(|part| part == fence) {
        let quoted = [b"SELECT ", &fence[..], text, fence].concat();
        assert!(session_state(&quoted).is_empty(), "in dollar quotes");
    }
    let name = [b"SELECT 1 AS \"", &*doubled(text, b"\""), b"\" FROM t"].concat();
    let seen = session_state(&name);
    let is_about_endings = seen.releases() || seen.deallocates() || seen.defines();
    assert!(seen.first_pin().is_none() && !seen.is_opaque() && !is_about_endings, "in a quoted name");
    let escaped = [b"SELECT E'", &*doubled(text, b"'\\"), b"'"].concat();
    assert!(session_state(&escaped).is_empty(), "in a literal");

    assert_eq!(sql::digest(&shifted), sql::digest(text), "the digest after a comment");
    let traces = sql::routine(text);
    assert!(traces.settings.is_sorted(), "names in order");
    sql::mentions(text, |name| assert!(name.len() <= text.len(), "a word of the text"));
    let mut at = 0;
    for (place, mention) in sql::spoken(text) {
        assert!(place.start >= at && !text[place.clone()].is_empty(), "what is mentioned stands in order");
        at = place.end;
        let is_told = match mention {
            Mention::Runs(_) => effects.executes(),
            Mention::Makes(_) => effects.may_leave(PinReason::Prepare),
            Mention::Drops(_) => effects.deallocates(),
            Mention::Lists(_) => effects.lists_statements(),
        };
        assert!(is_told && effects.mentions_statements(), "what is mentioned is told");
    }
    if let Some(found) = sql::terms(text) {
        assert!(found.end <= text.len() && !found.tags.is_empty(), "{found:?}");
        assert_eq!(sql::terms(&text[found.end..]), None, "all of them are found at once");
    }
    if let Some(left) = sql::comment(text) {
        assert_eq!(
            sql::comment(&[b" ", text, b" ;"].concat()).is_some(),
            !text.trim_ascii().ends_with(b";") || sql::comment(text) == Some(left)
        );
    }
    let mut end = 0;
    for statement in sql::statements(text) {
        assert!(end <= statement.start && statement.start <= statement.end && statement.end <= text.len(), "{statement:?}");
        end = statement.end;
    }
    let touched = sql::settings(&[b"SET a = 1;", text].concat());
    let all = [&touched.set, &touched.set_before, &touched.reset];
    assert!(all.iter().any(|names| names.iter().any(|name| **name == *b"a")) || touched.resets_all, "a setting before another statement");
    assert!(touched.set.iter().all(|name| !touched.reset.contains(name)), "the last word about a name counts");
}

fn doubled(text: &[u8], signs: &[u8]) -> Vec<u8> {
    text.iter().flat_map(|byte| [*byte].repeat(1 + usize::from(signs.contains(byte)))).collect()
}

/// The scanner: the first byte says whose stream it is, the second how many of the next bytes say where to cut; however the stream
/// is cut, the frames are the same, and so is the error.
pub fn scan(input: &[u8]) {
    let &[side, cuts, ref rest @ ..] = input else { return };
    let side = if side.is_multiple_of(2) { Side::Client } else { Side::Server };
    let (cuts, stream) = rest.split_at(usize::from(cuts % 16).min(rest.len()));
    let whole = walk(side, &[stream]);
    let bytewise: Vec<&[u8]> = stream.chunks(1).collect();
    assert_eq!(walk(side, &bytewise), whole, "byte by byte");

    let mut pieces = Vec::new();
    let mut left = stream;
    for cut in cuts {
        let (piece, more) = left.split_at(usize::from(*cut).min(left.len()));
        pieces.push(piece);
        left = more;
    }
    pieces.push(left);
    assert_eq!(walk(side, &pieces), whole, "cut at {cuts:?}");
}

/// What a walk over chunks sees: each frame's kind, length and status, and where it ended.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    frames: Vec<(u8, u32, u8)>,
    end: Result<(bool, u32), Malformed>,
}

fn walk(side: Side, chunks: &[&[u8]]) -> Seen {
    let mut state = Frames::default();
    let mut frames = Vec::new();
    for chunk in chunks {
        let mut walk = state.walk(side, chunk);
        loop {
            match walk.next() {
                Ok(Some(frame)) => {
                    assert!(frame.body.len() <= frame.length as usize, "a body of {frame:?}");
                    assert!(frame.start <= walk.position() && walk.position() <= chunk.len(), "the place of {frame:?}");
                    assert_eq!(body_length(side, frame.kind, (frame.length + 4).to_be_bytes()), Ok(frame.length));
                    frames.push((frame.kind, frame.length, frame.status));
                }
                Ok(None) => break,
                Err(malformed) => return Seen { frames, end: Err(malformed) },
            }
        }
        assert_eq!(walk.position(), chunk.len(), "a chunk is walked to its end");
    }
    Seen { frames, end: Ok((state.at_edge(), state.left())) }
}

/// The first packet: a startup that is written again reads the same.
pub fn startup(bytes: &[u8]) {
    if let Ok(Extent::Packet(length)) = startup::extent(bytes) {
        assert!((8..=10_000).contains(&length), "an extent of {length}");
    }
    match startup::read(bytes) {
        Ok(Packet::Startup(startup)) => startup_again(&startup),
        Ok(Packet::Cancel { secret, .. }) => assert!((4..=256).contains(&secret.len())),
        Ok(Packet::Ssl | Packet::GssEnc) | Err(_) => {}
    }
}

fn startup_again(startup: &Startup) {
    assert!(!startup.user.is_empty() && !startup.database.is_empty());
    let mut names: Vec<&[u8]> = startup.settings.iter().map(|setting| &*setting.name).collect();
    assert!(names.iter().all(|name| !name.iter().any(u8::is_ascii_uppercase)), "{names:?}");
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    // Through `options` a setting may have the name of a parameter that is none.
    let is_parameter =
        |name: &[u8]| matches!(name, b"" | b"user" | b"database" | b"options" | b"replication") || name.starts_with(b"_pq_.");
    if startup.replication.is_some() || names.iter().any(|name| is_parameter(name)) {
        return;
    }
    let mut parameters = vec![(&b"user"[..], &*startup.user), (b"database", &*startup.database)];
    parameters.extend(startup.settings.iter().map(|setting| (&*setting.name, &*setting.value)));
    let mut packet = BytesMut::new();
    say::startup(&mut packet, startup.minor, &parameters);
    let again = startup::read(&packet);
    let expected = Startup { unrecognised: Vec::new(), ..startup.clone() };
    assert_eq!(again, Ok(Packet::Startup(expected)));
}

/// The bodies of a client's messages: whatever is read of one is a part of it.
pub fn client_messages(body: &[u8]) {
    if let Ok((mechanism, data)) = message::sasl_initial(body) {
        assert_eq!(mechanism.len() + 5 + data.unwrap_or_default().len(), body.len());
    }
    if let Ok(password) = message::password(body) {
        assert_eq!(password.len() + 1, body.len());
    }
    if let Ok(text) = message::query(body) {
        assert_eq!([text, &[0]].concat(), body);
        session_state(text);
    }
    if let Ok(string) = message::string(body) {
        assert!(body.starts_with(string) && !string.contains(&0));
    }
    for read in [message::parse, message::bind] {
        if let Ok((name, rest)) = read(body) {
            assert!(name.len() + rest.len() + 2 <= body.len());
            assert!(!name.contains(&0) && !rest.contains(&0));
        }
    }
    if let Ok((portal, _)) = message::execute(body) {
        assert!(body.len() >= portal.len() + 5 && !portal.contains(&0));
    }
    if let Ok(formats) = message::result_formats(body) {
        assert!(2 * formats.len() + 8 <= body.len());
        assert!(message::bind(body).is_ok());
    }
    if let Ok((kind, name)) = message::describe(body) {
        assert_eq!(body.first(), Some(&kind));
        assert!(body[1..].starts_with(name) && !name.contains(&0));
    }
}

/// The bodies of a server's messages.
pub fn server_messages(body: &[u8]) {
    if let Ok(message::Authentication::Sasl(mechanisms)) = message::authentication(body) {
        message::offers(mechanisms, say::SCRAM_PLUS);
    }
    if let Ok((name, value)) = message::parameter_status(body) {
        assert!(name.len() + value.len() + 2 <= body.len());
    }
    if let Ok((_, secret)) = message::backend_key(body) {
        assert!(secret.len() <= 256 && secret.len() + 4 == body.len());
    }
    let fields = Fields::new(body);
    let taken: usize = fields.iter().map(|(_, value)| value.len() + 2).sum();
    assert!(taken <= body.len());
    for (code, _) in fields.iter() {
        assert!(fields.field(code).is_some());
    }
    fields.sqlstate();
    fields.message();
    fields.is_fatal();
}

/// The startup parameter `options`: settings that are escaped and written again split the same.
pub fn options(bytes: &[u8]) {
    let Ok(settings) = options::split(bytes) else { return };
    let mut written = Vec::new();
    for Setting { name, value } in &settings {
        written.extend_from_slice(b"-c ");
        for byte in [&**name, b"=", &**value].concat() {
            written.extend_from_slice(if byte.is_ascii_whitespace() || byte == b'\\' || byte == 0x0b { b"\\" } else { b"" });
            written.push(byte);
        }
        written.push(b' ');
    }
    assert_eq!(options::split(&written), Ok(settings));
}

/// Both halves of SCRAM, against a peer that knows no password. The input is three messages with a byte 0xff between them.
pub fn scram(input: &[u8]) {
    let mut messages = input.split(|byte| *byte == 0xff);
    let mut message = || messages.next().unwrap_or_default();
    let (first, second, third) = (message(), message(), message());
    let keys = keys();

    for binding in [None, Some(&b"the hash of a certificate"[..])] {
        for mechanism in WaitMechanism::new(binding).offer() {
            let wait = WaitMechanism::new(binding).select(mechanism.name().as_bytes()).unwrap();
            let verifier = Verifier::mock(&[3; 32], b"nobody");
            if let Ok((wait, challenge)) = wait.challenge(first, &verifier, [7; 18]) {
                assert!(challenge.starts_with(b"r="));
                assert!(wait.finish(second).is_err(), "nobody may log in");
            }
        }
        let client_binding = binding.map_or(Binding::Unavailable, Binding::Prefer);
        let start = client::start([&b"SCRAM-SHA-256-PLUS"[..], b"SCRAM-SHA-256"], client_binding, [9; 18]).unwrap();
        if let Ok(challenged) = start.next.challenge(second) {
            assert!(challenged.iterations().get() > 0);
            let (wait, answer) = challenged.answer(&keys);
            assert!(answer.starts_with(b"c="));
            assert!(wait.verify(third).is_err(), "no server can prove itself");
        }
    }
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(verifier) = text.parse::<Verifier>() {
        assert!(verifier.to_string().parse::<Verifier>().is_ok());
    }
    drop(Secret::parse(text));
}

/// Keys of some password; deriving them is slow, so each thread does it once.
fn keys() -> Keys {
    thread_local! { static KEYS: OnceCell<Keys> = const { OnceCell::new() } }
    KEYS.with(|keys| keys.get_or_init(|| Keys::derive(b"pencil", b"salt", NonZeroU32::MIN).unwrap()).clone())
}

/// A certificate that a peer presents.
pub fn certificate(der: &[u8]) {
    certificate_names(der);
    if let Some(hash) = tls_server_end_point(der) {
        assert!(matches!(hash.len(), 28 | 32 | 48 | 64), "a hash of {} bytes", hash.len());
    }
}

/// A configuration file, or the URL of an upstream: every refusal says in words what is wrong.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if text.starts_with("postgres") {
        loads(&Config::load(None, Some(text), &Variables::new()));
    } else {
        loads(&parse_str(text));
    }
}

fn loads(answer: &Result<Loaded, Vec<Mistake>>) {
    let mistakes = match answer {
        Ok(loaded) => {
            assert!(diff(&loaded.config, &loaded.config).is_empty());
            &loaded.warnings
        }
        Err(mistakes) => mistakes,
    };
    assert_eq!(mistakes.iter().any(Mistake::is_error), answer.is_err(), "{mistakes:?}");
    for mistake in mistakes {
        let shown = mistake.to_string();
        assert!(!mistake.what.is_empty() && !shown.contains("fault of pgweir"), "{shown}");
    }
}

/// The kinds of value in a configuration: what parses is shown so that it parses to the same.
pub fn values(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(glob) = text.parse::<Glob>() {
        assert_eq!(glob.to_string(), text);
        if let Some(literal) = glob.literal() {
            assert!(glob.matches(&literal));
        }
        glob.matches(text);
    }
    shown_again::<Period>(text);
    shown_again::<ByteSize>(text);
    shown_again::<ListenAddress>(text);
    shown_again::<HttpAddress>(text);
    shown_again::<Network>(text);
}

fn shown_again<T: std::str::FromStr + std::fmt::Display + PartialEq + std::fmt::Debug>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        let shown = value.to_string();
        assert_eq!(shown.parse::<T>().ok(), Some(value), "{text:?} is shown as {shown:?}");
    }
}

/// Requests of SQL over HTTP: bodies, connection strings, named parameters, arrays and signatures.
pub fn requests(bytes: &[u8]) {
    let _ = readers::bodies(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some((user, _)) = readers::connection_string(text) {
        assert!(!user.is_empty());
    }
    let (numbered, names) = readers::named_parameters(text);
    if !text.contains('$') {
        let mut back = numbered;
        for (place, name) in names.iter().enumerate().rev() {
            back = back.replace(&format!("${}", place + 1), &format!(":{name}"));
        }
        assert_eq!(back, text, "nothing but names is replaced");
    }
    let array = readers::text_array(text);
    assert!(serde_json::from_slice::<serde_json::Value>(&array).is_ok(), "an array is JSON, whatever it holds");
    let words: Vec<serde_json::Value> = text.split(',').take(20).map(Into::into).collect();
    let written = readers::parameter(&serde_json::Value::from(words.clone())).unwrap();
    let read: serde_json::Value = serde_json::from_slice(&readers::text_array(&written)).unwrap();
    assert_eq!(read, serde_json::Value::from(words), "an array comes back as it was written");
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    assert!(!readers::signature(first, rest.get(..16).unwrap_or(rest), rest.as_bytes()), "nobody knows the secret");
}
