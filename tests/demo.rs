//! `pgweir demo` keeps its promises: its table tells the truth, and nothing of it is left behind.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what fails here fails the test")]

mod harness;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use harness::{PATIENCE, eventually};

/// A demo whose temporary folder is inside one of ours, where what it leaves can be seen.
struct Demo {
    child: Child,
    folder: TempDir,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // PostgreSQL's account has to pass through.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_pgweir"))
            .arg("demo")
            .args(arguments)
            .env("TMPDIR", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, folder }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Reads its notes up to the one that ends so.
    fn wait_for_note(&mut self, end: &str) {
        let notes = BufReader::new(self.child.stderr.as_mut().unwrap());
        assert!(notes.lines().map_while(Result::ok).any(|line| line.ends_with(end)), "it ended before {end:?}");
    }

    /// Its end, and all that it printed on stdout.
    fn finish(&mut self) -> (ExitStatus, String) {
        let mut text = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        (self.child.wait().unwrap(), text)
    }

    /// The processes that were started with a path in our folder: PostgreSQL, initdb, the proxy.
    fn processes(&self) -> Vec<String> {
        let mark = self.folder.path().to_str().unwrap();
        let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let path = entry.ok()?.path().join("cmdline");
            let arguments = String::from_utf8_lossy(&fs::read(path).ok()?).replace('\0', " ");
            arguments.contains(mark).then_some(arguments)
        });
        processes.collect()
    }

    fn files(&self) -> Vec<PathBuf> {
        fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    fn assert_nothing_is_left(&self) {
        assert_eq!(self.processes(), Vec::<String>::new());
        assert_eq!(self.files(), Vec::<PathBuf>::new());
    }
}

impl Drop for Demo {
    /// A failed test leaves no demo behind: TERM lets it clean up.
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.signal(Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

/// The numbers of the table's row that starts with `label`, times without their unit.
fn row(table: &str, label: &str) -> Vec<u32> {
    let line = table.lines().find_map(|line| line.strip_prefix(label)).unwrap_or_else(|| panic!("no {label}:\n{table}"));
    line.replace(',', "").split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn through_pgweir_every_invocation_is_answered_within_the_budget() {
    let mut demo = Demo::start(&["--once", "--invocations", "200", "--max-connections", "8"]);
    let (status, table) = demo.finish();
    assert!(status.success(), "{status}\n{table}");
    let [answered, refused, failed, p50, p95, p99, connections] = row(&table, "through pgweir  ")[..] else {
        panic!("not seven numbers:\n{table}")
    };
    assert_eq!((answered, refused, failed), (200, 0, 0), "{table}");
    assert!(200 <= p50 && p50 <= p95 && p95 <= p99, "the work alone takes 200 ms:\n{table}");
    assert!((1..=8).contains(&connections), "{table}");
    assert_eq!(row(&table, "direct  ")[..3].iter().sum::<u32>(), 200, "{table}");
    demo.assert_nothing_is_left();
}

#[test]
fn it_serves_until_it_is_told_to_stop() {
    let mut demo = Demo::start(&["--invocations", "20"]);
    let mut out = BufReader::new(demo.child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let shown: Vec<String> = out.by_ref().take_while(|line| !line.starts_with("Ctrl-C")).collect();
    for tenant in ["acme", "globex"] {
        let mark = format!("DATABASE_URL=postgres://{tenant}:");
        assert!(shown.iter().any(|line| line.contains(&mark)), "{shown:?}");
    }
    let metrics = shown.iter().find_map(|line| line.split_once("http://")?.1.strip_suffix("/metrics")).unwrap();
    assert!(std::net::TcpStream::connect(metrics).is_ok(), "it still serves");
    demo.signal(Signal::TERM);
    assert!(demo.child.wait().unwrap().success());
    demo.assert_nothing_is_left();
}

#[test]
fn a_signal_in_any_phase_leaves_nothing_behind() {
    // While initdb runs, and while the invocations are under way.
    let phases = [
        ("temporary folder", Signal::INT, 130),
        ("invocations, direct", Signal::TERM, 143),
        ("invocations, through pgweir", Signal::INT, 130),
    ];
    for (note, signal, code) in phases {
        let mut demo = Demo::start(&["--once"]);
        demo.wait_for_note(note);
        demo.signal(signal);
        let (status, text) = demo.finish();
        assert_eq!(status.code(), Some(code), "{status}\n{text}");
        demo.assert_nothing_is_left();
    }
}

#[tokio::test]
async fn a_killed_demo_takes_its_processes_with_it() {
    let mut demo = Demo::start(&["--once"]);
    demo.wait_for_note("invocations, direct");
    assert_ne!(demo.processes(), Vec::<String>::new(), "PostgreSQL runs");
    demo.signal(Signal::KILL);
    assert_eq!(demo.child.wait().unwrap().signal(), Some(9));
    eventually("its processes have ended", PATIENCE, async || demo.processes().is_empty()).await;
}
