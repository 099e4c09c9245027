//! Whole messages from a server, for the cold phases: login, commands, mending. During a lease nothing is read this way.

use bytes::{Buf, BytesMut};

use super::broken::Broken;
use crate::net::Io;
use crate::wire::Malformed;
use crate::wire::scan::{Side, body_length};

/// The longest message that is taken whole, in bytes: nothing that a login or a command of the proxy's own is answered with comes near it.
const LONGEST: usize = 1 << 20;

/// One message: its type, and its body.
#[derive(Debug)]
pub struct Message {
    /// The type byte.
    pub kind: u8,
    /// The body.
    pub body: BytesMut,
}

/// The reading end of a conversation. It keeps what was read and not yet asked for.
#[derive(Debug)]
pub struct Conversation {
    buffer: BytesMut,
    chunk: Box<[u8]>,
}

impl Default for Conversation {
    fn default() -> Self {
        Self { buffer: BytesMut::new(), chunk: vec![0; 4096].into() }
    }
}

impl Conversation {
    /// The next whole message.
    ///
    /// Cancel safe: what was read stays here.
    pub async fn next(&mut self, io: &mut Io) -> Result<Message, Broken> {
        loop {
            if let Some(message) = self.buffered()? {
                return Ok(message);
            }
            match io.read(&mut self.chunk).await? {
                0 => return Err(Broken::Closed),
                count => self.buffer.extend_from_slice(self.chunk.get(..count).unwrap_or_default()),
            }
        }
    }

    /// The next message, if all of it has been read already.
    fn buffered(&mut self) -> Result<Option<Message>, Broken> {
        let Some(&[kind, a, b, c, d]) = self.buffer.first_chunk::<5>() else { return Ok(None) };
        let length = body_length(Side::Server, kind, [a, b, c, d])?;
        let length = usize::try_from(length).ok().filter(|length| *length <= LONGEST).ok_or(Malformed::Body)?;
        if self.buffer.len() - 5 < length {
            return Ok(None);
        }
        self.buffer.advance(5);
        Ok(Some(Message { kind, body: self.buffer.split_to(length) }))
    }

    /// Whether nothing is left over.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }
}
