//! Keys that were derived once, so that a second log-in with the same password costs microseconds and not a millisecond.

use std::collections::HashMap;
use std::num::NonZeroU32;

use super::Keys;
use super::digests::sha256;

/// What keys depend on: the password, the salt and the iterations, as one digest. A password that changes therefore never finds the
/// keys of the old one, and two users share nothing unless all three are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheKey([u8; 32]);

impl CacheKey {
    /// The key of one derivation. Hashes, so make it before taking the cache's lock.
    pub fn new(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Self {
        // Digests of the parts, so that no byte can wander from the password to the salt.
        Self(sha256(&[&sha256(&[password]), &sha256(&[salt]), &iterations.get().to_be_bytes()]))
    }
}

/// The most recently used keys, at most `capacity` of them. A plain structure: whoever shares it holds the lock.
#[derive(Debug)]
pub struct KeyCache {
    entries: HashMap<CacheKey, Entry>,
    capacity: usize,
    uses: u64,
}

#[derive(Debug)]
struct Entry {
    keys: Keys,
    last_use: u64,
}

impl KeyCache {
    /// What one entry holds in memory; a bound in bytes is this times the capacity.
    pub const BYTES_PER_ENTRY: usize = size_of::<CacheKey>() + size_of::<Entry>();

    /// An empty cache. With a capacity of 0 it keeps nothing.
    pub fn new(capacity: usize) -> Self {
        Self { entries: HashMap::new(), capacity, uses: 0 }
    }

    /// The keys, if they were derived before and not yet forgotten.
    pub fn find(&mut self, key: &CacheKey) -> Option<Keys> {
        let last_use = self.next_use();
        let entry = self.entries.get_mut(key)?;
        entry.last_use = last_use;
        Some(entry.keys.clone())
    }

    /// Remembers keys, forgetting the least recently used ones when there is no room. That looks at every entry, which is little beside
    /// the derivation that came before it.
    pub fn insert(&mut self, key: CacheKey, keys: Keys) {
        if self.capacity == 0 {
            return;
        }
        if !self.entries.contains_key(&key) && self.entries.len() >= self.capacity {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.last_use).map(|(key, _)| *key);
            oldest.map(|oldest| self.entries.remove(&oldest));
        }
        let last_use = self.next_use();
        self.entries.insert(key, Entry { keys, last_use });
    }

    /// How many keys are held now.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no keys are held.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn next_use(&mut self) -> u64 {
        self.uses = self.uses.wrapping_add(1);
        self.uses
    }
}
