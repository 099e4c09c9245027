//! Buffers that are done with, for those who need one next: where many wait, every request is held for a while, and the allocator would be asked each time.

use std::cell::RefCell;

/// How many are kept: those who wait at a time get theirs from here, one after the other.
const MOST: usize = 64;

/// The longest that is kept, in bytes.
const LONGEST: usize = 4 << 10;

/// The spare buffers of one worker.
#[derive(Debug, Default)]
pub struct Spares(RefCell<Vec<Vec<u8>>>);

impl Spares {
    /// An empty buffer.
    pub fn take(&self) -> Vec<u8> {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    /// A buffer is done with; nothing of what it held is left in sight.
    pub fn put(&self, mut buffer: Vec<u8>) {
        let mut spares = self.0.borrow_mut();
        if spares.len() < MOST && (1..=LONGEST).contains(&buffer.capacity()) {
            buffer.clear();
            spares.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_empty_and_with_its_room() {
        let spares = Spares::default();
        assert_eq!(spares.take().capacity(), 0);
        let buffer = b"somebody's words".to_vec();
        let room = buffer.capacity();
        spares.put(buffer);
        let again = spares.take();
        assert_eq!((again.as_slice(), again.capacity()), (&[][..], room));
    }

    #[test]
    fn neither_many_nor_large_ones_are_kept() {
        let spares = Spares::default();
        spares.put(Vec::new());
        spares.put(vec![0; LONGEST + 1]);
        assert_eq!(spares.take().capacity(), 0);
        for _ in 0..2 * MOST {
            spares.put(vec![0; 100]);
        }
        assert_eq!(std::iter::from_fn(|| Some(spares.take()).filter(|spare| spare.capacity() > 0)).count(), MOST);
    }
}
