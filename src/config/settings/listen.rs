//! Where pgweir listens, and what holds for every client connection.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::value::{HttpAddress, ListenAddress, Period};

/// Where pgweir listens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ListenSettings {
    /// Addresses for PostgreSQL clients: an IP address and port, or `unix:` and a folder for the socket `.s.PGSQL.<port>` (the port is that of the
    /// first TCP address, else 6432).
    ///
    /// applies: restart
    #[schemars(example = ["0.0.0.0:6432", "unix:/run/pgweir"])]
    pub postgres: Vec<ListenAddress>,
    /// Address for operations: `/metrics`, `/healthz`, `/readyz`, `/status`; `"off"` for none. It answers without a password: keep it off public networks.
    ///
    /// applies: restart
    pub http: HttpAddress,
    /// Address for SQL over HTTP, such as `"0.0.0.0:8443"`; `"off"` for none. It shows the certificate of `[tls.client]`; without one it serves callers of this machine
    /// only, unless `api.allow_plaintext` is set.
    ///
    /// applies: restart
    pub api: HttpAddress,
}

impl Default for ListenSettings {
    fn default() -> Self {
        Self {
            postgres: vec![ListenAddress::Tcp(([0, 0, 0, 0], 6432).into())],
            http: HttpAddress(Some(([0, 0, 0, 0], 9632).into())),
            api: HttpAddress(None),
        }
    }
}

/// Limits on client connections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClientsSettings {
    /// The most client connections in all, logged in or not. One more is refused with 53300 in the text. Each needs a file descriptor.
    ///
    /// applies: at once
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_clients: u32,
    /// How long a connection may take from its first byte's due time to the end of its login, TLS included; then it is closed.
    /// Generous, because a small Lambda computes SCRAM slowly while it starts.
    ///
    /// applies: next connection
    pub login_timeout: Period,
    /// How long a client that has results coming may go without taking a single byte; then it is cut and its server connection cleaned. Until then it
    /// stalls nobody else, but holds its server connection.
    ///
    /// applies: at once
    pub write_stall_timeout: Period,
}

impl Default for ClientsSettings {
    fn default() -> Self {
        Self { max_clients: 20_000, login_timeout: Period::secs(15), write_stall_timeout: Period::secs(30) }
    }
}

/// TCP settings of both legs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TcpSettings {
    /// Toward clients. All but `idle_keepalive` hold only while a query or transaction of the client's is open: a frozen Lambda answers no probe,
    /// and must not lose a healthy idle connection for it.
    pub client: KeepaliveClientSettings,
    /// Toward PostgreSQL.
    pub server: KeepaliveServerSettings,
}

/// TCP settings toward clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KeepaliveClientSettings {
    /// Silence after which the first probe is sent, while work of the client's is open. `"0"` sends none.
    ///
    /// applies: next connection
    pub keepalive_idle: Period,
    /// Time between probes.
    ///
    /// applies: next connection
    pub keepalive_interval: Period,
    /// Unanswered probes after which the client counts as gone.
    ///
    /// applies: next connection
    #[schemars(range(min = 1, max = 127))]
    pub keepalive_count: u32,
    /// How long sent data may stay unacknowledged while work is open (`TCP_USER_TIMEOUT`); then the client counts as gone. `"0"` leaves it to the system.
    ///
    /// applies: next connection
    pub user_timeout: Period,
    /// Silence after which an idle client is probed. Off, because a frozen Lambda does not answer; behind a load balancer that forgets
    /// quiet connections (350 s on AWS) set it to `"300s"`.
    ///
    /// applies: next connection
    pub idle_keepalive: Period,
}

impl Default for KeepaliveClientSettings {
    fn default() -> Self {
        Self {
            keepalive_idle: Period::secs(10),
            keepalive_interval: Period::secs(5),
            keepalive_count: 3,
            user_timeout: Period::secs(15),
            idle_keepalive: Period::default(),
        }
    }
}

/// TCP settings toward PostgreSQL.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KeepaliveServerSettings {
    /// Silence after which the first probe is sent. `"0"` sends none.
    ///
    /// applies: next connection
    pub keepalive_idle: Period,
    /// Time between probes.
    ///
    /// applies: next connection
    pub keepalive_interval: Period,
    /// Unanswered probes after which the server connection counts as lost.
    ///
    /// applies: next connection
    #[schemars(range(min = 1, max = 127))]
    pub keepalive_count: u32,
    /// How long sent data may stay unacknowledged (`TCP_USER_TIMEOUT`); then the server connection counts as lost. `"0"` leaves it to the system.
    ///
    /// applies: next connection
    pub user_timeout: Period,
}

impl Default for KeepaliveServerSettings {
    fn default() -> Self {
        Self { keepalive_idle: Period::secs(30), keepalive_interval: Period::secs(10), keepalive_count: 3, user_timeout: Period::secs(15) }
    }
}
