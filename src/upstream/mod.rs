//! One server connection: how it is opened and logged in to, what it owes, how it is put in order. It knows no pool and no client.

mod aws;
mod broken;
mod conversation;
mod functions;
mod login;
mod owed;
mod prepared;
mod role;
mod server;
mod settings;
mod target;

pub use aws::Aws;
pub use broken::{Broken, Kind, ServerError};
pub use functions::{Functions, Known, Turn};
pub use login::{Card, Choice, Fresh, Reported, cancel, open};
pub use owed::{Answer, Owed};
pub use prepared::{Prepared, SERVER_NAME, ServerName, Statement, Statements, Written};
pub use role::Role;
pub use server::{Server, Sign, Signs, State, Travelling, note_reported};
pub use settings::{Form, Settings, SharedSettings, in_own_transaction};
pub use target::{CANCEL_LIMIT, Login, PassThrough, Place, ServerSecret, Target};
