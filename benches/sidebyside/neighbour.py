"""A quiet client beside a greedy one with 200 connections, over 20 server connections that both share."""

import argparse
import os
import signal
import statistics
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .cli import ROOT, Bench, binaries, guarded, opened, say
from .cluster import DATABASE, PASSWORD, USER, find_program, run as execute
from .process import BenchError, raise_file_limit
from .targets import MAX_CLIENTS, POOL_SIZE, PgBouncer, Pgweir, Pooler
from .wire import Client

GREEDY = "greedy"
QUIET_QUERY = "SELECT abalance FROM pgbench_accounts WHERE aid = 1"
# Reads for some milliseconds of server time.
GREEDY_SCRIPT = "SELECT sum(abalance) FROM pgbench_accounts WHERE aid BETWEEN 1 AND 20000;\n"
PAUSE = 0.05
# Who has not been answered by then has not been answered.
PATIENCE = 20


class SharedPgBouncer(PgBouncer):
    """PgBouncer with 20 server connections in all, whichever user they are for."""

    def write_config(self, path: Path) -> None:
        super().write_config(path)
        path.write_text(path.read_text() + f"max_db_connections = {POOL_SIZE}\n")
        userlist = path.parent / "userlist"
        userlist.write_text(userlist.read_text() + f'"{GREEDY}" "{self.site.verifier}"\n')


class SharedPgweir(Pgweir):
    """pgweir with each user a tenant."""

    def write_config(self, path: Path) -> None:
        super().write_config(path)
        tenants = "".join(f'\n[tenants.{user}]\nmatch = {{ user = "{user}" }}\n' for user in (USER, GREEDY))
        path.write_text(path.read_text() + f'\n[users.{GREEDY}]\npassword = "{PASSWORD}"\n' + tenants)


KINDS: dict[str, type[Pooler]] = {"pgbouncer": SharedPgBouncer, "pgweir": SharedPgweir}


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benches/neighbour", description="A quiet client beside a greedy neighbour, through each pooler.")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default 3)")
    parser.add_argument("--seconds", type=float, default=10, help="length of one measurement (default 10)")
    parser.add_argument("--greedy", type=int, default=200, help="connections of the greedy one (default 200)")
    parser.add_argument("--pgbouncer", type=Path, help="a PgBouncer binary (default: the one installed)")
    parser.add_argument("--pgweir", type=Path, default=ROOT / "target/release/pgweir", help="default target/release/pgweir")
    options = parser.parse_args(argv)
    options.targets = list(KINDS)
    return options


def quiet(target: Pooler, seconds: float) -> list[float]:
    """Milliseconds that each of the quiet client's queries took; the last may have run out of patience."""
    client = Client(target.port, patience=PATIENCE).login(USER, PASSWORD, DATABASE)
    took, until = [], time.monotonic() + seconds
    try:
        # The first one is no figure: what is done once for it is done.
        client.query(QUIET_QUERY)
        while time.monotonic() < until:
            begun = time.monotonic()
            client.query(QUIET_QUERY)
            took.append((time.monotonic() - begun) * 1000)
            time.sleep(PAUSE)
    except TimeoutError:
        took.append(PATIENCE * 1000)
    finally:
        client.close()
    return took


@contextmanager
def greedy(target: Pooler, user: str, connections: int, folder: Path):
    """pgbench with so many connections that want all they can get, as long as the `with` lasts."""
    script = folder / "greedy.sql"
    script.write_text(GREEDY_SCRIPT)
    argv = [find_program("pgbench"), "-n", "-h", "127.0.0.1", "-p", str(target.port), "-U", user, "-c", str(connections), "-T", "3600"]
    argv += ["-f", str(script), "--progress=1", DATABASE]
    environment = os.environ | {"PGPASSWORD": PASSWORD, "PGSSLMODE": "disable", "PGGSSENCMODE": "disable"}
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, text=True, start_new_session=True
    )
    try:
        for line in process.stdout:
            # Its first full second.
            if line.startswith("progress: 2"):
                break
        else:
            raise BenchError(f"pgbench against {target.name} did not get going")
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def percentile(ordered: list[float], share: float) -> float:
    """Of sorted figures."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def run(options: argparse.Namespace) -> None:
    """Starts everything, measures, prints the table, and takes everything down again."""
    paths = binaries(options)
    raise_file_limit(3 * MAX_CLIENTS)
    with ExitStack() as cleanup:
        site, cluster = opened(cleanup, "p256", 10)
        folder = site.folder
        psql = [find_program("psql"), "-X", "-q", "-h", str(folder), "-p", str(cluster.port), "-U", "postgres"]
        execute([*psql, "-c", f"CREATE ROLE {GREEDY} LOGIN SUPERUSER PASSWORD '{cluster.verifier}'"])
        figures: dict[tuple[str, str], list[list[float]]] = {}
        for number in range(options.rounds):
            for name in Bench.turn(number, list(paths)):
                target = KINDS[name](site, paths[name])
                try:
                    one_round(options, target, name, figures, folder)
                finally:
                    target.close()
            say(f"  round {number + 1} of {options.rounds}")
        table(options, figures)


def one_round(options: argparse.Namespace, target: Pooler, name: str, figures: dict, folder: Path) -> None:
    """Alone, beside the other user, and beside more of its own user."""
    figures.setdefault((name, "alone"), []).append(sorted(quiet(target, options.seconds)))
    for words, user in (("beside another user's", GREEDY), ("beside its own user's", USER)):
        with greedy(target, user, options.greedy, folder):
            figures.setdefault((name, words), []).append(sorted(quiet(target, options.seconds)))


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
