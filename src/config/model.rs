//! The checked configuration, as the program reads it: plain data, durations as std's, secrets resolved, names looked up, tenants in order.
//! It is made by [`super::load`] only; whoever holds one need not check anything again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::glob::Glob;
use super::secret::SecretText;
use super::settings::{
    AuthMethod, ClientCertificates, ClientTlsMode, LimitSetting, Limits, LogFormat, LogQueries, PoolMode, ServerAuth, SslMode,
    TargetSessionAttrs, TlsNegotiation,
};
use super::snapshot::Snapshot;
use super::value::{CertificateAuthority, ListenAddress};

/// Everything that the program was told.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where it listens.
    pub listen: Listen,
    /// TLS as clients see it.
    pub client_tls: ClientTls,
    /// PostgreSQL servers by name.
    pub upstreams: BTreeMap<String, Upstream>,
    /// Databases by the name that clients use.
    pub databases: BTreeMap<String, Database>,
    /// What a database name that is not listed means (`"*"`).
    pub any_database: Option<Database>,
    /// Users by name.
    pub users: BTreeMap<String, User>,
    /// How clients prove who they are.
    pub auth: Auth,
    /// Tenants: the first is `default`, the others follow in the order of their rules.
    pub tenants: Vec<Tenant>,
    /// The admin database.
    pub console: Console,
    /// SQL over HTTP.
    pub api: Api,
    /// Limits on client connections.
    pub clients: Clients,
    /// TCP toward clients.
    pub client_tcp: ClientTcp,
    /// TCP toward PostgreSQL.
    pub server_tcp: Keepalive,
    /// The process.
    pub process: Process,
    /// Logs.
    pub log: Log,
    /// What CloudWatch is told, if anything.
    pub cloudwatch: Option<Cloudwatch>,
    /// Every setting as it was resolved, for [`super::diff`].
    pub(super) snapshot: Snapshot,
}

/// Where the program listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// For PostgreSQL clients.
    pub postgres: Vec<ListenAddress>,
    /// For operations over HTTP.
    pub http: Option<SocketAddr>,
    /// For SQL over HTTP.
    pub api: Option<SocketAddr>,
}

impl Listen {
    /// The port in the name of Unix sockets: that of the first TCP address, else 6432.
    pub fn unix_port(&self) -> u16 {
        self.postgres
            .iter()
            .find_map(|address| match address {
                ListenAddress::Tcp(address) => Some(address.port()),
                ListenAddress::Unix(_) => None,
            })
            .unwrap_or(6432)
    }
}

/// A certificate and its key, as PEM files that exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The certificate with its chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// TLS as clients see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTls {
    /// Whether clients may, must or cannot use it.
    pub mode: ClientTlsMode,
    /// Set unless `mode` is `Disable`.
    pub identity: Option<Identity>,
    /// Set unless `client_certificates` is `Off`.
    pub ca: Option<CertificateAuthority>,
    /// Whether clients are asked for a certificate.
    pub client_certificates: ClientCertificates,
}

/// TLS toward one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// How far the server's identity is checked.
    pub mode: SslMode,
    /// Set for `VerifyCa` and `VerifyFull`.
    pub ca: Option<CertificateAuthority>,
    /// What the proxy shows to the server.
    pub identity: Option<Identity>,
    /// How TLS begins.
    pub negotiation: TlsNegotiation,
}

/// Where a server is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A host name or address, and a port.
    Tcp {
        /// As written; also what a certificate is checked against.
        host: String,
        /// The port.
        port: u16,
    },
    /// The socket itself (`/run/postgresql/.s.PGSQL.5432`).
    Unix(PathBuf),
}

