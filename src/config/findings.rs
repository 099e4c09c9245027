//! The mistakes found so far, and how a setting's path becomes a place in the file or a variable's name.

use super::mistake::{Mistake, Place, Severity, Source};
use super::shape::Shape;
use super::tree::{Entry, Node, Origin, Table, Value};
use super::words::dotted;

/// Collects mistakes about one set of settings.
pub(super) struct Findings<'a> {
    pub(super) source: Source<'a>,
    pub(super) tree: &'a Table,
    pub(super) shape: &'a Shape,
    pub(super) mistakes: Vec<Mistake>,
    /// Settings whose written value was left out because it did not fit: what depends on them cannot be judged.
    misfits: Vec<Vec<String>>,
}

/// Which part of a setting is at fault.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Key,
    Value,
}

impl<'a> Findings<'a> {
    pub(super) fn new(source: Source<'a>, tree: &'a Table, shape: &'a Shape) -> Self {
        Self { source, tree, shape, mistakes: Vec::new(), misfits: Vec::new() }
    }

    /// A value that its setting cannot have.
    pub(super) fn misfit(&mut self, path: &[String], what: String, remedy: String) {
        self.misfits.push(path.to_vec());
        self.add(Severity::Error, path, Part::Value, what, Some(remedy));
    }

    /// A key that does not exist.
    pub(super) fn unknown_key(&mut self, path: &[String], what: String, remedy: String) {
        // It may be a mistyped key of the same table: then that one is not missing.
        self.misfits.push(path.to_vec());
        self.add(Severity::Error, path, Part::Key, what, Some(remedy));
    }

    /// A value that fits its setting but not the rest.
    pub(super) fn error(&mut self, path: &[String], what: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Error, path, Part::Value, what.into(), Some(remedy.into()));
    }

    /// Something missing from the table at the path.
    pub(super) fn missing(&mut self, path: &[String], what: impl Into<String>, remedy: impl Into<String>) {
        if !self.is_doubtful(path) {
            self.add(Severity::Error, path, Part::Key, what.into(), Some(remedy.into()));
        }
    }

    /// Something that is allowed and probably not meant.
    pub(super) fn warning(&mut self, path: &[String], what: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Warning, path, Part::Value, what.into(), Some(remedy.into()));
    }

    /// Whether something at or directly below the path was left out.
    pub(super) fn is_doubtful(&self, path: &[String]) -> bool {
        self.misfits.iter().any(|misfit| misfit.starts_with(path))
    }

    fn add(&mut self, severity: Severity, path: &[String], part: Part, what: String, remedy: Option<String>) {
        let place = self.place(path, part);
        self.mistakes.push(Mistake { severity, place, path: dotted(path), what, remedy });
    }

    fn place(&self, path: &[String], part: Part) -> Place {
        let hide = self.shape.lookup(path).is_some_and(|field| matches!(&field.shape, Shape::Value(kind) if kind.is_secret()));
        let origin = match self.tree.nearest(path) {
            None => None,
            Some((Entry { node: Node { origin, value: Value::List(items) }, .. }, false)) => {
                let item = path.iter().rev().find_map(|key| items.get(key.parse::<usize>().ok()?));
                Some(item.map_or(origin, |item| &item.origin))
            }
            // A table's own span is its whole text; its header says enough.
            Some((entry, exact)) if !exact || part == Part::Key || matches!(entry.node.value, Value::Table(_)) => Some(&entry.key_origin),
            Some((entry, _)) => Some(&entry.node.origin),
        };
        match origin {
            Some(Origin::File(span)) => self.source.place(span, hide),
            Some(Origin::Variable(name)) => Place::Variable(name.clone()),
            None => Place::File(self.source.file.to_owned()),
        }
    }
}
