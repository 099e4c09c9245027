//! One PostgreSQL server: where it is, how many connections it may ever see, and how long they live.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tls::ServerTlsSettings;
use crate::config::secret::SecretText;
use crate::config::value::{ByteSize, Period};

/// What `auth_query` asks unless it is set: PgBouncer's question, which answers nothing for an expired password.
const AUTH_QUERY: &str = "SELECT rolname, CASE WHEN rolvaliduntil < pg_catalog.now() THEN NULL ELSE rolpassword END FROM pg_catalog.pg_authid \
     WHERE rolname = $1 AND rolcanlogin";

/// Which of several servers will do, in libpq's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TargetSessionAttrs {
    /// Any.
    Any,
    /// One whose sessions can write: no standby, and `default_transaction_read_only` is off.
    ReadWrite,
    /// One whose sessions cannot.
    ReadOnly,
    /// One that is not in recovery.
    Primary,
    /// One that is in recovery.
    Standby,
    /// A standby, else any.
    PreferStandby,
}

/// What the number of server connections at work goes by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LimitSetting {
    /// By `max_connections`.
    #[default]
    Fixed,
    /// By `max_connections`; what an adaptive limit might be is published as `pgweir_upstream_limit_suggested`, as far as the load itself shows it.
    Observe,
    /// By trying: the number at which the most transactions end, from `limit_min` to `max_connections`.
    Adaptive,
}

