//! What was written, with where: the values of the file, of variables and of the command line in one tree, before anything is known of their meaning.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where a key or value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Bytes of the file.
    File(Range<usize>),
    /// A variable of the environment or an option.
    Variable(String),
}

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) origin: Origin,
    pub(super) value: Value,
}

/// A value of TOML.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Boolean(bool),
    List(Vec<Node>),
    Table(Table),
    /// What no setting is: its name in TOML.
    Other(&'static str),
}

impl Value {
    /// What it is, for people.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Integer(_) => "a number",
            Self::Boolean(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(name) => name,
        }
    }
}

/// Keys in the order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Table {
    pub(super) entries: Vec<Entry>,
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_origin: Origin,
    pub(super) node: Node,
}

impl Table {
    /// Reads TOML; what could not be read is told in the errors, the rest is in the table.
    pub(super) fn parse(text: &str) -> (Self, Vec<toml::de::Error>) {
        let (table, errors) = DeTable::parse_recoverable(text);
        (read_table(table.into_inner()), errors)
    }

    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The names in it, in order.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.key.as_str())
    }

    /// The table below a key, if there is one.
    pub(super) fn table(&self, key: &str) -> Option<&Table> {
        match self.entry(key).map(|entry| &entry.node.value) {
            Some(Value::Table(table)) => Some(table),
            _ => None,
        }
    }

    /// The entry at the end of the path, or the last one on the way there with whether that is the whole way.
    pub(super) fn nearest(&self, path: &[String]) -> Option<(&Entry, bool)> {
        let (first, rest) = path.split_first()?;
        let entry = self.entry(first)?;
        if rest.is_empty() {
            return Some((entry, true));
        }
        let deeper = match &entry.node.value {
            Value::Table(table) => table.nearest(rest),
            Value::List(items) => {
                rest.first().and_then(|index| items.get(index.parse::<usize>().ok()?)).and_then(|item| match &item.value {
                    Value::Table(table) => table.nearest(rest.get(1..)?),
                    _ => None,
                })
            }
            _ => None,
        };
        Some(deeper.unwrap_or((entry, false)))
    }

    /// Puts a value at the path, making tables on the way. Returns what was in the way, if anything: a value is replaced only where `replace` says so.
    pub(super) fn put(&mut self, path: &[String], node: Node, replace: bool) -> Result<(), Origin> {
        let Some((key, rest)) = path.split_first() else {
            return Ok(());
        };
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.key == *key) else {
            let origin = node.origin.clone();
            let mut below = Self::default();
            let node = if rest.is_empty() {
                node
            } else {
                below.put(rest, node, replace)?;
                Node { origin: origin.clone(), value: Value::Table(below) }
            };
            self.entries.push(Entry { key: key.clone(), key_origin: origin, node });
            return Ok(());
        };
        match (&mut entry.node.value, rest) {
            (Value::Table(table), [_, ..]) => table.put(rest, node, replace),
            (Value::List(items), [index, below @ ..]) => put_in_list(items, index, below, node, replace),
            (_, []) if replace => {
                entry.key_origin = node.origin.clone();
                entry.node = node;
                Ok(())
            }
            _ => Err(entry.node.origin.clone()),
        }
    }
}

fn put_in_list(items: &mut Vec<Node>, index: &str, below: &[String], node: Node, replace: bool) -> Result<(), Origin> {
    let occupied = || node.origin.clone();
    let index: usize = index.parse().map_err(|_| occupied())?;
    // One beyond the end appends; a gap is no list.
    if index == items.len() {
        items.push(Node { origin: node.origin.clone(), value: Value::Table(Table::default()) });
    }
    match items.get_mut(index).map(|item| &mut item.value) {
        Some(Value::Table(table)) => table.put(below, node, replace),
        _ => Err(occupied()),
    }
}

fn read_table(table: DeTable<'_>) -> Table {
    let mut entries: Vec<Entry> = table
        .into_iter()
        .map(|(key, value)| Entry { key_origin: Origin::File(key.span()), key: key.into_inner().into_owned(), node: read_value(value) })
        .collect();
    // The parser sorts by name; tenants go by the order of the file.
    entries.sort_by_key(|entry| match &entry.key_origin {
        Origin::File(span) => span.start,
        Origin::Variable(_) => usize::MAX,
    });
    Table { entries }
}

fn read_value(value: Spanned<DeValue<'_>>) -> Node {
    let origin = Origin::File(value.span());
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Other("a number too large to read"),
        },
        DeValue::Boolean(yes) => Value::Boolean(yes),
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(items) => Value::List(items.into_iter().map(read_value).collect()),
        DeValue::Table(table) => Value::Table(read_table(table)),
    };
    Node { origin, value }
}
