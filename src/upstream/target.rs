//! Where a server is, and as whom to log in to it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::aws::Aws;
use crate::auth::{Keys, Md5Hash};
use crate::config::{self, TargetSessionAttrs};
use crate::net::tls::{CaSource, ServerTls, ServerTlsSource, SslMode, SslNegotiation};
use crate::net::{ConnectOptions, Keepalive, TlsSettingError};
use crate::wire::startup::Replication;

/// One of the places where an upstream may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The host as configured; the folder of a Unix socket begins with `/`.
    pub host: Arc<str>,
    /// The port.
    pub port: u16,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Where an upstream is and how it is reached.
#[derive(Debug)]
pub struct Target {
    /// Where it may be; at least one.
    pub places: Vec<Place>,
    /// What it must be there. `None`: whatever is found first, and a primary once one was found.
    pub wanted: Option<TargetSessionAttrs>,
    /// TLS toward it.
    pub tls: ServerTls,
    /// Time limits and probes.
    pub options: ConnectOptions,
    /// What the connection calls itself until a client gives it another name.
    pub application_name: String,
    /// Logins by IAM.
    pub aws: Aws,
}

impl Target {
    /// The target that the configuration describes.
    ///
    /// # Errors
    /// When a file of `tls.server` cannot be used.
    pub fn new(upstream: &config::Upstream, tcp: &config::Keepalive) -> Result<Self, TlsSettingError> {
        let keepalive = tcp.idle.map(|idle| Keepalive { idle, interval: tcp.interval, count: tcp.count });
        Ok(Self {
            places: upstream.endpoints.iter().map(place).collect(),
            wanted: upstream.target_session_attrs,
            tls: ServerTls::load(&tls_source(&upstream.tls))?,
            options: ConnectOptions { timeout: upstream.server_connect_timeout, keepalive, user_timeout: tcp.user_timeout },
            application_name: upstream.application_name.clone(),
            aws: Aws::new(upstream.aws_region.clone(), |name| std::env::var(name).ok()),
        })
    }
}

fn place(endpoint: &config::Endpoint) -> Place {
    let (host, port) = match endpoint {
        config::Endpoint::Tcp { host, port } => (host.clone(), *port),
        config::Endpoint::Unix(file) => unix_host(file),
    };
    Place { host: host.into(), port }
}

/// The folder and the port that a socket's file is named for.
fn unix_host(file: &std::path::Path) -> (String, u16) {
    let folder = file.parent().unwrap_or(file).display().to_string();
    let port = file.extension().and_then(|port| port.to_str()).and_then(|port| port.parse().ok()).unwrap_or(5432);
    (folder, port)
}

fn tls_source(tls: &config::ServerTls) -> ServerTlsSource {
    ServerTlsSource {
        mode: match tls.mode {
            config::SslMode::Disable => SslMode::Disable,
            config::SslMode::Allow => SslMode::Allow,
            config::SslMode::Prefer => SslMode::Prefer,
            config::SslMode::Require => SslMode::Require,
            config::SslMode::VerifyCa => SslMode::VerifyCa,
            config::SslMode::VerifyFull => SslMode::VerifyFull,
        },
        negotiation: match tls.negotiation {
            config::TlsNegotiation::Postgres => SslNegotiation::Postgres,
            config::TlsNegotiation::Direct => SslNegotiation::Direct,
        },
        ca: tls.ca.as_ref().map(|ca| match ca {
            config::CertificateAuthority::File(file) => CaSource::File(file.clone()),
            config::CertificateAuthority::System => CaSource::System,
        }),
        pair: tls.identity.as_ref().map(|identity| (identity.cert.clone(), identity.key.clone())),
    }
}

/// As whom to log in, and to what.
#[derive(Debug, Clone)]
pub struct Login {
    /// The role.
    pub user: Vec<u8>,
    /// The database.
    pub dbname: Vec<u8>,
    /// Whether to ask for a replication session.
    pub replication: Option<Replication>,
    /// What to prove it with.
    pub secret: ServerSecret,
}

/// What there is to log in with.
#[derive(Clone)]
pub enum ServerSecret {
    /// The password.
    Password(Arc<Zeroizing<String>>),
    /// Its md5 hash.
    Md5(Md5Hash),
    /// The keys that a client's own login has shown.
    PassThrough(Arc<PassThrough>),
    /// A token of Amazon RDS, made anew for each connection.
    RdsIam,
    /// Such a token.
    Token(Arc<Zeroizing<String>>),
    /// Nothing: only a server that asks for nothing can be logged in to.
    None,
}

impl std::fmt::Debug for ServerSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password(..)",
            Self::Md5(_) => "Md5(..)",
            Self::PassThrough(_) => "PassThrough(..)",
            Self::RdsIam => "RdsIam",
            Self::Token(_) => "Token(..)",
            Self::None => "None",
        })
    }
}

/// SCRAM keys, good wherever the same verifier is stored.
#[derive(Debug)]
pub struct PassThrough {
    /// The keys.
    pub keys: Keys,
    /// The verifier's salt.
    pub salt: Vec<u8>,
    /// The verifier's iteration count.
    pub iterations: NonZeroU32,
}

/// How long a cancel may take, connecting included.
pub const CANCEL_LIMIT: Duration = Duration::from_secs(5);
