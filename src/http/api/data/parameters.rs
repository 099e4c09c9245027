//! Named parameters: from `:name` in a statement's text to `$1`, and from the Data API's values to PostgreSQL's.

use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use super::complaint::Complaint;
use crate::http::api::json;
use crate::http::api::line::{Parameter, Statement};

/// A value of the Data API: exactly one of these.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Field {
    is_null: Option<bool>,
    boolean_value: Option<bool>,
    long_value: Option<i64>,
    double_value: Option<f64>,
    string_value: Option<String>,
    blob_value: Option<String>,
    array_value: Option<Value>,
}

/// A parameter as a caller sends it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Named {
    name: String,
    #[serde(default)]
    value: Field,
    type_hint: Option<String>,
}

/// Types by their numbers in PostgreSQL's catalogue.
mod oid {
    pub(super) const ANY: u32 = 0;
    pub(super) const BOOL: u32 = 16;
    pub(super) const BYTEA: u32 = 17;
    pub(super) const INT8: u32 = 20;
    pub(super) const FLOAT8: u32 = 701;
    pub(super) const DATE: u32 = 1082;
    pub(super) const TIME: u32 = 1083;
    pub(super) const TIMESTAMP: u32 = 1114;
    pub(super) const NUMERIC: u32 = 1700;
    pub(super) const UUID: u32 = 2950;
    pub(super) const JSONB: u32 = 3802;
}

impl Named {
    /// Its value as a statement's parameter.
    ///
    /// # Errors
    /// A value that is none, or a hint that there is not.
    fn parameter(&self) -> Result<Parameter, Complaint> {
        let hinted = match self.type_hint.as_deref() {
            None => None,
            Some("JSON") => Some(oid::JSONB),
            Some("UUID") => Some(oid::UUID),
            Some("TIMESTAMP") => Some(oid::TIMESTAMP),
            Some("DATE") => Some(oid::DATE),
            Some("TIME") => Some(oid::TIME),
            Some("DECIMAL") => Some(oid::NUMERIC),
            Some(other) => {
                return Err(Complaint::bad_request(format!("The type hint {other} of the parameter {} is not known", self.name)));
            }
        };
        let field = &self.value;
        let (own, value) = if field.is_null == Some(true) {
            (oid::ANY, None)
        } else if let Some(value) = field.boolean_value {
            (oid::BOOL, Some(value.to_string()))
        } else if let Some(value) = field.long_value {
            (oid::INT8, Some(value.to_string()))
        } else if let Some(value) = field.double_value {
            (oid::FLOAT8, Some(value.to_string()))
        } else if let Some(value) = &field.string_value {
            (oid::ANY, Some(value.clone()))
        } else if let Some(value) = &field.blob_value {
            (oid::BYTEA, Some(bytea(value).ok_or_else(|| Complaint::bad_request(format!("The parameter {} is no base64", self.name)))?))
        } else if let Some(value) = &field.array_value {
            (oid::ANY, json::parameter(&elements(value)))
        } else {
            return Err(Complaint::bad_request(format!("The parameter {} has no value", self.name)));
        };
        Ok(Parameter { oid: hinted.unwrap_or(own), value })
    }
}

/// Bytes as PostgreSQL's text form has them.
fn bytea(base64: &str) -> Option<String> {
    let bytes = STANDARD.decode(base64).ok()?;
    let mut text = String::with_capacity(2 + bytes.len() * 2);
    text.push_str("\\x");
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    Some(text)
}

/// The elements of an `arrayValue`, whose kinds wrap them.
fn elements(value: &Value) -> Value {
    match value {
        Value::Object(kinds) => kinds.values().next().map_or(Value::Array(Vec::new()), elements),
        Value::Array(inner) => {
            Value::Array(inner.iter().map(|inner| if inner.is_object() { elements(inner) } else { inner.clone() }).collect())
        }
        other => other.clone(),
    }
}

/// A statement with these values for its names. Names that it does not have are passed over.
///
/// # Errors
/// A name without a value, or a value that is none.
pub(super) fn bind(sql: &str, named: &[Named]) -> Result<Statement, Complaint> {
    let (sql, names) = numbered(sql);
    let mut parameters = Vec::with_capacity(names.len());
    for name in names {
        let found = named.iter().rev().find(|given| given.name == name);
        let found = found.ok_or_else(|| Complaint::bad_request(format!("Cannot find parameter: {name}")))?;
        parameters.push(found.parameter()?);
    }
    Ok(Statement { sql, parameters })
}

