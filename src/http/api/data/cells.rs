//! Results as the Data API writes them: records of typed values, their columns, or JSON.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::complaint::Complaint;
use crate::http::api::answer::{Answer, Column};
use crate::http::api::json::{Element, element_of, elements, text, type_name};

/// How numbers are to be returned that JSON's readers may not have exactly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Options {
    decimal_return_type: DecimalAs,
    long_return_type: LongAs,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum DecimalAs {
    #[default]
    String,
    DoubleOrLong,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum LongAs {
    #[default]
    Long,
    String,
}

/// What kind of value a type's values are here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Boolean,
    Long,
    Double,
    Decimal,
    Blob,
    /// In UTC, without saying so.
    Instant,
    String,
    Array(u32),
    /// Not returned, under this name.
    Unsupported(&'static str),
}

fn form(oid: u32) -> Form {
    match oid {
        16 => Form::Boolean,
        17 => Form::Blob,
        20 | 21 | 23 | 26 => Form::Long,
        700 | 701 => Form::Double,
        1700 => Form::Decimal,
        1184 => Form::Instant,
        790 => Form::Unsupported("MONEY"),
        600 => Form::Unsupported("POINT"),
        601 => Form::Unsupported("LSEG"),
        602 => Form::Unsupported("PATH"),
        603 => Form::Unsupported("BOX"),
        604 => Form::Unsupported("POLYGON"),
        628 => Form::Unsupported("LINE"),
        718 => Form::Unsupported("CIRCLE"),
        _ => element_of(oid).map_or(Form::String, Form::Array),
    }
}

/// A value in its own form, without the name of its kind; and that name.
fn value(oid: u32, text: &str, options: Options) -> Result<(&'static str, Value), Complaint> {
    let string = |text: &str| ("stringValue", Value::from(text));
    Ok(match form(oid) {
        Form::Boolean => ("booleanValue", Value::from(text == "t")),
        Form::Long if options.long_return_type == LongAs::String => string(text),
        Form::Long => text.parse::<i64>().map_or_else(|_| string(text), |number| ("longValue", number.into())),
        Form::Double => double(text),
        Form::Decimal if options.decimal_return_type == DecimalAs::DoubleOrLong => {
            text.parse::<i64>().map_or_else(|_| double(text), |number| ("longValue", number.into()))
        }
        Form::Blob => blob(text).map_or_else(|| string(text), |bytes| ("blobValue", STANDARD.encode(bytes).into())),
        Form::Instant => string(text.strip_suffix("+00").unwrap_or(text)),
        Form::Decimal | Form::String => string(text),
        Form::Array(element) => ("arrayValue", array(element, text, options)?),
        Form::Unsupported(name) => return Err(Complaint::unsupported_result(name)),
    })
}

/// NaN and infinity are no numbers of JSON.
fn double(text: &str) -> (&'static str, Value) {
    let number = text.parse::<f64>().ok().and_then(serde_json::Number::from_f64);
    number.map_or_else(|| ("stringValue", Value::from(text)), |number| ("doubleValue", Value::Number(number)))
}

fn blob(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?;
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok())).collect()
}

/// An array of one dimension, by the kind of its elements.
fn array(element: u32, text: &str, options: Options) -> Result<Value, Complaint> {
    let found = elements(text).unwrap_or_default();
    let mut kind = match form(element) {
        Form::Boolean => "booleanValues",
        Form::Long if options.long_return_type == LongAs::Long => "longValues",
        Form::Double => "doubleValues",
        _ => "stringValues",
    };
    let mut values = Vec::with_capacity(found.len());
    for one in found {
        values.push(match one {
            Element::Null => Value::Null,
            Element::Array(_) => return Err(Complaint::unsupported_result("ARRAY of several dimensions")),
            Element::Text(text) => {
                let (of_kind, value) = value(element, &text, options)?;
                if of_kind == "stringValue" {
                    kind = "stringValues";
                }
                value
            }
        });
    }
    // One that is no number makes them all texts.
    if kind == "stringValues" {
        values.iter_mut().filter(|value| value.is_number()).for_each(|value| *value = value.to_string().into());
    }
    Ok(json!({ kind: values }))
}

/// The records of an answer.
///
/// # Errors
/// A type that the Data API does not return.
pub(super) fn records(answer: &Answer, options: Options) -> Result<Value, Complaint> {
    let mut records = Vec::new();
    for row in answer.rows() {
        let mut record = Vec::with_capacity(row.len());
        for (cell, column) in row.iter().zip(&answer.columns) {
            record.push(match text(*cell)? {
                None => json!({ "isNull": true }),
                Some(text) => {
                    let (kind, value) = value(column.oid, text, options)?;
                    json!({ kind: value })
                }
            });
        }
        records.push(Value::Array(record));
    }
    Ok(Value::Array(records))
}

/// The rows of an answer as one text of JSON, an array of objects.
///
/// # Errors
/// As [`records`]; and two columns of one name.
pub(super) fn formatted(answer: &Answer, options: Options) -> Result<String, Complaint> {
    let mut rows = Vec::new();
    for row in answer.rows() {
        let mut object = Map::new();
        for (cell, column) in row.iter().zip(&answer.columns) {
            let value = match text(*cell)? {
                None => Value::Null,
                Some(text) => match value(column.oid, text, options)? {
                    ("arrayValue", Value::Object(kinds)) => kinds.into_iter().next().map_or(Value::Null, |(_, values)| values),
                    (_, value) => value,
                },
            };
            if object.insert(column.name.clone(), value).is_some() {
                return Err(Complaint::bad_request(format!("The result has several columns with the name {}", column.name)));
            }
        }
        rows.push(Value::Object(object));
    }
    Ok(Value::Array(rows).to_string())
}

