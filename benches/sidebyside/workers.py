"""One worker and several, on all cores and on one: throughput, and the CPU that a transaction takes."""

import argparse
import os
import statistics
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from .cli import ROOT, Bench, guarded, opened, say
from .load import ROWS_SCRIPT, Sample, Workload, measure
from .process import BenchError, raise_file_limit
from .targets import MAX_CLIENTS, Pgweir, Site


@dataclass(frozen=True)
class Kind:
    """How many workers, and on which cores."""

    workers: int
    one_core: bool

    @property
    def title(self) -> str:
        """The words for the table."""
        return f"{self.workers} worker{'s' if self.workers > 1 else ''}{' on one core' if self.one_core else ''}"


class Working(Pgweir):
    """pgweir with so many workers."""

    def __init__(self, site: Site, binary: Path, kind: Kind):
        self.kind = kind
        super().__init__(site, binary, ["taskset", "-c", "0"] if kind.one_core else None)

    def write_config(self, path: Path) -> None:
        super().write_config(path)
        path.write_text(f"{path.read_text()}\n[process]\nworkers = {self.kind.workers}\n")


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benches/workers", description="One worker and several, interleaved in one run.")
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured (default 5)")
    parser.add_argument("--seconds", type=float, default=4, help="length of one measurement (default 4)")
    parser.add_argument("--workers", default=f"1,{max(2, os.cpu_count() or 1)}", metavar="N,..", help="numbers of workers (default: one, and one for each core)")
    parser.add_argument("--pgweir", type=Path, default=ROOT / "target/release/pgweir", help="default target/release/pgweir")
    options = parser.parse_args(argv)
    options.workers = [int(n) for n in options.workers.split(",")]
    return options


def run(options: argparse.Namespace) -> None:
    """Starts everything, measures, prints a table for each load, and takes everything down again."""
    if not options.pgweir.is_file():
        raise BenchError(f"no pgweir at {options.pgweir}: cargo build --release, or --pgweir PATH")
    raise_file_limit(3 * MAX_CLIENTS)
    loads = {
        "point queries, 64 clients": Workload("simple", 64),
        "1,000 rows, 16 clients": Workload("rows", 16, script=ROWS_SCRIPT),
        "1,000 rows over TLS, 16 clients": Workload("rows", 16, script=ROWS_SCRIPT, tls=True),
    }
    kinds = [Kind(workers, one_core) for one_core in (False, True) for workers in options.workers]
    with ExitStack() as cleanup:
        site, _ = opened(cleanup, "p256", 10)
        targets = {}
        for kind in kinds:
            targets[kind] = Working(site, options.pgweir, kind)
            cleanup.callback(targets[kind].close)
        for words, load in loads.items():
            taken: dict[Kind, list[Sample]] = {kind: [] for kind in kinds}
            for number in range(options.rounds):
                for kind in Bench.turn(number, kinds):
                    taken[kind].append(measure(targets[kind], load, options.seconds, site.folder, 1))
                say(f"  {words}: round {number + 1} of {options.rounds}")
            table(words, taken)


def table(words: str, taken: dict[Kind, list[Sample]]) -> None:
    """Medians; the ratio is to one worker on the same cores, of the same round."""
    print(f"\n{words}\n{'':24} {'tps':>9} {'of one worker':>15} {'CPU µs':>8} {'of one worker':>15}")
    for kind, samples in taken.items():
        single = taken[Kind(min(k.workers for k in taken), kind.one_core)]
        tps, cpu = (statistics.median(getattr(s, name) for s in samples) for name in ("tps", "cpu_us"))
        more, dearer = (
            statistics.median(getattr(s, name) / getattr(one, name) for s, one in zip(samples, single, strict=True)) for name in ("tps", "cpu_us")
        )
        print(f"{kind.title:24} {tps:9.0f} {more:15.2f} {cpu:8.1f} {dearer:15.2f}", flush=True)


def main(argv: list[str] | None = None) -> int:
    """The exit status, as that of `compare`."""
    options = arguments(argv)
    return guarded("workers", lambda: run(options))