/// A text with its `:name`s as `$1` and so on, and the names in that order. Texts in quotes, comments, casts (`::`), slices (`[1:2]`) and `:=` are left alone.
pub(in crate::http::api) fn numbered(sql: &str) -> (String, Vec<String>) {
    let bytes = sql.as_bytes();
    let mut out = String::with_capacity(sql.len() + 8);
    let mut names: Vec<String> = Vec::new();
    let (mut at, mut copied) = (0, 0);
    while at < bytes.len() {
        if bytes.get(at) != Some(&b':') {
            at = behind(sql, at);
            continue;
        }
        let is_free =
            at == 0 || !matches!(bytes.get(at - 1), Some(b':' | b')' | b']' | b'_' | b'$' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z'));
        let behind = bytes.get(at + 1..).unwrap_or_default();
        let length = behind.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
        if bytes.get(at + 1) == Some(&b':') {
            at += 2;
            continue;
        }
        if !is_free || length == 0 {
            at += 1;
            continue;
        }
        let name = sql.get(at + 1..at + 1 + length).unwrap_or_default();
        let place = names.iter().position(|known| known == name).unwrap_or_else(|| {
            names.push(name.to_owned());
            names.len() - 1
        });
        out.push_str(sql.get(copied..at).unwrap_or_default());
        let _ = write!(out, "${}", place + 1);
        at += 1 + length;
        copied = at;
    }
    out.push_str(sql.get(copied..).unwrap_or_default());
    (out, names)
}

/// Where the lexical element that begins at `at` ends, as far as no `:` inside it counts.
fn behind(sql: &str, at: usize) -> usize {
    let rest = sql.as_bytes().get(at..).unwrap_or_default();
    let length = match rest {
        [b'\'', ..] => quoted(rest, b'\'', is_escape(sql, at)),
        [b'"', ..] => quoted(rest, b'"', false),
        [b'-', b'-', ..] => rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => comment(rest),
        [b'$', ..] => dollar(sql, at),
        _ => 1,
    };
    at + length
}

/// Whether the quote at this place belongs to a text in which a backslash escapes: `E'..'`.
fn is_escape(sql: &str, at: usize) -> bool {
    let mut before = sql.as_bytes().get(..at).unwrap_or_default().iter().rev();
    let is_e = matches!(before.next(), Some(b'e' | b'E'));
    is_e && before.next().is_none_or(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_')
}

fn quoted(rest: &[u8], quote: u8, escapes: bool) -> usize {
    let mut at = 1;
    while let Some(&byte) = rest.get(at) {
        let is_doubled = byte == quote && rest.get(at + 1) == Some(&quote);
        if is_doubled || (escapes && byte == b'\\') {
            at += 2;
        } else if byte == quote {
            return at + 1;
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(&byte) = rest.get(at) {
        match (byte, rest.get(at + 1)) {
            (b'/', Some(b'*')) => (depth, at) = (depth + 1, at + 2),
            (b'*', Some(b'/')) if depth <= 1 => return at + 2,
            (b'*', Some(b'/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    rest.len()
}

/// A text between `$tag$`s, where one begins here.
fn dollar(sql: &str, at: usize) -> usize {
    let is_within_word = sql.as_bytes().get(..at).and_then(<[u8]>::last).is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    let rest = sql.get(at..).unwrap_or_default();
    let tag = rest.get(1..).and_then(|rest| rest.split_once('$')).map(|(tag, _)| tag);
    let is_tag = |tag: &str| {
        !tag.starts_with(|first: char| first.is_ascii_digit()) && tag.chars().all(|letter| letter.is_alphanumeric() || letter == '_')
    };
    let Some(tag) = tag.filter(|tag| is_tag(tag) && !is_within_word) else { return 1 };
    let mark = tag.len() + 2;
    let (opening, text) = rest.split_at(mark);
    text.find(opening).map_or(rest.len(), |end| mark + end + mark)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn of(sql: &str) -> (String, Vec<String>) {
        numbered(sql)
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn names_become_numbers() {
        assert_eq!(of("select :a, :b, :a"), ("select $1, $2, $1".into(), names(&["a", "b"])));
        assert_eq!(of("where id = :1 and x=:0"), ("where id = $1 and x=$2".into(), names(&["1", "0"])));
        assert_eq!(of(":a::int + (:b)::text"), ("$1::int + ($2)::text".into(), names(&["a", "b"])));
        assert_eq!(of("values(:a,:b_2)"), ("values($1,$2)".into(), names(&["a", "b_2"])));
    }

    #[test]
    fn what_is_no_name_is_left_alone() {
        for text in [
            "select 'it''s :a' || E'\\':a' || \":a\"",
            "select 1 -- :a\n",
            "select /* :a /* :b */ :c */ 1",
            "select $$ :a $$, $tag$ :b $$ :c $tag$",
            "select x::int, y :: text",
            "select arr[1:2], arr[a:b]",
            "f(x := 1)",
            "select ': ', a : b",
            "select '\u{e9}:a'",
            "select $1",
        ] {
            assert_eq!(of(text), (text.to_owned(), vec![]), "{text}");
        }
    }

    #[test]
    fn what_is_around_them_stays() {
        assert_eq!(of("select ':x', :a -- :y"), ("select ':x', $1 -- :y".into(), names(&["a"])));
        assert_eq!(of("E'\\\\', :a"), ("E'\\\\', $1".into(), names(&["a"])));
        assert_eq!(of("E'it''s \\' :x', :a"), ("E'it''s \\' :x', $1".into(), names(&["a"])));
        assert_eq!(of("'\\', :a"), ("'\\', $1".into(), names(&["a"])), "without E a backslash is a letter");
        assert_eq!(of("price$:a"), ("price$:a".into(), vec![]), "a dollar sign may be a part of a word");
    }

    fn given(value: Value) -> Vec<Named> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn values_have_the_types_that_they_have_at_aws() {
        let named = given(json!([
            { "name": "l", "value": { "longValue": 7 } },
            { "name": "s", "value": { "stringValue": "x" } },
            { "name": "n", "value": { "isNull": true }, "typeHint": "UUID" },
            { "name": "b", "value": { "blobValue": "AQL/" } },
            { "name": "t", "value": { "stringValue": "2026-01-01 00:00:00" }, "typeHint": "TIMESTAMP" },
            { "name": "a", "value": { "arrayValue": { "longValues": [1, 2] } } },
            { "name": "unused", "value": { "booleanValue": true } },
        ]));
        let bound = bind("select :l, :s, :n, :b, :t, :a", &named).unwrap();
        let told: Vec<(u32, Option<&str>)> = bound.parameters.iter().map(|p| (p.oid, p.value.as_deref())).collect();
        assert_eq!(
            told,
            [
                (20, Some("7")),
                (0, Some("x")),
                (2950, None),
                (17, Some("\\x0102ff")),
                (1114, Some("2026-01-01 00:00:00")),
                (0, Some("{1,2}"))
            ]
        );
    }

    #[test]
    fn what_is_missing_or_wrong_is_said() {
        let wrong = |sql: &str, named: Value| bind(sql, &given(named)).unwrap_err().message().to_owned();
        assert_eq!(wrong("select :gone", json!([])), "Cannot find parameter: gone");
        assert!(wrong("select :a", json!([{ "name": "a", "value": {} }])).contains("has no value"));
        assert!(wrong("select :a", json!([{ "name": "a", "value": { "blobValue": "!" } }])).contains("base64"));
        assert!(wrong("select :a", json!([{ "name": "a", "value": { "stringValue": "1" }, "typeHint": "MONEY" }])).contains("MONEY"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_none_is_lost(text in "[:a'\"$\\-/*\\\\E\u{e9} \n\\[\\]0]{0,40}") {
            let (out, names) = numbered(&text);
            // Putting the names back gives the text again.
            let mut back = out;
            for (place, name) in names.iter().enumerate().rev() {
                back = back.replace(&format!("${}", place + 1), &format!(":{name}"));
            }
            if !text.contains('$') {
                prop_assert_eq!(back, text);
            }
        }
    }
}
