//! A shell that owns one server process and its folder, and outlives the test just long enough to end both.
//!
//! The test holds the write end of the keeper's standard input. When the test ends in any way at all (returns, panics,
//! is killed), the kernel closes that end; the keeper then ends its process by pid and removes the folder. The keeper
//! has a process group of its own, so that a Ctrl-C at the terminal reaches the test and not the keeper.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const SCRIPT: &str = r#"
folder=$1; shift
pid=
while read -r word; do
    case $word in
        start) "$@" </dev/null >>"$folder/log" 2>&1 & pid=$!; echo "$pid" ;;
        *) kill -s "$word" "$pid"; wait "$pid"; echo "$?"; pid= ;;
    esac
done
if [ -n "$pid" ]; then kill -s QUIT "$pid"; wait "$pid"; fi
rm -rf "$folder"
"#;

/// One kept process: started and stopped on demand, ended for good when this is dropped.
pub struct Keeper {
    shell: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    running: Option<u32>,
}

impl Keeper {
    /// Puts `folder` under the care of a new keeper, which will run `command` in it.
    pub fn new(folder: &Path, command: &[String]) -> Self {
        let mut shell = Command::new("sh")
            .args(["-c", SCRIPT, "keeper"])
            .arg(folder)
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0)
            .spawn()
            .expect("sh starts");
        let orders = shell.stdin.take();
        let answers = BufReader::new(shell.stdout.take().unwrap());
        Self { shell, orders, answers, running: None }
    }

    /// Starts the process and answers its pid.
    pub fn start(&mut self) -> u32 {
        assert!(self.running.is_none(), "the kept process runs already");
        let pid = self.order("start").parse().expect("a pid from the keeper");
        self.running = Some(pid);
        pid
    }

    /// Sends `signal` (a name such as `INT`) and waits until the process has ended.
    pub fn stop(&mut self, signal: &str) {
        assert!(self.running.take().is_some(), "the kept process does not run");
        self.order(signal);
    }

    fn order(&mut self, word: &str) -> String {
        writeln!(self.orders.as_mut().unwrap(), "{word}").expect("the keeper listens");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the keeper answers");
        line.trim().to_owned()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.orders.take());
        // An immediate shutdown takes milliseconds; waiting keeps the next test's machine quiet.
        let _ = self.shell.wait();
    }
}
