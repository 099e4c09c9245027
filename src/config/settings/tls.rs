//! Encryption and certificates on both legs.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::value::CertificateAuthority;

/// Encryption on both legs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSettings {
    /// What clients see.
    pub client: ClientTlsSettings,
    /// Toward PostgreSQL, unless an upstream has a `tls` table of its own.
    pub server: ServerTlsSettings,
}

/// Whether clients may, must or cannot use TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClientTlsMode {
    /// Offers no TLS.
    #[default]
    Disable,
    /// Offers TLS; the client decides.
    Prefer,
    /// Refuses clients without TLS, except over Unix sockets.
    Require,
}

/// Whether clients are asked for a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClientCertificates {
    /// None is asked for.
    #[default]
    Off,
    /// One is asked for and, when given, checked against `ca`.
    Request,
    /// A client without a valid one is refused.
    Require,
}

/// TLS as clients see it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClientTlsSettings {
    /// Whether clients may, must or cannot use TLS. All but `"disable"` need `cert` and `key`.
    ///
    /// applies: next connection
    pub mode: ClientTlsMode,
    /// PEM file of the certificate that clients see, with its chain. Read again on SIGHUP. An ECDSA P-256 certificate costs far less CPU per login than an RSA one.
    ///
    /// applies: next connection
    #[schemars(extend("format" = "path"), example = &"/etc/pgweir/tls.crt")]
    pub cert: Option<PathBuf>,
    /// PEM file of the private key of `cert`. Read again on SIGHUP.
    ///
    /// applies: next connection
    #[schemars(extend("format" = "path"), example = &"/etc/pgweir/tls.key")]
    pub key: Option<PathBuf>,
    /// PEM file of the authorities that client certificates are checked against, or `"system"` for the system's store.
    ///
    /// applies: next connection
    #[schemars(example = &"/etc/pgweir/clients-ca.crt")]
    pub ca: Option<CertificateAuthority>,
    /// Whether clients are asked for a certificate. All but `"off"` need `ca`.
    ///
    /// applies: next connection
    pub client_certificates: ClientCertificates,
}

/// How far the server's identity is checked: libpq's `sslmode` words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    /// No TLS.
    Disable,
    /// Plaintext first, TLS when the server refuses that.
    Allow,
    /// TLS first, plaintext when the server has none.
    #[default]
    Prefer,
    /// TLS, whoever the server is; with a `ca` file the certificate is checked as by `"verify-ca"`.
    Require,
    /// TLS, and a certificate signed by `ca`.
    VerifyCa,
    /// TLS, a certificate signed by `ca`, and the host's name on it.
    VerifyFull,
}

/// How TLS toward the server begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TlsNegotiation {
    /// Asked for with an `SSLRequest`, which every PostgreSQL understands.
    #[default]
    Postgres,
    /// At once, which saves a round trip; PostgreSQL 17 and later. Needs `mode` to be `"require"` or stricter.
    Direct,
}

/// TLS toward PostgreSQL.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServerTlsSettings {
    /// How far the server's identity is checked: libpq's `sslmode` words.
    ///
    /// applies: next connection
    pub mode: SslMode,
    /// PEM file of the authorities that the server's certificate is checked against, or `"system"` for the system's store. The `verify-` modes need it.
    ///
    /// applies: next connection
    #[schemars(example = &"/etc/pgweir/rds-ca.pem")]
    pub ca: Option<CertificateAuthority>,
    /// PEM file of a certificate that the proxy shows to the server.
    ///
    /// applies: next connection
    #[schemars(extend("format" = "path"), example = &"/etc/pgweir/server-leg.crt")]
    pub cert: Option<PathBuf>,
    /// PEM file of the private key of `cert`.
    ///
    /// applies: next connection
    #[schemars(extend("format" = "path"), example = &"/etc/pgweir/server-leg.key")]
    pub key: Option<PathBuf>,
    /// How TLS begins (libpq's `sslnegotiation`).
    ///
    /// applies: next connection
    pub negotiation: TlsNegotiation,
}
