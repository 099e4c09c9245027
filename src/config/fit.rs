//! Whether what was written fits the shape of the settings: unknown keys, wrong types, words and numbers that are none. What fits is handed on as JSON, what
//! does not is told and left out, so that one run finds every mistake.

use serde_json::{Map, Value as Json};

use super::findings::Findings;
use super::shape::{Kind, Shape};
use super::tree::{Node, Table, Value};
use super::value::fits_format;
use super::words::{either, nearest};

/// The part of a table that fits.
pub(super) fn fit(table: &Table, shape: &Shape, findings: &mut Findings<'_>) -> Json {
    Fitting { path: Vec::new(), findings }.table(table, shape)
}

struct Fitting<'a, 'f> {
    path: Vec<String>,
    findings: &'a mut Findings<'f>,
}

impl Fitting<'_, '_> {
    fn table(&mut self, table: &Table, shape: &Shape) -> Json {
        let mut fitting = Map::new();
        for entry in &table.entries {
            self.path.push(entry.key.clone());
            let value = match (shape, shape.field(&entry.key)) {
                (Shape::Named(each), _) => self.node(&entry.node, each),
                (_, Some(field)) => self.node(&entry.node, &field.shape),
                (_, None) => self.unknown_key(&entry.key, shape),
            };
            if let Some(value) = value {
                fitting.insert(entry.key.clone(), value);
            }
            self.path.pop();
        }
        Json::Object(fitting)
    }

    fn node(&mut self, node: &Node, shape: &Shape) -> Option<Json> {
        match (shape, &node.value) {
            (Shape::Table(_) | Shape::Named(_), Value::Table(table)) => Some(self.table(table, shape)),
            (Shape::List(each), Value::List(items)) => Some(self.list(items, each)),
            (Shape::Value(kind), value) => self.leaf(kind, value),
            (Shape::List(_), Value::Text(text)) => self.wrong(format!("`{}` is a list", self.key()), format!("write [{text:?}]")),
            (Shape::List(_), other) => {
                self.wrong(format!("`{}` is a list, not {}", self.key(), other.kind()), "write it in brackets: [..]")
            }
            (_, other) => {
                let what = format!("`{}` is a table, not {}", self.key(), other.kind());
                let remedy = format!("write its settings below a line [{}]", super::words::dotted(&self.path));
                self.wrong(what, remedy)
            }
        }
    }

    fn list(&mut self, items: &[Node], each: &Shape) -> Json {
        let mut fitting = Vec::new();
        for (index, item) in items.iter().enumerate() {
            self.path.push(index.to_string());
            fitting.extend(self.node(item, each));
            self.path.pop();
        }
        Json::Array(fitting)
    }

    fn leaf(&mut self, kind: &Kind, value: &Value) -> Option<Json> {
        match (kind, value) {
            (Kind::Boolean, Value::Boolean(yes)) => Some(Json::from(*yes)),
            (Kind::Integer { min, max }, Value::Integer(number)) => {
                if (min..=max).contains(&number) {
                    return Some(Json::from(*number));
                }
                let what = format!("`{}` cannot be {number}", self.key());
                self.wrong(what, format!("write a number from {min} to {max}"))
            }
            (Kind::Word(words), Value::Text(text)) => {
                if words.iter().any(|(word, _)| word == text) {
                    return Some(Json::from(text.as_str()));
                }
                let words = || words.iter().map(|(word, _)| word.as_str());
                let remedy = match nearest(text, words()) {
                    Some(word) => format!("did you mean \"{word}\"?"),
                    None => format!("write {}", either(words())),
                };
                self.wrong(format!("`{}` cannot be \"{text}\"", self.key()), remedy)
            }
            (Kind::Text { format }, Value::Text(text)) => match fits_format(format, text) {
                Ok(()) => Some(Json::from(text.as_str())),
                Err(unfit) => self.wrong(unfit.what, unfit.remedy),
            },
            (kind, other) => self.wrong_type(kind, other),
        }
    }

    fn wrong_type(&mut self, kind: &Kind, found: &Value) -> Option<Json> {
        let (wanted, remedy) = match (kind, found) {
            (Kind::Boolean, _) => ("true or false", "write true or false, without quotes".to_owned()),
            (Kind::Integer { .. }, Value::Text(text)) if text.parse::<i64>().is_ok() => {
                ("a number", format!("write {text} without quotes"))
            }
            (Kind::Integer { min, max }, _) => ("a number", format!("write a number from {min} to {max}")),
            (Kind::Word(words), _) => ("a word", format!("write {}", either(words.iter().map(|(word, _)| word.as_str())))),
            (Kind::Text { format }, Value::Integer(0)) if format == "period" => ("a duration", "write \"0\"".to_owned()),
            (Kind::Text { format }, Value::Integer(number)) if format == "period" => {
                ("a duration", format!("write it in quotes with its unit, such as \"{number}s\" or \"{number}ms\""))
            }
            (Kind::Text { format }, Value::Integer(number)) if format == "size" => {
                ("a size", format!("write it in quotes with its unit, such as \"{number}KiB\""))
            }
            (Kind::Text { .. }, _) => ("a text", "write it in quotes".to_owned()),
        };
        self.wrong(format!("`{}` is {wanted}, not {}", self.key(), found.kind()), remedy)
    }

    fn unknown_key(&mut self, key: &str, shape: &Shape) -> Option<Json> {
        let Shape::Table(fields) = shape else { return None };
        let names = || fields.iter().map(|field| field.name.as_str());
        let remedy = match nearest(key, names()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known here: {}", names().collect::<Vec<_>>().join(", ")),
        };
        self.findings.unknown_key(&self.path, format!("unknown key `{key}`"), remedy);
        None
    }

    fn wrong(&mut self, what: String, remedy: impl Into<String>) -> Option<Json> {
        self.findings.misfit(&self.path, what, remedy.into());
        None
    }

    /// The key that the value at hand belongs to: for an item of a list, the list's.
    fn key(&self) -> &str {
        let names = self.path.iter().rev();
        names.map(String::as_str).find(|key| key.parse::<usize>().is_err()).unwrap_or("")
    }
}
