//! The pages that are made from the settings' doc comments: the reference, the JSON schema and the annotated example. They are checked in under
//! `docs/reference` and `config`, and a test compares them.

mod example;
mod reference;

pub use example::example;
pub use reference::reference;

use serde_json::Value as Json;

use super::shape::{Kind, Shape, json_schema};

/// The file's JSON schema, for editors.
pub fn schema() -> String {
    let text = serde_json::to_string_pretty(&json_schema()).unwrap_or_default();
    format!("{text}\n")
}

/// A value as it is written in TOML. Only what settings hold: texts, numbers, booleans and lists of them.
fn as_toml(value: &Json) -> String {
    match value {
        Json::Array(items) => format!("[{}]", items.iter().map(as_toml).collect::<Vec<_>>().join(", ")),
        Json::Object(entries) => {
            let pairs = entries.iter().filter(|(_, value)| !value.is_null());
            let pairs: Vec<String> = pairs.map(|(key, value)| format!("{key} = {}", as_toml(value))).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
        other => other.to_string(),
    }
}

/// Whether the shape is written on one line: a leaf, or a list of leaves.
fn is_leaf(shape: &Shape) -> bool {
    match shape {
        Shape::Value(_) => true,
        Shape::List(each) => matches!(**each, Shape::Value(_)),
        Shape::Table(_) | Shape::Named(_) => false,
    }
}

/// What a leaf may be, for people.
fn type_in_words(shape: &Shape) -> String {
    match shape {
        Shape::List(each) => format!("list of: {}", type_in_words(each)),
        Shape::Value(Kind::Boolean) => "`true` or `false`".to_owned(),
        Shape::Value(Kind::Integer { min, max }) => format!("number from {min} to {max}"),
        Shape::Value(Kind::Word(words)) => {
            let words: Vec<String> = words.iter().map(|(word, _)| format!("`\"{word}\"`")).collect();
            format!("one of {}", words.join(", "))
        }
        Shape::Value(Kind::Text { format }) => match format.as_str() {
            "period" => "duration",
            "size" => "size",
            "path" => "path of a file",
            "ca" => "path of a file, or `\"system\"`",
            "address" => "IP address and port, or `\"off\"`",
            "listen-address" => "IP address and port, or `unix:` and a folder",
            "network" => "network (CIDR)",
            "glob" => "pattern",
            "secret" | "verifier" => "secret text",
            "variable" => "name of a variable",
            _ => "text",
        }
        .to_owned(),
        Shape::Table(_) | Shape::Named(_) => "table".to_owned(),
    }
}
