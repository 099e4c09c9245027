//! The scanner: one walk over the heads of the frames in a chunk, whatever the chunk's edges cut.
//!
//! It owns nothing but what a cut leaves over (at most one head and a count), never copies a body, and never looks further into a body than
//! the few bytes its caller cannot do without (`Z`'s status). Checklist B1, B2.

use super::Malformed;

/// The longest message of the types that PostgreSQL calls small, in bytes, its length word included.
pub const SMALL_MESSAGE: u32 = 10_000;
/// The longest message of any type, in bytes, its length word included.
pub const LARGE_MESSAGE: u32 = 0x3fff_ffff;

/// Who sends the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A client: its message types are known and bounded (`SMALL_MESSAGE`, `LARGE_MESSAGE`).
    Client,
    /// A server: any type; the length is bounded only by what its word can say.
    Server,
}

/// What is carried from one chunk to the next: 16 bytes.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Frames {
    /// Body bytes of the current frame that are still to come.
    left: u32,
    /// The bytes of a head that the last chunk's end cut (and of the body, as far as `wanted` asks).
    held: [u8; 6],
    /// How many of `held` are there.
    have: u8,
}

/// One frame whose head is complete; it is handed out once, when that becomes true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The type byte.
    pub kind: u8,
    /// The length of the whole body in bytes, which may go on beyond this chunk.
    pub length: u32,
    /// Where in the chunk the frame begins; 0 where it began in an earlier one.
    pub start: usize,
    /// The part of the body that is in this chunk. `Z`'s body is there even where it came with the head from an earlier chunk.
    pub body: &'a [u8],
    /// The status byte of a `Z`, else 0.
    pub status: u8,
}

impl Frame<'_> {
    /// Whether the whole body is in this chunk.
    pub fn is_whole(&self) -> bool {
        u32::try_from(self.body.len()).is_ok_and(|present| present == self.length)
    }
}

impl Frames {
    /// Whether the bytes walked so far end exactly at a frame's end.
    pub fn at_edge(&self) -> bool {
        self.left == 0 && self.have == 0
    }

    /// Body bytes of the current frame that are still to come.
    pub fn left(&self) -> u32 {
        self.left
    }

    /// Starts a walk over the next chunk of the same stream.
    pub fn walk<'a>(&'a mut self, side: Side, chunk: &'a [u8]) -> Walk<'a> {
        let mut walk = Walk { frames: self, side, chunk, at: 0 };
        walk.skip_body();
        walk
    }
}

/// A walk over one chunk; `next` hands out frame after frame.
#[derive(Debug)]
pub struct Walk<'a> {
    frames: &'a mut Frames,
    side: Side,
    chunk: &'a [u8],
    at: usize,
}

impl<'a> Walk<'a> {
    /// The next frame whose head is complete, or `None` at the chunk's end.
    ///
    /// # Errors
    /// `Malformed` at the first head that the side may not send; the walk must not be continued then.
    #[expect(clippy::should_implement_trait, reason = "it fails, and an iterator of results would be asked to go on")]
    #[inline]
    pub fn next(&mut self) -> Result<Option<Frame<'a>>, Malformed> {
        let rest = self.chunk.get(self.at..).unwrap_or_default();
        if self.frames.have == 0
            && let Some(&[kind, a, b, c, d]) = rest.first_chunk::<5>()
            && (kind != b'Z' || rest.len() > 5)
        {
            let start = self.at;
            self.at = self.at.saturating_add(5);
            return self.frame(kind, [a, b, c, d], start).map(Some);
        }
        if rest.is_empty() {
            return Ok(None);
        }
        self.next_across_chunks(rest)
    }

    /// A head that this chunk's edges cut: gathered byte by byte.
    #[cold]
    fn next_across_chunks(&mut self, rest: &'a [u8]) -> Result<Option<Frame<'a>>, Malformed> {
        let start = self.at;
        for &byte in rest {
            let wanted: u8 = if self.frames.held.first() == Some(&b'Z') { 6 } else { 5 };
            let Some(slot) = self.frames.held.get_mut(usize::from(self.frames.have)) else { break };
            *slot = byte;
            self.frames.have = self.frames.have.saturating_add(1);
            self.at = self.at.saturating_add(1);
            let wanted = if self.frames.have == 1 && byte == b'Z' { 6 } else { wanted };
            if self.frames.have < wanted {
                continue;
            }
            let [kind, a, b, c, d, status] = self.frames.held;
            self.frames.have = 0;
            self.frames.held = [0; 6];
            if kind == b'Z' {
                // The status byte was gathered with the head: it is walked again as the body it is.
                let length = body_length(self.side, kind, [a, b, c, d])?;
                self.frames.left = length.saturating_sub(1);
                self.skip_body();
                return Ok(Some(Frame { kind, length, start, body: &[], status }));
            }
            return self.frame(kind, [a, b, c, d], start).map(Some);
        }
        Ok(None)
    }

    /// The frame with this head, whose body begins at `at`.
    #[inline]
    fn frame(&mut self, kind: u8, word: [u8; 4], start: usize) -> Result<Frame<'a>, Malformed> {
        let length = body_length(self.side, kind, word)?;
        self.frames.left = length;
        let from = self.at;
        self.skip_body();
        let body = self.chunk.get(from..self.at).unwrap_or_default();
        let status = if kind == b'Z' { body.first().copied().unwrap_or_default() } else { 0 };
        Ok(Frame { kind, length, start, body, status })
    }

    /// Passes over what this chunk has of the current body.
    #[inline]
    fn skip_body(&mut self) {
        let here = self.chunk.len().saturating_sub(self.at);
        let left = usize::try_from(self.frames.left).unwrap_or(usize::MAX);
        let step = here.min(left);
        self.at = self.at.saturating_add(step);
        self.frames.left = self.frames.left.saturating_sub(u32::try_from(step).unwrap_or(u32::MAX));
    }

    /// Where in the chunk the walk stands.
    pub fn position(&self) -> usize {
        self.at
    }
}

