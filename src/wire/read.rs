//! Borrowing reads from the body of one message: each either succeeds inside its bounds or says `Malformed::Body`.

use super::Malformed;

/// What is left of a message's body while it is read from the front.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the front of `body`.
    pub fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    /// The bytes up to the next zero byte, which is passed over.
    pub fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let end = memchr::memchr(0, self.rest).ok_or(Malformed::Body)?;
        let (string, rest) = self.rest.split_at_checked(end).ok_or(Malformed::Body)?;
        self.rest = rest.get(1..).ok_or(Malformed::Body)?;
        Ok(string)
    }

    /// The next `length` bytes.
    pub fn bytes(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(Malformed::Body)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// The next byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        let (&byte, rest) = self.rest.split_first().ok_or(Malformed::Body)?;
        self.rest = rest;
        Ok(byte)
    }

    /// The next two bytes as a big-endian number.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        let (&word, rest) = self.rest.split_first_chunk::<2>().ok_or(Malformed::Body)?;
        self.rest = rest;
        Ok(u16::from_be_bytes(word))
    }

    /// The next four bytes as a big-endian number.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        let (&word, rest) = self.rest.split_first_chunk::<4>().ok_or(Malformed::Body)?;
        self.rest = rest;
        Ok(u32::from_be_bytes(word))
    }

    /// All that is left.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Fails unless everything has been read.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::Body) }
    }
}
