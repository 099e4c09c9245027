"""User-space instructions of pgweir, held against figures that are checked in, and memory of its idle clients: a guard that hardly depends on the machine, and not on its clock.

Each figure of instructions is the difference between N and 2 N of something, as in `counts`. A figure that has grown beyond the band has to be explained or repaired; one that has
sunk below it is to be written down, so that it does not creep up again. Memory only has a bound.
"""

import argparse
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from .cli import guarded, opened, say
from .counts import CACHEGRIND, counted_while, fixed_load
from .idle import idle_cost
from .process import BenchError, raise_file_limit
from .targets import Pgweir, Pooler, Site, close_all, idle_clients
from .wire import tls_context

PROJECT = Path(__file__).resolve().parents[2]
FIGURES = PROJECT / "benches/guard.json"
TRANSACTIONS = [("simple", 1), ("simple", 8), ("extended", 8), ("prepared", 8)]
EACH = 3000  # transactions, of all clients, in the shorter run
LOGINS = 200
IDLE = 3000
# Bytes of resident memory, at most, that each of so many idle clients takes.
IDLE_BOUNDS = {"plaintext": 1536, "TLS": 8192}


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benches/guard", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write the figures to {FIGURES.relative_to(PROJECT)} in place of comparing them")
    parser.add_argument("--band", type=float, default=0.2, help="how far a figure may be from the one checked in, as a share of it (default: 0.2)")
    parser.add_argument("--binary", type=Path, default=PROJECT / "target/quick/pgweir", help="the program, of the profile `quick`")
    return parser.parse_args(argv)


def each_of(start: Callable[[], Pooler], load: Callable[[Pooler, int], None], count: int) -> float:
    """Instructions for each of what `load` does so many times."""
    short, long = (counted_while(start, lambda proxy, times=times: load(proxy, times * count)) for times in (1, 2))
    return (long - short) / count


def measure(site: Site, binary: Path) -> dict[str, float]:
    def start() -> Pooler:
        return Pgweir(site, binary, [*CACHEGRIND, "--cachegrind-out-file=/dev/null"])

    figures = {}
    for protocol, clients in TRANSACTIONS:
        figures[f"transaction, {protocol}, {clients} clients"] = each_of(start, lambda proxy, times: fixed_load(proxy, protocol, clients, times // clients), EACH)
    for name, tls in (("SCRAM", None), ("SCRAM and TLS", tls_context())):
        figures[f"login, {name}"] = each_of(start, lambda proxy, times: close_all(idle_clients(proxy, times, tls)), LOGINS)
    return figures


def memory(site: Site, binary: Path) -> list[str]:
    """Which idle clients take more than their bound."""
    bad = []
    for name, bound in IDLE_BOUNDS.items():
        each = idle_cost(lambda: Pgweir(site, binary), IDLE, with_tls=name == "TLS").bytes_per_client
        bad += [f"idle, {name}"] if each > bound else []
        say(f"{'FAIL' if each > bound else 'ok  '} {'idle client, ' + name:34} {each:10.0f} bytes of resident memory, {bound} at most")
    return bad


def run(options: argparse.Namespace) -> None:
    raise_file_limit(20_000)
    with ExitStack() as cleanup:
        site, _ = opened(cleanup, "p256", 1)
        grown = memory(site, options.binary)
        figures = measure(site, options.binary)
    if grown:
        raise BenchError(f"more memory than the bound: {', '.join(grown)}")
    if options.write:
        FIGURES.write_text(json.dumps({name: round(figure) for name, figure in figures.items()}, indent=2) + "\n")
        return say(f"written to {FIGURES.relative_to(PROJECT)}")
    wanted = json.loads(FIGURES.read_text())
    bad = [name for name in wanted if name not in figures]
    for name, figure in figures.items():
        ratio = figure / wanted[name] if name in wanted else float("inf")
        is_bad = abs(ratio - 1) > options.band
        bad += [name] if is_bad else []
        say(f"{'FAIL' if is_bad else 'ok  '} {name:34} {figure:10.0f} instructions, {ratio:.3f} of the figure checked in")
    if bad:
        raise BenchError(f"beyond the band of {options.band:.0%}: {', '.join(bad)}; `benches/guard --write` writes new figures, for reasons that the commit names")


def main(argv: list[str] | None = None) -> int:
    """The exit status: 0 within the bands, 1 not, 130 interrupted."""
    options = arguments(argv)
    return guarded("guard", lambda: run(options))
