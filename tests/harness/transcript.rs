//! A conversation as text, so that one with PostgreSQL and one through the proxy can be compared line by line.
//!
//! What differs between two runs by nature is masked: cancel keys, SCRAM's messages and md5's salt, and the file, line and routine of an error.

use super::received::{Frame, ServerError};

/// Who said something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// The client.
    Client,
    /// The server.
    Server,
}

/// What both sides said, in order of arrival at this end.
#[derive(Default)]
pub struct Transcript {
    lines: Vec<String>,
}

impl Transcript {
    /// Adds one whole message.
    pub fn add(&mut self, speaker: Speaker, frame: &Frame) {
        let said = match speaker {
            Speaker::Client => client(frame),
            Speaker::Server => server(frame),
        };
        self.note(speaker, &said);
    }

    /// Adds the messages in bytes that a client sent; what is no whole message is told by its length.
    pub fn add_bytes(&mut self, mut bytes: &[u8]) {
        while let Some((tag, length)) = bytes.split_first_chunk::<5>().map(|(head, _)| {
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
            (head[0], length as usize)
        }) {
            if !tag.is_ascii_alphabetic() || length < 4 || bytes.len() < length + 1 {
                break;
            }
            let frame = Frame { tag, body: bytes::Bytes::copy_from_slice(&bytes[5..=length]) };
            self.add(Speaker::Client, &frame);
            bytes = &bytes[length + 1..];
        }
        if !bytes.is_empty() {
            self.note(Speaker::Client, &format!("{} bytes", bytes.len()));
        }
    }

    /// Adds anything else that is worth a line.
    pub fn note(&mut self, speaker: Speaker, said: &str) {
        let arrow = match speaker {
            Speaker::Client => "->",
            Speaker::Server => "<-",
        };
        self.lines.push(format!("{arrow} {said}"));
    }

    /// The whole conversation, one message a line.
    pub fn text(&self) -> String {
        self.lines.join("\n")
    }

    /// Forgets everything so far, so that what follows can be compared alone.
    pub fn clear(&mut self) {
        self.lines.clear();
    }
}

fn client(frame: &Frame) -> String {
    let body = text(&frame.body);
    match frame.tag {
        b'Q' => format!("Query {body}"),
        b'P' => format!("Parse {body}"),
        b'B' => format!("Bind {body}"),
        b'D' => format!("Describe {body}"),
        b'E' => format!("Execute {body}"),
        b'C' => format!("Close {body}"),
        b'S' => "Sync".to_owned(),
        b'H' => "Flush".to_owned(),
        b'X' => "Terminate".to_owned(),
        b'F' => format!("FunctionCall {body}"),
        b'd' => format!("CopyData {body}"),
        b'c' => "CopyDone".to_owned(),
        b'f' => format!("CopyFail {body}"),
        b'p' => "Password (masked)".to_owned(),
        other => format!("{:?} {body}", char::from(other)),
    }
}

fn server(frame: &Frame) -> String {
    let body = text(&frame.body);
    match frame.tag {
        b'R' => format!("Authentication {}", frame.body.get(3).copied().unwrap_or_default()),
        b'K' => "BackendKeyData (masked)".to_owned(),
        b'S' => format!("ParameterStatus {body}"),
        b'Z' => format!("ReadyForQuery {body}"),
        b'T' => format!("RowDescription {body}"),
        b'D' => format!("DataRow {body}"),
        b'C' => format!("CommandComplete {body}"),
        b'I' => "EmptyQueryResponse".to_owned(),
        b'1' => "ParseComplete".to_owned(),
        b'2' => "BindComplete".to_owned(),
        b'3' => "CloseComplete".to_owned(),
        b'n' => "NoData".to_owned(),
        b's' => "PortalSuspended".to_owned(),
        b't' => format!("ParameterDescription {body}"),
        b'E' => format!("ErrorResponse {}", ServerError::read(&frame.body)),
        b'N' => format!("NoticeResponse {}", ServerError::read(&frame.body)),
        b'A' => format!("NotificationResponse {}", text(frame.body.get(4..).unwrap_or_default())),
        b'G' => "CopyInResponse".to_owned(),
        b'H' => "CopyOutResponse".to_owned(),
        b'W' => "CopyBothResponse".to_owned(),
        b'd' => format!("CopyData {body}"),
        b'c' => "CopyDone".to_owned(),
        b'V' => format!("FunctionCallResponse {body}"),
        b'v' => format!("NegotiateProtocolVersion {body}"),
        other => format!("{:?} {body}", char::from(other)),
    }
}

/// Bytes as ASCII with escapes; long ones by their beginning and their length.
fn text(bytes: &[u8]) -> String {
    const LONGEST: usize = 200;
    if bytes.len() > LONGEST {
        format!("\"{}\"... ({} bytes)", bytes[..LONGEST].escape_ascii(), bytes.len())
    } else {
        format!("\"{}\"", bytes.escape_ascii())
    }
}
