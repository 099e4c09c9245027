"""Measurements around idle clients: what one costs in memory, what its login costs, who waits because of them."""

import ssl
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from .load import Sample, Workload, measure
from .process import Usage, resident_bytes
from .targets import Pooler, close_all, idle_clients
from .wire import tls_context

Start = Callable[[], Pooler]


@dataclass(frozen=True)
class IdleSample:
    """What idle, authenticated clients cost a fresh proxy."""

    bytes_per_client: float  # growth of resident memory
    login_us: float  # CPU time of one login
    login_ms: float  # what it took, connecting included; our own part of the exchange too

    def as_dict(self) -> dict:
        """For the results file."""
        return asdict(self)


def idle_cost(start: Start, count: int, with_tls: bool) -> IdleSample:
    """Logs so many clients in, one after the other, to a fresh process.

    Fresh, because an allocator keeps what an earlier load made it take. One after the other, because what is asked
    here is what an idle client costs, not how high a storm of logins piles up.
    """
    tls: ssl.SSLContext | None = tls_context() if with_tls else None
    proxy = start()
    try:
        # The first logins pay for what is made once: pages of code, caches, the derived SCRAM keys.
        close_all(idle_clients(proxy, 50, tls))
        resident = settled_resident(proxy.child.pid)
        before = Usage.of(proxy.child.pid)
        clients = idle_clients(proxy, count, tls)
        try:
            after = Usage.of(proxy.child.pid)
            grown = settled_resident(proxy.child.pid) - resident
        finally:
            close_all(clients)
        return IdleSample(
            bytes_per_client=grown / count,
            login_us=(after.cpu - before.cpu) * 1e6 / count,
            login_ms=(after.wall - before.wall) * 1e3 / count,
        )
    finally:
        proxy.close()


def settled_resident(pid: int) -> int:
    """Resident memory once it has stood still for half a second (at most five)."""
    last = resident_bytes(pid)
    for _ in range(10):
        time.sleep(0.5)
        now = resident_bytes(pid)
        if now == last:
            return now
        last = now
    return last


def probe_beside(start: Start, count: int, seconds: float, folder: Path) -> tuple[Sample, Sample]:
    """One busy client on a fresh process, alone and then beside so many idle ones."""
    proxy = start()
    try:
        probe = Workload("probe", clients=1)
        alone = measure(proxy, probe, seconds, folder, jobs=1)
        clients = idle_clients(proxy, count, tls=None)
        try:
            return alone, measure(proxy, probe, seconds, folder, jobs=1)
        finally:
            close_all(clients)
    finally:
        proxy.close()
