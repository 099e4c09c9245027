"""What it costs to look at a proxy with many clients and tenants: how long a scrape takes, and whether a client that works beside it notices."""

import argparse
import re
import statistics
import threading
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from .cli import ROOT, binaries, guarded, opened, say
from .cluster import DATABASE, PASSWORD, USER
from .neighbour import percentile
from .process import BenchError, Usage, raise_file_limit
from .targets import MAX_CLIENTS, Pgweir, close_all
from .wire import Client

# What must hold: a scrape in so many milliseconds, and the median query beside five of them a second in so many times what it takes alone.
MOST_MS = 50
MOST_SLOWER = 1.5
PATHS = ("/metrics", "/status", "/live", "/history", "/pressure")
PAGES = 10


class WithTenants(Pgweir):
    """pgweir with many tenants, told apart by the names that clients give themselves."""

    def __init__(self, site, binary: Path, tenants: int):
        self.tenants = tenants
        super().__init__(site, binary)

    def write_config(self, path: Path) -> None:
        super().write_config(path)
        text = path.read_text()
        self.operations = int(re.search(r'^http = "127.0.0.1:(\d+)"$', text, re.MULTILINE)[1])
        more = (f'[tenants.t{n}]\nmatch = {{ application_name = "t{n}" }}\n' for n in range(self.tenants))
        path.write_text(text + "".join(more))

    def get(self, path: str) -> bytes:
        """What the operations port answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.operations}{path}", timeout=20) as answer:
            return answer.read()


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benches/scrape", description="What being watched costs.")
    parser.add_argument("--clients", type=int, default=10_000, help="how many are logged in (default 10000)")
    parser.add_argument("--tenants", type=int, default=500, help="how many tenants they are of (default 500)")
    parser.add_argument("--rounds", type=int, default=3, help="how often the client is measured beside scrapes and without (default 3)")
    parser.add_argument("--seconds", type=float, default=5, help="of one measurement (default 5)")
    parser.add_argument("--pgweir", type=Path, default=ROOT / "target/release/pgweir", help="default target/release/pgweir")
    options = parser.parse_args(argv)
    options.targets, options.pgbouncer = ["pgweir"], None
    return options


def timed(proxy: WithTenants, path: str, times: int) -> tuple[int, list[float]]:
    """How many bytes an answer has, and the milliseconds that each took, in order of time."""
    took, size = [], 0
    for _ in range(times):
        begun = time.monotonic()
        size = len(proxy.get(path))
        took.append((time.monotonic() - begun) * 1000)
    return size, took


def worked(client: Client, proxy: WithTenants, seconds: float, scrapes: bool) -> list[float]:
    """Milliseconds of a client's queries, sorted, while it is scraped five times a second or not."""
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(0.2):
            proxy.get("/metrics")

    scraper = threading.Thread(target=scrape, daemon=True)
    if scrapes:
        scraper.start()
    took, until = [], time.monotonic() + seconds
    while (begun := time.monotonic()) < until:
        client.query("SELECT 1")
        took.append((time.monotonic() - begun) * 1000)
    over.set()
    if scrapes:
        scraper.join()
    return sorted(took)


def cores(proxy: WithTenants, seconds: float, pages: int) -> float:
    """The proxy's CPU time for each second, with so many pages open: each asks every two seconds."""
    before = Usage.of(proxy.child.pid)
    until = before.wall + seconds
    while time.time() < until:
        for _ in range(pages):
            proxy.get("/live")
            time.sleep(2 / pages)
        if not pages:
            time.sleep(min(2, seconds))
    after = Usage.of(proxy.child.pid)
    return (after.cpu - before.cpu) / (after.wall - before.wall)


def run(options: argparse.Namespace) -> None:
    """Starts everything, measures, prints, and takes everything down again; what must hold is checked at the end."""
    paths = binaries(options)
    raise_file_limit(3 * MAX_CLIENTS)
    with ExitStack() as cleanup:
        site, _ = opened(cleanup, "p256", 1)
        proxy = WithTenants(site, paths["pgweir"], options.tenants)
        cleanup.callback(proxy.close)
        clients: list[Client] = []
        cleanup.callback(close_all, clients)
        for number in range(options.clients):
            clients.append(Client(proxy.port).login(USER, PASSWORD, DATABASE, application_name=f"t{number % options.tenants}"))
        # Each tenant has something to tell.
        for client in clients[: 2 * options.tenants]:
            client.query("SELECT 1")
        say(f"{options.clients} clients of {options.tenants} tenants are logged in")
        slowest = 0.0
        print(f"{'':>10} {'bytes':>9} {'first':>8} {'p50':>8} {'most':>8}  ms")
        for path in PATHS:
            size, took = timed(proxy, path, 21)
            rest = sorted(took[1:])
            slowest = max(slowest, statistics.median(rest))
            print(f"{path:>10} {size:9} {took[0]:8.1f} {statistics.median(rest):8.1f} {rest[-1]:8.1f}")
        figures: dict[bool, list[list[float]]] = {False: [], True: []}
        for number in range(2 * options.rounds):
            scrapes = (number + number // 2) % 2 == 1
            figures[scrapes].append(worked(clients[0], proxy, options.seconds, scrapes))
        medians = {}
        for scrapes, rounds in figures.items():
            medians[scrapes], p99 = (statistics.median(percentile(took, share) for took in rounds) for share in (0.5, 0.99))
            print(f"a client {'beside five scrapes a second' if scrapes else 'alone':30} p50 {medians[scrapes]:.3f}  p99 {p99:.3f} ms")
        for pages in (0, PAGES):
            print(f"CPU with {pages:2} pages open: {cores(proxy, 4 * options.seconds, pages):.4f} of a core")
        if slowest > MOST_MS:
            raise BenchError(f"an answer takes {slowest:.1f} ms, which was to be {MOST_MS} at most")
        if medians[True] > MOST_SLOWER * medians[False]:
            raise BenchError(f"a client's median query takes {medians[True] / medians[False]:.2f} times as long beside scrapes")


def main(argv: list[str] | None = None) -> int:
    """The exit status, as that of `compare`; 1 too where something does not hold."""
    options = arguments(argv)
    return guarded("scrape", lambda: run(options))
