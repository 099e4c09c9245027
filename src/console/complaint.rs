//! Why a command was not carried out. What a client hears at login is in the table of faults; these are answers within the admin database.

use crate::wire::{say, sqlstate};
use bytes::BytesMut;

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    pub(super) sqlstate: &'static str,
    /// In words.
    pub message: String,
}

/// How much of a command that is none is shown.
const SHOWN: usize = 200;

impl Complaint {
    fn new(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self { sqlstate, message: message.into() }
    }

    /// This is no command.
    pub fn unknown(text: &str) -> Self {
        let shown: String = text.chars().take(SHOWN).collect();
        Self::new(sqlstate::SYNTAX_ERROR, format!("invalid command '{}', use SHOW HELP;", shown.trim()))
    }

    /// It cannot be done to what it names.
    pub fn wrong(message: impl Into<String>) -> Self {
        Self::new(sqlstate::INVALID_PARAMETER_VALUE, message)
    }

    /// There is no such thing.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(sqlstate::FEATURE_NOT_SUPPORTED, message)
    }

    /// There are as many visitors as may be.
    pub fn too_many() -> Self {
        Self::new(sqlstate::TOO_MANY_CONNECTIONS, "too many sessions of the admin database")
    }

    /// Only administrators may.
    pub fn not_allowed() -> Self {
        Self::new(sqlstate::INSUFFICIENT_PRIVILEGE, "admin access needed")
    }

    /// There is no prepared statement, or portal, of that name.
    pub fn no_statement(name: &str) -> Self {
        Self::new(sqlstate::INVALID_STATEMENT_NAME, format!("\"{name}\" does not exist"))
    }

    /// The client broke the protocol.
    pub fn malformed() -> Self {
        Self::new(sqlstate::PROTOCOL_VIOLATION, "this is no message that the admin database understands")
    }

    /// Tells the client.
    pub fn say(&self, out: &mut BytesMut, severity: &str) {
        let fields =
            [(b'S', severity.to_owned()), (b'V', severity.to_owned()), (b'C', self.sqlstate.to_owned()), (b'M', self.message.clone())];
        say::error(out, fields.to_vec());
    }
}
