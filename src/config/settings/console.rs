//! Who may see and steer the proxy, and who may speak SQL over HTTP.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::secret::SecretText;

/// The admin database.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConsoleSettings {
    /// Users who may do everything there. They log in with their passwords, to the database `pgweir` (or `pgbouncer`). Over a Unix socket the operating
    /// system's user that runs the proxy needs neither a line here nor a password, where it calls itself `pgweir` or `pgbouncer`.
    ///
    /// applies: next connection
    #[schemars(example = ["ops"])]
    pub admin_users: Vec<String>,
    /// Users who may only look.
    ///
    /// applies: next connection
    #[schemars(example = ["grafana"])]
    pub stats_users: Vec<String>,
}

/// SQL over HTTP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ApiSettings {
    /// Keys that callers sign with (AWS Signature Version 4, as the RDS Data API).
    ///
    /// not in force yet: SQL over HTTP is not built.
    pub access_keys: Vec<AccessKeySettings>,
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
}
