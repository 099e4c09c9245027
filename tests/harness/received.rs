//! What came from a server: a frame, and the fields of an error.

use std::collections::BTreeMap;
use std::fmt;

use bytes::{Buf, Bytes};

/// One message: its type and its body without the length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The type byte.
    pub tag: u8,
    /// What follows the length.
    pub body: Bytes,
}

impl Frame {
    /// The values of a `DataRow`.
    pub fn values(&self) -> Vec<Option<Bytes>> {
        assert_eq!(self.tag, b'D', "a DataRow");
        let mut body = self.body.clone();
        (0..body.get_u16()).map(|_| usize::try_from(body.get_i32()).ok().map(|length| body.split_to(length))).collect()
    }

    /// The body as text up to its last zero byte: a command tag, for one.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.body.strip_suffix(b"\0").unwrap_or(&self.body)).into_owned()
    }
}

/// The fields of an `ErrorResponse` or `NoticeResponse`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    /// Every field by its letter.
    pub fields: BTreeMap<char, String>,
}

impl ServerError {
    /// Reads the body of such a message.
    pub fn read(body: &[u8]) -> Self {
        let fields = body.split(|byte| *byte == 0).filter_map(|field| {
            let (letter, text) = field.split_first()?;
            Some((char::from(*letter), String::from_utf8_lossy(text).into_owned()))
        });
        Self { fields: fields.collect() }
    }

    /// SQLSTATE.
    pub fn code(&self) -> &str {
        self.field('C')
    }

    /// `ERROR`, `FATAL`, ...
    pub fn severity(&self) -> &str {
        self.field('S')
    }

    /// The primary text.
    pub fn message(&self) -> &str {
        self.field('M')
    }

    /// DETAIL.
    pub fn detail(&self) -> &str {
        self.field('D')
    }

    /// HINT.
    pub fn hint(&self) -> &str {
        self.field('H')
    }

    /// A field by its letter, or nothing.
    pub fn field(&self, letter: char) -> &str {
        self.fields.get(&letter).map_or("", String::as_str)
    }
}

impl fmt::Display for ServerError {
    /// What must be equal between two runs of one conversation: not the server's file, line and routine.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} {:?}", self.severity(), self.code(), self.message())?;
        for (letter, text) in self.fields.iter().filter(|(letter, _)| !"SVCMFLR".contains(**letter)) {
            write!(out, " {letter}={text:?}")?;
        }
        Ok(())
    }
}
