//! The `pgweir` program itself, started with a configuration that the test builds.

use std::collections::BTreeMap;
use std::fs;
use std::future::ready;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use toml::{Table, Value};

use super::http::{self, Answer};
use super::{Faulty, PATIENCE, Pem, Postgres, Script, eventually};

/// A proxy that is still to be started. Its configuration begins with one upstream `main`, the database `app` on it, and
/// the user `app` with the password `secret`; every method changes or adds to that.
pub struct ProxyOptions {
    config: Table,
    environment: Vec<(String, String)>,
    /// What the program is started with.
    under: &'static [&'static str],
    folder: Arc<tempfile::TempDir>,
}

/// A running proxy; dropping it kills it.
pub struct Proxy {
    process: Child,
    log: Arc<Mutex<Vec<String>>>,
    config: Table,
    postgres: Vec<SocketAddr>,
    http: Option<SocketAddr>,
    api: Option<SocketAddr>,
    folder: Arc<tempfile::TempDir>,
}

impl Proxy {
    /// A proxy in front of `postgres`.
    #[expect(clippy::new_ret_no_self, reason = "reads as the sentence that a test is: Proxy::new(&pg).pool_mode(..).start()")]
    pub fn new(postgres: &Postgres) -> ProxyOptions {
        Self::upstream_port(postgres.port())
    }

    /// A proxy in front of a scripted server.
    pub fn before_script(script: &Script) -> ProxyOptions {
        // Which knows no answer to a question of the proxy's own.
        Self::upstream_port(script.port()).set("upstreams.main.follow_functions", false)
    }

    /// A proxy that reaches its server through a faulty network.
    pub fn before_faulty(faulty: &Faulty) -> ProxyOptions {
        Self::upstream_port(faulty.port())
    }

    /// A proxy in front of whatever listens on this port of 127.0.0.1.
    pub fn upstream_port(port: u16) -> ProxyOptions {
        let options = ProxyOptions {
            config: Table::new(),
            environment: Vec::new(),
            under: &[],
            folder: Arc::new(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()),
        };
        options.raw_toml(&format!(
            r#"
            [listen]
            postgres = ["127.0.0.1:0"]
            http = "127.0.0.1:0"
            [log]
            format = "json"
            [upstreams.main]
            host = "127.0.0.1"
            port = {port}
            max_connections = 10
            [databases.app]
            upstream = "main"
            [users.app]
            password = "secret"
            "#
        ))
    }

    /// A proxy with this configuration and no other, but that its log is for the harness to read.
    pub fn with_config_text(text: &str) -> ProxyOptions {
        let folder = Arc::new(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
        ProxyOptions { config: Table::new(), environment: Vec::new(), under: &[], folder }.raw_toml(text).set("log.format", "json")
    }

    /// The first TCP address that clients connect to.
    pub fn address(&self) -> SocketAddr {
        *self.postgres.first().expect("a TCP listener for clients")
    }

    /// All TCP addresses that clients connect to.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.postgres
    }

    /// The port of [`address`](Self::address).
    pub fn port(&self) -> u16 {
        self.address().port()
    }

    /// The proxy's pid.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// A folder of this proxy's own, with its configuration in `pgweir.toml`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A URL for one of the configured users to the database `app`.
    pub fn url(&self, user: &str) -> String {
        let password = self.config["users"][user]["password"].as_str().expect("a password in the configuration");
        format!("postgres://{user}:{password}@{}/app", self.address())
    }

    /// The address of the operations listener.
    pub fn http_address(&self) -> SocketAddr {
        self.http.expect("an HTTP listener")
    }

    /// The address for SQL over HTTP.
    pub fn api_address(&self) -> SocketAddr {
        self.api.expect("a listener for SQL over HTTP")
    }

