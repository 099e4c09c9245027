//! Every refusal that a client can hear from the proxy itself: one table.
//!
//! What PostgreSQL said is not here: it passes through untouched. Each fault has an integration test that provokes it.

use std::time::Duration;

use bytes::BytesMut;

use crate::admission::{Exceeded, Refusal};
use crate::pool::Unavailable;
use crate::upstream::{Broken, ServerError};
use crate::wire::startup::BadPacket;
use crate::wire::{Malformed, say, sqlstate};

mod table;

use table::TABLE;
pub use table::{LABELS, reference};

/// Whose limit it was, for the texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whose {
    /// The tenant.
    pub tenant: String,
    /// The upstream.
    pub upstream: String,
}

/// A refusal.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The client broke the protocol.
    Malformed(Malformed),
    /// The first packet is not one.
    BadPacket(BadPacket),
    /// Bytes came before TLS that must not be there.
    EarlyData,
    /// TLS is required and the client came without.
    TlsRequired,
    /// TLS or GSS was asked for twice.
    AskedTwice,
    /// The login was not believed, whatever the reason.
    Denied {
        /// The user as the client named it.
        user: String,
    },
    /// The client certificate is missing or is for somebody else.
    Certificate {
        /// The user as the client named it.
        user: String,
    },
    /// The login took too long.
    LoginTimeout,
    /// No database of that name.
    UnknownDatabase {
        /// The name.
        database: String,
    },
    /// An operator lets no new clients into the database.
    DatabaseDisabled {
        /// The name.
        database: String,
    },
    /// The user may not use the admin database.
    ConsoleDenied {
        /// The user.
        user: String,
    },
    /// The tenant that the client names does not exist, or the user may not name one.
    Tenant {
        /// The name.
        tenant: String,
    },
    /// As many clients are connected as may.
    TooManyClients {
        /// The tenant whose limit it is, or none for the proxy's own.
        tenant: Option<String>,
        /// The limit.
        limit: u32,
    },
    /// As many of the tenant's clients wait as may.
    QueueFull {
        /// Whose queue.
        whose: Whose,
        /// The limit.
        limit: u32,
        /// When those who wait now will have been served, as far as that can be told.
        expected: Option<Duration>,
    },
    /// The client's turn would come too late.
    TooLate {
        /// Whose queue.
        whose: Whose,
        /// When its turn would come.
        expected: Duration,
        /// How long it may wait.
        within: Duration,
    },
    /// The wait for a server connection took too long.
    QueueTimeout {
        /// Whose queue.
        whose: Whose,
        /// How long.
        waited: Duration,
    },
    /// The upstream cannot be reached.
    UpstreamDown {
        /// Which.
        upstream: String,
        /// What is wrong, in words that tell the client nothing of the network behind the proxy.
        what: &'static str,
    },
    /// The server refused the connection that the client needs.
    ServerRefused(ServerError),
    /// The proxy is stopping and takes no new clients.
    Draining,
    /// The proxy is stopping and ends its idle clients.
    Shutdown,
    /// An administrator ended the session.
    Killed,
    /// The server connection was lost inside a transaction or during a query.
    ServerLost,
    /// The client left a transaction idle for too long.
    IdleInTransaction {
        /// The limit.
        limit: Duration,
    },
    /// The client left a transaction idle while others waited for its server connection.
    HoldsUpOthers {
        /// The limit.
        limit: Duration,
    },
    /// The client was idle for too long.
    IdleClient {
        /// The limit.
        limit: Duration,
    },
    /// The client asked to cancel what was still waiting.
    CancelledWaiting,
    /// A transaction over several statements, in statement mode.
    StatementMode,
    /// The client prepares a statement under a name that it has given already.
    StatementExists {
        /// The name.
        name: String,
    },
    /// What the client asks for would keep its server connection, and its database is strict.
    Strict {
        /// The reason for which it would be kept.
        reason: &'static str,
    },
    /// What the client asks for would keep its server connection, and as many of the tenant's clients keep one as may.
    TooManyPinned {
        /// Whose limit.
        whose: Whose,
        /// The limit.
        limit: u32,
        /// The reason for which it would be kept.
        reason: &'static str,
    },
    /// What the tenant may use over time is used up.
    Quota {
        /// Whose.
        whose: Whose,
        /// Which quota.
        which: Exceeded,
        /// For how long.
        wait: Duration,
    },
    /// The time that the client's caller has left is over.
    Deadline,
    /// The same inside a transaction on a server connection that the client has kept.
    DeadlineInTransaction,
    /// What the client says of its deadline is none.
    BadDeadline,
    /// The portal has set the client's deadline already.
    PortalRun,
    /// A request for SQL over HTTP that cannot be understood.
    BadRequest(String),
    /// A request for SQL over HTTP whose caller is not believed: no password where one is needed, or a token or a signature that does not hold.
    NotBelieved(&'static str),
    /// A request for SQL over HTTP, or its answer, that is longer than it may be.
    TooLong {
        /// Which of both.
        what: &'static str,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The client is connected to itself through something that does not speak the protocol.
    Unsupported(&'static str),
    /// Something is wrong inside.
    Internal,
}

impl Fault {
    /// Its number: the place of its label in [`LABELS`].
    pub fn number(&self) -> usize {
        match self {
            Self::Malformed(_) => 0,
            Self::BadPacket(_) => 1,
            Self::EarlyData => 2,
            Self::TlsRequired => 3,
            Self::AskedTwice => 4,
            Self::Denied { .. } => 5,
            Self::Certificate { .. } => 6,
            Self::LoginTimeout => 7,
            Self::UnknownDatabase { .. } => 8,
            Self::Tenant { .. } => 9,
            Self::TooManyClients { .. } => 10,
            Self::QueueFull { .. } => 11,
            Self::QueueTimeout { .. } => 12,
            Self::UpstreamDown { .. } => 13,
            Self::ServerRefused(_) => 14,
            Self::Draining => 15,
            Self::Shutdown => 16,
            Self::Killed => 17,
            Self::ServerLost => 18,
            Self::IdleInTransaction { .. } => 19,
            Self::IdleClient { .. } => 20,
            Self::CancelledWaiting => 21,
            Self::StatementMode => 22,
            Self::StatementExists { .. } => 23,
            Self::Strict { .. } => 24,
            Self::TooManyPinned { .. } => 25,
            Self::TooLate { .. } => 26,
            Self::Quota { which: Exceeded::Transactions, .. } => 27,
            Self::Quota { which: Exceeded::ServerTime, .. } => 28,
            Self::Quota { which: Exceeded::Logins, .. } => 29,
            Self::Deadline => 30,
            Self::DeadlineInTransaction => 31,
            Self::BadDeadline => 32,
            Self::HoldsUpOthers { .. } => 33,
            Self::DatabaseDisabled { .. } => 34,
            Self::ConsoleDenied { .. } => 35,
            Self::BadRequest(_) => 36,
            Self::NotBelieved(_) => 37,
            Self::TooLong { .. } => 38,
            Self::PortalRun => 39,
            Self::Unsupported(_) | Self::Internal => 40,
        }
    }

    /// Its label in metrics and logs.
    pub fn label(&self) -> &'static str {
        TABLE[self.number()].label
    }

    /// What to tell a client that cannot have a server connection.
    pub fn unavailable(why: &Unavailable, whose: impl FnOnce() -> Whose) -> Self {
        match why {
            Unavailable::Refused(Refusal::QueueFull { limit, expected }) => {
                Self::QueueFull { whose: whose(), limit: *limit, expected: *expected }
            }
            Unavailable::Refused(Refusal::Hopeless { expected, within }) => {
                Self::TooLate { whose: whose(), expected: *expected, within: *within }
            }
            Unavailable::Refused(Refusal::WaitedTooLong { waited }) => Self::QueueTimeout { whose: whose(), waited: *waited },
            Unavailable::Broken(broken) => Self::broken(broken, whose),
        }
    }

    /// What to tell a client whose server connection could not be opened.
    pub fn broken(broken: &Broken, whose: impl FnOnce() -> Whose) -> Self {
        let what = match broken {
            Broken::Refused(error) => return Self::ServerRefused(error.clone()),
            Broken::Connect(_) | Broken::Io(_) | Broken::Closed => "it cannot be reached",
            Broken::TimedOut(_) => "it does not answer in time",
            Broken::Tls(_) => "TLS with it could not be agreed on",
            Broken::Denied(_) | Broken::NoSecret(_) | Broken::ClearWithoutTls | Broken::Method(_) | Broken::Aws(_) => {
                "the proxy cannot log in to it"
            }
            Broken::WrongRole { .. } | Broken::NoneOf(_) => "no server that will do can be reached",
            Broken::Malformed(_) => "it does not speak the protocol",
            Broken::AuthQuery(_) => "it cannot be asked for users",
            Broken::Slots(_) => "it does not let the proxy hold its part of the shared budget",
        };
        Self::UpstreamDown { upstream: whose().upstream, what }
    }

    /// Whether the session ends with it. `living` says that the client is logged in: then a refusal of one transaction is an ERROR, never FATAL, and the
    /// connection survives.
    pub fn is_fatal(&self, living: bool) -> bool {
        !living || TABLE[self.number()].fatal
    }

    fn sqlstate(&self) -> &'static str {
        match self {
            Self::Malformed(Malformed::Length { .. }) => sqlstate::PROTOCOL_VIOLATION,
            Self::BadPacket(BadPacket::Version { .. }) | Self::Unsupported(_) => sqlstate::FEATURE_NOT_SUPPORTED,
            Self::BadPacket(BadPacket::NoUser) => sqlstate::INVALID_AUTHORIZATION,
            Self::BadPacket(BadPacket::Options(_)) => sqlstate::SYNTAX_ERROR,
            Self::BadPacket(BadPacket::Replication) => sqlstate::INVALID_PARAMETER_VALUE,
            fault => TABLE[fault.number()].sqlstate,
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Malformed(malformed) => malformed.to_string(),
            Self::BadPacket(packet) => packet.to_string(),
            Self::EarlyData => "received unencrypted data after SSL request".into(),
            Self::TlsRequired => "SSL connection is required".into(),
            Self::AskedTwice => "encryption was requested more than once".into(),
            Self::Denied { user } => format!("password authentication failed for user \"{user}\""),
            Self::Certificate { user } => format!("certificate authentication failed for user \"{user}\""),
            Self::LoginTimeout => "canceling authentication due to timeout".into(),
            Self::UnknownDatabase { database } => format!("database \"{database}\" does not exist"),
            Self::DatabaseDisabled { database } => format!("database \"{database}\" does not take new clients just now"),
            Self::ConsoleDenied { user } => {
                format!("user \"{user}\" may not use the admin database: it is in neither console.admin_users nor console.stats_users")
            }
            Self::Tenant { tenant } => format!("tenant \"{tenant}\" cannot be chosen"),
            Self::TooManyClients { tenant: Some(tenant), limit } => {
                format!("too many client connections for tenant \"{tenant}\" (limit {limit}); retry after 1000 ms")
            }
            Self::TooManyClients { tenant: None, limit } => format!("too many client connections (limit {limit}); retry after 1000 ms"),
            Self::QueueFull { .. } => "too many clients are waiting for a server connection".into(),
            Self::TooLate { .. } => "no server connection would become free in time".into(),
            Self::QueueTimeout { .. } => "no server connection became free in time".into(),
            Self::UpstreamDown { upstream, what } => format!("upstream \"{upstream}\" is not available: {what}"),
            Self::ServerRefused(error) => error.fields().message(),
            Self::Draining => "the proxy is shutting down".into(),
            Self::Shutdown | Self::Killed => "terminating connection due to administrator command".into(),
            Self::ServerLost => "the connection to the server was lost".into(),
            Self::IdleInTransaction { .. } => "terminating connection due to idle-in-transaction timeout".into(),
            Self::HoldsUpOthers { .. } => "terminating connection due to idle-in-transaction timeout while others wait".into(),
            Self::IdleClient { .. } => "terminating connection due to idle-session timeout".into(),
            Self::CancelledWaiting => "canceling statement due to user request".into(),
            Self::StatementMode => "transactions over several statements are not allowed in statement mode".into(),
            Self::StatementExists { name } => format!("prepared statement \"{name}\" already exists"),
            Self::Strict { reason } => format!(
                "a server connection would be kept beyond its transaction (reason: {reason}), which is not allowed on this database"
            ),
            Self::TooManyPinned { .. } => "too many clients keep a server connection beyond their transactions".into(),
            Self::Quota { which: Exceeded::Transactions, .. } => "too many transactions per second".into(),
            Self::Quota { which: Exceeded::ServerTime, .. } => "the allowance of server time is used up".into(),
            Self::Quota { which: Exceeded::Logins, whose, wait } => {
                format!("too many logins per second for tenant \"{}\"; {}", whose.tenant, retry_after(*wait))
            }
            Self::Deadline => "canceling statement because the client's deadline has passed".into(),
            Self::DeadlineInTransaction => "terminating connection because the client's deadline has passed inside a transaction".into(),
            Self::BadDeadline => "invalid value for a client's deadline: it is a number of milliseconds".into(),
            Self::PortalRun => "portal \"\" cannot be run".into(),
            Self::BadRequest(what) => what.clone(),
            Self::NotBelieved(why) => (*why).to_owned(),
            Self::TooLong { what, limit } => format!("the {what} is longer than {limit} bytes"),
            Self::Unsupported(what) => format!("{what} is not supported"),
            Self::Internal => "internal error".into(),
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            Self::QueueFull { whose, limit, .. } => Some(format!(
                "Tenant \"{}\" has {limit} clients waiting for upstream \"{}\", as many as may.",
                whose.tenant, whose.upstream
            )),
            Self::TooLate { whose, expected, within } => Some(format!(
                "A client of tenant \"{}\" would wait about {} ms for upstream \"{}\" and may wait {} ms.",
                whose.tenant,
                expected.as_millis(),
                whose.upstream,
                within.as_millis()
            )),
            Self::QueueTimeout { whose, waited } => Some(format!(
                "A client of tenant \"{}\" waited {} ms for upstream \"{}\".",
                whose.tenant,
                waited.as_millis(),
                whose.upstream
            )),
            Self::TooManyPinned { whose, limit, reason } => Some(format!(
                "Clients of tenant \"{}\" keep {limit} connections of upstream \"{}\", as many as may; this one would be kept for: {reason}.",
                whose.tenant, whose.upstream
            )),
            Self::Quota { whose, which: Exceeded::Transactions | Exceeded::ServerTime, wait } => {
                Some(format!("Tenant \"{}\" may begin its next transaction in {} ms.", whose.tenant, wait.as_millis() + 1))
            }
            Self::IdleInTransaction { limit } | Self::HoldsUpOthers { limit } | Self::IdleClient { limit } => {
                Some(format!("The limit is {} ms.", limit.as_millis()))
            }
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::QueueFull { expected, .. } => Some(retry_after(expected.unwrap_or(Duration::from_millis(200)))),
            Self::TooLate { expected, .. } => Some(retry_after(*expected)),
            Self::Quota { wait, .. } => Some(retry_after(*wait)),
            Self::QueueTimeout { waited, .. } => Some(retry_after((*waited).clamp(Duration::from_millis(200), Duration::from_secs(5)))),
            Self::UpstreamDown { .. } | Self::TooManyPinned { .. } => Some("retry after 1000 ms".into()),
            Self::ServerLost => Some("Whether the transaction was committed is not known.".into()),
            _ => None,
        }
    }

    /// Appends the ErrorResponse. `living` as in [`is_fatal`](Self::is_fatal).
    pub fn say(&self, out: &mut BytesMut, living: bool) {
        say::error(out, self.fields(living));
    }

    /// The fields of the ErrorResponse, by their codes.
    pub fn fields(&self, living: bool) -> Vec<(u8, String)> {
        let severity = if self.is_fatal(living) { "FATAL" } else { "ERROR" };
        if let Self::ServerRefused(error) = self {
            // Unchanged, but for the severity where the session lives on.
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let fields = error.fields().iter();
            let fields =
                fields.map(|(code, value)| (code, if living && matches!(code, b'S' | b'V') { severity.to_owned() } else { text(value) }));
            return fields.collect();
        }
        let mut fields =
            vec![(b'S', severity.to_owned()), (b'V', severity.to_owned()), (b'C', self.sqlstate().to_owned()), (b'M', self.message())];
        fields.extend(self.detail().map(|detail| (b'D', detail)));
        fields.extend(self.hint().map(|hint| (b'H', hint)));
        fields
    }
}

