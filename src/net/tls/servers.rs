//! What servers are asked for: libpq's `sslmode` and `sslnegotiation`, its authorities, and our own certificate.
//!
//! The words mean what libpq's manual says (section "SSL Support"), down to this: where there is a CA, the chain is verified in
//! every mode, so `require` with a CA is `verify-ca`.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;

use super::handshake::{ALPN, HTTP_ALPN};
use super::pem;
use super::verify::{Check, ServerVerifier, Trust};
use crate::net::{HandshakeError, TlsSettingError};

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SslMode {
    /// Plaintext only.
    Disable,
    /// Plaintext; TLS if the server refuses that.
    Allow,
    /// TLS if the server has it.
    Prefer,
    /// TLS; whoever answers.
    Require,
    /// TLS with a server that a trusted authority vouches for.
    VerifyCa,
    /// TLS with the very host that was asked for.
    VerifyFull,
}

impl SslMode {
    /// libpq's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

/// libpq's `sslnegotiation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SslNegotiation {
    /// `SSLRequest` first.
    Postgres,
    /// TLS from the first byte on; PostgreSQL 17 and later.
    Direct,
}

/// Whose certificates are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaSource {
    /// A PEM file of authorities.
    File(PathBuf),
    /// The operating system's authorities.
    System,
}

/// Where TLS toward servers is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTlsSource {
    /// How much is asked of the server.
    pub mode: SslMode,
    /// How TLS begins.
    pub negotiation: SslNegotiation,
    /// Whom to trust.
    pub ca: Option<CaSource>,
    /// PEM: a certificate to show to servers, and its key.
    pub pair: Option<(PathBuf, PathBuf)>,
}

/// One way to try a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Attempt {
    /// Without TLS.
    Plain,
    /// With TLS if the server has it, else without.
    TlsIfOffered,
    /// With TLS or not at all.
    Tls,
}

/// TLS toward servers, ready for use.
#[derive(Debug)]
pub struct ServerTls {
    mode: SslMode,
    negotiation: SslNegotiation,
    /// Whether the host's name is checked.
    named: bool,
    /// `None` where the mode is `disable`.
    config: Option<Arc<ClientConfig>>,
}

/// TLS toward a server of HTTP/1.1 that one of these authorities vouches for by name.
pub fn https(ca: CaSource) -> Result<Arc<ClientConfig>, TlsSettingError> {
    let source = ServerTlsSource { mode: SslMode::VerifyFull, negotiation: SslNegotiation::Direct, ca: Some(ca), pair: None };
    let mut config = ServerTls::load(&source)?.config.as_deref().cloned().unwrap_or_else(|| unreachable!("the mode is not disable"));
    config.alpn_protocols = vec![HTTP_ALPN.to_vec()];
    Ok(Arc::new(config))
}

impl ServerTls {
    /// No TLS.
    pub fn disabled() -> Self {
        Self { mode: SslMode::Disable, negotiation: SslNegotiation::Postgres, named: false, config: None }
    }

    /// Reads and checks everything that `source` names.
    pub fn load(source: &ServerTlsSource) -> Result<Self, TlsSettingError> {
        let mode = source.mode;
        if mode == SslMode::Disable {
            return Ok(Self::disabled());
        }
        if source.negotiation == SslNegotiation::Direct && matches!(mode, SslMode::Allow | SslMode::Prefer) {
            return Err(TlsSettingError::DirectNeedsTls(mode.word()));
        }
        let check = choose_check(mode, source.ca.as_ref())?;
        let named = matches!(check, Check::ChainAndName(_));
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = Arc::new(ServerVerifier::new(check, &provider));
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .map_err(|error| TlsSettingError::Unusable(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &source.pair {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let pair = pem::load_pair(cert, key, &provider)?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair)))
            }
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        // PostgreSQL resumes nothing, so a cache of sessions would be memory for nothing.
        config.resumption = Resumption::disabled();
        Ok(Self { mode, negotiation: source.negotiation, named, config: Some(Arc::new(config)) })
    }

    /// How connections are tried, in order, each on a connection of its own.
    ///
    /// The next one is due when TLS could not be agreed on, and when the server refused the login before asking for a password
    /// (its `pg_hba.conf` may want the other kind).
    pub fn attempts(&self) -> &'static [Attempt] {
        match self.mode {
            SslMode::Disable => &[Attempt::Plain],
            SslMode::Allow => &[Attempt::Plain, Attempt::Tls],
            SslMode::Prefer => &[Attempt::TlsIfOffered, Attempt::Plain],
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[Attempt::Tls],
        }
    }

    pub(super) fn negotiation(&self) -> SslNegotiation {
        self.negotiation
    }

    /// For whoever makes the connections with a driver; `None` where the mode is `disable`.
    pub fn config(&self) -> Option<&Arc<ClientConfig>> {
        self.config.as_ref()
    }

    /// The name to ask for and, in `verify-full`, to insist on.
    pub fn name_of(&self, host: &str) -> Result<ServerName<'static>, HandshakeError> {
        match ServerName::try_from(host.to_owned()) {
            Ok(name) => Ok(name),
            // Nobody looks at it, and a name that is none is not asked for: an address never is.
            Err(_) if !self.named => Ok(ServerName::from(std::net::Ipv4Addr::UNSPECIFIED)),
            Err(_) => Err(HandshakeError::BadName(host.to_owned())),
        }
    }
}

fn choose_check(mode: SslMode, ca: Option<&CaSource>) -> Result<Check, TlsSettingError> {
    let trust = match ca {
        None if matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull) => {
            return Err(TlsSettingError::NoCa(mode.word()));
        }
        None => return Ok(Check::Nothing),
        Some(CaSource::System) if mode != SslMode::VerifyFull => {
            return Err(TlsSettingError::SystemNeedsName(mode.word()));
        }
        Some(CaSource::System) => Trust { roots: pem::system_roots()?, pinned: Vec::new() },
        Some(CaSource::File(file)) => {
            let (roots, pinned) = pem::load_roots(file)?;
            Trust { roots, pinned }
        }
    };
    Ok(match mode {
        SslMode::VerifyFull => Check::ChainAndName(trust),
        _ => Check::Chain(trust),
    })
}