    /// GETs a page of the operations listener.
    pub async fn http_get(&self, path: &str) -> Answer {
        let address = self.http.expect("an HTTP listener");
        http::get(address, path).await.unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// A sample of `/metrics`, such as `pgweir_clients{state="active",tenant="app"}`; labels in any order, and one that is
    /// not published counts 0.
    pub async fn metric(&self, wanted: &str) -> f64 {
        let page = self.http_get("/metrics").await;
        assert_eq!(page.status, 200, "{}", page.body);
        let wanted = Sample::read(wanted);
        let mut lines = page.body.lines().filter(|line| !line.starts_with('#'));
        lines
            .find_map(|line| {
                let (sample, value) = line.rsplit_once(' ')?;
                (Sample::read(sample) == wanted).then(|| value.parse().expect("a number"))
            })
            .unwrap_or(0.0)
    }

    /// The log so far, one line an event.
    pub fn log_lines(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a log line that contains `text`.
    pub async fn logged(&self, text: &str) -> String {
        let find = || self.log_lines().into_iter().find(|line| line.contains(text));
        eventually(&format!("a log line with {text:?}"), PATIENCE, || async { find().is_some() }).await;
        find().unwrap()
    }

    /// Writes a changed configuration over the old one; SIGHUP makes the proxy read it.
    pub fn rewrite_config(&mut self, change: impl FnOnce(ProxyOptions) -> ProxyOptions) {
        let options = ProxyOptions { config: self.config.clone(), environment: Vec::new(), under: &[], folder: Arc::clone(&self.folder) };
        self.config = change(options).config;
        self.write_config_text(&toml::to_string(&self.config).unwrap());
    }

    /// Writes any text over the configuration file.
    pub fn write_config_text(&self, text: &str) {
        fs::write(self.folder.path().join("pgweir.toml"), text).unwrap();
    }

    /// Sends the process a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.rustix_pid(), signal).expect("the proxy still runs");
    }

    /// Waits until the process has ended.
    pub async fn wait_exit(&mut self) -> ExitStatus {
        let mut status = None;
        let process = &mut self.process;
        eventually("the proxy's end", PATIENCE, || {
            status = process.try_wait().unwrap();
            ready(status.is_some())
        })
        .await;
        status.unwrap()
    }

    /// Resident memory in bytes, as the kernel counts it.
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the proxy still runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
    }

    /// Open files, sockets among them.
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the proxy still runs").count()
    }

    fn rustix_pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.process.id()).unwrap()).unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("---- pgweir's configuration\n{}", toml::to_string(&self.config).unwrap_or_default());
            eprintln!("---- pgweir's log\n{}", self.log_lines().join("\n"));
        }
    }
}

impl ProxyOptions {
    /// Merges TOML into the configuration: tables by key, everything else replaced.
    pub fn raw_toml(mut self, text: &str) -> Self {
        let more: Table = text.parse().unwrap_or_else(|error| panic!("{error}\n{text}"));
        merge(&mut self.config, more);
        self
    }

