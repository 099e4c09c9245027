"""Many clients that listen to one channel, and one that notifies it."""

import argparse
import selectors
import statistics
import time
from contextlib import ExitStack
from pathlib import Path

from .cli import ROOT, Bench, binaries, guarded, opened, say
from .cluster import DATABASE, PASSWORD, USER, find_program, run as execute
from .neighbour import percentile
from .process import BenchError, raise_file_limit
from .targets import MAX_CLIENTS, POOL_SIZE, PgBouncer, Pgweir
from .wire import Client

PAUSE = 0.01
# What has not come by then does not come.
PATIENCE = 20


class SessionPgBouncer(PgBouncer):
    """PgBouncer in session mode, the only one in which it passes LISTEN, with as many server connections as it likes."""

    def write_config(self, path: Path) -> None:
        super().write_config(path)
        text = path.read_text().replace("pool_mode = transaction", "pool_mode = session")
        path.write_text(text.replace(f"default_pool_size = {POOL_SIZE}", f"default_pool_size = {MAX_CLIENTS}"))


KINDS = {"pgbouncer": SessionPgBouncer, "pgweir": Pgweir}


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benches/listen", description="Notifications to many listeners.")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default 3)")
    parser.add_argument("--listeners", type=int, nargs="+", default=[1, 200], help="how many listen (default 1 and 200)")
    parser.add_argument("--notifications", type=int, default=300, help="of one measurement (default 300)")
    parser.add_argument("--pgbouncer", type=Path, help="a PgBouncer binary (default: the one installed)")
    parser.add_argument("--pgweir", type=Path, default=ROOT / "target/release/pgweir", help="default target/release/pgweir")
    options = parser.parse_args(argv)
    options.targets = list(KINDS)
    return options


def measure(port: int, direct: int, listeners: int, notifications: int, backends) -> tuple[int, list[float]]:
    """How many server connections the listeners take, and milliseconds from each NOTIFY to each listener, in order."""
    took = []
    with ExitStack() as cleanup, selectors.DefaultSelector() as selector:
        for _ in range(listeners):
            client = Client(port, patience=PATIENCE).login(USER, PASSWORD, DATABASE)
            cleanup.callback(client.close)
            client.query("LISTEN news")
            selector.register(client.socket, selectors.EVENT_READ, client)
        # It speaks to PostgreSQL itself, whoever the listeners speak to.
        speaker = Client(direct, patience=PATIENCE).login(USER, PASSWORD, DATABASE)
        cleanup.callback(speaker.close)
        # The server connections with which they began are given back by then.
        time.sleep(1)
        taken = backends() - 1
        for number in range(notifications):
            begun = time.monotonic()
            speaker.query(f"NOTIFY news, '{number}'")
            missing = listeners
            while missing:
                events = selector.select(PATIENCE)
                if not events:
                    raise BenchError(f"{missing} of {listeners} listeners did not hear notification {number}")
                for key, _ in events:
                    if key.data.notification() != str(number):
                        raise BenchError(f"notification {number} was expected")
                    took.append((time.monotonic() - begun) * 1000)
                    missing -= 1
            time.sleep(PAUSE)
    return taken, sorted(took)


def run(options: argparse.Namespace) -> None:
    """Starts everything, measures, prints the table, and takes everything down again."""
    paths = binaries(options)
    raise_file_limit(3 * MAX_CLIENTS)
    figures: dict[tuple[int, str], list[tuple[int, list[float]]]] = {}
    with ExitStack() as cleanup:
        site, cluster = opened(cleanup, "p256", 1)
        psql = [find_program("psql"), "-X", "-q", "-A", "-t", "-h", str(site.folder), "-p", str(cluster.port), "-U", "postgres"]
        count = f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{USER}'"

        def backends() -> int:
            return int(execute([*psql, "-c", count]))

        for number in range(options.rounds):
            for name in Bench.turn(number, ["direct", *paths]):
                target = KINDS[name](site, paths[name]) if name in paths else None
                try:
                    for listeners in options.listeners:
                        port = target.port if target else cluster.port
                        measured = measure(port, cluster.port, listeners, options.notifications, backends)
                        figures.setdefault((listeners, name), []).append(measured)
                finally:
                    if target:
                        target.close()
            say(f"  round {number + 1} of {options.rounds}")
    print(f"\nFrom NOTIFY to each listener, {options.notifications} notifications, ms; medians of {options.rounds} rounds")
    print(f"{'':>10} {'listeners':>10} {'server connections':>19} {'p50':>8} {'p99':>8}")
    for (listeners, name), rounds in sorted(figures.items()):
        taken = statistics.median(taken for taken, _ in rounds)
        p50, p99 = (statistics.median(percentile(took, share) for _, took in rounds) for share in (0.5, 0.99))
        print(f"{name:>10} {listeners:10} {taken:19.0f} {p50:8.2f} {p99:8.2f}")


def main(argv: list[str] | None = None) -> int:
    """The exit status, as that of `compare`."""
    options = arguments(argv)
    return guarded("listen", lambda: run(options))
