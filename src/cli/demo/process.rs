//! A child process that cannot be left behind: ended politely, then firmly, whenever its value is dropped; and ended by
//! the kernel if the demo itself is killed. Children are signalled by their own id, never by name.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::signal::unix::{SignalKind, signal};

/// How a process is asked to end: each signal, and how long it then has.
pub(super) type Farewell = &'static [(Signal, Duration)];

/// A running child. Dropping it ends it and waits for it.
pub(super) struct Process {
    name: &'static str,
    child: Child,
    farewell: Farewell,
}

/// A command with nothing of the caller's environment in it but PATH, so that no `PGDATA` or `PGWEIR_...` of theirs
/// changes the demo; and that ends by `at_parents_death` should the demo be killed.
pub(super) fn tied_command(program: &Path, at_parents_death: &str) -> Command {
    let mut command = if can_tie() {
        let mut command = Command::new("setpriv");
        command.arg("--pdeathsig").arg(at_parents_death).arg("--").arg(program);
        command
    } else {
        // Not Linux, or a very small one: everything but a SIGKILL of the demo is still cleaned up after.
        Command::new(program)
    };
    command.env_clear().env("LC_ALL", "C");
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    // A Ctrl-C goes to the terminal's whole foreground group; the demo ends its children itself, in order.
    command.process_group(0);
    command
}

/// Whether there is a `setpriv` that knows `--pdeathsig` (busybox's does not).
fn can_tie() -> bool {
    let mut trial = Command::new("setpriv");
    trial.args(["--pdeathsig", "TERM", "--", "true"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    trial.status().is_ok_and(|status| status.success())
}

impl Process {
    pub(super) fn spawn(name: &'static str, command: &mut Command, farewell: Farewell) -> anyhow::Result<Self> {
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, child, farewell })
    }

    /// The pipe of its standard error, once, if the command asked for one.
    pub(super) fn take_stderr(&mut self) -> Option<std::process::ChildStderr> {
        self.child.stderr.take()
    }

    /// How it ended, if it has.
    pub(super) fn has_ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits for its end. Cancel safe.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        // Listening before looking: an end between the two is not missed.
        let mut a_child_ended = signal(SignalKind::child())?;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            a_child_ended.recv().await;
        }
    }

    /// Ends it and waits for it, within the farewell's time.
    fn stop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let pid = Pid::from_child(&self.child);
        if let Some(ended) = watch_for_end(pid) {
            for (signal, patience) in self.farewell {
                // The child is not reaped before the loop is left, so its id cannot have become another's.
                let _ = rustix::process::kill_process(pid, *signal);
                if ended.recv_timeout(*patience) == Err(mpsc::RecvTimeoutError::Disconnected) {
                    let _ = self.child.wait();
                    return;
                }
            }
        }
        super::progress::note(&format!("{} does not end; killing it", self.name));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A channel that disconnects when the child has ended, which a bounded wait can be had on. The child stays unreaped.
fn watch_for_end(pid: Pid) -> Option<mpsc::Receiver<()>> {
    let (sender, ended) = mpsc::channel();
    let wait = move || {
        let _ = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        drop(sender);
    };
    thread::Builder::new().spawn(wait).ok().map(|_| ended)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _};
    use std::os::unix::process::ExitStatusExt as _;
    use std::path::Path;
    use std::process::{ChildStdout, Command, Stdio};
    use std::time::Duration;

    use rustix::process::{Pid, Signal, test_kill_process};

    use super::{Farewell, Process, tied_command};

    const PATIENT: Farewell = &[(Signal::TERM, Duration::from_secs(10))];
    const HASTY: Farewell = &[(Signal::TERM, Duration::from_millis(50))];

    fn pid_of(process: &Process) -> Pid {
        Pid::from_child(&process.child)
    }

    /// A shell that has said on its stdout that it is ready for a signal.
    fn shell(script: &str, farewell: Farewell) -> (Process, BufReader<ChildStdout>) {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).stdout(Stdio::piped());
        let mut process = Process::spawn("sh", &mut command, farewell).unwrap();
        let mut stdout = BufReader::new(process.child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        (process, stdout)
    }

    #[test]
    fn a_dropped_process_ends_in_its_own_way() {
        let (process, mut stdout) = shell("trap 'echo goodbye; exit' TERM; echo ready; while :; do sleep 0.01; done", PATIENT);
        let pid = pid_of(&process);
        drop(process);
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "goodbye\n");
        assert!(test_kill_process(pid).is_err());
    }

    #[test]
    fn one_that_ignores_its_farewell_is_killed() {
        // What is ignored stays ignored across the exec.
        let (process, _stdout) = shell("trap '' TERM; echo ready; exec sleep 600", HASTY);
        let pid = pid_of(&process);
        drop(process);
        assert!(test_kill_process(pid).is_err());
    }

    #[tokio::test]
    async fn an_end_is_noticed() {
        let mut process = Process::spawn("sh", Command::new("sh").args(["-c", "kill -9 $$"]), PATIENT).unwrap();
        assert_eq!(process.ended().await.unwrap().signal(), Some(9));
    }

    #[tokio::test]
    async fn a_tied_command_sees_nothing_of_the_callers_environment() {
        let mut command = tied_command(Path::new("/usr/bin/env"), "TERM");
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("LC_ALL=C") && !text.contains("HOME="), "{text}");
    }
}
