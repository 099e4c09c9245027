//! Between PostgreSQL's text form of values and JSON, in both directions.

use std::fmt::Write as _;

use serde_json::Value;
use tokio_postgres::types::{Kind, Type};

use super::answer::Answer;
use super::trouble::Trouble;
use crate::fault::Fault;

/// Types whose text is a JSON value as it stands, or nearly.
mod oid {
    pub(super) const BOOL: u32 = 16;
    pub(super) const INT2: u32 = 21;
    pub(super) const INT4: u32 = 23;
    pub(super) const OID: u32 = 26;
    pub(super) const FLOAT4: u32 = 700;
    pub(super) const FLOAT8: u32 = 701;
    pub(super) const JSON: u32 = 114;
    pub(super) const JSONB: u32 = 3802;
}

/// The type of an array type's elements, for those of PostgreSQL's own whose elements are separated by commas.
pub(super) fn element_of(array: u32) -> Option<u32> {
    match Type::from_oid(array)?.kind() {
        Kind::Array(element) if *element != Type::BOX => Some(element.oid()),
        _ => None,
    }
}

/// The name of a type of PostgreSQL's own.
pub(super) fn type_name(oid: u32) -> Option<String> {
    Type::from_oid(oid).map(|found| found.name().to_owned())
}

/// Appends a text as a JSON string.
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    // Writing to memory cannot fail.
    let _ = serde_json::to_writer(&mut *out, text);
}

/// Appends a value of this type, in its nearest JSON form: numbers where every JSON reader has them exactly (so not int8 and not numeric), booleans, JSON itself, and
/// arrays of those; everything else as PostgreSQL writes it.
pub(super) fn typed(out: &mut Vec<u8>, oid: u32, text: &str) {
    match oid {
        oid::BOOL => out.extend_from_slice(if text == "t" { b"true" } else { b"false" }),
        oid::INT2 | oid::INT4 | oid::OID | oid::JSON | oid::JSONB => out.extend_from_slice(text.as_bytes()),
        oid::FLOAT4 | oid::FLOAT8 if is_number(text) => out.extend_from_slice(text.as_bytes()),
        _ => match element_of(oid).and_then(|element| Some((element, elements(text)?))) {
            Some((element, array)) => nested(out, element, &array),
            None => string(out, text),
        },
    }
}

/// Appends a value: by its type where one is given, else as a text.
///
/// # Errors
/// A value that is no UTF-8, which only a server without an encoding sends.
pub(super) fn value(out: &mut Vec<u8>, oid: Option<u32>, value: Option<&[u8]>) -> Result<(), Trouble> {
    match (text(value)?, oid) {
        (None, _) => out.extend_from_slice(b"null"),
        (Some(text), Some(oid)) => typed(out, oid, text),
        (Some(text), None) => string(out, text),
    }
    Ok(())
}

/// A value's text.
///
/// # Errors
/// As [`value`].
pub(super) fn text(value: Option<&[u8]>) -> Result<Option<&str>, Trouble> {
    let text = value.map(std::str::from_utf8).transpose();
    text.map_err(|_| Fault::Unsupported("a value that is not UTF-8, over HTTP,").into())
}

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    /// Values as texts, whatever their types.
    pub(super) raw: bool,
    /// Rows as arrays; else as objects, by the columns' names.
    pub(super) arrays: bool,
}

/// Appends all rows and what was carried out, as members of an object: `"rows":[..],"command":"SELECT","rowCount":1`.
///
/// # Errors
/// As [`value`].
pub(super) fn rows(out: &mut Vec<u8>, answer: &Answer, form: Form) -> Result<(), Trouble> {
    let keys: Vec<Vec<u8>> = answer.columns.iter().map(|column| key(&column.name)).collect();
    let (open, close) = if form.arrays { (b'[', b']') } else { (b'{', b'}') };
    out.extend_from_slice(b"\"rows\":[");
    for (place, row) in answer.rows().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        out.push(open);
        for (place, ((cell, column), key)) in row.iter().zip(&answer.columns).zip(&keys).enumerate() {
            if place > 0 {
                out.push(b',');
            }
            if !form.arrays {
                out.extend_from_slice(key);
            }
            value(out, (!form.raw).then_some(column.oid), *cell)?;
        }
        out.push(close);
    }
    out.extend_from_slice(b"],\"command\":");
    string(out, answer.command());
    let count = answer.row_count().map_or_else(|| "null".to_owned(), |count| count.to_string());
    out.extend_from_slice(format!(",\"rowCount\":{count}").as_bytes());
    Ok(())
}

/// A column's name as the key of an object.
fn key(name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.len() + 3);
    string(&mut key, name);
    key.push(b':');
    key
}

/// Appends several, separated by commas.
///
/// # Errors
/// That of the first that cannot be written.
pub(super) fn list<T>(
    out: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    mut each: impl FnMut(&mut Vec<u8>, T) -> Result<(), Trouble>,
) -> Result<(), Trouble> {
    for (place, item) in items.into_iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        each(out, item)?;
    }
    Ok(())
}

/// Infinity and NaN are no JSON numbers.
fn is_number(text: &str) -> bool {
    text.ends_with(|last: char| last.is_ascii_digit())
}

fn nested(out: &mut Vec<u8>, element: u32, array: &[Element]) {
    out.push(b'[');
    for (place, inner) in array.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        match inner {
            Element::Null => out.extend_from_slice(b"null"),
            Element::Text(text) => typed(out, element, text),
            Element::Array(inner) => nested(out, element, inner),
        }
    }
    out.push(b']');
}

