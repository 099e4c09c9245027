//! A client's own names for its prepared statements. Pure.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::statements::Notes;
use crate::upstream::Statement;
use crate::wire::sql::{self, Effects, Mention};

/// PostgreSQL compares names of statements up to this length, in bytes.
pub(super) const NAME_LENGTH: usize = 63;
/// What a client's names and their texts may take, in bytes; a statement beyond that keeps its client on the server that has it.
const NAMES: usize = 4 << 20;
/// What a name takes beyond its letters and its text, in bytes, as the bound counts it.
const NAME_OVERHEAD: usize = 64;
/// A client's names for its statements; most clients have none.
#[derive(Debug, Default)]
pub struct Names(Option<Box<Named>>);

#[derive(Debug, Default)]
struct Named {
    by_name: HashMap<Box<[u8]>, Arc<Statement>, foldhash::fast::RandomState>,
    /// Names that texts have given to statements on the server that the client has now, which may have them or not.
    by_texts: HashSet<Box<[u8]>, foldhash::fast::RandomState>,
    /// What the names and the texts take, in bytes.
    bytes: usize,
}

impl Names {
    pub(super) fn find(&self, name: &[u8]) -> Option<&Arc<Statement>> {
        self.0.as_ref()?.by_name.get(key(name))
    }

    /// Gives a name to another statement, or to none: what it was before.
    pub(super) fn set(&mut self, name: Box<[u8]>, statement: Option<Arc<Statement>>) -> Option<Arc<Statement>> {
        let named = self.0.get_or_insert_default();
        let before = named.by_name.remove(&name);
        named.bytes = named.bytes.saturating_sub(before.as_ref().map_or(0, |before| size(&name, before)));
        if let Some(statement) = statement {
            named.bytes = named.bytes.saturating_add(size(&name, &statement));
            named.by_name.insert(name, statement);
        }
        if named.is_empty() {
            self.0 = None;
        }
        before
    }

    /// A text may have given a name to a statement that only the server knows.
    pub(super) fn made_by_text(&mut self, name: &[u8]) {
        let named = self.0.get_or_insert_default();
        if !named.has_by_text(name) && named.bytes < NAMES {
            named.bytes = named.bytes.saturating_add(name.len()).saturating_add(NAME_OVERHEAD);
            named.by_texts.insert(key(name).into());
        }
    }

    /// Whether only the server knows if there is a statement of this name.
    pub(super) fn may_be_by_text(&self, name: &[u8]) -> bool {
        self.0.as_ref().is_some_and(|named| named.has_by_text(name))
    }

    /// The client has another server, where no text has named any statement.
    #[inline]
    pub(super) fn forget_texts(&mut self) {
        if let Some(named) = self.0.as_mut().filter(|named| !named.by_texts.is_empty()) {
            named.by_texts.clear();
            named.count();
            if named.is_empty() {
                self.0 = None;
            }
        }
    }

    /// Whether no more statements are to be remembered for the client.
    pub(super) fn is_full(&self) -> bool {
        self.0.as_ref().is_some_and(|named| named.bytes >= NAMES)
    }

    /// Whether the client has a statement of this name.
    pub fn has(&self, name: &[u8]) -> bool {
        self.find(name).is_some()
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|named| named.by_name.is_empty())
    }

    /// The text of the statement of this name.
    pub fn text_of(&self, name: &[u8]) -> Option<&[u8]> {
        self.find(name).map(|statement| statement.text())
    }

    /// The client has prepared a statement that no server knows of yet.
    pub fn learn(&mut self, name: &[u8], statement: Arc<Statement>) {
        self.set(key(name).into(), Some(statement));
    }

    pub(super) fn mention(&self, id: u64) -> bool {
        self.0.as_ref().is_some_and(|named| named.by_name.values().any(|statement| statement.id() == id))
    }

    /// What a text may leave behind that executes statements: where all are the client's own, those follow it.
    pub fn effects_of(&self, effects: Effects, text: &[u8]) -> Effects {
        let is_own = |mention: &Mention| !matches!(mention, Mention::Runs(name) if !self.has(name));
        if effects.executes() && sql::spoken(text).iter().all(|(_, mention)| is_own(mention)) { effects.but_executing() } else { effects }
    }

    /// The client's names and what they mean, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &Arc<Statement>)> {
        self.0.iter().flat_map(|named| named.by_name.iter().map(|(name, statement)| (&**name, statement)))
    }

    /// The client's name for a statement.
    pub fn name_of(&self, id: u64) -> Option<&[u8]> {
        self.0.as_ref()?.by_name.iter().find(|(_, statement)| statement.id() == id).map(|(name, _)| &**name)
    }

    /// The client has dropped all its statements, but for those that it has prepared since.
    pub fn clear(&mut self, notes: &Notes) {
        let Some(named) = &mut self.0 else { return };
        named.by_name.retain(|name, _| notes.names(name));
        named.by_texts.clear();
        named.count();
        if named.is_empty() {
            self.0 = None;
        }
    }
}

impl Named {
    fn is_empty(&self) -> bool {
        self.by_name.is_empty() && self.by_texts.is_empty()
    }

    fn has_by_text(&self, name: &[u8]) -> bool {
        self.by_texts.contains(key(name))
    }

    fn count(&mut self) {
        let texts: usize = self.by_texts.iter().map(|name| name.len().saturating_add(NAME_OVERHEAD)).sum();
        self.bytes = self.by_name.iter().map(|(name, statement)| size(name, statement)).sum::<usize>().saturating_add(texts);
    }
}

fn size(name: &[u8], statement: &Statement) -> usize {
    name.len().saturating_add(statement.definition().len()).saturating_add(NAME_OVERHEAD)
}

pub(super) fn key(name: &[u8]) -> &[u8] {
    name.get(..NAME_LENGTH).unwrap_or(name)
}
