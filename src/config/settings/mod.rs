//! The settings as they are written in the file. The doc comments of these structs *are* the reference: `pgweir config reference`, the JSON schema
//! and the annotated example are generated from them, `check` and the environment variables follow the same schema.
//!
//! A setting's doc says what it does; its default, type and environment variable are added by the generator. Its last line is
//! `applies: at once | next connection | restart`, which reload goes by.

mod api;
mod cloudwatch;
mod console;
mod listen;
mod login;
mod process;
mod tenant;
mod tls;
mod upstream;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use api::{AccessKeySettings, ApiSettings};
pub use cloudwatch::CloudwatchSettings;
pub use console::ConsoleSettings;
pub use listen::{ClientsSettings, KeepaliveClientSettings, KeepaliveServerSettings, ListenSettings, TcpSettings};
pub use login::{AuthMethod, AuthSettings, DatabaseSettings, LoginTokenSettings, PoolMode, ServerAuth, UserSettings};
pub use process::{LogFormat, LogQueries, LogSettings, ProcessSettings};
pub use tenant::{DefaultsSettings, Limits, MatchSettings, TenantSettings};
pub use tls::{ClientCertificates, ClientTlsMode, ClientTlsSettings, ServerTlsSettings, SslMode, TlsNegotiation, TlsSettings};
pub use upstream::{LimitSetting, TargetSessionAttrs, UpstreamSettings};

/// The configuration of pgweir, in TOML. Unknown keys are errors. Durations are written `"250ms"`, `"5s"`, `"1m30s"` or `"1h"`, and `"0"` is off or
/// no limit; sizes `"64KiB"` or `"32MiB"`. A secret `x` may instead be named as a variable of the environment (`x_env`) or as a file (`x_file`,
/// one line). Each setting has an environment variable too; it takes the file's place.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "pgweir.toml")]
pub struct Settings {
    /// Where pgweir listens.
    pub listen: ListenSettings,
    /// Encryption and certificates, on both legs.
    pub tls: TlsSettings,
    /// PostgreSQL servers by name, each with a hard budget of connections.
    pub upstreams: BTreeMap<String, UpstreamSettings>,
    /// The database names that clients connect to. The name `"*"` stands for every name that is not listed.
    pub databases: BTreeMap<String, DatabaseSettings>,
    /// Who may log in, by user name, and as whom they appear at the server.
    pub users: BTreeMap<String, UserSettings>,
    /// How clients prove who they are.
    pub auth: AuthSettings,
    /// What every tenant gets unless it says otherwise; also the limits of the tenant `default`, to which clients belong that no rule matches.
    pub defaults: DefaultsSettings,
    /// Tenants by name. A client belongs to the first, in the order of the file, whose `match` fits. What is not set here comes from `defaults`.
    pub tenants: BTreeMap<String, TenantSettings>,
    /// The admin database, `pgweir` (also answering as `pgbouncer`).
    pub console: ConsoleSettings,
    /// SQL over HTTP.
    pub api: ApiSettings,
    /// Limits on client connections as such, whoever they belong to.
    pub clients: ClientsSettings,
    /// Keepalive and unacknowledged-data limits of TCP, on both legs.
    pub tcp: TcpSettings,
    /// The process: threads, stopping.
    pub process: ProcessSettings,
    /// What is logged and how.
    pub log: LogSettings,
    /// Metrics for CloudWatch.
    pub cloudwatch: CloudwatchSettings,
}
