"""What a quiet client gets beside a greedy one with many connections, over 20 server connections that both share."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .cluster import DATABASE, PASSWORD, USER, Cluster, find_program, run
from .process import BenchError
from .targets import POOL_SIZE, PgBouncer, Pgweir, Pooler
from .wire import Client

GREEDY = "greedy"
QUIET_QUERY = "SELECT abalance FROM pgbench_accounts WHERE aid = 1"
# Reads for some milliseconds of server time.
GREEDY_SCRIPT = "SELECT sum(abalance) FROM pgbench_accounts WHERE aid BETWEEN 1 AND 20000;\n"
PAUSE = 0.05
CONNECTIONS = 200
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


def admit_greedy(cluster: Cluster, folder: Path) -> None:
    """The greedy user, with the same password."""
    psql = [find_program("psql"), "-X", "-q", "-h", str(folder), "-p", str(cluster.port), "-U", "postgres"]
    run([*psql, "-c", f"CREATE ROLE {GREEDY} LOGIN SUPERUSER PASSWORD '{cluster.verifier}'"])


def situations(target: Pooler, seconds: float, connections: int, folder: Path) -> Iterator[tuple[str, list[float]]]:
    """Alone, beside the other user, and beside more of its own user: the times of the quiet client's queries, sorted, in milliseconds."""
    yield "alone", sorted(quiet(target, seconds))
    for words, user in (("beside another user's", GREEDY), ("beside its own user's", USER)):
        with greedy(target, user, connections, folder):
            yield words, sorted(quiet(target, seconds))
