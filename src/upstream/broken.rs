//! What goes wrong with a server connection, and what a server says when it refuses.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::target::Place;
use crate::auth::Denied;
use crate::net::{ConnectError, NegotiationError};
use crate::wire::message::Fields;
use crate::wire::{Malformed, sqlstate};

/// What a server says that is not there for anybody just now.
const STOPPING: [&str; 3] = [sqlstate::CANNOT_CONNECT_NOW, sqlstate::ADMIN_SHUTDOWN, sqlstate::CRASH_SHUTDOWN];

/// An ErrorResponse of a server, kept to be passed on unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    body: Arc<[u8]>,
}

impl ServerError {
    /// Keeps the body of an ErrorResponse.
    pub fn new(body: &[u8]) -> Self {
        Self { body: body.into() }
    }

    /// Its fields.
    pub fn fields(&self) -> Fields<'_> {
        Fields::new(&self.body)
    }

    /// The same as a FATAL error: what a server refuses to a client that is still logging in ends that login.
    #[must_use]
    pub fn as_fatal(&self) -> Self {
        let fields = self.fields().iter();
        let fields = fields.map(|(code, text)| (code, if matches!(code, b'S' | b'V') { b"FATAL" } else { text }));
        let mut body: Vec<u8> = fields.flat_map(|(code, text)| [&[code], text, &[0]].concat()).collect();
        body.push(0);
        Self::new(&body)
    }

    /// Whether its SQLSTATE is this one.
    pub fn is(&self, sqlstate: &str) -> bool {
        self.fields().sqlstate() == Some(sqlstate.as_bytes())
    }
}

/// Why a server connection could not be had, or is of no more use.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Broken {
    /// No connection came about.
    #[error("{0}")]
    Connect(Arc<ConnectError>),
    /// TLS could not be agreed on.
    #[error("{0}")]
    Tls(Arc<NegotiationError>),
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(Arc<io::Error>),
    /// The server ended the connection without a word.
    #[error("the server closed the connection")]
    Closed,
    /// The server said no.
    #[error("the server refused: {}", .0.fields().message())]
    Refused(ServerError),
    /// Logging in failed on this side.
    #[error("cannot log in to the server: {0}")]
    Denied(#[from] Denied),
    /// There is nothing to log in with.
    #[error("the server asks for {0}, and none is known for this user")]
    NoSecret(&'static str),
    /// The server asks for a password in the clear over a connection that anybody may read.
    #[error("the server asks for the password in the clear, and the connection has no TLS")]
    ClearWithoutTls,
    /// The server asks for something that the proxy does not speak.
    #[error("the server asks for authentication method {0}, which is not supported")]
    Method(u32),
    /// The token of a login by IAM cannot be made; the reason is for the log only.
    #[error("no token for the login by IAM: {0}")]
    Aws(Arc<str>),
    /// The server broke the protocol.
    #[error("the server broke the protocol: {0}")]
    Malformed(#[from] Malformed),
    /// The server could not be asked for a user's password; the reason is for the log only.
    #[error("auth_query failed: {0}")]
    AuthQuery(Arc<str>),
    /// Nobody can say how much of a shared budget is this proxy's; the reason is for the log only.
    #[error("the slots of the shared budget cannot be had: {0}")]
    Slots(Arc<str>),
    /// The server is not of the kind that is wanted.
    #[error("{host} is {is}, and {wanted} is wanted (`target_session_attrs`)")]
    WrongRole {
        /// Which server, with its port.
        host: Box<str>,
        /// What it is.
        is: &'static str,
        /// What is wanted.
        wanted: &'static str,
    },
    /// None of several servers could be had: each with why.
    #[error("{}", .0.join("; "))]
    NoneOf(Arc<[String]>),
    /// It took too long.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

/// What a failed opening says of the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nobody is there, or nobody that may be used.
    Unreachable,
    /// The server has no room for one more.
    Full,
    /// The server lets nobody in as this user, or not into this database.
    Refused,
}

impl Broken {
    /// What it says of the upstream, where an opening has failed so.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Refused(error) if error.is(sqlstate::TOO_MANY_CONNECTIONS) => Kind::Full,
            // It starts, or stops, or is not consistent yet; or stopped in the middle of the login.
            Self::Refused(error) if STOPPING.iter().any(|code| error.is(code)) => Kind::Unreachable,
            Self::Refused(_)
            | Self::Denied(_)
            | Self::NoSecret(_)
            | Self::ClearWithoutTls
            | Self::Method(_)
            | Self::AuthQuery(_)
            | Self::Aws(_) => Kind::Refused,
            Self::Connect(_)
            | Self::Tls(_)
            | Self::Io(_)
            | Self::Closed
            | Self::Malformed(_)
            | Self::WrongRole { .. }
            | Self::NoneOf(_)
            | Self::Slots(_)
            | Self::TimedOut(_) => Kind::Unreachable,
        }
    }

    /// The same, with the place where it happened.
    pub(super) fn at(&self, place: &Place) -> String {
        match self {
            // They name it themselves.
            Self::Connect(_) | Self::WrongRole { .. } => self.to_string(),
            _ => format!("{place}: {self}"),
        }
    }

    /// What the server itself said.
    pub fn server_error(&self) -> Option<&ServerError> {
        match self {
            Self::Refused(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

impl From<ConnectError> for Broken {
    fn from(error: ConnectError) -> Self {
        Self::Connect(Arc::new(error))
    }
}

impl From<NegotiationError> for Broken {
    fn from(error: NegotiationError) -> Self {
        Self::Tls(Arc::new(error))
    }
}
