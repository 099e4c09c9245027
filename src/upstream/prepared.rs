//! Prepared statements as the proxy knows them: shared by all clients of a pool, and on each server under a name of the proxy's own.
//!
//! Pure but for the lock around what a pool shares. Checklist D1, D7, D10, D11.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::wire::sql::Effects;

/// What all server names of statements begin with. A client's own name that begins so never reaches a server as it is.
pub const SERVER_NAME: &[u8] = b"weir_";
/// What a statement takes beyond its text, in bytes, as the bound counts it.
const OVERHEAD: usize = 256;

/// A statement as a Parse defines it, with what decides its meaning. Equal ones of a pool are one.
#[derive(Debug)]
pub struct Statement {
    id: u64,
    /// `search_path` and role of the client that prepared it, then what a Parse says after the statement's name.
    key: Box<[u8]>,
    context: usize,
    effects: Effects,
}

impl Statement {
    /// A statement of which nothing is known but that some server has it.
    pub fn unknown() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self { id: NEXT.fetch_add(1, Ordering::Relaxed), key: Box::default(), context: 0, effects: Effects::default() }
    }

    /// A number of its own among all statements of this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What a Parse says after the statement's name: the text with its zero, the number of parameter types, and the types.
    pub fn definition(&self) -> &[u8] {
        self.key.get(self.context..).unwrap_or_default()
    }

    /// The text.
    pub fn text(&self) -> &[u8] {
        let definition = self.definition();
        definition.get(..memchr::memchr(0, definition).unwrap_or(definition.len())).unwrap_or_default()
    }

    /// What running it may leave in its session.
    pub fn effects(&self) -> Effects {
        self.effects
    }

    /// What it counts for against the bound of a server, in bytes.
    fn weight(&self) -> usize {
        self.key.len().saturating_add(OVERHEAD)
    }
}

/// A statement in the set of a pool, found by its key.
#[derive(Debug)]
struct ByKey(Arc<Statement>);

impl Borrow<[u8]> for ByKey {
    fn borrow(&self) -> &[u8] {
        &self.0.key
    }
}

impl Hash for ByKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.hash(state);
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for ByKey {}

/// The statements that the clients and servers of one pool have.
#[derive(Debug, Default)]
pub struct Statements(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    set: HashSet<ByKey, foldhash::fast::RandomState>,
    /// The size at which those that nobody has any more are dropped.
    sweep_at: usize,
}

impl Statements {
    /// The statement with this definition, for clients with this `context`: two are the same only where both are equal. `effects` reads the text where it is new.
    pub fn intern(&self, context: &[u8], definition: &[u8], effects: impl FnOnce(&[u8]) -> Effects) -> Arc<Statement> {
        let key = [context, definition].concat();
        let mut known = self.0.lock();
        if let Some(ByKey(statement)) = known.set.get(&key[..]) {
            return Arc::clone(statement);
        }
        if known.set.len() >= known.sweep_at {
            known.set.retain(|ByKey(statement)| Arc::strong_count(statement) > 1);
            known.sweep_at = known.set.len().saturating_mul(2).max(64);
        }
        let mut statement = Statement { key: key.into(), context: context.len(), ..Statement::unknown() };
        statement.effects = effects(statement.text());
        let statement = Arc::new(statement);
        known.set.insert(ByKey(Arc::clone(&statement)));
        statement
    }
}

/// The name under which a statement is on one server. It is never used twice there, so that what is only thought to be gone is in nobody's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerName(u64);

/// Twenty digits are enough for any number.
const LONGEST_NAME: usize = SERVER_NAME.len() + 20;

/// A name as the server knows it, without its zero; on the stack, since it is written for every Bind.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    bytes: [u8; LONGEST_NAME],
    start: usize,
}

impl std::ops::Deref for Written {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }
}

impl ServerName {
    /// The name in bytes.
    pub fn written(self) -> Written {
        let mut bytes = [0; LONGEST_NAME];
        let mut start = bytes.len();
        let mut left = self.0;
        loop {
            start = start.saturating_sub(1);
            if let Some(digit) = bytes.get_mut(start) {
                *digit = b'0'.saturating_add(u8::try_from(left % 10).unwrap_or(0));
            }
            left /= 10;
            if left == 0 {
                break;
            }
        }
        let digits = start;
        start = start.saturating_sub(SERVER_NAME.len());
        if let Some(front) = bytes.get_mut(start..digits) {
            front.copy_from_slice(SERVER_NAME);
        }
        Written { bytes, start }
    }
}

#[derive(Debug)]
struct Entry {
    statement: Arc<Statement>,
    name: ServerName,
    /// The turn in which it was last used.
    used: u64,
    /// It was used in more than one turn.
    is_frequent: bool,
}

