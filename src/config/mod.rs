//! Config: the settings as structs whose doc comments are the reference, and everything that turns text into the checked [`Config`] that the
//! program goes by.
//!
//! The way of a setting: [`settings`](Settings) says what may be written; `shape` reads that from the generated schema; `tree` holds what was written and where,
//! the file's text first, then `url` and `environment` over it; `fit` keeps what fits and tells the rest; `compile` weighs the settings against each other
//! and makes the [`Config`]. `snapshot` compares two of them for a reload. The pages under `docs/reference` are made from `shape` too.

mod compile;
mod environment;
mod findings;
mod fit;
mod glob;
mod import;
mod load;
mod mistake;
mod model;
mod pages;
mod secret;
mod settings;
mod shape;
mod snapshot;
mod tree;
mod url;
mod value;
mod words;

pub use environment::{PREFIX, Variables, variable_of};
pub use glob::Glob;
pub use import::{Imported, import, pgbouncer_reference};
pub use load::{Loaded, parse_str};
pub use mistake::{Line, Mistake, Place, Severity};
pub use model::*;
pub use pages::{example, reference, schema};
pub use secret::{MASK, SecretText};
pub use settings::*;
pub use shape::Applies;
pub use snapshot::{Change, Shown, diff};
pub use value::*;
