//! A private PostgreSQL: its own data folder, loopback only, a port that was free, passwords made for this run.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, NoTls};

use super::account::Account;
use super::binaries::Binaries;
use super::folder::{Folder, private_file, write_secret};
use super::log_lines::LogLines;
use super::process::{Farewell, Process, tied_command};
use super::round::Round;
use super::tenants::{DATABASE, Tenant, client_config, random_hex};

/// What a small managed instance has.
pub(super) const MAX_CONNECTIONS: u32 = 100;

const SUPERUSER: &str = "postgres";

/// Fast shutdown; if that hangs, immediate.
const FAREWELL: Farewell = &[(Signal::INT, Duration::from_secs(10)), (Signal::QUIT, Duration::from_secs(5))];
const INITDB_FAREWELL: Farewell = &[(Signal::TERM, Duration::from_secs(5))];

/// Another program may take the port between our asking for a free one and PostgreSQL's binding it.
const PORT_TRIES: u32 = 3;
const START_TIMEOUT: Duration = Duration::from_secs(30);
const START_POLL: Duration = Duration::from_millis(20);

/// A running cluster. Dropping it shuts it down and waits for that.
pub(super) struct Cluster {
    postgres: Process,
    address: SocketAddr,
    password: String,
}

impl Cluster {
    /// Makes the cluster in `folder`, starts it, and creates a role for each tenant and the table `visits`.
    pub(super) async fn start(binaries: &Binaries, folder: &Folder, tenants: &[Tenant]) -> anyhow::Result<Self> {
        let account = Account::for_postgres()?;
        let home = folder.create_for(account, "cluster")?;
        let password = random_hex::<12>()?;
        Home { path: &home, account, log: folder.path().join("initdb.log") }.init(binaries, &password).await?;
        let home = Home { path: &home, account, log: folder.path().join("postgres.log") };
        let log = private_file(&home.log)?;
        for _ in 0..PORT_TRIES {
            if let Some(cluster) = home.serve(binaries, &log, &password).await? {
                cluster.furnish(tenants).await?;
                return Ok(cluster);
            }
        }
        bail!("PostgreSQL did not start; its log ends:\n{}", LogLines::of_file(&home.log).text())
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until PostgreSQL has ended. Cancel safe.
    pub(super) async fn ended(&mut self) {
        let _ = self.postgres.ended().await;
    }

    /// A connection as superuser, for whom PostgreSQL keeps slots free however full it is.
    pub(super) async fn connect(&self, database: &str) -> anyhow::Result<Client> {
        Ok(connect(self.address, &self.password, database).await?)
    }

    async fn furnish(&self, tenants: &[Tenant]) -> anyhow::Result<()> {
        let client = self.connect(SUPERUSER).await?;
        client.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await?;
        for tenant in tenants {
            let (name, verifier) = (tenant.name(), tenant.verifier());
            client.batch_execute(&format!("CREATE ROLE {name} LOGIN PASSWORD '{verifier}'")).await?;
        }
        let names: Vec<&str> = tenants.iter().map(Tenant::name).collect();
        let shop = self.connect(DATABASE).await?;
        shop.batch_execute(&format!(
            "CREATE TABLE visits (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, road text NOT NULL, invocation int4 NOT NULL);
             GRANT SELECT, INSERT ON visits TO {}",
            names.join(", ")
        ))
        .await?;
        Ok(())
    }

    /// Holds the count of answers against the rows that were committed: none may be missing, none may be there twice.
    pub(super) async fn confirm(&self, round: &Round) -> anyhow::Result<()> {
        let client = self.connect(DATABASE).await?;
        let sql = "SELECT count(*), count(DISTINCT invocation) FROM visits WHERE road = $1";
        let row = client.query_one(sql, &[&round.road().label()]).await?;
        let (rows, invocations): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        let (road, answered) = (round.road().label(), round.answered());
        ensure!(rows == invocations, "{road}: {rows} rows for {invocations} invocations, so some ran twice");
        ensure!(
            usize::try_from(invocations)? >= answered,
            "{road}: {answered} invocations were answered, but only {invocations} are in the table"
        );
        Ok(())
    }
}

async fn connect(address: SocketAddr, password: &str, database: &str) -> Result<Client, tokio_postgres::Error> {
    let config = client_config(address, SUPERUSER, password, database);
    let (client, connection) = Box::pin(config.connect(NoTls)).await?;
    // It ends with its client; what goes wrong on it, the client's next call says.
    tokio::spawn(connection);
    Ok(client)
}

/// Where a cluster lives, whose it is, and where the program at work writes its log.
struct Home<'a> {
    path: &'a Path,
    account: Option<Account>,
    log: PathBuf,
}

impl Home<'_> {
    fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// A command of PostgreSQL's, as its account, in its folder, writing to `log`.
    fn command(&self, program: &Path, at_parents_death: &str, log: &File) -> anyhow::Result<Command> {
        let mut command = tied_command(program, at_parents_death);
        command.current_dir(self.path).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
        command.arg("-D").arg(self.data());
        if let Some(account) = self.account {
            account.lend_to(&mut command);
        }
        Ok(command)
    }

    async fn init(&self, binaries: &Binaries, password: &str) -> anyhow::Result<()> {
        let password_file = self.path.join("password");
        write_secret(&password_file, password, self.account)?;
        let log = private_file(&self.log)?;
        let mut command = self.command(&binaries.initdb(), "TERM", &log)?;
        command.args(["--username", SUPERUSER, "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync"]);
        command.arg("--pwfile").arg(&password_file);
        let status = Process::spawn("initdb", &mut command, INITDB_FAREWELL)?.ended().await?;
        ensure!(status.success(), "initdb failed ({status}); it wrote:\n{}", LogLines::of_file(&self.log).text());
        Ok(())
    }

    /// Starts the server on a free port; `None` when it ended instead.
    async fn serve(&self, binaries: &Binaries, log: &File, password: &str) -> anyhow::Result<Option<Cluster>> {
        let address = free_address().context("no free port on 127.0.0.1")?;
        // INT, since a TERM would wait for every client to leave.
        let mut command = self.command(&binaries.postgres(), "INT", log)?;
        for setting in [
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={}", address.port()),
            format!("max_connections={MAX_CONNECTIONS}"),
            "unix_socket_directories=".to_owned(),
            "logging_collector=off".to_owned(),
            // Nothing here is worth keeping across a crash, and the disk is not what the demo measures.
            "fsync=off".to_owned(),
            "full_page_writes=off".to_owned(),
        ] {
            command.arg("-c").arg(setting);
        }
        let postgres = Process::spawn("PostgreSQL", &mut command, FAREWELL)?;
        let mut cluster = Cluster { postgres, address, password: password.to_owned() };
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let Err(last_error) = connect(address, password, SUPERUSER).await else {
                return Ok(Some(cluster));
            };
            if cluster.postgres.has_ended()?.is_some() {
                return Ok(None);
            }
            if Instant::now() > deadline {
                return Err(last_error).context("PostgreSQL does not answer");
            }
            sleep(START_POLL).await;
        }
    }
}

fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
