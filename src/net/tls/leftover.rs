//! Bytes that could not be passed on at once: a queue that holds no memory when it is empty.

/// Bytes waiting to go somewhere, in order.
#[derive(Debug, Default)]
pub(super) struct Leftover {
    bytes: Vec<u8>,
    /// How many of `bytes` have gone.
    gone: usize,
}

impl Leftover {
    pub(super) fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    /// What still has to go.
    pub(super) fn rest(&self) -> &[u8] {
        self.bytes.get(self.gone..).unwrap_or_default()
    }

    pub(super) fn push(&mut self, more: &[u8]) {
        self.bytes.extend_from_slice(more);
    }

    /// The buffer to append to, for those that write into a `Vec` themselves.
    pub(super) fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// `count` bytes have gone. With the last of them goes the buffer, so that an idle connection holds none.
    pub(super) fn advance(&mut self, count: usize) {
        self.gone = self.gone.saturating_add(count);
        if self.is_empty() {
            *self = Self::default();
        }
    }

    /// Moves what fits into `to`: the bytes moved.
    pub(super) fn take_into(&mut self, to: &mut [u8]) -> usize {
        let moved = copy_prefix(self.rest(), to);
        self.advance(moved);
        moved
    }
}

/// Copies as much of `from` as `to` has room for: the bytes copied.
pub(super) fn copy_prefix(from: &[u8], to: &mut [u8]) -> usize {
    let count = from.len().min(to.len());
    let (Some(to), Some(from)) = (to.get_mut(..count), from.get(..count)) else {
        return 0;
    };
    to.copy_from_slice(from);
    count
}