/// An element of an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Element {
    /// NULL.
    Null,
    /// A value's text.
    Text(String),
    /// An array of one dimension less.
    Array(Vec<Element>),
}

/// Arrays have at most six dimensions.
const DEEPEST: usize = 6;

/// Reads an array from PostgreSQL's text form (manual: "Array Input and Output Syntax"); nothing where it is none.
pub(super) fn elements(text: &str) -> Option<Vec<Element>> {
    // Bounds other than from 1 on are told in front: `[0:1]={..}`.
    let text = if text.starts_with('[') { text.split_once('=')?.1 } else { text };
    let (array, rest) = array(text, DEEPEST)?;
    rest.is_empty().then_some(array)
}

fn array(text: &str, depth: usize) -> Option<(Vec<Element>, &str)> {
    let mut rest = text.strip_prefix('{').filter(|_| depth > 0)?;
    let mut found = Vec::new();
    if let Some(rest) = rest.strip_prefix('}') {
        return Some((found, rest));
    }
    loop {
        let (element, behind) = match rest.as_bytes().first()? {
            b'{' => array(rest, depth - 1).map(|(inner, rest)| (Element::Array(inner), rest))?,
            b'"' => quoted(rest)?,
            _ => {
                let end = rest.find([',', '}'])?;
                let (word, rest) = rest.split_at(end);
                (if word == "NULL" { Element::Null } else { Element::Text(word.to_owned()) }, rest)
            }
        };
        found.push(element);
        match behind.as_bytes().first()? {
            b',' => rest = behind.get(1..)?,
            b'}' => return Some((found, behind.get(1..)?)),
            _ => return None,
        }
    }
}

fn quoted(text: &str) -> Option<(Element, &str)> {
    let mut value = String::new();
    let inner = text.strip_prefix('"')?;
    let mut letters = inner.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((Element::Text(value), inner.get(at + 1..)?)),
            '\\' => value.push(letters.next()?.1),
            _ => value.push(letter),
        }
    }
    None
}

/// The text of a JSON value as a statement's parameter: a text as it stands, numbers and booleans as written, an array as PostgreSQL's array, an object as JSON.
pub(super) fn parameter(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(elements) => Some(array_text(elements)),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => Some(value.to_string()),
    }
}

fn array_text(elements: &[Value]) -> String {
    let mut text = String::from("{");
    for (place, element) in elements.iter().enumerate() {
        if place > 0 {
            text.push(',');
        }
        match element {
            Value::Null => text.push_str("NULL"),
            Value::Array(inner) => text.push_str(&array_text(inner)),
            Value::Bool(_) | Value::Number(_) => {
                let _ = write!(text, "{element}");
            }
            Value::String(inner) => quote(&mut text, inner),
            Value::Object(_) => quote(&mut text, &element.to_string()),
        }
    }
    text.push('}');
    text
}

fn quote(text: &mut String, value: &str) {
    text.push('"');
    for letter in value.chars() {
        if matches!(letter, '"' | '\\') {
            text.push('\\');
        }
        text.push(letter);
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn shown(oid: u32, text: &str) -> Value {
        let mut out = Vec::new();
        typed(&mut out, oid, text);
        serde_json::from_slice(&out).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&out)))
    }

    #[test]
    fn values_have_their_nearest_form() {
        assert_eq!(shown(16, "t"), json!(true));
        assert_eq!(shown(23, "-7"), json!(-7));
        assert_eq!(shown(20, "9007199254740993"), json!("9007199254740993"), "more than a double holds");
        assert_eq!(shown(1700, "1.50"), json!("1.50"));
        assert_eq!(
            (shown(701, "1.5e+300"), shown(701, "NaN"), shown(701, "-Infinity")),
            (json!(1.5e300), json!("NaN"), json!("-Infinity"))
        );
        assert_eq!(shown(3802, "{\"a\": [1, null]}"), json!({"a": [1, null]}));
        assert_eq!(shown(25, "a\"b\n"), json!("a\"b\n"));
        assert_eq!(shown(1007, "{1,NULL,3}"), json!([1, null, 3]));
        assert_eq!(shown(1007, "[0:1]={{1},{2}}"), json!([[1], [2]]));
        assert_eq!(shown(1009, r#"{a,"b \"c\\",NULL,"NULL",""}"#), json!(["a", "b \"c\\", null, "NULL", ""]));
        assert_eq!(shown(1007, "{}"), json!([]));
        assert_eq!(shown(1009, "{broken"), json!("{broken"), "what is no array is told as it is");
    }

    #[test]
    fn parameters_are_written_as_a_server_reads_them() {
        assert_eq!(parameter(&json!(null)), None);
        assert_eq!(parameter(&json!(1.5)), Some("1.5".into()));
        assert_eq!(parameter(&json!({"a": 1})), Some("{\"a\":1}".into()));
        assert_eq!(parameter(&json!(["a\"b", null, 1, true, ["x"], {"k": 1}])), Some(r#"{"a\"b",NULL,1,true,{"x"},"{\"k\":1}"}"#.into()));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}") {
            let _ = elements(&text);
        }

        #[test]
        fn texts_come_back_out_of_an_array(texts in prop::collection::vec("\\PC{0,8}", 0..5)) {
            let written = parameter(&json!(texts)).unwrap();
            let read = elements(&written).unwrap();
            prop_assert_eq!(read, texts.into_iter().map(Element::Text).collect::<Vec<_>>());
        }
    }
}
