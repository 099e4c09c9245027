//! Config: the settings as structs whose doc comments are the reference, and everything that turns text into the checked [`Config`] that the program goes by.
mod glob;
mod model;
mod secret;
mod settings;
mod snapshot;
mod value;

pub use glob::Glob;
pub use model::*;
pub use secret::SecretText;
pub use settings::*;
pub use value::*;
