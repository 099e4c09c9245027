"""What a transaction takes that no clock is needed for: system calls and user-space instructions.

Both are the difference between a run of N transactions a client and one of 2 N, so logins, opening the pool and what
else happens once cancel out. They hardly depend on how busy the machine is; only how many events one wake-up of the
proxy finds does, so they too have rounds.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from .cluster import DATABASE, PASSWORD, USER, find_program
from .process import BenchError
from .targets import Pooler, Target

SYSCALL_TRANSACTIONS = 6000  # of all clients together, in the shorter run
INSTRUCTION_TRANSACTIONS = 3000
CACHEGRIND = ["valgrind", "--tool=cachegrind", "--cache-sim=no"]

WORKLOADS = [("simple", 1), ("simple", 8), ("simple", 64), ("extended", 8), ("extended", 64), ("prepared", 8), ("prepared", 64)]


def fixed_load(target: Target, protocol: str, clients: int, each: int) -> None:
    """So many transactions by each client, and not one more."""
    argv = [find_program("pgbench"), "-n", "-S", "-h", "127.0.0.1", "-p", str(target.port), "-U", USER]
    argv += ["-M", protocol, "-c", str(clients), "-t", str(each), DATABASE]
    environment = os.environ | {"PGPASSWORD": PASSWORD, "PGSSLMODE": "disable", "PGGSSENCMODE": "disable"}
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, timeout=600)
    if done.returncode != 0:
        raise BenchError(f"pgbench against {target.name} failed:\n{done.stderr[-1500:]}")


def syscalls(target: Target, protocol: str, clients: int, folder: Path) -> dict[str, float]:
    """System calls per transaction by name, and their sum as `syscalls`."""
    each = max(20, SYSCALL_TRANSACTIONS // clients)
    short, long = (traced(target, protocol, clients, times * each, folder) for times in (1, 2))
    per = {name: (long.get(name, 0) - short.get(name, 0)) / (clients * each) for name in long}
    return {"syscalls": sum(per.values())} | {name: count for name, count in per.items() if abs(count) >= 0.005}


def traced(target: Target, protocol: str, clients: int, each: int, folder: Path) -> dict[str, int]:
    """Calls by name while the load runs, as strace counts them over all threads."""
    counts, errors = folder / "strace.counts", folder / "strace.errors"
    with open(errors, "wb") as said:
        tracer = subprocess.Popen(["strace", "-c", "-f", "-o", str(counts), "-p", str(target.child.pid)], stderr=said)
    try:
        deadline = time.monotonic() + 10
        while b"attached" not in errors.read_bytes():
            if tracer.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"strace could not attach to {target.name}:\n{errors.read_text()}")
            time.sleep(0.02)
        fixed_load(target, protocol, clients, each)
    finally:
        if tracer.poll() is None:
            tracer.send_signal(signal.SIGINT)  # detach and write the table
            tracer.wait(30)
    # % time, seconds, usecs/call, calls, [errors,] syscall
    rows = [line.split() for line in counts.read_text().splitlines()]
    return {row[-1]: int(row[3]) for row in rows if len(row) >= 5 and row[0][0].isdigit() and row[-1] != "total"}


def instructions(start: Callable[[list[str]], Pooler], protocol: str, clients: int) -> dict[str, float]:
    """User-space instructions per transaction, of a proxy of its own under valgrind."""
    each = max(10, INSTRUCTION_TRANSACTIONS // clients)
    short, long = (counted(start, protocol, clients, times * each) for times in (1, 2))
    return {"instructions": (long - short) / (clients * each)}


def counted(start: Callable[[list[str]], Pooler], protocol: str, clients: int, each: int) -> int:
    """Instructions of the whole life of a proxy that serves such a load."""
    under = [*CACHEGRIND, "--cachegrind-out-file=/dev/null"]
    return counted_while(lambda: start(under), lambda proxy: fixed_load(proxy, protocol, clients, each))


def counted_while(start: Callable[[], Pooler], load: Callable[[Pooler], None]) -> int:
    """Instructions of the whole life of a proxy, started under valgrind, that serves whatever load."""
    proxy = start()
    child = proxy.child
    try:
        load(proxy)
        child.interrupt()
    finally:
        proxy.close()
    found = re.search(r"I +refs: +([\d,]+)", child.log.read_text(errors="replace"))
    if found is None:
        raise BenchError(f"valgrind did not count {proxy.name}:\n{child.tail()}")
    return int(found[1].replace(",", ""))
