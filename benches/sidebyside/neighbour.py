"""A quiet client beside a greedy one with 200 connections, over 20 server connections that both share."""

import argparse
import statistics
from contextlib import ExitStack
from pathlib import Path

from .beside import CONNECTIONS, KINDS, PAUSE, admit_greedy, percentile, situations
from .cli import ROOT, Bench, binaries, guarded, opened, say
from .process import raise_file_limit
from .targets import MAX_CLIENTS, POOL_SIZE


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benches/neighbour", description="A quiet client beside a greedy neighbour, through each pooler.")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default 3)")
    parser.add_argument("--seconds", type=float, default=10, help="length of one measurement (default 10)")
    parser.add_argument("--greedy", type=int, default=CONNECTIONS, help="connections of the greedy one (default 200)")
    parser.add_argument("--pgbouncer", type=Path, help="a PgBouncer binary (default: the one installed)")
    parser.add_argument("--pgweir", type=Path, default=ROOT / "target/release/pgweir", help="default target/release/pgweir")
    options = parser.parse_args(argv)
    options.targets = list(KINDS)
    return options


def run(options: argparse.Namespace) -> None:
    """Starts everything, measures, prints the table, and takes everything down again."""
    paths = binaries(options)
    raise_file_limit(3 * MAX_CLIENTS)
    with ExitStack() as cleanup:
        site, cluster = opened(cleanup, "p256", 10)
        admit_greedy(cluster, site.folder)
        figures: dict[tuple[str, str], list[list[float]]] = {}
        for number in range(options.rounds):
            for name in Bench.turn(number, list(paths)):
                target = KINDS[name](site, paths[name])
                try:
                    for words, took in situations(target, options.seconds, options.greedy, site.folder):
                        figures.setdefault((name, words), []).append(took)
                finally:
                    target.close()
            say(f"  round {number + 1} of {options.rounds}")
        table(options, figures)


def table(options: argparse.Namespace, figures: dict) -> None:
    """Medians over the rounds."""
    print(f"\nA query every {PAUSE * 1000:.0f} ms, and {options.greedy} greedy connections, over {POOL_SIZE} server connections; ms, medians of {options.rounds} rounds")
    print(f"{'pooler':>10} {'':>22} {'queries':>8} {'p50':>9} {'p99':>9} {'max':>9}")
    for (name, words), rounds in sorted(figures.items(), key=lambda item: item[0][1]):
        median = statistics.median
        count = median(len(took) for took in rounds)
        p50, p99, longest = (median(percentile(took, share) for took in rounds) for share in (0.5, 0.99, 1))
        print(f"{name:>10} {words:>22} {count:8.0f} {p50:9.1f} {p99:9.1f} {longest:9.1f}")


def main(argv: list[str] | None = None) -> int:
    """The exit status, as that of `compare`."""
    options = arguments(argv)
    return guarded("neighbour", lambda: run(options))
