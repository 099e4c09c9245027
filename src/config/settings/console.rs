//! Who may see and steer the proxy.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