/// The numbers of `java.sql.Types`.
fn jdbc_type(oid: u32) -> i32 {
    match oid {
        16 => -7,
        17 => -2,
        20 | 26 => -5,
        21 => 5,
        23 => 4,
        700 => 7,
        701 => 8,
        18 | 1042 => 1,
        19 | 25 | 1043 => 12,
        1082 => 91,
        1083 | 1266 => 92,
        1114 | 1184 => 93,
        1700 => 2,
        _ if element_of(oid).is_some() => 2003,
        _ => 1111,
    }
}

/// Precision and scale, as the JDBC driver has them.
fn size(column: &Column) -> (i32, i32) {
    match (column.oid, column.modifier) {
        (16 | 18, _) => (1, 0),
        (21, _) => (5, 0),
        (23 | 26, _) => (10, 0),
        (20, _) => (19, 0),
        (700, _) => (8, 8),
        (701, _) => (17, 17),
        (1700, modifier) if modifier >= 4 => ((modifier - 4) >> 16, (modifier - 4) & 0xffff),
        (1700, _) => (0, 0),
        (1042 | 1043, modifier) if modifier >= 4 => (modifier - 4, 0),
        (1082, _) => (13, 0),
        (1083, _) => (15, 6),
        (1114, _) => (29, 6),
        (1184, _) => (35, 6),
        _ => (i32::MAX, 0),
    }
}

/// The columns of an answer. `names` are those of types that are not PostgreSQL's own.
pub(super) fn metadata(answer: &Answer, names: &HashMap<u32, String>) -> Value {
    let columns = answer.columns.iter().map(|column| {
        let (precision, scale) = size(column);
        let is_number = matches!(column.oid, 20 | 21 | 23 | 700 | 701 | 1700);
        let type_of = type_name(column.oid).or_else(|| names.get(&column.oid).cloned()).unwrap_or_else(|| "unknown".to_owned());
        json!({
            "name": column.name,
            "label": column.name,
            "type": jdbc_type(column.oid),
            "typeName": type_of,
            "schemaName": "",
            "tableName": "",
            // Not known.
            "nullable": 2,
            "precision": precision,
            "scale": scale,
            "isAutoIncrement": false,
            "isSigned": is_number,
            "isCurrency": false,
            "isCaseSensitive": matches!(column.oid, 18 | 19 | 25 | 114 | 1042 | 1043 | 3802),
            "arrayBaseColumnType": element_of(column.oid).map_or(0, jdbc_type),
        })
    });
    columns.collect()
}

/// The types of an answer that have no name here.
pub(super) fn foreign_types(answer: &Answer) -> Vec<u32> {
    let mut found: Vec<u32> = answer.columns.iter().map(|column| column.oid).filter(|oid| type_name(*oid).is_none()).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// How many records a statement has changed: not those that it has read.
pub(super) fn updated(answer: &Answer) -> u64 {
    match answer.command() {
        "INSERT" | "UPDATE" | "DELETE" | "MERGE" => answer.row_count().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(oid: u32, text: &str) -> Value {
        let (kind, value) = value(oid, text, Options::default()).unwrap();
        json!({ kind: value })
    }

    #[test]
    fn values_are_of_the_kinds_that_aws_returns() {
        assert_eq!(shown(23, "7"), json!({ "longValue": 7 }));
        assert_eq!(shown(20, "9223372036854775807"), json!({ "longValue": i64::MAX }));
        assert_eq!(shown(701, "0.5"), json!({ "doubleValue": 0.5 }));
        assert_eq!(shown(701, "NaN"), json!({ "stringValue": "NaN" }));
        assert_eq!(shown(1700, "1.50"), json!({ "stringValue": "1.50" }));
        assert_eq!(shown(16, "f"), json!({ "booleanValue": false }));
        assert_eq!(shown(17, "\\x0102ff"), json!({ "blobValue": "AQL/" }));
        assert_eq!(shown(1184, "2026-01-01 00:00:00.5+00"), json!({ "stringValue": "2026-01-01 00:00:00.5" }));
        assert_eq!(shown(1007, "{1,NULL}"), json!({ "arrayValue": { "longValues": [1, null] } }));
        assert_eq!(shown(1009, "{a,\"b c\"}"), json!({ "arrayValue": { "stringValues": ["a", "b c"] } }));
        assert_eq!(shown(1022, "{1.5,NaN}"), json!({ "arrayValue": { "stringValues": ["1.5", "NaN"] } }));
        assert_eq!(shown(99999, "mood"), json!({ "stringValue": "mood" }), "an enum's values are texts");
    }

    #[test]
    fn options_choose_the_exact_form() {
        let options: Options =
            serde_json::from_value(json!({ "decimalReturnType": "DOUBLE_OR_LONG", "longReturnType": "STRING" })).unwrap();
        assert_eq!(value(1700, "1.50", options).unwrap(), ("doubleValue", json!(1.5)));
        assert_eq!(value(1700, "3", options).unwrap(), ("longValue", json!(3)));
        assert_eq!(value(20, "3", options).unwrap(), ("stringValue", json!("3")));
        assert_eq!(value(1016, "{3}", options).unwrap(), ("arrayValue", json!({ "stringValues": ["3"] })));
    }

    #[test]
    fn what_is_not_returned_is_refused_by_name() {
        let refused = |oid, text| value(oid, text, Options::default()).unwrap_err().message().to_owned();
        assert_eq!(refused(790, "$1.00"), "The result contains the unsupported data type MONEY");
        assert!(refused(1007, "{{1},{2}}").contains("ARRAY"));
    }
}
