//! The grammar of SCRAM messages: `a=value,b=value`, values without commas.

use super::Denied;

/// Walks over the attributes of one message.
pub(super) struct Attributes<'a> {
    message: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { message, rest: message }
    }

    /// The value of the next attribute, which must have this name.
    pub(super) fn expect(&mut self, name: u8, or_else: &'static str) -> Result<&'a [u8], Denied> {
        match self.next()? {
            Some((found, value)) if found == name => Ok(value),
            _ => Err(Denied::Protocol(or_else)),
        }
    }

    /// The next attribute, whatever it is; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u8, &'a [u8])>, Denied> {
        let (name, tail) = match self.rest {
            [] => return Ok(None),
            [name, b'=', tail @ ..] if name.is_ascii_alphabetic() => (*name, tail),
            _ => return Err(Denied::Protocol("an attribute was expected")),
        };
        let mut pieces = tail.splitn(2, |byte| *byte == b',');
        let value = pieces.next().unwrap_or_default();
        self.rest = pieces.next().unwrap_or_default();
        Ok(Some((name, value)))
    }

    /// What was read so far, without the comma after it.
    pub(super) fn read_so_far(&self) -> &'a [u8] {
        let read = self.message.len().saturating_sub(self.rest.len());
        let read = self.message.get(..read).unwrap_or_default();
        read.strip_suffix(b",").unwrap_or(read)
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }
}