/// The body's length that a head's length word says, checked against what the side may send.
#[inline]
pub fn body_length(side: Side, kind: u8, word: [u8; 4]) -> Result<u32, Malformed> {
    let length = u32::from_be_bytes(word);
    let most = match side {
        Side::Server => LARGE_MESSAGE.saturating_mul(2),
        Side::Client => match kind {
            b'Q' | b'P' | b'B' | b'F' | b'd' => LARGE_MESSAGE,
            b'C' | b'D' | b'E' | b'H' | b'S' | b'X' | b'c' | b'f' => SMALL_MESSAGE,
            _ => return Err(Malformed::Kind(kind)),
        },
    };
    if length > most {
        return Err(Malformed::Length { kind, length });
    }
    if side == Side::Client && matches!(kind, b'H' | b'S') && length > 4 {
        // A server that finds something in one skips what comes behind it, or not: that nobody can tell from outside.
        return Err(Malformed::Body);
    }
    if kind == b'Z' && length != 5 {
        return Err(Malformed::Length { kind, length });
    }
    length.checked_sub(4).ok_or(Malformed::Length { kind, length })
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

    /// Frames as (kind, length, status).
    type Seen = Vec<(u8, u32, u8)>;

    /// Every frame of a stream that is cut into chunks, and whether it ends at a frame's end.
    fn walk_all(side: Side, chunks: &[&[u8]]) -> Result<(Seen, bool), Malformed> {
        let mut frames = Frames::default();
        let mut seen = Vec::new();
        for chunk in chunks {
            let mut walk = frames.walk(side, chunk);
            while let Some(frame) = walk.next()? {
                seen.push((frame.kind, frame.length, frame.status));
            }
            assert_eq!(walk.position(), chunk.len(), "a walk passes over its whole chunk");
        }
        Ok((seen, frames.at_edge()))
    }

    #[test]
    fn a_whole_conversation_in_one_chunk() {
        let stream = [frame(b'T', &[1; 30]), frame(b'D', &[]), frame(b'C', b"SELECT 1\0"), frame(b'Z', b"I")].concat();
        let (seen, at_edge) = walk_all(Side::Server, &[&stream]).unwrap();
        assert_eq!(seen, [(b'T', 30, 0), (b'D', 0, 0), (b'C', 9, 0), (b'Z', 1, b'I')]);
        assert!(at_edge);
    }

    #[test]
    fn lengths_beyond_the_type_are_refused_without_waiting_for_the_body() {
        let mut oversized = vec![b'S'];
        oversized.extend(10_001u32.to_be_bytes());
        assert_eq!(walk_all(Side::Client, &[&oversized]), Err(Malformed::Length { kind: b'S', length: 10_001 }));
        for kind in [b'H', b'S'] {
            assert_eq!(walk_all(Side::Client, &[&frame(kind, b"x")]), Err(Malformed::Body));
            assert!(walk_all(Side::Server, &[&frame(kind, b"x")]).is_ok());
        }
        let mut small = vec![b'Q'];
        small.extend(3u32.to_be_bytes());
        assert_eq!(walk_all(Side::Client, &[&small]), Err(Malformed::Length { kind: b'Q', length: 3 }));
        assert_eq!(walk_all(Side::Client, &[&frame(b'!', b"")]), Err(Malformed::Kind(b'!')));
        assert_eq!(walk_all(Side::Client, &[&frame(b'p', b"secret\0")]), Err(Malformed::Kind(b'p')));
    }

    #[test]
    fn what_is_carried_stays_small() {
        assert!(size_of::<Frames>() <= 20);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_frames(
            messages in prop::collection::vec((prop::sample::select(&b"QPBDECHSdcfZTX"[..]), prop::collection::vec(any::<u8>(), 0..40)), 0..20),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        ) {
            let stream: Vec<u8> = messages.iter().flat_map(|(kind, body)| {
                let body = if *kind == b'Z' { b"T" } else { &body[..] };
                frame(*kind, body)
            }).collect();
            let mut edges: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            edges.push(0);
            edges.push(stream.len());
            edges.sort_unstable();
            let chunks: Vec<&[u8]> = edges.windows(2).map(|w| &stream[w[0]..w[1]]).collect();
            let whole = walk_all(Side::Server, &[&stream]).unwrap();
            prop_assert_eq!(whole.0.len(), messages.len());
            prop_assert!(whole.1);
            prop_assert_eq!(walk_all(Side::Server, &chunks).unwrap(), whole);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in any::<prop::sample::Index>()) {
            let cut = cut.index(bytes.len() + 1);
            let (a, b) = bytes.split_at(cut);
            for side in [Side::Client, Side::Server] {
                prop_assert_eq!(walk_all(side, &[a, b]).is_ok(), walk_all(side, &[&bytes]).is_ok());
            }
        }
    }
}
