"""One measurement: pgbench against one target, counted over a window in which nothing starts or ends.

pgbench logs every transaction with the moment it ended. The window opens after a warm-up and closes before pgbench does;
transactions are counted in it, and the proxy's CPU time is read at its two edges. Logins before and the teardown after
are therefore in no figure (except under -C, where a login is part of the transaction).
"""

import os
import signal
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from .cluster import DATABASE, PASSWORD, USER, find_program
from .process import BenchError, Usage
from .targets import Target

WARM_UP = 0.7  # seconds between the first logged transactions and the opening of the window

LONGER_THAN_ANY = 3600  # pgbench's time limit counts from before its logins, so it is we who end it, after the window

ROWS_SCRIPT = """\\set aid random(1, 900000)
SELECT aid, bid, abalance, filler FROM pgbench_accounts WHERE aid BETWEEN :aid AND :aid + 999;
"""


@dataclass(frozen=True)
class Workload:
    """What pgbench is asked to do."""

    group: str  # what --only names
    clients: int
    protocol: str = "simple"
    reconnect: bool = False
    tls: bool = False
    script: str | None = None

    @property
    def title(self) -> str:
        """The words for tables and charts."""
        names = {"connect": "connect + SCRAM", "connect-tls": "connect + TLS + SCRAM", "rows": "1,000 rows"}
        return f"{names.get(self.group, self.group)}, {self.clients}"


@dataclass(frozen=True)
class Sample:
    """What one run of one workload against one target gave."""

    tps: float
    average_ms: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    cpu_us: float | None = None  # of the proxy, per transaction
    system_us: float | None = None
    voluntary: float | None = None  # context switches of the proxy, per transaction
    involuntary: float | None = None

    def as_dict(self) -> dict:
        """For the results file."""
        return asdict(self)


def measure(target: Target, workload: Workload, seconds: float, folder: Path, jobs: int) -> Sample:
    """Runs the workload; raises `BenchError` when pgbench reports an error or a client was lost."""
    prefix = folder / "transactions"
    for old in folder.glob("transactions.*"):
        old.unlink()
    argv = pgbench_argv(target, workload, prefix, folder, jobs)
    environment = os.environ | {"PGPASSWORD": PASSWORD, "PGSSLMODE": "require" if workload.tls else "disable"}
    environment |= {"PGGSSENCMODE": "disable", "PGCHANNELBINDING": "disable"}
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, text=True,
        start_new_session=True,
    )
    try:
        before, after = window(target, process, prefix, seconds)
        process.send_signal(signal.SIGALRM)  # what pgbench's own -T timer sends it: finish, log, report
        output, _ = process.communicate(timeout=60)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"pgbench against {target.name} did not come to an end ({workload.title})") from error
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
    if process.returncode != 0 or "aborted" in output:
        raise BenchError(f"pgbench against {target.name} failed ({workload.title}):\n{output[-1500:]}")
    return sample(before, after, latencies(folder, before.wall, after.wall), target)


def pgbench_argv(
    target: Target, workload: Workload, prefix: Path, folder: Path, jobs: int
) -> list[str]:
    """pgbench's command line."""
    argv = [find_program("pgbench"), "-n", "-h", "127.0.0.1", "-p", str(target.port), "-U", USER]
    argv += ["-c", str(workload.clients), "-j", str(min(jobs, workload.clients)), "-M", workload.protocol]
    argv += ["-T", str(LONGER_THAN_ANY), "-l", f"--log-prefix={prefix}"]
    if workload.script is None:
        argv += ["-S"]
    else:
        script = folder / "script.sql"
        script.write_text(workload.script)
        argv += ["-f", str(script)]
    return argv + (["-C"] if workload.reconnect else []) + [DATABASE]


def window(target: Target, process: subprocess.Popen, prefix: Path, seconds: float) -> tuple[Usage, Usage]:
    """Waits for the load to be under way; then the proxy's account at both edges of the window."""
    pid = target.child.pid if target.child is not None else os.getpid()
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in prefix.parent.glob("transactions.*")):
        if process.poll() is not None or time.monotonic() > deadline:
            raise BenchError(f"pgbench against {target.name} did not get going:\n{(process.stdout.read() or '')[-1500:]}")
        time.sleep(0.02)
    time.sleep(WARM_UP)
    before = Usage.of(pid)
    time.sleep(seconds)
    after = Usage.of(pid)
    if process.poll() is not None:
        raise BenchError(f"pgbench against {target.name} ended inside the window")
    return before, after


def latencies(folder: Path, start: float, end: float) -> list[int]:
    """Microseconds of every transaction that ended in the window, sorted.

    A line of the log: client, transaction, microseconds, script, and when it ended as seconds and microseconds.
    """
    found = []
    for path in folder.glob("transactions.*"):
        with open(path) as log:
            for line in log:
                fields = line.split()
                if start <= int(fields[4]) + int(fields[5]) / 1e6 < end:
                    found.append(int(fields[2]))
    found.sort()
    return found


def sample(before: Usage, after: Usage, ordered: list[int], target: Target) -> Sample:
    """Puts the account and the log together."""
    count = len(ordered)
    if count < 20:
        raise BenchError(f"only {count} transactions against {target.name} in the window")

    def percentile(share: float) -> float:
        return ordered[min(count - 1, int(count * share))] / 1000

    figures: dict = {}
    if target.child is not None:
        figures = {
            "cpu_us": (after.cpu - before.cpu) * 1e6 / count,
            "system_us": (after.system - before.system) * 1e6 / count,
            "voluntary": (after.voluntary - before.voluntary) / count,
            "involuntary": (after.involuntary - before.involuntary) / count,
        }
    return Sample(
        tps=count / (after.wall - before.wall),
        average_ms=sum(ordered) / count / 1000,
        p50_ms=percentile(0.5),
        p99_ms=percentile(0.99),
        p999_ms=percentile(0.999),
        **figures,
    )
