//! Who may log in, to what, and how they prove it.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::glob::Glob;
use crate::config::secret::SecretText;
use crate::config::value::Network;

/// When a server connection goes back to the pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PoolMode {
    /// At the end of each transaction.
    #[default]
    Transaction,
    /// When the client disconnects.
    Session,
    /// After each statement; transactions over several statements are refused.
    Statement,
}

/// A database name that clients connect to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DatabaseSettings {
    /// The upstream that it lives on, unless the client's tenant names another. Must be set.
    ///
    /// applies: next connection
    #[schemars(example = &"main")]
    pub upstream: Option<String>,
    /// Its name there, when that differs from the name here.
    ///
    /// applies: next connection
    #[schemars(example = &"app_production")]
    pub dbname: Option<String>,
    /// When a server connection goes back to the pool.
    ///
    /// applies: next connection
    pub pool_mode: PoolMode,
    /// Refuse, with 0A000, a statement that would keep its server connection beyond its transaction: LISTEN, a temporary table, a session's advisory lock. What
    /// only a part of a text hides (DO, CALL) is found afterwards, and kept.
    ///
    /// applies: next connection
    pub strict: bool,
}

/// What the proxy logs in to the server with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ServerAuth {
    /// A password, or the client's own proof.
    #[default]
    Password,
    /// A token of Amazon RDS, signed with the keys of the proxy's own AWS role (IAM database authentication).
    RdsIam,
}

/// Who may log in. A user needs a password, a verifier or `token_subjects`, or a certificate name where `auth.method` is `"cert"`, unless an upstream has an `auth_user`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UserSettings {
    /// The password that the client must know; the server is logged in to with it too, unless `server_password` is set.
    ///
    /// applies: next connection
    #[schemars(example = &"change-me")]
    pub password: Option<SecretText>,
    /// The variable of the environment that holds `password`.
    ///
    /// applies: next connection
    #[schemars(extend("format" = "variable"), example = &"APP_PASSWORD")]
    pub password_env: Option<String>,
    /// The file that holds `password`.
    ///
    /// applies: next connection
    #[schemars(extend("format" = "path"), example = &"/run/secrets/app_password")]
    pub password_file: Option<PathBuf>,
    /// What PostgreSQL stores in place of a password: `SCRAM-SHA-256$..` or `md5..`, as in `pg_authid.rolpassword`. When the server has the same SCRAM
    /// verifier, it is logged in to with the client's own proof and no password is kept anywhere.
    ///
    /// applies: next connection
    #[schemars(extend("format" = "verifier"), example = &"SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")]
    pub verifier: Option<SecretText>,
    /// Names in a client certificate (the subject's common name, or a DNS name) that log in as this user. Empty means the user's own name.
    ///
    /// applies: next connection
    #[schemars(example = ["app.internal"])]
    pub certificate_names: Vec<String>,
    /// Who may log in as this user with a token (JWT) in place of a password, whatever `auth.method` is: patterns for the token's subject, such as the ARN of a Lambda's
    /// role; `*` is any run of characters. `auth.tokens` says how tokens are checked. They are taken over TLS only. The server is logged in to with `server_password` or by
    /// `server_auth`.
    ///
    /// applies: next connection
    #[schemars(example = ["arn:aws:iam::111122223333:role/orders"])]
    pub token_subjects: Vec<Glob>,
    /// The role at the server, when it differs from the name here.
    ///
    /// applies: next connection
    #[schemars(example = &"app_rw")]
    pub server_user: Option<String>,
    /// The role's password at the server, when it differs from `password`.
    ///
    /// applies: next connection
    #[schemars(example = &"change-me")]
    pub server_password: Option<SecretText>,
    /// The variable of the environment that holds `server_password`.
    ///
    /// applies: next connection
    #[schemars(extend("format" = "variable"), example = &"APP_SERVER_PASSWORD")]
    pub server_password_env: Option<String>,
    /// The file that holds `server_password`.
    ///
    /// applies: next connection
    #[schemars(extend("format" = "path"), example = &"/run/secrets/app_server_password")]
    pub server_password_file: Option<PathBuf>,
    /// What the server is logged in to with. For `"rds-iam"` the role there is granted `rds_iam`, `host` is the name that RDS gives the instance or cluster, and
    /// the proxy's AWS role may `rds-db:connect`; its keys come from the environment, the container's platform (ECS, EKS Pod Identity) or the instance (`IMDSv2`).
    ///
    /// applies: next connection
    pub server_auth: ServerAuth,
    /// Whether the client may say which tenant it belongs to, with `options=-c pgweir.tenant=NAME`.
    ///
    /// applies: next connection
    pub may_name_tenant: bool,
}

/// What clients are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AuthMethod {
    /// SCRAM-SHA-256, and SCRAM-SHA-256-PLUS over TLS.
    #[default]
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// The md5 exchange where the stored form is a password or an md5 verifier, else SCRAM.
    Md5,
    /// The password itself, over TLS only.
    Cleartext,
    /// A client certificate.
    Cert,
}

/// How clients prove who they are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuthSettings {
    /// What clients are asked for. `"cert"` needs `tls.client.client_certificates` to be `"request"` or `"require"`.
    ///
    /// applies: next connection
    pub method: AuthMethod,
    /// Networks whose clients are believed without any proof. Only users with a `password` or `server_password` can be served to them.
    ///
    /// applies: next connection
    #[schemars(example = ["127.0.0.1/32"])]
    pub trust_networks: Vec<Network>,
    /// Tokens (JWT) that users with `token_subjects` show in place of a password.
    pub tokens: LoginTokenSettings,
}

/// Tokens in place of passwords: those of AWS's `sts:GetWebIdentityToken`, of Kubernetes' service accounts, or of any issuer that publishes its keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LoginTokenSettings {
    /// The file with the keys that tokens are signed with, a JSON Web Key Set.
    ///
    /// applies: next connection
    #[schemars(extend("format" = "path"), example = &"/etc/pgweir/jwks.json")]
    pub jwks_file: Option<PathBuf>,
    /// Where those keys are fetched from, in place of a file: `https`, or `http` within this machine. They are fetched again every five minutes, and when a token names
    /// a key that is not among them.
    ///
    /// applies: next connection
    #[schemars(example = &"https://issuer.example/.well-known/jwks.json")]
    pub jwks_url: Option<String>,
    /// Who must have issued a token (`iss`). Must be set where there are keys.
    ///
    /// applies: next connection
    #[schemars(example = &"https://issuer.example")]
    pub issuer: Option<String>,
    /// For whom a token must be (`aud`). Must be set where there are keys: tokens for other services are none for this one.
    ///
    /// applies: next connection
    #[schemars(example = &"pgweir")]
    pub audience: Option<String>,
    /// The claim that `token_subjects` are patterns for.
    ///
    /// applies: next connection
    pub subject_claim: String,
}

impl Default for LoginTokenSettings {
    fn default() -> Self {
        Self { jwks_file: None, jwks_url: None, issuer: None, audience: None, subject_claim: "sub".to_owned() }
    }
}
