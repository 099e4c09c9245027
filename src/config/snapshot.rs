//! Every setting's value by its path, and what differs between two configurations, for reload.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::model::Config;
use super::secret::{MASK, SecretText};
use super::shape::{Applies, Shape};
use super::words::dotted;

/// One setting's value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Resolved {
    /// As it would be written.
    Plain(String),
    /// Compared, never shown.
    Secret(SecretText),
}

/// A setting that is set, or has a default.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    value: Resolved,
    /// What it is where nothing is written.
    default: Option<String>,
    applies: Applies,
}

impl Setting {
    fn shown(&self) -> String {
        match &self.value {
            Resolved::Plain(text) => text.clone(),
            Resolved::Secret(_) => MASK.to_owned(),
        }
    }
}

/// Values by path; what is not set and has no default is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Snapshot(BTreeMap<String, Setting>);

impl Snapshot {
    /// What was written, and the defaults of everything else.
    pub(super) fn of(shape: &Shape, written: &Json) -> Self {
        let mut snapshot = Self::default();
        snapshot.read(shape, (Some(written), None), Applies::Restart, &mut Vec::new());
        snapshot
    }

    /// Reads what is written, or the default of it, whichever there is.
    fn read(&mut self, shape: &Shape, (value, default): (Option<&Json>, Option<&Json>), applies: Applies, path: &mut Vec<String>) {
        match (shape, value.or(default)) {
            (Shape::Table(fields), Some(table)) => {
                for field in fields {
                    path.push(field.name.clone());
                    let written = table.get(&field.name).filter(|value| !value.is_null());
                    self.read(&field.shape, (written, field.default.as_ref()), field.applies.unwrap_or(applies), path);
                    path.pop();
                }
            }
            (Shape::Named(each), Some(Json::Object(entries))) => {
                for (name, entry) in entries {
                    path.push(name.clone());
                    self.read(each, (Some(entry), None), applies, path);
                    path.pop();
                }
            }
            (Shape::List(each), Some(Json::Array(items))) if matches!(**each, Shape::Table(_)) => {
                for (index, item) in items.iter().enumerate() {
                    path.push(index.to_string());
                    self.read(each, (Some(item), None), applies, path);
                    path.pop();
                }
            }
            (Shape::Value(kind), Some(Json::String(text))) if kind.is_secret() => {
                self.set(path, Resolved::Secret(SecretText::new(text.clone())), applies);
            }
            (Shape::Value(_) | Shape::List(_), Some(value)) => {
                self.set(path, Resolved::Plain(plain(value)), applies);
                if let Some(setting) = self.0.get_mut(&dotted(path)) {
                    setting.default = default.map(plain);
                }
            }
            // Not set, and without a default.
            (Shape::Table(_) | Shape::Named(_) | Shape::List(_) | Shape::Value(_), _) => {}
        }
    }

    fn set(&mut self, path: &[String], value: Resolved, applies: Applies) {
        self.0.insert(dotted(path), Setting { value, default: None, applies });
    }

    /// The secret itself, wherever it came from: a changed file is a changed password.
    pub(super) fn resolve_secret(&mut self, path: &[String], secret: &SecretText) {
        self.set(path, Resolved::Secret(secret.clone()), Applies::NextConnection);
    }

    /// The order of the rules decides who belongs where.
    pub(super) fn tenant_order(&mut self, order: &[String]) {
        let order = order.join(", ");
        self.set(&["tenants".to_owned()], Resolved::Plain(order), Applies::NextConnection);
    }
}

/// A value as it would be written, but for the quotes around a text.
fn plain(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A setting for operators to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its path, such as `upstreams.main.max_connections`.
    pub path: String,
    /// Its value; a secret is masked.
    pub value: String,
    /// What it is where nothing is written; nothing where it must be written, or need not be there.
    pub default: Option<String>,
    /// When a change takes hold.
    pub applies: Applies,
}

impl Config {
    /// Every setting that is set or has a default, by path.
    pub fn shown(&self) -> impl Iterator<Item = Shown> {
        let shown = |(path, setting): (&String, &Setting)| Shown {
            path: path.clone(),
            value: setting.shown(),
            default: setting.default.clone(),
            applies: setting.applies,
        };
        self.snapshot.0.iter().map(shown)
    }
}

/// One setting that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The setting, such as `upstreams.main.max_connections`; `tenants` alone is the order of their rules.
    pub path: String,
    /// What it was; `None` where it was not set. Secrets are masked.
    pub old: Option<String>,
    /// What it is now.
    pub new: Option<String>,
    /// When that takes hold.
    pub applies: Applies,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let or_unset = |value: &Option<String>| value.clone().unwrap_or_else(|| "(not set)".to_owned());
        let (old, new) = (or_unset(&self.old), or_unset(&self.new));
        write!(f, "{}: {old} -> {new} (applies: {})", self.path, self.applies.words())
    }
}

/// What changes when the new configuration takes the place of the old one, by path.
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let (old, new) = (&old.snapshot.0, &new.snapshot.0);
    let gone = old.iter().filter(|(path, _)| !new.contains_key(*path)).map(|(path, was)| (path, Some(was), None));
    let kept = new.iter().map(|(path, is)| (path, old.get(path), Some(is)));
    let mut changes: Vec<Change> = gone
        .chain(kept)
        .filter(|(_, was, is)| was.map(|was| &was.value) != is.map(|is| &is.value))
        .filter_map(|(path, was, is)| {
            Some(Change { path: path.clone(), old: was.map(Setting::shown), new: is.map(Setting::shown), applies: is.or(was)?.applies })
        })
        .collect();
    changes.sort_by(|a, b| a.path.cmp(&b.path));
    changes
}
