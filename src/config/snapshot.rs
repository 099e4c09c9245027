//! Every setting's resolved value by its path, so that two configurations can be compared.

use std::collections::BTreeMap;

use super::secret::{MASK, SecretText};

/// One setting's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Resolved {
    /// As it would be written.
    Plain(String),
    /// Compared, never shown.
    Secret(SecretText),
}

impl Resolved {
    /// What may be shown of it.
    pub(super) fn shown(&self) -> &str {
        match self {
            Self::Plain(text) => text,
            Self::Secret(_) => MASK,
        }
    }
}

/// Values by path; what is not set and has no default is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Snapshot(pub(super) BTreeMap<String, Resolved>);
