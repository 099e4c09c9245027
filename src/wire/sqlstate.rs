//! The SQLSTATEs that the proxy says or understands, by PostgreSQL's own names for them (manual: appendix "PostgreSQL Error Codes").

/// All is well; of notices.
pub const SUCCESSFUL_COMPLETION: &str = "00000";
/// The connection is gone.
pub const CONNECTION_FAILURE: &str = "08006";
/// The peer broke the protocol.
pub const PROTOCOL_VIOLATION: &str = "08P01";
/// Not supported.
pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
/// The user may not do this.
pub const INSUFFICIENT_PRIVILEGE: &str = "42501";
/// A statement mode connection began a transaction, or a transaction was left idle too long.
pub const IDLE_IN_TRANSACTION: &str = "25P03";
/// The state of the transaction does not allow this.
pub const INVALID_TRANSACTION_STATE: &str = "25000";
/// The transaction is read-only, perhaps because the server is a standby.
pub const READ_ONLY_SQL_TRANSACTION: &str = "25006";
/// No prepared statement of that name.
pub const INVALID_STATEMENT_NAME: &str = "26000";
/// A value that the parameter does not take.
pub const INVALID_PARAMETER_VALUE: &str = "22023";
/// No table of that name.
pub const UNDEFINED_TABLE: &str = "42P01";
/// A prepared statement of that name exists.
pub const DUPLICATE_STATEMENT_NAME: &str = "42P05";
/// The user may not log in.
pub const INVALID_AUTHORIZATION: &str = "28000";
/// The password is wrong.
pub const INVALID_PASSWORD: &str = "28P01";
/// No such database.
pub const INVALID_CATALOG_NAME: &str = "3D000";
/// The words of a command do not parse.
pub const SYNTAX_ERROR: &str = "42601";
/// Too many connections.
pub const TOO_MANY_CONNECTIONS: &str = "53300";
/// A message is longer than it may be.
pub const PROGRAM_LIMIT_EXCEEDED: &str = "54000";
/// What it is about is in no state for that.
pub const OBJECT_NOT_IN_PREREQUISITE_STATE: &str = "55000";
/// The query was cancelled.
pub const QUERY_CANCELED: &str = "57014";
/// The administrator ended the session.
pub const ADMIN_SHUTDOWN: &str = "57P01";
/// The server has crashed, or was stopped as if it had.
pub const CRASH_SHUTDOWN: &str = "57P02";
/// Not accepting connections now.
pub const CANNOT_CONNECT_NOW: &str = "57P03";
/// The session was idle too long.
pub const IDLE_SESSION_TIMEOUT: &str = "57P05";
/// Something is wrong inside.
pub const INTERNAL_ERROR: &str = "XX000";
