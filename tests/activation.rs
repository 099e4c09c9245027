//! Sockets that the process is started with, as systemd's socket activation has it: they are its doors, and while it is not there clients wait at them.

mod harness;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use harness::{PATIENCE, Postgres, Wire, in_time};
use rustix::io::FdFlags;
use rustix::process::{Pid, Signal};
use serde_json::Value;

/// A proxy that was started with sockets, killed when it is dropped.
struct Activated {
    process: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStderr>>,
    said: Vec<Value>,
}

impl Drop for Activated {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Activated {
    /// Starts it with two sockets, which are its descriptors 3 and 4.
    fn start(config: &Path, sockets: [&dyn AsFd; 2]) -> Self {
        let numbers = sockets.map(|socket| {
            rustix::io::fcntl_setfd(socket.as_fd(), FdFlags::empty()).expect("it is kept over exec");
            socket.as_fd().as_raw_fd().to_string()
        });
        // Not the shell's own 3 and 4, in whatever order they are.
        let script = "exec 8<&\"$0\" 9<&\"$1\"; shift; exec 3<&8 4<&9 8<&- 9<&-; LISTEN_PID=$$ LISTEN_FDS=2 exec \"$@\"";
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "bash", "-c", script, &numbers[0], &numbers[1]]);
        command.args([env!("CARGO_BIN_EXE_pgweir"), "serve", "--config"]).arg(config);
        let mut process = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("setpriv starts");
        let lines = BufReader::new(process.stderr.take().expect("its log")).lines();
        let mut activated = Self { process, lines, said: Vec::new() };
        activated.until("ready");
        activated
    }

    fn until(&mut self, message: &str) {
        for line in self.lines.by_ref().map_while(Result::ok) {
            let event: Value = serde_json::from_str(&line).unwrap_or_else(|_| Value::from(line.clone()));
            self.said.push(event);
            if self.said.last().is_some_and(|event| event["message"] == message) {
                return;
            }
        }
        assert!(self.said.iter().any(|event| event["message"] == message), "{message} was not said: {:?}", self.said);
    }

    fn addresses(&self) -> Vec<&str> {
        let doors = self.said.iter().filter(|event| event["message"] == "listening" && event["kind"] != "http");
        doors.filter_map(|event| event["address"].as_str()).collect()
    }

    fn stop(mut self) {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).expect("a process id")).expect("a process id");
        rustix::process::kill_process(pid, Signal::TERM).expect("it is there");
        self.until("stopped");
        assert!(self.process.wait().expect("its end").success());
    }
}

#[tokio::test]
async fn the_sockets_that_it_is_started_with_are_its_doors_and_stay_open_when_it_goes() {
    let pg = Postgres::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = tcp.local_addr().expect("its address");
    let file = folder.path().join(format!(".s.PGSQL.{}", address.port()));
    let unix = UnixListener::bind(&file).expect("a socket");
    let (port, config) = (pg.port(), folder.path().join("pgweir.toml"));
    let settings = format!(
        "[listen]\npostgres = [\"{address}\", \"unix:{}\"]\nhttp = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n[process]\nworkers = 2\nshutdown_grace = \"0\"\n\
         [upstreams.main]\nhost = \"127.0.0.1\"\nport = {port}\n[databases.app]\nupstream = \"main\"\n[users.app]\npassword = \"secret\"\n",
        folder.path().display()
    );
    std::fs::write(&config, settings).expect("a file");

    // Who has come before it is there waits, as long as somebody has the socket.
    let early = tokio::spawn(async move { Wire::login(address, "app", "secret", "app").await });
    let first = Activated::start(&config, [&tcp, &unix]);
    assert_eq!(first.addresses(), [address.to_string(), file.display().to_string()]);
    let mut early = in_time("a login", early).await.expect("it ends").expect("a login");
    assert_eq!(early.value("SELECT 'served'").await, "served");
    // Both workers take clients at each.
    for _ in 0..8 {
        let mut wire = Wire::login(address, "app", "secret", "app").await.expect("a login");
        assert_eq!(wire.value("SELECT 'served'").await, "served");
    }
    let mut local = Wire::login(file.clone(), "app", "secret", "app").await.expect("a login");
    assert_eq!(local.value("SELECT 'served'").await, "served");
    drop((early, local));
    first.stop();

    // Nobody is turned away while there is none, and the socket's file is still there.
    assert!(file.exists());
    let between = tokio::spawn(async move { Wire::login(address, "app", "secret", "app").await });
    let later = tokio::spawn(async move { Wire::login(file, "app", "secret", "app").await });
    let second = Activated::start(&config, [&unix, &tcp]);
    for waiting in [between, later] {
        let mut wire = tokio::time::timeout(PATIENCE, waiting).await.expect("in time").expect("it ends").expect("a login");
        assert_eq!(wire.value("SELECT 'served'").await, "served");
    }
    second.stop();
}

#[tokio::test]
async fn a_socket_that_nothing_is_configured_for_is_told_of() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, other) = (TcpListener::bind("127.0.0.1:0").expect("a socket"), TcpListener::bind("127.0.0.1:0").expect("a socket"));
    let address = one.local_addr().expect("its address");
    let config = folder.path().join("pgweir.toml");
    let settings = format!(
        "[listen]\npostgres = [\"{address}\"]\nhttp = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n[upstreams.main]\nhost = \"127.0.0.1\"\n\
         [databases.app]\nupstream = \"main\"\n[users.app]\npassword = \"secret\"\n"
    );
    std::fs::write(&config, settings).expect("a file");
    let proxy = Activated::start(&config, [&one, &other]);
    let told = proxy
        .said
        .iter()
        .find(|event| event["level"] == "WARN" && event["address"] == other.local_addr().expect("its address").to_string());
    assert!(told.is_some(), "{:?}", proxy.said);
    proxy.stop();
}