/// When to come back; callers read it by machine.
fn retry_after(wait: Duration) -> String {
    format!("retry after {} ms", wait.as_millis().clamp(50, 30_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::Fields;

    #[test]
    fn a_refusal_of_one_transaction_leaves_a_living_session_alive() {
        let whose = Whose { tenant: "acme".into(), upstream: "main".into() };
        let fault = Fault::QueueTimeout { whose, waited: Duration::from_secs(5) };
        for (living, severity) in [(true, &b"ERROR"[..]), (false, b"FATAL")] {
            let mut out = BytesMut::new();
            fault.say(&mut out, living);
            let fields = Fields::new(&out[5..]);
            assert_eq!(fields.field(b'S'), Some(severity));
            assert_eq!(fields.sqlstate(), Some(sqlstate::TOO_MANY_CONNECTIONS.as_bytes()));
            assert_eq!(fields.field(b'H'), Some(&b"retry after 5000 ms"[..]));
        }
    }

    #[test]
    fn a_servers_refusal_is_passed_on_unchanged() {
        let error = ServerError::new(b"SFATAL\0VFATAL\0C3D000\0Mdatabase \"x\" does not exist\0Fpostinit.c\0\0");
        let mut out = BytesMut::new();
        Fault::ServerRefused(error.clone()).say(&mut out, false);
        let (said, meant): (Vec<_>, Vec<_>) = (Fields::new(&out[5..]).iter().collect(), error.fields().iter().collect());
        assert_eq!(said, meant);
    }

    #[test]
    fn every_entry_of_the_table_has_its_own_label() {
        let labels: std::collections::HashSet<&str> = LABELS.into_iter().collect();
        assert_eq!(labels.len(), TABLE.len());
        assert_eq!(Fault::Internal.number(), TABLE.len() - 1);
    }
}
