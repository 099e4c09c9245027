"""Fixed limits beside the adaptive one: what each does of the best, and what the search comes to."""

import argparse
import os
import re
import signal
import statistics
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from .cli import ROOT, Bench, guarded, opened, say
from .load import Workload, measure
from .process import BenchError, raise_file_limit
from .targets import MAX_CLIENTS, POOL_SIZE, Pgweir

MOST = 40
SEARCH_SECONDS = 30
SUGGESTED = "pgweir_upstream_limit_suggested"
# What keeps a server connection without keeping the server busy.
SLEEP = "SELECT pg_sleep(0.005);\n"


class Limited(Pgweir):
    """pgweir whose limit changes by reload: one process, so that no figure is another process's luck."""

    def write_config(self, path: Path) -> None:
        super().write_config(path)
        self.config = path
        self.text = path.read_text()
        self.http = int(re.search(r'http = "127.0.0.1:(\d+)"', self.text)[1])

    def limit(self, limit: int | None) -> None:
        """A fixed limit from now on, or the adaptive one, which begins anew at 40."""
        budget = f"max_connections = {limit}" if limit else f'max_connections = {MOST}\nlimit = "adaptive"'
        self.config.write_text(self.text.replace(f"max_connections = {POOL_SIZE}", budget))
        os.kill(self.child.pid, signal.SIGHUP)
        deadline = time.monotonic() + 10
        while (self.metric("pgweir_upstream_limit"), self.metric(SUGGESTED) is None) != (limit or MOST, limit is not None):
            if time.monotonic() > deadline:
                raise BenchError(f"the limit did not become {limit or 'adaptive'}\n{self.child.tail()}")
            time.sleep(0.02)

    def metric(self, name: str) -> int | None:
        """What the upstream's metric says."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/metrics", timeout=5) as answer:
            found = re.search(rf"^{name}\{{.*\}} (\d+)$", answer.read().decode(), re.MULTILINE)
        return int(found[1]) if found else None


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benches/limit", description="Fixed limits and the adaptive one, interleaved in one run.")
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured (default 5)")
    parser.add_argument("--seconds", type=float, default=4, help="length of one measurement (default 4)")
    parser.add_argument("--clients", type=int, default=64, help="of pgbench (default 64)")
    parser.add_argument("--only", default="simple,prepared,sleeping", metavar="LOAD,..", help="of simple,prepared,sleeping")
    parser.add_argument("--fixed", default="1,2,3,4,6,8,12,20,40", metavar="N,..", help="the fixed limits beside it")
    parser.add_argument("--pgweir", type=Path, default=ROOT / "target/release/pgweir", help="default target/release/pgweir")
    options = parser.parse_args(argv)
    options.fixed = [int(n) for n in options.fixed.split(",")]
    return options


def run(options: argparse.Namespace) -> None:
    """Starts everything, measures, prints a table for each load, and takes everything down again."""
    if not options.pgweir.is_file():
        raise BenchError(f"no pgweir at {options.pgweir}: cargo build --release, or --pgweir PATH")
    raise_file_limit(3 * MAX_CLIENTS)
    with ExitStack() as cleanup:
        site, _ = opened(cleanup, "p256", 10)
        target = Limited(site, options.pgweir)
        cleanup.callback(target.close)
        loads = [
            Workload("simple", options.clients),
            Workload("prepared", options.clients, protocol="prepared"),
            Workload("sleeping", options.clients, script=SLEEP),
        ]
        for load in loads:
            if load.group in options.only.split(","):
                one_load(options, target, load)


def one_load(options: argparse.Namespace, target: Limited, load: Workload) -> None:
    """Every limit in turn; the adaptive one has half a minute each time to find the best from 40 down."""
    limits = [*options.fixed, None]
    rates: dict[int | None, list[float]] = {limit: [] for limit in limits}
    found, searching = [], []
    for number in range(options.rounds):
        for limit in Bench.turn(number, limits):
            target.limit(limit)
            if limit is None:
                measure(target, load, SEARCH_SECONDS, target.site.folder, 1)
                found.append(target.metric(SUGGESTED))
            rates[limit].append(measure(target, load, options.seconds, target.site.folder, 1).tps)
            if limit is None:
                target.limit(target.metric(SUGGESTED))
                searching.append(rates[None][-1] / measure(target, load, options.seconds, target.site.folder, 1).tps)
        say(f"  {load.title}: round {number + 1} of {options.rounds}, adaptive at {found[-1]}")
    medians = {limit: statistics.median(of) for limit, of in rates.items()}
    best = max(rate for limit, rate in medians.items() if limit)
    print(f"\n{load.title} clients; the adaptive limit was at {', '.join(map(str, found))} after {SEARCH_SECONDS} s")
    print(f"{'limit':>10} {'tps':>9} {'of the best fixed':>18}")
    for limit, rate in medians.items():
        print(f"{limit or 'adaptive':>10} {rate:9.0f} {rate / best:18.3f}", flush=True)
    spread = f"{min(searching):.3f} to {max(searching):.3f}"
    print(f"while it goes on searching, of the same limit fixed right afterwards: {statistics.median(searching):.3f} ({spread})", flush=True)
    if options.rounds > 1:
        print(f"the adaptive limit, of the fixed one that was best in the other half of the rounds: {against_the_other_half(rates):.3f}", flush=True)


def against_the_other_half(rates: dict[int | None, list[float]]) -> float:
    """The adaptive limit's throughput against that of the best fixed one, which is found in one half of the rounds and measured in the other.

    The best of many noisy figures is better than it deserves by the luck that made it the best; in rounds that had no part in choosing it, it has no more than
    others.
    """
    ratios = []
    for half in (0, 1):
        chosen = {limit: statistics.median(of[half::2]) for limit, of in rates.items()}
        judged = {limit: statistics.median(of[1 - half :: 2]) for limit, of in rates.items()}
        best = max((limit for limit in chosen if limit), key=chosen.__getitem__)
        ratios.append(judged[None] / judged[best])
    return statistics.mean(ratios)


def main(argv: list[str] | None = None) -> int:
    """The exit status, as that of `compare`."""
    options = arguments(argv)
    return guarded("limit", lambda: run(options))
