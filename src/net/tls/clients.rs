//! What clients see: our certificate, and whether we ask for theirs.
//!
//! Loaded whole or not at all. To reload, load again and swap the new one in: connections keep what they were greeted with.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::handshake::ALPN;
use super::pem;
use crate::net::TlsSettingError;

/// Where TLS toward clients is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTlsSource {
    /// PEM: our certificate, then the intermediate ones.
    pub cert: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
    /// Whether clients show certificates too.
    pub client_certificates: ClientCertificates,
}

/// Whether clients are asked for certificates, and whose are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not asked.
    Ignore,
    /// They may show one; if they do, it must come from this authority (PEM).
    Request(PathBuf),
    /// They must show one that comes from this authority (PEM).
    Require(PathBuf),
}

/// TLS toward clients, ready for use.
#[derive(Debug)]
pub struct ClientTls {
    config: ServerConfig,
    key: Arc<CertifiedKey>,
}

impl ClientTls {
    /// Reads and checks everything that `source` names.
    pub fn load(source: &ClientTlsSource) -> Result<Self, TlsSettingError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let key = Arc::new(pem::load_pair(&source.cert, &source.key, &provider)?);
        let config = configure(source, provider, SingleCertAndKey::from(Arc::clone(&key)))?;
        Ok(Self { config, key })
    }

    /// Our own certificate in DER, to which SCRAM binds (`tls-server-end-point`).
    pub fn certificate(&self) -> Option<&CertificateDer<'static>> {
        self.key.cert.first()
    }

    pub(super) fn config(&self) -> &ServerConfig {
        &self.config
    }

    pub(super) fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }
}

/// The largest TLS record that a client is sent, its header of five bytes included: 8 KiB of data.
///
/// libpq's asynchronous interface (psycopg, ruby-pg, pgbench) reads once, into room for 8 KiB at least, and then waits for the socket. What
/// a larger record holds beyond that is in OpenSSL's hands by then, the socket stays silent, and the client waits for ever.
const LARGEST_RECORD: usize = 8 * 1024 + 5;

fn configure(
    source: &ClientTlsSource,
    provider: Arc<CryptoProvider>,
    shown: impl ResolvesServerCert + 'static,
) -> Result<ServerConfig, TlsSettingError> {
    let unusable = |error: rustls::Error| TlsSettingError::Unusable(error.to_string());
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(rustls::ALL_VERSIONS).map_err(unusable)?;
    let (ca, required) = match &source.client_certificates {
        ClientCertificates::Ignore => (None, false),
        ClientCertificates::Request(ca) => (Some(ca), false),
        ClientCertificates::Require(ca) => (Some(ca), true),
    };
    let builder = match ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let (roots, _) = pem::load_roots(ca)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            let verifier = if required { verifier } else { verifier.allow_unauthenticated() };
            let verifier = verifier.build().map_err(|error| TlsSettingError::Malformed { file: ca.clone(), reason: error.to_string() })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(shown));
    // A client that offers ALPN must offer this one, as PostgreSQL 17 has it; one that offers none is let in by its request.
    config.alpn_protocols = vec![ALPN.to_vec()];
    // As PostgreSQL does: clients that live for one Lambda instance never come back to resume, and a ticket would let them skip
    // the check of a certificate that has been withdrawn meanwhile.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_fragment_size = Some(LARGEST_RECORD);
    Ok(config)
}
