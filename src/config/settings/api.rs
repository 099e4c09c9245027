//! SQL over HTTP: limits, signing keys, bearer tokens.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::secret::SecretText;
use crate::config::value::{ByteSize, Period};

/// SQL over HTTP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ApiSettings {
    /// The database that callers mean who name none; where this is not set either, it is the only one under `[databases]`.
    ///
    /// applies: at once
    #[schemars(example = &"app")]
    pub database: Option<String>,
    /// Whether callers from beyond this machine may come without TLS, because something in front of the proxy has ended theirs. Their passwords then cross the
    /// network in the clear.
    ///
    /// applies: at once
    pub allow_plaintext: bool,
    /// The longest request, in bytes; a longer one is refused.
    ///
    /// applies: at once
    pub max_request: ByteSize,
    /// The longest answer, in bytes. There is no shorter form of a longer one: it is an error.
    ///
    /// applies: at once
    pub max_response: ByteSize,
    /// The most HTTP connections at once; one more, and whoever has been without a request for longest goes.
    ///
    /// applies: restart
    #[schemars(range(min = 1))]
    pub max_connections: u32,
    /// How long a connection may be without a request before it is closed.
    ///
    /// applies: restart
    pub idle_timeout: Period,
    /// How long a statement may take, waiting included, where the caller gives no deadline of its own; then it is cancelled. Drivers of the Data API give up after a
    /// minute and send the same once more.
    ///
    /// applies: at once
    pub statement_timeout: Period,
    /// How long a transaction of the Data API may lie between two calls before it is rolled back.
    ///
    /// applies: at once
    pub transaction_idle_timeout: Period,
    /// The HTTP status with which Neon's driver is told that there is no room (SQLSTATE 53300): only with 400 does it read the SQLSTATE. 429 is for callers that
    /// are not that driver.
    ///
    /// applies: at once
    #[schemars(range(min = 400, max = 599))]
    pub shed_status: u16,
    /// Keys that callers sign with (AWS Signature Version 4, as the RDS Data API).
    pub access_keys: Vec<AccessKeySettings>,
    /// Bearer tokens (JWT) that callers may show in place of a password.
    pub tokens: TokenSettings,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            database: None,
            allow_plaintext: false,
            max_request: ByteSize(10 << 20),
            max_response: ByteSize(10 << 20),
            max_connections: 10_000,
            idle_timeout: Period::secs(75),
            statement_timeout: Period::secs(45),
            transaction_idle_timeout: Period::secs(180),
            shed_status: 400,
            access_keys: Vec::new(),
            tokens: TokenSettings::default(),
        }
    }
}

/// Bearer tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TokenSettings {
    /// The file with the keys that tokens are signed with, a JSON Web Key Set.
    ///
    /// applies: at once
    #[schemars(extend("format" = "path"), example = &"/etc/pgweir/jwks.json")]
    pub jwks_file: Option<PathBuf>,
    /// Where those keys are fetched from, in place of a file: `https`, or `http` within this machine. They are fetched again every five minutes, and when a token names
    /// a key that is not among them.
    ///
    /// applies: at once
    #[schemars(example = &"https://issuer.example/.well-known/jwks.json")]
    pub jwks_url: Option<String>,
    /// Who must have issued a token (`iss`).
    ///
    /// applies: at once
    #[schemars(example = &"https://issuer.example")]
    pub issuer: Option<String>,
    /// For whom a token must be (`aud`).
    ///
    /// applies: at once
    #[schemars(example = &"pgweir")]
    pub audience: Option<String>,
    /// The claim that names the user, unless `user` names one for all.
    ///
    /// applies: at once
    pub user_claim: String,
    /// The user that every caller with a token is.
    ///
    /// applies: at once
    #[schemars(example = &"app")]
    pub user: Option<String>,
    /// The claim that names the caller's tenant; without it the rules of the tenants decide, as for everybody.
    ///
    /// applies: at once
    #[schemars(example = &"org_id")]
    pub tenant_claim: Option<String>,
}

impl Default for TokenSettings {
    fn default() -> Self {
        Self { jwks_file: None, jwks_url: None, issuer: None, audience: None, user_claim: "sub".to_owned(), user: None, tenant_claim: None }
    }
}

/// One signing key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AccessKeySettings {
    /// The access key's id. Must be set.
    ///
    /// applies: at once
    #[schemars(example = &"AKIDEXAMPLE")]
    pub id: Option<String>,
    /// The signing secret.
    ///
    /// applies: at once
    #[schemars(example = &"change-me")]
    pub secret: Option<SecretText>,
    /// The variable of the environment that holds `secret`.
    ///
    /// applies: at once
    #[schemars(extend("format" = "variable"), example = &"API_SECRET")]
    pub secret_env: Option<String>,
    /// The file that holds `secret`.
    ///
    /// applies: at once
    #[schemars(extend("format" = "path"), example = &"/run/secrets/api_secret")]
    pub secret_file: Option<PathBuf>,
    /// The user that callers with this key are. Must be set.
    ///
    /// applies: at once
    #[schemars(example = &"app")]
    pub user: Option<String>,
    /// The database that callers mean who name none in their request.
    ///
    /// applies: at once
    #[schemars(example = &"app")]
    pub database: Option<String>,
}