    /// Sets one value by its dotted key: `set("upstreams.main.max_connections", 5)`.
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        let mut nested = value.into();
        for word in key.rsplit('.') {
            nested = Value::Table(Table::from_iter([(word.to_owned(), nested)]));
        }
        let Value::Table(more) = nested else { unreachable!("a key has at least one word") };
        merge(&mut self.config, more);
        self
    }

    /// Removes one key.
    pub fn unset(mut self, key: &str) -> Self {
        let (path, last) = key.rsplit_once('.').unwrap_or(("", key));
        let mut table = &mut self.config;
        for word in path.split('.').filter(|word| !word.is_empty()) {
            table = table.get_mut(word).and_then(Value::as_table_mut).expect("a table of the configuration");
        }
        table.remove(last);
        self
    }

    /// The server connections that the upstream `main` allows.
    pub fn max_connections(self, count: u32) -> Self {
        self.set("upstreams.main.max_connections", i64::from(count))
    }

    /// The pool mode of the database `app`.
    pub fn pool_mode(self, mode: &str) -> Self {
        self.set("databases.app.pool_mode", mode)
    }

    /// A database on the upstream `main` that is called `dbname` there.
    pub fn database(self, name: &str, dbname: &str) -> Self {
        self.set(&format!("databases.{name}.upstream"), "main").set(&format!("databases.{name}.dbname"), dbname)
    }

    /// A user with a password, at the proxy and at the server.
    pub fn user(self, name: &str, password: &str) -> Self {
        self.set(&format!("users.{name}.password"), password)
    }

    /// A tenant, by the body of its table: `tenant("acme", "match = { user = \"acme_*\" }")`.
    pub fn tenant(self, name: &str, body: &str) -> Self {
        self.raw_toml(&format!("[tenants.{name}]\n{body}"))
    }

    /// TLS for clients with this certificate; `mode` is `prefer` or `require`.
    pub fn tls(self, mode: &str, identity: &Pem) -> Self {
        identity.write(self.folder.path(), "client-side");
        let file = |name: &str| self.folder.path().join(name).to_str().unwrap().to_owned();
        let (cert, key) = (file("client-side.crt"), file("client-side.key"));
        self.set("tls.client.mode", mode).set("tls.client.cert", cert).set("tls.client.key", key)
    }

    /// A port for SQL over HTTP, in plaintext or with the certificate of [`tls`](Self::tls).
    pub fn api(self) -> Self {
        self.set("listen.api", "127.0.0.1:0")
    }

    /// Writes a file into the proxy's folder and answers its path, for a setting that names one.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// A variable of the process's environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The program has a namespace of process ids to itself, as in a container: its clients are of another one.
    pub fn in_own_process_namespace(mut self) -> Self {
        self.under = &["unshare", "--user", "--map-current-user", "--pid", "--fork", "--kill-child", "--"];
        self
    }

    /// Starts the program and waits until `/readyz` says 200.
    pub async fn start(self) -> Proxy {
        let proxy = self.start_unready().await;
        let address = proxy.http.expect("an HTTP listener");
        eventually("/readyz says 200", PATIENCE, || async {
            matches!(http::get(address, "/readyz").await, Ok(answer) if answer.status == 200)
        })
        .await;
        proxy
    }

    /// Starts the program and waits only until it listens.
    pub async fn start_unready(self) -> Proxy {
        let mut proxy = self.spawn();
        let wanted = wanted_listeners(&proxy.config);
        let (log, process) = (Arc::clone(&proxy.log), &mut proxy.process);
        let mut ended = None;
        let mut found = Vec::new();
        eventually("the proxy listens", PATIENCE, || {
            found = log.lock().unwrap().iter().filter_map(|line| listening(line)).collect();
            ended = process.try_wait().unwrap();
            ready(found.len() >= wanted || ended.is_some())
        })
        .await;
        assert!(ended.is_none(), "the proxy ended at once: {}", ended.unwrap());
        for (kind, address) in found {
            match kind.as_str() {
                "postgres" => proxy.postgres.push(address.parse().expect("an address")),
                "http" => proxy.http = Some(address.parse().expect("an address")),
                "api" => proxy.api = Some(address.parse().expect("an address")),
                _ => {}
            }
        }
        proxy
    }

    /// Starts the program and waits for nothing: for one that is expected to end by itself.
    pub fn spawn(self) -> Proxy {
        let path = self.folder.path().join("pgweir.toml");
        fs::write(&path, toml::to_string(&self.config).unwrap()).unwrap();
        // The kernel kills the proxy when the test's thread ends, even if that is by a signal and nothing is dropped.
        let mut process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .args(self.under)
            .args([env!("CARGO_BIN_EXE_pgweir"), "serve", "--config"])
            .arg(&path)
            .envs(self.environment)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("setpriv starts");
        let log = Arc::default();
        let errors = process.stderr.take().unwrap();
        std::thread::spawn({
            let log = Arc::clone(&log);
            move || collect(errors, &log)
        });
        Proxy { process, log, config: self.config, postgres: Vec::new(), http: None, api: None, folder: self.folder }
    }
}

fn collect(errors: ChildStderr, log: &Mutex<Vec<String>>) {
    for line in BufReader::new(errors).lines().map_while(Result::ok) {
        log.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }
}

/// Kind and address of a line that says where the proxy listens.
fn listening(line: &str) -> Option<(String, String)> {
    let event: serde_json::Value = serde_json::from_str(line).ok()?;
    let field = |name: &str| Some(event.get(name).or_else(|| event.get("fields")?.get(name))?.as_str()?.to_owned());
    (field("message")? == "listening").then_some(())?;
    Some((field("kind")?, field("address")?))
}

fn wanted_listeners(config: &Table) -> usize {
    let Some(listen) = config.get("listen").and_then(Value::as_table) else { return 0 };
    listen.values().map(|value| value.as_array().map_or(1, Vec::len)).sum()
}

fn merge(into: &mut Table, more: Table) {
    for (key, value) in more {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// A metric's name and labels, whatever their order.
#[derive(PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
}

impl Sample {
    fn read(text: &str) -> Self {
        let (name, labels) = text.split_once('{').unwrap_or((text, ""));
        let pairs = labels.trim_end_matches('}').split(',').filter_map(|pair| pair.split_once('='));
        let labels = pairs.map(|(key, value)| (key.trim().to_owned(), value.trim_matches('"').to_owned())).collect();
        Self { name: name.to_owned(), labels }
    }
}
