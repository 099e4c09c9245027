//! The process itself: threads, buffers, stopping, logs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::value::{ByteSize, Period};

/// The process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProcessSettings {
    /// Threads that relay. 0 chooses: one on up to two cores, else half the CPU quota.
    ///
    /// applies: restart
    #[schemars(range(max = 256))]
    pub workers: u32,
    /// The buffer that each worker reads into; clients have none of their own. From 4KiB to 1MiB.
    ///
    /// applies: restart
    pub read_buffer: ByteSize,
    /// After SIGTERM: how long new clients are still taken while `/readyz` already says 503, so that load balancers notice first.
    ///
    /// applies: at once
    pub shutdown_grace: Period,
    /// After SIGTERM: when to leave, whatever is still open; what is cut off then is cancelled at its server, which may take a second more. Must be longer than
    /// `shutdown_grace`, and shorter than what the platform allows before it kills (30 s on ECS and Kubernetes unless told otherwise).
    ///
    /// applies: at once
    pub shutdown_timeout: Period,
    /// How often it is looked whether the configuration's file, or a certificate that it names, has changed; if so, both are read again as at SIGHUP, once they stay the same from one
    /// look to the next. "0" never looks.
    ///
    /// applies: at once
    pub watch: Period,
}

impl Default for ProcessSettings {
    fn default() -> Self {
        Self {
            workers: 0,
            read_buffer: ByteSize(32 << 10),
            shutdown_grace: Period::secs(5),
            shutdown_timeout: Period::secs(25),
            watch: Period::secs(0),
        }
    }
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Which requests are logged with their text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LogQueries {
    /// None: a statement is known by its digest only.
    #[default]
    None,
    /// Those that took as long as `slow_query`.
    Slow,
    /// All, a line each: for a look at what a program does.
    All,
}

/// Logs, written to standard error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// The form of log lines.
    ///
    /// applies: restart
    pub format: LogFormat,
    /// What is logged: `error`, `warn`, `info`, `debug` or `trace`, or directives such as `info,pgweir::pool=debug`. `PGWEIR_LOG` sets it too.
    ///
    /// applies: at once
    #[schemars(extend("format" = "log-filter"))]
    pub level: String,
    /// A request that takes as long from its first byte to the end of its answer, the wait for a server connection left out, is logged: with its tenant, client, user, database, duration, and
    /// the digest of its text, the same for texts that differ in their literals only. Of those with one digest a worker logs one a second, and how many more there were. 0 logs none.
    ///
    /// applies: at once
    pub slow_query: Period,
    /// Whether the texts of such requests are logged too, or those of all. Texts may hold what nobody should read in a log.
    ///
    /// applies: at once
    pub queries: LogQueries,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".to_owned(), slow_query: Period::secs(0), queries: LogQueries::None }
    }
}
