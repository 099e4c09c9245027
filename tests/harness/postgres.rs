//! A private PostgreSQL cluster for one test.
//!
//! Copied from a template (in memory where possible) and started in some 200 ms in all, so that each test has its own: it may restart it,
//! fill it, break it and count its connections without asking anybody. It listens on 127.0.0.1 and on a Unix socket, and
//! is removed by its [`Keeper`] even when the test is killed.

use std::fs::{self, File};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::{NoTls, SimpleQueryMessage};

use super::PATIENCE;
use super::certs::Ca;
use super::keeper::Keeper;
use super::template::{self, RunAs};

/// How the superuser's connections of the harness call themselves; they are left out of every count.
const HARNESS: &str = "harness";

/// A running PostgreSQL of this test's own.
pub struct Postgres {
    keeper: Keeper,
    folder: PathBuf,
    port: u16,
    ca: Option<Ca>,
    // Held so that no other test of the run takes this port, also while the server is down.
    port_lock: File,
}

/// How [`Postgres::stop`] ends the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Sessions are told 57P01 and ended; the server shuts down cleanly.
    Fast,
    /// As after a crash: sessions are told 57P02 and dropped.
    Immediate,
}

/// A cluster that is still to be started.
pub struct PostgresOptions {
    conf: String,
    hba: String,
    method: &'static str,
    md5: bool,
    ssl: bool,
    environment: Vec<String>,
}

impl Postgres {
    /// A cluster as most tests want it: SCRAM, no TLS, `max_connections = 100`.
    pub async fn start() -> Self {
        Self::options().start().await
    }

