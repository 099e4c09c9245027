//! The pgweir under test: this same program, serving in a process of its own with a configuration made for the demo.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::Signal;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::cluster::Cluster;
use super::folder::{Folder, write_secret};
use super::log_lines::LogLines;
use super::process::{Farewell, Process, tied_command};
use super::tenants::{DATABASE, Tenant};

/// The second TERM asks it to leave at once.
const FAREWELL: Farewell = &[(Signal::TERM, Duration::from_secs(5)), (Signal::TERM, Duration::from_secs(3))];

const START_TIMEOUT: Duration = Duration::from_secs(20);
const READY_POLL: Duration = Duration::from_millis(20);
const HTTP_TIMEOUT: Duration = Duration::from_secs(2);

/// A serving proxy. Dropping it stops it and waits for that.
pub(super) struct Proxy {
    pgweir: Process,
    postgres: SocketAddr,
    http: SocketAddr,
}

/// The two addresses that pgweir logs when it has bound them.
#[derive(Default)]
struct Listening {
    postgres: Option<SocketAddr>,
    http: Option<SocketAddr>,
}

impl Proxy {
    /// Starts pgweir over the cluster with a budget of `max_connections`, and waits until it is ready.
    pub(super) async fn start(folder: &Folder, cluster: &Cluster, tenants: &[Tenant], max_connections: u32) -> anyhow::Result<Self> {
        let config = folder.path().join("pgweir.toml");
        write_secret(&config, &configuration(cluster.address(), tenants, max_connections), None)?;
        let deadline = Instant::now() + START_TIMEOUT;
        let (mut pgweir, log, mut addresses) = spawn(&config)?;
        let mut listening = Listening::default();
        loop {
            match timeout_at(deadline, addresses.recv()).await {
                Ok(Some(line)) => listening.note(&line),
                // Its log ended: so did it.
                Ok(None) => bail!("pgweir did not start; its log ends:\n{}", log.text()),
                Err(_) => bail!("pgweir does not say where it listens; its log ends:\n{}", log.text()),
            }
            if let Listening { postgres: Some(postgres), http: Some(http) } = listening {
                wait_until_ready(http, deadline, &mut pgweir, &log).await?;
                return Ok(Self { pgweir, postgres, http });
            }
        }
    }

    /// Where PostgreSQL's clients connect.
    pub(super) fn address(&self) -> SocketAddr {
        self.postgres
    }

    /// Where `/metrics` is.
    pub(super) fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Waits until pgweir has ended. Cancel safe.
    pub(super) async fn ended(&mut self) {
        let _ = self.pgweir.ended().await;
    }
}

fn spawn(config: &Path) -> anyhow::Result<(Process, LogLines, mpsc::UnboundedReceiver<ListeningLine>)> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = tied_command(&program, "TERM");
    command.arg("serve").arg("--config").arg(config);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut pgweir = Process::spawn("pgweir", &mut command, FAREWELL)?;
    let stderr = pgweir.take_stderr().context("pgweir was started without a log")?;
    let (found, addresses) = mpsc::unbounded_channel();
    let log = LogLines::follow(stderr, move |line| {
        if let Some(listening) = ListeningLine::parse(line) {
            let _ = found.send(listening);
        }
    })?;
    Ok((pgweir, log, addresses))
}

/// What `serve` logs for each address that it has bound, with `log.format = "json"`.
#[derive(Deserialize)]
struct ListeningLine {
    message: String,
    kind: String,
    address: SocketAddr,
}

impl ListeningLine {
    fn parse(line: &str) -> Option<Self> {
        let line: Self = serde_json::from_str(line).ok()?;
        (line.message == "listening").then_some(line)
    }
}

impl Listening {
    fn note(&mut self, line: &ListeningLine) {
        match line.kind.as_str() {
            "postgres" => self.postgres = Some(line.address),
            "http" => self.http = Some(line.address),
            _ => {}
        }
    }
}

/// The whole configuration. The users are known by their verifiers alone: pgweir logs in to PostgreSQL with the key
/// that each client proves at its own login, so no password is written down. When the demo ends nobody is left to wait
/// for, hence the short stop.
fn configuration(upstream: SocketAddr, tenants: &[Tenant], max_connections: u32) -> String {
    let (host, port) = (upstream.ip(), upstream.port());
    let mut text = format!(
        "[listen]\npostgres = [\"127.0.0.1:0\"]\nhttp = \"127.0.0.1:0\"\n\n\
         [log]\nformat = \"json\"\n\n\
         [process]\nshutdown_grace = \"0s\"\nshutdown_timeout = \"3s\"\n\n\
         [upstreams.main]\nhost = \"{host}\"\nport = {port}\nmax_connections = {max_connections}\n\n\
         [databases.{DATABASE}]\nupstream = \"main\"\n"
    );
    for tenant in tenants {
        let (name, verifier) = (tenant.name(), tenant.verifier());
        // Writing to a String cannot fail.
        let _ = write!(text, "\n[users.{name}]\nverifier = \"{verifier}\"\n\n[tenants.{name}]\nmatch = {{ user = \"{name}\" }}\n");
    }
    text
}

async fn wait_until_ready(http: SocketAddr, deadline: Instant, pgweir: &mut Process, log: &LogLines) -> anyhow::Result<()> {
    loop {
        if tokio::task::spawn_blocking(move || is_ready(http)).await? {
            return Ok(());
        }
        if let Some(status) = pgweir.has_ended()? {
            bail!("pgweir ended ({status}) before it was ready; its log ends:\n{}", log.text());
        }
        if Instant::now() > deadline {
            bail!("pgweir did not become ready; its log ends:\n{}", log.text());
        }
        sleep(READY_POLL).await;
    }
}

/// Whether `/readyz` answers 200.
fn is_ready(http: SocketAddr) -> bool {
    ask_ready(http).is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 200 "))
}

fn ask_ready(http: SocketAddr) -> std::io::Result<[u8; 13]> {
    let mut stream = TcpStream::connect_timeout(&http, HTTP_TIMEOUT)?;
    stream.set_read_timeout(Some(HTTP_TIMEOUT))?;
    write!(stream, "GET /readyz HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n")?;
    let mut answer = [0; 13];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::{ListeningLine, configuration};
    use crate::cli::demo::tenants::Tenant;
    use crate::config::parse_str;

    #[test]
    fn pgweir_takes_the_configuration_without_a_warning() {
        let text = configuration("127.0.0.1:5432".parse().unwrap(), &Tenant::both().unwrap(), 20);
        let loaded = parse_str(&text).unwrap();
        assert_eq!(loaded.warnings.len(), 0, "{:?}", loaded.warnings);
        assert_eq!(loaded.config.upstreams["main"].max_connections, 20);
        let tenants: Vec<&str> = loaded.config.tenants.iter().map(|tenant| tenant.name.as_str()).collect();
        assert_eq!(tenants, ["default", "acme", "globex"]);
    }

    #[test]
    fn an_address_is_read_from_its_log_line_and_no_other() {
        let line = r#"{"level":"INFO","message":"listening","kind":"http","address":"127.0.0.1:9632","target":"x"}"#;
        let listening = ListeningLine::parse(line).unwrap();
        assert_eq!((listening.kind.as_str(), listening.address.port()), ("http", 9632));
        assert!(ListeningLine::parse(&line.replace("listening", "closed")).is_none());
        assert!(ListeningLine::parse("not JSON").is_none());
    }
}