/// One PostgreSQL server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamSettings {
    /// Host name or IP address, or the folder of a Unix socket (from the root, as libpq's `host`). Resolved anew for each connection.
    ///
    /// applies: next connection
    #[schemars(example = &"db.internal")]
    pub host: Option<String>,
    /// Port, also part of the name of a Unix socket.
    ///
    /// applies: next connection
    #[schemars(range(min = 1, max = 65_535))]
    pub port: u16,
    /// More hosts for failover, each `"host"` or `"host:port"`. They are tried after the one that was good last, in their order, and share
    /// `server_connect_timeout`. When the server has moved to another of them, connections to the one before are closed as they become idle.
    ///
    /// applies: next connection
    #[schemars(example = ["db-standby.internal:5432"])]
    pub hosts: Vec<String>,
    /// Which server will do: libpq's words. Where it is not set any server will at first, and once one was a primary only a primary does, so that a name
    /// that still leads to a server which has become a standby is not believed (PostgreSQL 14 and later say what they are).
    ///
    /// applies: next connection
    #[schemars(example = &"primary")]
    pub target_session_attrs: Option<TargetSessionAttrs>,
    /// For how long clients wait for a server that has ceased to answer: a restart or a failover that is over by then goes unnoticed. The time runs from
    /// the first failure, so that in a long outage only those who come early wait; afterwards, and where the server has never answered, clients are refused
    /// at once with 57P03. `queue_timeout` does not run meanwhile; a client's own deadline does. `"0"` refuses at once always.
    ///
    /// applies: at once
    pub failover_window: Period,
    /// The hard budget: never more than this many connections for clients, counted in every state until the server has really ended them. Leave
    /// room below PostgreSQL's `max_connections` for its reserved ones, other programs and further replicas of pgweir.
    ///
    /// applies: at once
    #[schemars(range(min = 1, max = 100_000))]
    pub max_connections: u32,
    /// Whether `max_connections` is one budget for all proxies together that share it (replicas, or a new process beside the old one), rather than each one's own. They
    /// need nothing but the server for that: each slot of the budget is an advisory lock there. Who has clients waiting takes what is free or what another leaves idle, and
    /// where all want more each has an equal part. For PostgreSQL 14 and later. They must have the same name for this upstream, and the same `share_dbname`.
    ///
    /// applies: restart
    pub share_budget: bool,
    /// As which of the `users` the slots of a shared budget are held: one whose password the proxy has, or whose `server_auth` is `"rds-iam"`. The role needs no rights
    /// but to connect to `share_dbname`. Where it is not set it is the only such user.
    ///
    /// applies: restart
    #[schemars(example = &"app")]
    pub share_user: Option<String>,
    /// The database in which the slots of a shared budget are held.
    ///
    /// applies: restart
    pub share_dbname: String,
    /// What the number of server connections at work goes by. A server does the most with so many at work, and beyond that only lets each wait for the others. Where
    /// clients wait, `"adaptive"` compares the limit with others by turns and keeps to the best, the lower one between equals; while nobody waits it changes nothing.
    ///
    /// applies: at once
    pub limit: LimitSetting,
    /// An adaptive limit is never lower than this, nor than all `reserved_server_connections` and one more.
    ///
    /// applies: at once
    #[schemars(range(min = 1, max = 100_000))]
    pub limit_min: u32,
    /// Connections on top of the budget, for each proxy: one for cancel requests, which are delivered one at a time, one for the slots of a shared budget, if it is
    /// shared, and the others (at least one) for `auth_query`.
    ///
    /// applies: at once
    #[schemars(range(min = 1, max = 1_000))]
    pub control_connections: u32,
    /// Connections that stay open however idle, so that the first callers after a quiet time need not wait for a login.
    ///
    /// applies: at once
    #[schemars(range(max = 100_000))]
    pub min_idle: u32,
    /// An idle server connection beyond `min_idle` is closed after this long. `"0"` never closes one for idleness.
    ///
    /// applies: at once
    pub server_idle_timeout: Period,
    /// A server connection this old is closed when it is next idle, give or take a tenth so that not all go at once. `"0"` lets it live on.
    ///
    /// applies: at once
    pub server_lifetime: Period,
    /// How long connecting may take: name lookup, TCP, TLS and login together.
    ///
    /// applies: next connection
    pub server_connect_timeout: Period,
    /// A connection that was idle longer than this is checked with a round trip before a client gets it. `"0"` checks always.
    ///
    /// applies: at once
    pub server_check_delay: Period,
    /// How long a server connection whose client vanished may take to be cancelled, rolled back and checked; then it is closed.
    ///
    /// applies: at once
    pub settle_timeout: Period,
    /// What the prepared statements that are kept on one server connection may take: their texts, and 256 bytes each. Those that were not used for longest
    /// are closed first, and those that were used once before those that are used often.
    ///
    /// applies: at once
    pub prepared_statements: ByteSize,
    /// Whether the server is asked, once a minute and after CREATE, which of a database's own functions set something in the session that calls them
    /// (`set_config` in a body, say), and which views and triggers call those. What they set then follows its client; where this is off it may be seen by others.
    /// For servers that are not PostgreSQL.
    ///
    /// applies: at once
    pub follow_functions: bool,
    /// Whether all clients of a database and user listen (LISTEN) with one server connection of theirs, in transaction mode, so that a client that listens and is idle
    /// holds none. Where this is off, or where there are not two connections, whoever listens keeps a server connection.
    ///
    /// applies: at once
    pub share_listen: bool,
    /// The AWS region of the server, for users whose `server_auth` is `"rds-iam"`, where `host` does not say it (`NAME.ID.REGION.rds.amazonaws.com`) and it is not
    /// what `AWS_REGION` says.
    ///
    /// applies: next connection
    #[schemars(example = &"eu-central-1")]
    pub aws_region: Option<String>,
    /// The `application_name` of the proxy's own connections, and of a client's that has none itself.
    ///
    /// applies: next connection
    pub application_name: String,
    /// Asked of the server for the verifier of a user that is not listed under `users`; `$1` is the user's name. The answer is one row at most, of the name
    /// and the verifier (or md5 hash, or password), or of that alone; a third column is the time until which it is valid. No row and NULL mean that there is
    /// no such user. `search_path` is `pg_catalog`: write the schema before the name of a function or table of your own. Answers are remembered for 5
    /// seconds. Used only where `auth_user` is set.
    ///
    /// applies: next connection
    pub auth_query: String,
    /// The role that runs `auth_query`. It must be allowed to read what the query reads. Off unless named.
    ///
    /// applies: next connection
    #[schemars(example = &"auth_reader")]
    pub auth_user: Option<String>,
    /// The password of `auth_user`.
    ///
    /// applies: next connection
    #[schemars(example = &"change-me")]
    pub auth_password: Option<SecretText>,
    /// The variable of the environment that holds `auth_password`.
    ///
    /// applies: next connection
    #[schemars(extend("format" = "variable"), example = &"PGWEIR_AUTH_PASSWORD")]
    pub auth_password_env: Option<String>,
    /// The file that holds `auth_password`.
    ///
    /// applies: next connection
    #[schemars(extend("format" = "path"), example = &"/run/secrets/auth_password")]
    pub auth_password_file: Option<PathBuf>,
    /// The database that `auth_query` runs in.
    ///
    /// applies: next connection
    pub auth_dbname: String,
    /// TLS toward this server, in place of the whole of `tls.server`.
    pub tls: Option<ServerTlsSettings>,
}

impl Default for UpstreamSettings {
    fn default() -> Self {
        Self {
            host: None,
            port: 5432,
            hosts: Vec::new(),
            target_session_attrs: None,
            failover_window: Period::secs(5),
            max_connections: 40,
            share_budget: false,
            share_user: None,
            share_dbname: "postgres".to_owned(),
            limit: LimitSetting::Fixed,
            limit_min: 1,
            control_connections: 2,
            min_idle: 0,
            server_idle_timeout: Period::secs(60),
            server_lifetime: Period::secs(3_600),
            server_connect_timeout: Period::secs(5),
            server_check_delay: Period::secs(30),
            settle_timeout: Period::secs(5),
            prepared_statements: ByteSize(256 << 10),
            follow_functions: true,
            share_listen: true,
            aws_region: None,
            application_name: "pgweir".to_owned(),
            auth_query: AUTH_QUERY.to_owned(),
            auth_user: None,
            auth_password: None,
            auth_password_env: None,
            auth_password_file: None,
            auth_dbname: "postgres".to_owned(),
            tls: None,
        }
    }
}
