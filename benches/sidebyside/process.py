"""Starting, measuring and ending the processes under test.

Every process is a child of ours, runs as an unprivileged user, and is ended by its own pid: nothing is ever
found or killed by name.
"""

import os
import pwd
import resource
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path


class BenchError(Exception):
    """Something that stops the benchmark, in words for the person who runs it."""


@dataclass(frozen=True)
class Account:
    """Who the children run as: PostgreSQL and PgBouncer both refuse to run as root."""

    name: str
    uid: int | None
    gid: int | None

    @staticmethod
    def unprivileged() -> "Account":
        """Ourselves, unless we are root; then `postgres` or `nobody`."""
        if os.geteuid() != 0:
            return Account(pwd.getpwuid(os.geteuid()).pw_name, None, None)
        for name in ("postgres", "nobody"):
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return Account(name, entry.pw_uid, entry.pw_gid)
        raise BenchError("run as root, but there is neither a user `postgres` nor `nobody` to start servers as")

    def own(self, path: Path) -> None:
        """Gives a file or folder to this account."""
        if self.uid is not None:
            os.chown(path, self.uid, self.gid)

    def popen_args(self) -> dict:
        """The arguments of `subprocess` that start a child as this account, out of reach of the terminal's Ctrl-C."""
        args: dict = {"start_new_session": True, "cwd": "/"}
        if self.uid is not None:
            args |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return args


def raise_file_limit(wanted: int) -> int:
    """Lifts the limit on open files, which children inherit; answers what was reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for new_soft, new_hard in ((wanted, max(wanted, hard)), (hard, hard)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (new_soft, new_hard))
            return new_soft
        except (ValueError, OSError):
            continue
    return soft


_given: set[int] = set()


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now, never the same one twice.

    Thousands of connections that have just been closed leave the kernel few to choose from.
    """
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port


class Child:
    """One process under test, with its log in a file."""

    def __init__(self, name: str, argv: list[str], account: Account, log: Path, env: dict | None = None):
        self.name = name
        self.log = log
        with open(log, "ab") as out:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, **account.popen_args()
            )

    @property
    def pid(self) -> int:
        """The process id, valid until `stop`."""
        return self._process.pid

    def check_alive(self) -> None:
        """Raises with the end of the log when the process has ended by itself."""
        if self._process.poll() is not None:
            raise BenchError(f"{self.name} ended by itself ({self._process.returncode}):\n{self.tail()}")

    def tail(self) -> str:
        """The last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def interrupt(self, patience: float = 30.0) -> None:
        """Ends it by SIGTERM alone, a second one meaning now, so that a tool around it can write down what it found."""
        for wait in (3.0, patience):
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(wait)
                return
            except subprocess.TimeoutExpired:
                continue

    def stop(self, first: signal.Signals = signal.SIGTERM, patience: float = 2.0) -> None:
        """Asks, waits, then kills: a drain that waits for clients must not hold up the benchmark."""
        for sig, wait in ((first, patience), (signal.SIGKILL, 10.0)):
            if self._process.poll() is not None:
                return
            self._process.send_signal(sig)
            try:
                self._process.wait(wait)
            except subprocess.TimeoutExpired:
                continue


@dataclass(frozen=True)
class Usage:
    """What a process had consumed at one moment."""

    wall: float  # seconds since the epoch
    cpu: float  # seconds, user and system, all threads, also those that have ended
    system: float  # seconds, the system part of it, to the clock tick
    voluntary: int  # context switches of living threads: how often it went to sleep
    involuntary: int

    @staticmethod
    def of(pid: int) -> "Usage":
        """Reads the kernel's account of a process."""
        voluntary = involuntary = 0
        for task in Path(f"/proc/{pid}/task").iterdir():
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    voluntary += int(line.split()[1])
                elif line.startswith("nonvoluntary_ctxt_switches"):
                    involuntary += int(line.split()[1])
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        system = int(fields[12]) / os.sysconf("SC_CLK_TCK")
        return Usage(time.time(), cpu_seconds(pid), system, voluntary, involuntary)


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process, in nanosecond steps.

    This is utime + stime of /proc/PID/stat, read through the process's CPU clock (clock_getcpuclockid(3)),
    because the 10 ms steps of /proc are 5 % of what an idle proxy uses in a round.
    """
    return time.clock_gettime((~pid << 3) | 2)


def resident_bytes(pid: int) -> int:
    """Resident memory of a process (Rss of smaps_rollup: exact, where statm may lag by a few pages a CPU)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise BenchError(f"no Rss for process {pid}")