/// Which statements one server has, bounded in bytes.
///
/// A statement that is used for the first time makes room among its like only; the second use, in another lease, lets it stay among those that are used
/// often. So texts that are never seen again drive out nothing that is.
#[derive(Debug, Default)]
pub struct Prepared {
    entries: HashMap<u64, Entry, foldhash::fast::RandomState>,
    last_name: u64,
    /// The number of the current lease.
    turn: u64,
    bytes: usize,
    /// The share of those that were used in one turn only.
    new_bytes: usize,
    /// Names that may still be on the server and are to be closed.
    doomed: Vec<ServerName>,
}

impl Prepared {
    /// Another lease begins.
    pub fn next_turn(&mut self) {
        self.turn = self.turn.saturating_add(1);
    }

    /// The name of a statement that is here; this is a use of it.
    pub fn find(&mut self, id: u64) -> Option<ServerName> {
        let entry = self.entries.get_mut(&id)?;
        if entry.used != self.turn && !entry.is_frequent {
            entry.is_frequent = true;
            self.new_bytes = self.new_bytes.saturating_sub(entry.statement.weight());
        }
        entry.used = self.turn;
        Some(entry.name)
    }

    /// A name that is free.
    pub fn next_name(&mut self) -> ServerName {
        self.last_name = self.last_name.saturating_add(1);
        ServerName(self.last_name)
    }

    /// Takes in a statement that is about to be prepared here: its name.
    pub fn insert(&mut self, statement: &Arc<Statement>) -> ServerName {
        let name = self.next_name();
        self.bytes = self.bytes.saturating_add(statement.weight());
        self.new_bytes = self.new_bytes.saturating_add(statement.weight());
        self.entries.insert(statement.id, Entry { statement: Arc::clone(statement), name, used: self.turn, is_frequent: false });
        name
    }

    /// A statement was not prepared under this name after all.
    pub fn forget_name(&mut self, id: u64, name: ServerName) {
        if self.entries.get(&id).is_some_and(|entry| entry.name == name) {
            self.forget(id);
        }
    }

    /// A statement is not here any more: the name it had.
    pub fn forget(&mut self, id: u64) -> Option<ServerName> {
        let entry = self.entries.remove(&id)?;
        let weight = entry.statement.weight();
        self.bytes = self.bytes.saturating_sub(weight);
        if !entry.is_frequent {
            self.new_bytes = self.new_bytes.saturating_sub(weight);
        }
        Some(entry.name)
    }

    /// Marks for closing what is over the bound, the longest unused first; nothing that was used in this turn.
    pub fn shrink(&mut self, bound: usize) {
        while self.bytes > bound {
            let from_new = self.new_bytes > bound / 4;
            let oldest = |is_new: bool| {
                let idle = self.entries.values().filter(|entry| entry.used < self.turn && entry.is_frequent != is_new);
                idle.min_by_key(|entry| (entry.used, entry.statement.id)).map(|entry| entry.statement.id)
            };
            let Some(id) = oldest(from_new).or_else(|| oldest(!from_new)) else { return };
            self.doom(id);
        }
    }

    /// Marks one statement for closing: it is not here any more.
    pub fn doom(&mut self, id: u64) {
        if let Some(name) = self.forget(id) {
            self.doomed.push(name);
        }
    }

    /// Marks all statements for closing but those that `keep` says.
    pub fn doom_all(&mut self, keep: impl Fn(u64) -> bool) {
        let gone: Vec<u64> = self.entries.keys().copied().filter(|id| !keep(*id)).collect();
        for id in gone {
            self.doom(id);
        }
    }

    /// The statement that has this name here, given as the server writes it.
    pub fn named(&self, written: &[u8]) -> Option<u64> {
        self.entries.iter().find_map(|(id, entry)| (*entry.name.written() == *written).then_some(*id))
    }

    /// The next name that is to be closed.
    pub fn take_doomed(&mut self) -> Option<ServerName> {
        self.doomed.pop()
    }

    /// A name was not closed after all.
    pub fn doom_again(&mut self, name: ServerName) {
        self.doomed.push(name);
    }

    /// The server has none any more.
    pub fn clear(&mut self) {
        self.clear_but(|_| false);
    }

    /// The server has none any more but those that `keep` says.
    pub fn clear_but(&mut self, keep: impl Fn(u64) -> bool) {
        self.doom_all(keep);
        self.doomed.clear();
    }

