//! What can go wrong in this room, in the operator's words: what failed, with which file or host.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

/// A TLS setting that cannot be used. Nothing of it is.
#[derive(Debug, Error)]
pub enum TlsSettingError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file holds no certificate, or something that is not one.
    #[error("{}: {reason}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The key does not belong to the certificate.
    #[error("the key in {} does not belong to the certificate in {}", key.display(), cert.display())]
    KeyMismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// A mode that verifies, and nothing to verify with.
    #[error("mode {0:?} needs a ca")]
    NoCa(&'static str),
    /// Anybody can have a certificate from the system's authorities: only the name tells servers apart.
    #[error("ca = \"system\" needs mode = \"verify-full\", not {0:?}")]
    SystemNeedsName(&'static str),
    /// The system has no certificate authorities.
    #[error("the system's certificate store is empty or unreadable: {0}")]
    EmptyStore(String),
    /// Without a question first there is no falling back to plaintext.
    #[error("negotiation = \"direct\" needs mode \"require\", \"verify-ca\" or \"verify-full\", not {0:?}")]
    DirectNeedsTls(&'static str),
    /// rustls refuses the combination.
    #[error("{0}")]
    Unusable(String),
}

/// A handshake that came to nothing. The connection is closed.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// The peer went away before it was finished.
    #[error("the connection was closed during the TLS handshake")]
    Cut,
    /// The socket failed.
    #[error("TLS handshake: {0}")]
    Io(#[from] io::Error),
    /// The two could not agree, or one does not trust the other.
    #[error("TLS handshake: {0}")]
    Tls(#[from] rustls::Error),
    /// The peer sent more than a handshake can be.
    #[error("the peer's TLS handshake is too long")]
    TooLong,
    /// TLS from the first byte on must name its protocol, or another protocol's TLS could be led here.
    #[error("direct TLS without the ALPN protocol \"postgresql\"")]
    NoAlpn,
    /// The host is no name that a certificate could have.
    #[error("{0:?} is not a name that a certificate can be checked for")]
    BadName(String),
    /// TLS inside TLS.
    #[error("the connection has TLS already")]
    Twice,
}

/// TLS toward a server that did not come about.
#[derive(Debug, Error)]
pub enum NegotiationError {
    /// The connection failed before the answer.
    #[error("asking the server for TLS: {0}")]
    Io(#[from] io::Error),
    /// The server closed the connection instead of answering.
    #[error("the server closed the connection when asked for TLS")]
    Cut,
    /// The answer was `N`.
    #[error("the server does not support TLS, but the mode requires it")]
    Refused,
    /// The answer was an error message. It is not shown: nobody vouches for it (CVE-2024-10977).
    #[error("the server answered the request for TLS with an error")]
    ServerError,
    /// The answer was none of the three.
    #[error("the server answered the request for TLS with byte {0:#04x}")]
    Nonsense(u8),
    /// Bytes came along with the answer: somebody may be injecting plaintext (CVE-2021-23222).
    #[error("received unencrypted data after the answer to the request for TLS")]
    EarlyData,
    /// The handshake failed.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

/// An address that cannot be listened on.
#[derive(Debug, Error)]
pub enum ListenError {
    /// The system refuses.
    #[error("cannot listen on {address}: {source}")]
    Refused {
        /// As the operator wrote it.
        address: String,
        /// The system's reason.
        source: io::Error,
    },
    /// Somebody answers on the Unix socket.
    #[error("cannot listen on {}: another process does", .0.display())]
    InUse(PathBuf),
    /// Something that is no socket has the socket's name.
    #[error("cannot listen on {}: the file is not a socket", .0.display())]
    NotASocket(PathBuf),
}

/// A server that cannot be reached.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The host's name has no address.
    #[error("cannot resolve {host:?}: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// The resolver's reason.
        source: io::Error,
    },
    /// Every address failed; this is what the last one said.
    #[error("cannot connect to {host}: {address}: {source}")]
    Refused {
        /// Host and port as configured.
        host: String,
        /// The last address tried.
        address: String,
        /// The system's reason.
        source: io::Error,
    },
    /// No address answered in time.
    #[error("cannot connect to {host}: no answer within {limit:?}")]
    TimedOut {
        /// Host and port as configured.
        host: String,
        /// The limit that was set.
        limit: Duration,
    },
}