/// One PostgreSQL server.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// Its name here.
    pub name: String,
    /// Where it may be; at least one.
    pub endpoints: Vec<Endpoint>,
    /// Which of them will do.
    pub target_session_attrs: Option<TargetSessionAttrs>,
    /// For how long clients wait for a server that has ceased to answer.
    pub failover_window: Duration,
    /// The hard budget.
    pub max_connections: u32,
    /// How the budget is shared with other proxies, if it is.
    pub share: Option<Share>,
    /// What the number of connections at work goes by.
    pub limit: LimitSetting,
    /// The least that an adaptive limit comes to.
    pub limit_min: u32,
    /// Connections on top of it for the proxy's own work.
    pub control_connections: u32,
    /// Idle connections that are kept.
    pub min_idle: u32,
    /// When an idle connection is closed.
    pub server_idle_timeout: Option<Duration>,
    /// When an old connection is closed, before jitter.
    pub server_lifetime: Option<Duration>,
    /// How long connecting and logging in may take.
    pub server_connect_timeout: Duration,
    /// Idleness after which a connection is checked before use; zero checks always.
    pub server_check_delay: Duration,
    /// How long cleaning up after a vanished client may take.
    pub settle_timeout: Duration,
    /// What the prepared statements on one connection may take, in bytes.
    pub prepared_statements: usize,
    /// Whether the server is asked what its functions leave in a session.
    pub follow_functions: bool,
    /// Whether all clients of a pool listen with one connection.
    pub share_listen: bool,
    /// The AWS region, where it was set.
    pub aws_region: Option<String>,
    /// `application_name` where no client gives one.
    pub application_name: String,
    /// How verifiers of users who are not listed are asked for.
    pub auth_query: Option<AuthQuery>,
    /// TLS toward it.
    pub tls: ServerTls,
}

impl Upstream {
    /// How many connections there may be for `auth_query`.
    pub fn auth_query_connections(&self) -> u32 {
        self.control_connections.saturating_sub(1 + u32::from(self.share.is_some())).max(1)
    }
}

/// How a budget is shared with other proxies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// A key of [`Config::users`], with a login of the proxy's own.
    pub user: String,
    /// The database in which its slots are held.
    pub dbname: String,
}

/// How the server is asked for a user's verifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthQuery {
    /// The query; `$1` is the user's name.
    pub query: String,
    /// The role that runs it.
    pub user: String,
    /// Its password.
    pub password: Option<SecretText>,
    /// The database that it runs in.
    pub dbname: String,
}

/// A database that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// A key of [`Config::upstreams`].
    pub upstream: String,
    /// The name at the server; `None` is the client's own word for it.
    pub dbname: Option<String>,
    /// When a server connection goes back to the pool.
    pub pool_mode: PoolMode,
    /// Whether what would keep a server connection beyond its transaction is refused.
    pub strict: bool,
}

/// Who may log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name here.
    pub name: String,
    /// What the client must know.
    pub password: Option<SecretText>,
    /// What is stored in its place.
    pub verifier: Option<SecretText>,
    /// Names in a client certificate that log in as this user; never empty.
    pub certificate_names: Vec<String>,
    /// Whose tokens log in as this user; empty where it shows something else.
    pub token_subjects: Vec<Glob>,
    /// The role at the server.
    pub server_user: String,
    /// The role's password there: `server_password`, else `password` (with `None`, only SCRAM pass-through or a certificate can log in).
    pub server_password: Option<SecretText>,
    /// What is used there.
    pub server_auth: ServerAuth,
    /// Whether the client may name its tenant.
    pub may_name_tenant: bool,
}

/// How clients prove who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// What they are asked for.
    pub method: AuthMethod,
    /// Networks that are believed.
    pub trust_networks: Vec<IpNet>,
    /// How tokens in place of passwords are checked; set where any user shows one.
    pub tokens: Option<Tokens>,
}

/// About whom limits and metrics are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Its name, also its label in metrics.
    pub name: String,
    /// Which clients belong to it; `None` for `default` and for tenants that clients name themselves.
    pub rule: Option<Rule>,
    /// Where its data lives, when not where the database says.
    pub upstream: Option<String>,
    /// What it may use.
    pub limits: Limits,
}

/// A tenant's rule: every pattern that is set must fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// For the user.
    pub user: Option<Glob>,
    /// For the database.
    pub database: Option<Glob>,
    /// For the `application_name`.
    pub application_name: Option<Glob>,
    /// For the server name in TLS.
    pub tls_name: Option<Glob>,
}

/// Who may use the admin database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Console {
    /// For everything.
    pub admin_users: Vec<String>,
    /// For looking.
    pub stats_users: Vec<String>,
}

/// SQL over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// The database of callers who name none.
    pub database: Option<String>,
    /// Whether callers from elsewhere may come without TLS.
    pub allow_plaintext: bool,
    /// The longest request, in bytes.
    pub max_request: usize,
    /// The longest answer, in bytes.
    pub max_response: usize,
    /// The most connections.
    pub max_connections: usize,
    /// How long a connection may be without a request.
    pub idle_timeout: Duration,
    /// How long a statement may take.
    pub statement_timeout: Option<Duration>,
    /// How long a held transaction may lie idle.
    pub transaction_idle_timeout: Duration,
    /// The status with which callers are shed.
    pub shed_status: u16,
    /// Keys that callers sign with.
    pub access_keys: Vec<AccessKey>,
    /// Bearer tokens, where they are taken.
    pub tokens: Option<Tokens>,
}

