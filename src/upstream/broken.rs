//! What goes wrong with a server connection, and what a server says when it refuses.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::auth::Denied;
use crate::net::{ConnectError, NegotiationError};
use crate::wire::Malformed;
use crate::wire::message::Fields;

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
    /// The server broke the protocol.
    #[error("the server broke the protocol: {0}")]
    Malformed(#[from] Malformed),
    /// The server could not be asked for a user's password; the reason is for the log only.
    #[error("auth_query failed: {0}")]
    AuthQuery(Arc<str>),
    /// It took too long.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

impl Broken {
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