    /// A cluster with options of its own.
    pub fn options() -> PostgresOptions {
        PostgresOptions {
            conf: String::new(),
            hba: String::new(),
            method: "scram-sha-256",
            md5: false,
            ssl: false,
            environment: Vec::new(),
        }
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The TCP address.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The cluster's own folder; it holds the Unix socket and the server's log.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The Unix socket's path.
    pub fn socket(&self) -> PathBuf {
        self.folder.join(format!(".s.PGSQL.{}", self.port))
    }

    /// The authority that signed the server's certificate, if it was started with [`PostgresOptions::ssl`].
    pub fn ca(&self) -> &Ca {
        self.ca.as_ref().expect("a cluster started with ssl()")
    }

    /// A URL for `user` with `password` to the database `app`, over TCP.
    pub fn url(&self, user: &str, password: &str) -> String {
        format!("postgres://{user}:{password}@127.0.0.1:{}/app", self.port)
    }

    /// A URL for the superuser, over TCP.
    pub fn superuser_url(&self) -> String {
        self.url("postgres", "postgres")
    }

    /// What the server has written to its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// A connection of the superuser to `database` over the Unix socket, whatever the authentication method of others.
    pub async fn superuser(&self, database: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(&self.folder)
            .port(self.port)
            .user("postgres")
            .dbname(database)
            .application_name(HARNESS)
            .connect_timeout(PATIENCE);
        let (client, connection) = Box::pin(config.connect(NoTls)).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Runs statements as the superuser in the database `app`; answers the rows as text.
    pub async fn sql(&self, statements: &str) -> Vec<Vec<Option<String>>> {
        let client = self.superuser("app").await.expect("the superuser may connect");
        let answer = client.simple_query(statements).await.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
        let rows = answer.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        rows.map(|row| (0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect()).collect()
    }

    /// The one value that a statement answers.
    pub async fn value(&self, statement: &str) -> String {
        match &self.sql(statement).await[..] {
            [row] if row.len() == 1 => row[0].clone().unwrap_or_default(),
            rows => panic!("{statement}: one value was expected, not {rows:?}"),
        }
    }

    /// How many client connections `database` has now, the harness's own left out.
    pub async fn backends(&self, database: &str) -> usize {
        self.value(&backends_of(database)).await.parse().unwrap()
    }

    /// Runs `work` and answers, besides its result, the most client connections that `database` was seen to have meanwhile.
    pub async fn most_backends<T>(&self, database: &str, work: impl Future<Output = T>) -> (T, usize) {
        let client = self.superuser("app").await.expect("the superuser may connect");
        let statement = backends_of(database);
        let mut most = 0;
        let mut work = Box::pin(work);
        loop {
            let row = client.query_one(&statement, &[]).await.expect("a count of connections");
            most = most.max(row.get::<_, String>(0).parse().unwrap());
            tokio::select! {
                result = &mut work => return (result, most),
                () = tokio::time::sleep(Duration::from_millis(10)) => {}
            }
        }
    }

    /// Ends every client connection to `database` the way an operator would (57P01); answers how many there were.
    pub async fn end_backends(&self, database: &str) -> usize {
        let statement = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = '{database}' AND backend_type = 'client backend' AND application_name <> '{HARNESS}'"
        );
        self.sql(&statement).await.len()
    }

    /// Stops the server and waits until it has ended.
    pub fn stop(&mut self, how: Stop) {
        self.keeper.stop(match how {
            Stop::Fast => "INT",
            Stop::Immediate => "QUIT",
        });
    }

    /// Starts a stopped server again, on the same port, and waits until it takes connections.
    pub async fn start_again(&mut self) {
        self.keeper.start();
        self.ready().await;
    }

    /// Stops and starts the server.
    pub async fn restart(&mut self, how: Stop) {
        self.stop(how);
        self.start_again().await;
    }

    /// Appends lines to `postgresql.conf`, for the next start or `SELECT pg_reload_conf()`.
    pub fn append_conf(&self, lines: &str) {
        let mut conf = File::options().append(true).open(self.folder.join("data/postgresql.conf")).unwrap();
        writeln!(conf, "{lines}").unwrap();
    }

    /// A standby of this cluster, which is stopped for a moment to be copied. It follows by streaming.
    pub async fn standby(&mut self) -> Postgres {
        let (port, lock) = free_port();
        self.standby_by(&format!("port = {port}"), port, lock).await
    }

    /// A standby with this cluster's own port at another address, as another machine would have it.
    pub async fn standby_at(&mut self, address: Ipv4Addr) -> Postgres {
        let lock = self.port_lock.try_clone().unwrap();
        self.standby_by(&format!("port = {}\nlisten_addresses = '{address}'", self.port), self.port, lock).await
    }

    async fn standby_by(&mut self, listen: &str, port: u16, lock: File) -> Postgres {
        self.stop(Stop::Fast);
        let (folder, data, user, keeper) = cluster(&[]);
        template::copy_tree(&self.folder.join("data"), &data, user);
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
        let signal = data.join("standby.signal");
        fs::write(&signal, "").unwrap();
        user.own(&signal);
        let mut standby = Postgres { keeper, folder, port, ca: None, port_lock: lock };
        let conninfo = format!("host=127.0.0.1 port={} user=postgres password=postgres", self.port);
        standby.append_conf(&format!("{listen}\nprimary_conninfo = '{conninfo}'\nwal_retrieve_retry_interval = '100ms'"));
        self.start_again().await;
        standby.start_again().await;
        standby
    }

    /// Makes a standby a primary, and waits until it is one.
    pub async fn promote(&self) {
        assert_eq!(self.value("SELECT pg_promote()::text").await, "true", "{}", self.log());
    }

    async fn ready(&self) {
        let polling = async {
            while self.superuser("app").await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let started = tokio::time::timeout(PATIENCE, polling).await.is_ok();
        assert!(started, "PostgreSQL did not start:\n{}", self.log());
    }
}

impl PostgresOptions {
    /// How `pg_hba.conf` lets everyone but the local superuser in: `scram-sha-256` (default), `md5`, `password`, `trust`, or
    /// `cert` (which needs [`ssl`](Self::ssl)). With `md5` the passwords are stored as md5, too.
    pub fn auth(mut self, method: &'static str) -> Self {
        self.method = method;
        self.md5 = method == "md5";
        self
    }

    /// A line of `pg_hba.conf` that goes before the general ones.
    pub fn hba(mut self, line: &str) -> Self {
        self.hba += line;
        self.hba.push('\n');
        self
    }

    /// TLS on, with a certificate for `localhost` and 127.0.0.1 by [`Postgres::ca`].
    pub fn ssl(mut self) -> Self {
        self.ssl = true;
        self
    }

    /// A variable of the server's environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push(format!("{name}={value}"));
        self
    }

    /// `max_connections`.
    pub fn max_connections(self, count: u32) -> Self {
        self.conf(&format!("max_connections = {count}"))
    }

    /// A line of `postgresql.conf`.
    pub fn conf(mut self, line: &str) -> Self {
        self.conf += line;
        self.conf.push('\n');
        self
    }

    /// Makes the cluster and waits until it takes connections.
    pub async fn start(mut self) -> Postgres {
        let (folder, data, user, keeper) = cluster(&self.environment);
        template::copy_to(&data, user);
        let (port, lock) = free_port();
        self = self.conf(&format!("port = {port}"));
        let ca = self.ssl.then(|| self.write_certificates(&data, user));
        if self.md5 {
            self.conf += "password_encryption = md5\n";
        }
        let everyone = if self.method == "cert" { "hostssl" } else { "host" };
        let method = self.method;
        let hba = format!(
            "local all postgres trust\n{}local all all {}\n{everyone} all all 127.0.0.1/32 {method}\n\
             {everyone} replication all 127.0.0.1/32 {method}\n",
            self.hba,
            if method == "cert" { "scram-sha-256" } else { method },
        );
        fs::write(data.join("pg_hba.conf"), hba).unwrap();

        let mut postgres = Postgres { keeper, folder, port, ca, port_lock: lock };
        postgres.append_conf(&self.conf);
        postgres.start_again().await;
        if self.md5 {
            postgres.sql("ALTER ROLE postgres PASSWORD 'postgres'; ALTER ROLE app PASSWORD 'secret'").await;
        }
        postgres
    }

    fn write_certificates(&mut self, data: &Path, user: RunAs) -> Ca {
        let ca = Ca::new();
        ca.server().write(data, "server");
        fs::write(data.join("ca.crt"), ca.pem()).unwrap();
        for name in ["server.crt", "server.key", "ca.crt"] {
            user.own(&data.join(name));
            fs::set_permissions(data.join(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
        self.conf += "ssl = on\nssl_ca_file = 'ca.crt'\n";
        ca
    }
}

/// A folder for a cluster whose data is still to be put into it, with its keeper: from here on that removes the folder, whatever happens. `environment` are the
/// server's further variables, each with its value.
fn cluster(environment: &[String]) -> (PathBuf, PathBuf, RunAs, Keeper) {
    let user = RunAs::unprivileged();
    let folder = tempfile::Builder::new().prefix("pgweir-test-").tempdir_in(template::storage()).unwrap().keep();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let data = folder.join("data");
    let mut command = user.command(Path::new("env"));
    command.extend_from_slice(environment);
    command.extend([template::binaries().join("postgres"), "-D".into(), data.clone()].map(|word| word.to_str().unwrap().to_owned()));
    let keeper = Keeper::new(&folder, &command);
    user.own(&folder);
    (folder, data, user, keeper)
}

fn backends_of(database: &str) -> String {
    format!(
        "SELECT count(*)::text FROM pg_stat_activity
         WHERE datname = '{database}' AND backend_type = 'client backend' AND application_name <> '{HARNESS}'"
    )
}

/// One of a thousand ports below the ephemeral range, locked against the other tests that run now.
fn free_port() -> (u16, File) {
    let seed = std::process::id() ^ std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    for step in 0..1000 {
        let port = 21_000 + u16::try_from(seed.wrapping_add(step) % 1000).unwrap();
        let lock = File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("port-{port}.lock"))).unwrap();
        if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return (port, lock);
        }
    }
    panic!("no free port between 21000 and 22000");
}
