//! What CloudWatch is told.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::value::Period;

/// Metrics for CloudWatch, in its embedded metric format: lines of JSON on standard output, which CloudWatch Logs makes metrics of where the container's log goes there. What RDS
/// Proxy has under a name has that name, so that dashboards and alarms carry over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CloudwatchSettings {
    /// How often they are written: a line for the whole proxy, one for each upstream and one for each tenant. RDS Proxy has `"60s"`. `"0"` writes none.
    ///
    /// applies: restart
    pub interval: Period,
    /// The namespace of the metrics.
    ///
    /// applies: restart
    pub namespace: String,
    /// The value of the dimension `ProxyName`.
    ///
    /// applies: restart
    pub proxy_name: String,
}

impl Default for CloudwatchSettings {
    fn default() -> Self {
        Self { interval: Period::secs(0), namespace: "pgweir".to_owned(), proxy_name: "pgweir".to_owned() }
    }
}
