//! Settings from the environment: `PGWEIR_` and the setting's path in capitals, with `__` between its keys. They take the place of what the file says.
//! Lists are written with commas. Names that the writer chooses (`upstreams.NAME`) are those of the file where they fit, else lower case.

use std::collections::{BTreeMap, BTreeSet};

use super::mistake::{Mistake, Place, Severity};
use super::shape::{Kind, Shape};
use super::tree::{Node, Origin, Table, Value};
use super::words::nearest;

/// Variables by name, as the process has them.
pub type Variables = BTreeMap<String, String>;

/// What every variable of ours begins with.
pub const PREFIX: &str = "PGWEIR_";

/// Variables that are no setting's: the file, the upstream's URL and the log level, which have short names of their own.
const SHORT: [&str; 3] = ["PGWEIR_CONFIG", "PGWEIR_UPSTREAM", "PGWEIR_LOG"];

/// The variable of a setting that is written with dots, as in `defaults.queue_timeout`.
pub fn variable_of(path: &str) -> String {
    variable_name(&path.split('.').map(str::to_owned).collect::<Vec<_>>())
}

/// The variable of a setting, from its path; names and places in lists stand as they are.
pub(super) fn variable_name(path: &[String]) -> String {
    let keys: Vec<String> = path.iter().map(|key| as_variable(key)).collect();
    format!("{PREFIX}{}", keys.join("__"))
}

fn as_variable(key: &str) -> String {
    let upper = |c: char| if c.is_alphanumeric() || c == '*' { c.to_ascii_uppercase() } else { '_' };
    key.chars().map(upper).collect()
}

/// Lays the variables over the tree, and tells those that are no setting's.
pub(super) fn overlay(tree: &mut Table, shape: &Shape, variables: &Variables) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    let mut strangers = Vec::new();
    for (name, text) in variables {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        if name == "PGWEIR_LOG" {
            let _ = tree.put(&super::words::path(["log", "level"]), from_variable(name, Value::Text(text.clone())), true);
        }
        if SHORT.contains(&name.as_str()) {
            continue;
        }
        let mut path = Vec::new();
        match resolve(rest, shape, Some(tree), &mut path) {
            Ok(leaf) => {
                for list in lists_on(&path, shape) {
                    // Where there is one already, it stays.
                    let _ = tree.put(list, from_variable(name, Value::List(Vec::new())), false);
                }
                let value = read(leaf, text, name);
                if tree.put(&path, from_variable(name, value), true).is_err() {
                    let remedy = "lists count from 0 without a gap; everything else is as in the reference";
                    mistakes.push(stranger(name, "does not fit what is set there", Some(remedy.to_owned())));
                }
            }
            Err(remedy) => strangers.push((name, remedy)),
        }
    }
    // A variable that a setting such as `password_env` names may be called anything.
    let named = named_variables(tree, shape);
    let unknown = strangers.into_iter().filter(|(name, _)| !named.contains(name.as_str()) && !is_kubernetes(name));
    mistakes.extend(unknown.map(|(name, remedy)| stranger(name, "is no setting's variable", remedy)));
    mistakes
}

/// Kubernetes gives every process the addresses of the services around it; one called `pgweir` makes these.
fn is_kubernetes(name: &str) -> bool {
    name.starts_with("PGWEIR_SERVICE_") || name == "PGWEIR_PORT" || name.starts_with("PGWEIR_PORT_")
}

fn stranger(name: &str, what: &str, remedy: Option<String>) -> Mistake {
    // Without `__` it cannot have been meant as a setting: every one has at least two keys.
    let severity = if name.contains("__") { Severity::Error } else { Severity::Warning };
    Mistake {
        severity,
        place: Place::Variable(name.to_owned()),
        path: String::new(),
        what: format!("this variable {what}"),
        remedy: remedy.or_else(|| Some("`pgweir config reference` lists the variables".to_owned())),
    }
}

fn from_variable(name: &str, value: Value) -> Node {
    Node { origin: Origin::Variable(name.to_owned()), value }
}

/// The lists of tables that a path leads through, from the outside in.
fn lists_on<'p>(path: &'p [String], shape: &Shape) -> Vec<&'p [String]> {
    let parts = (1..path.len()).filter_map(|length| path.get(..length));
    parts
        .filter(
            |part| matches!(shape.lookup(part), Some(field) if matches!(field.shape, Shape::List(_)) && part.last() == Some(&field.name)),
        )
        .collect()
}

/// Finds the setting that a variable's name stands for; else what may have been meant.
fn resolve<'s>(rest: &str, shape: &'s Shape, tree: Option<&Table>, path: &mut Vec<String>) -> Result<&'s Shape, Option<String>> {
    let (first, below) = rest.split_once("__").map_or((rest, None), |(first, below)| (first, Some(below)));
    let (key, next) = match shape {
        Shape::Table(fields) => {
            let Some(field) = fields.iter().find(|field| as_variable(&field.name) == first) else {
                let names: Vec<String> = fields.iter().map(|field| as_variable(&field.name)).collect();
                let near = nearest(first, names.iter().map(String::as_str));
                return Err(near.map(|near| format!("did you mean {near} in place of {first}?")));
            };
            (field.name.clone(), &field.shape)
        }
        Shape::Named(each) => {
            let known = tree.and_then(|table| table.keys().find(|key| as_variable(key) == first));
            (known.map_or_else(|| first.to_lowercase(), str::to_owned), &**each)
        }
        Shape::List(each) if first.parse::<usize>().is_ok() => (first.to_owned(), &**each),
        Shape::List(_) | Shape::Value(_) => return Err(None),
    };
    let tree = tree.and_then(|table| table.table(&key));
    path.push(key);
    match (below, next) {
        (Some(below), _) => resolve(below, next, tree, path),
        (None, Shape::Value(_)) => Ok(next),
        (None, Shape::List(each)) if matches!(**each, Shape::Value(_)) => Ok(next),
        (None, _) => Err(Some("it names a table: go on with `__` and one of its settings".to_owned())),
    }
}

/// The text as the value that the setting wants; where it is not, the checker will say so in its own words.
fn read(shape: &Shape, text: &str, name: &str) -> Value {
    let text = text.trim();
    match shape {
        Shape::List(each) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Value::List(items.map(|item| from_variable(name, read(each, item, name))).collect())
        }
        Shape::Value(Kind::Boolean) => match text {
            "true" | "1" | "on" | "yes" => Value::Boolean(true),
            "false" | "0" | "off" | "no" => Value::Boolean(false),
            other => Value::Text(other.to_owned()),
        },
        Shape::Value(Kind::Integer { .. }) => text.parse().map_or_else(|_| Value::Text(text.to_owned()), Value::Integer),
        _ => Value::Text(text.to_owned()),
    }
}

/// The variables that settings name.
fn named_variables(tree: &Table, shape: &Shape) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for entry in &tree.entries {
        let below = match shape {
            Shape::Table(_) => shape.field(&entry.key).map(|field| &field.shape),
            Shape::Named(each) => Some(&**each),
            _ => None,
        };
        match (below, &entry.node.value) {
            (Some(Shape::Value(Kind::Text { format })), Value::Text(text)) if format == "variable" => {
                named.insert(text.clone());
            }
            (Some(Shape::List(each)), Value::List(items)) => {
                for item in items {
                    if let Value::Table(table) = &item.value {
                        named.extend(named_variables(table, each));
                    }
                }
            }
            (Some(below), Value::Table(table)) => named.extend(named_variables(table, below)),
            _ => {}
        }
    }
    named
}