/// Where the keys of tokens are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// In a file that exists.
    File(PathBuf),
    /// At a URL of `https`, or of `http` within this machine.
    Url(String),
}

/// Tokens, and how they are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// Where the keys are.
    pub keys: KeySource,
    /// Who must have issued them.
    pub issuer: Option<String>,
    /// For whom they must be.
    pub audience: Option<String>,
    /// The claim that says who shows it: the user, or what a user's `token_subjects` are patterns for.
    pub user_claim: String,
    /// The user that all callers are.
    pub user: Option<String>,
    /// The claim that names the tenant.
    pub tenant_claim: Option<String>,
}

/// A key that callers of SQL over HTTP sign with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessKey {
    /// Its id.
    pub id: String,
    /// The signing secret.
    pub secret: SecretText,
    /// Whom it stands for.
    pub user: String,
    /// The database of callers who name none.
    pub database: Option<String>,
}

/// Limits on client connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clients {
    /// The most, in all.
    pub max_clients: u32,
    /// From accept to the end of login.
    pub login_timeout: Option<Duration>,
    /// Without taking a byte.
    pub write_stall_timeout: Option<Duration>,
}

/// Keepalive and `TCP_USER_TIMEOUT` of one leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe; `None` sends none.
    pub idle: Option<Duration>,
    /// Between probes.
    pub interval: Duration,
    /// Probes before giving up.
    pub count: u32,
    /// How long sent data may stay unacknowledged.
    pub user_timeout: Option<Duration>,
}

/// TCP toward clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTcp {
    /// While a query or transaction of the client's is open.
    pub working: Keepalive,
    /// Silence before a probe while it is idle; `None` sends none.
    pub idle_keepalive: Option<Duration>,
}

/// The process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Threads that relay; `None` leaves the choice to the program.
    pub workers: Option<usize>,
    /// Bytes of each worker's read buffer.
    pub read_buffer: usize,
    /// How long clients are still taken after SIGTERM.
    pub shutdown_grace: Duration,
    /// When to leave after SIGTERM.
    pub shutdown_timeout: Duration,
    /// How often it is looked whether files have changed.
    pub watch: Option<Duration>,
}

/// Logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The form of lines.
    pub format: LogFormat,
    /// What is logged, as directives of an `EnvFilter`.
    pub level: String,
    /// How long a request takes that is logged.
    pub slow_query: Option<Duration>,
    /// Of which requests the text is logged.
    pub queries: LogQueries,
}

/// What CloudWatch is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cloudwatch {
    /// How often.
    pub interval: Duration,
    /// The namespace of the metrics.
    pub namespace: String,
    /// The value of the dimension `ProxyName`.
    pub proxy_name: String,
}

impl Rule {
    fn fits(&self, user: &str, database: &str, application_name: &str, tls_name: Option<&str>) -> bool {
        let fits = |pattern: &Option<Glob>, text: &str| pattern.as_ref().is_none_or(|glob| glob.matches(text));
        let tls_fits = match (&self.tls_name, tls_name) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(glob), Some(name)) => glob.matches(name),
        };
        fits(&self.user, user) && fits(&self.database, database) && fits(&self.application_name, application_name) && tls_fits
    }
}

impl Config {
    /// The place in [`Config::tenants`] of the tenant that a client belongs to: the first whose rule fits, else 0, `default`. `tls_name` is the server
    /// name that the client asked for in TLS.
    pub fn tenant_for(&self, user: &str, database: &str, application_name: &str, tls_name: Option<&str>) -> usize {
        self.tenants
            .iter()
            .position(|tenant| tenant.rule.as_ref().is_some_and(|rule| rule.fits(user, database, application_name, tls_name)))
            .unwrap_or(0)
    }

    /// The place in [`Config::tenants`] of the tenant of that name, for a client that may name it itself.
    pub fn tenant_named(&self, name: &str) -> Option<usize> {
        self.tenants.iter().position(|tenant| tenant.name == name)
    }

    /// The name in the configuration of what a client means by a database name: its own, or `*`. There are few of these, whatever clients ask for.
    pub fn database_name<'n>(&self, name: &'n str) -> &'n str {
        if self.databases.contains_key(name) { name } else { "*" }
    }

    /// What a client means by a database name.
    pub fn database(&self, name: &str) -> Option<&Database> {
        self.databases.get(name).or(self.any_database.as_ref())
    }
}