    /// How many are on the server.
    pub fn names(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn statement(pool: &Statements, text: &str) -> Arc<Statement> {
        pool.intern(b"", format!("{text}\0\0\0").as_bytes(), |_| Effects::default())
    }

    fn name(name: ServerName) -> String {
        String::from_utf8(name.written().to_vec()).unwrap()
    }

    #[test]
    fn d1_d10_text_types_and_context_make_a_statement() {
        let pool = Statements::default();
        let one = statement(&pool, "SELECT 1");
        assert!(Arc::ptr_eq(&one, &statement(&pool, "SELECT 1")));
        let others: [(&[u8], &[u8]); 3] =
            [(b"", b"SELECT 2\0\0\0"), (b"", b"SELECT 1\0\0\x01\0\0\0\x17"), (b"tenant_7\0", b"SELECT 1\0\0\0")];
        for (context, definition) in others {
            let other = pool.intern(context, definition, |_| Effects::default());
            assert!(!Arc::ptr_eq(&one, &other) && one.id() != other.id());
            assert_eq!(other.definition(), definition);
        }
        assert_eq!(one.text(), b"SELECT 1");
    }

    #[test]
    fn what_nobody_has_is_dropped() {
        let pool = Statements::default();
        let kept = statement(&pool, "SELECT 'kept'");
        for number in 0..10_000 {
            statement(&pool, &format!("SELECT {number}"));
            assert!(pool.0.lock().set.len() <= 64);
        }
        assert!(Arc::ptr_eq(&kept, &statement(&pool, "SELECT 'kept'")));
    }

    #[test]
    fn names_are_never_used_twice() {
        let (pool, mut server) = (Statements::default(), Prepared::default());
        let one = statement(&pool, "SELECT 1");
        assert_eq!(name(server.insert(&one)), "weir_1");
        server.forget(one.id());
        assert_eq!(name(server.insert(&one)), "weir_2");
        server.clear();
        assert_eq!(name(server.insert(&one)), "weir_3");
        assert_eq!(name(ServerName(u64::MAX)), "weir_18446744073709551615");
        assert_eq!(name(ServerName(0)), "weir_0");
        assert_eq!((server.named(b"weir_3"), server.named(b"weir_33")), (Some(one.id()), None));
    }

    #[test]
    fn d11_texts_that_are_seen_once_drive_out_none_that_are_seen_often() {
        let (pool, mut server) = (Statements::default(), Prepared::default());
        let bound = 100 * (OVERHEAD + 20);
        let often: Vec<_> = (0..60).map(|number| statement(&pool, &format!("SELECT {number}"))).collect();
        for _ in 0..2 {
            for one in &often {
                server.next_turn();
                if server.find(one.id()).is_none() {
                    server.insert(one);
                }
                server.shrink(bound);
            }
        }
        for number in 0..5_000 {
            server.next_turn();
            server.insert(&statement(&pool, &format!("SELECT 1 WHERE 1 IN ({number})")));
            server.shrink(bound);
            while server.take_doomed().is_some() {}
        }
        assert!(often.iter().all(|one| server.find(one.id()).is_some()));
        assert!(server.entries.len() > 60, "some of the new ones are there too");
    }

    #[test]
    fn what_is_in_use_stays() {
        let (pool, mut server) = (Statements::default(), Prepared::default());
        server.next_turn();
        for number in 0..10 {
            server.insert(&statement(&pool, &format!("SELECT {number}")));
            server.shrink(0);
        }
        assert_eq!((server.entries.len(), server.take_doomed()), (10, None));
        server.next_turn();
        server.shrink(0);
        assert_eq!((server.entries.len(), server.doomed.len()), (0, 10));
    }

    proptest! {
        #[test]
        fn the_bytes_are_those_of_the_entries(steps in prop::collection::vec((0u8..5, 0u8..20), 0..200)) {
            let (pool, mut server) = (Statements::default(), Prepared::default());
            let all: Vec<_> = (0..20u8).map(|number| statement(&pool, &"x".repeat(usize::from(number)))).collect();
            let bound = 5 * OVERHEAD;
            for (what, which) in steps {
                let one = &all[usize::from(which)];
                match what {
                    0 => server.next_turn(),
                    1 => drop(server.forget(one.id())),
                    2 => server.doom_all(|id| id % 2 == 0),
                    _ => {
                        if server.find(one.id()).is_none() {
                            server.insert(one);
                        }
                        server.shrink(bound);
                    }
                }
                let weigh = |only_new: bool| {
                    let entries = server.entries.values().filter(|entry| !only_new || !entry.is_frequent);
                    entries.map(|entry| entry.statement.weight()).sum::<usize>()
                };
                prop_assert_eq!((server.bytes, server.new_bytes), (weigh(false), weigh(true)));
                let in_use = server.entries.values().filter(|entry| entry.used == server.turn).map(|entry| entry.statement.weight()).sum::<usize>();
                prop_assert!(what < 3 || server.bytes <= bound.max(in_use));
            }
        }
    }
}
