"""Two groups of clients with the same setting, and with different ones, over few server connections that are some way off."""

import argparse
import asyncio
import os
import re
import statistics
import subprocess
import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from .cli import ROOT, Bench, binaries, guarded, opened, say
from .cluster import DATABASE, PASSWORD, USER, find_program
from .process import BenchError, cpu_seconds, free_port
from .targets import POOL_SIZE, PgBouncer, Pgweir, Pooler

SERVERS = 2
CLIENTS = 4
# PgBouncer follows this one, too: libpq sends it at the start from PGTZ, and the server reports it.
ZONES = {"equal": ("UTC", "UTC"), "different": ("UTC", "Asia/Tokyo")}


class FewPgBouncer(PgBouncer):
    """PgBouncer with few server connections."""

    def write_config(self, path: Path) -> None:
        super().write_config(path)
        path.write_text(path.read_text().replace(f"default_pool_size = {POOL_SIZE}", f"default_pool_size = {SERVERS}"))


class FewPgweir(Pgweir):
    """pgweir with few server connections."""

    def write_config(self, path: Path) -> None:
        super().write_config(path)
        path.write_text(path.read_text().replace(f"max_connections = {POOL_SIZE}", f"max_connections = {SERVERS}"))


KINDS: dict[str, type[Pooler]] = {"pgbouncer": FewPgBouncer, "pgweir": FewPgweir}


class End(asyncio.Protocol):
    """One end of a connection that takes its time: what comes here leaves at the other end so many seconds later."""

    def __init__(self, delay: float):
        self.delay = delay
        self.other: End | None = None
        self.early: list[bytes] = []
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        asyncio.get_running_loop().call_later(self.delay, self.leave, data)

    def leave(self, data: bytes) -> None:
        """Goes on at the other end, once that is there."""
        if self.other is None:
            self.early.append(data)
        elif not self.other.transport.is_closing():
            self.other.transport.write(data)

    def connection_lost(self, exc) -> None:
        if self.other is not None:
            self.other.transport.close()


class Distance:
    """A way to a port of this machine that takes so many seconds in each direction; `port` is where it begins."""

    def __init__(self, to: int, delay: float):
        self.to, self.delay, self.port = to, delay, free_port()
        self.loop = asyncio.new_event_loop()
        self.onward: set[asyncio.Task] = set()
        self.loop.run_until_complete(self.loop.create_server(self.begin, "127.0.0.1", self.port))
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def begin(self) -> End:
        """Somebody has come: the other end is on its way."""
        near = End(self.delay)

        async def connect() -> None:
            _, far = await self.loop.create_connection(lambda: End(self.delay), "127.0.0.1", self.to)
            far.other, near.other = near, far
            for data in near.early:
                far.transport.write(data)

        task = self.loop.create_task(connect())
        self.onward.add(task)
        task.add_done_callback(self.onward.discard)
        return near

    def close(self) -> None:
        """Ends it."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benches/settings", description="Clients with different settings over few server connections.")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default 3)")
    parser.add_argument("--seconds", type=int, default=5, help="length of one measurement (default 5)")
    parser.add_argument("--distance", type=float, default=0.5, help="milliseconds to PostgreSQL, one way (default 0.5)")
    parser.add_argument("--pgbouncer", type=Path, help="a PgBouncer binary (default: the one installed)")
    parser.add_argument("--pgweir", type=Path, default=ROOT / "target/release/pgweir", help="default target/release/pgweir")
    options = parser.parse_args(argv)
    options.targets = list(KINDS)
    return options


def measure(target: Pooler, zones: tuple[str, str], seconds: int) -> tuple[float, float]:
    """Transactions per second of two groups of clients with these time zones, and the proxy's microseconds of CPU for each."""
    argv = [find_program("pgbench"), "-n", "-S", "-h", "127.0.0.1", "-p", str(target.port), "-U", USER]
    argv += ["-c", str(CLIENTS), "-T", str(seconds), DATABASE]
    before = cpu_seconds(target.child.pid)
    groups = [
        subprocess.Popen(
            argv, env={**os.environ, "PGPASSWORD": PASSWORD, "PGTZ": zone}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for zone in zones
    ]
    done = 0
    for group in groups:
        output, _ = group.communicate()
        found = re.search(r"^number of transactions actually processed: (\d+)", output, re.MULTILINE)
        if group.returncode or not found:
            raise BenchError(f"pgbench against {target.name} failed:\n{output[-1500:]}")
        done += int(found[1])
    return done / seconds, 1e6 * (cpu_seconds(target.child.pid) - before) / done


def run(options: argparse.Namespace) -> None:
    """Starts everything, measures, prints the table, and takes everything down again."""
    paths = binaries(options)
    figures: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with ExitStack() as cleanup:
        site, cluster = opened(cleanup, "p256", 1)
        distance = Distance(cluster.port, options.distance / 1000)
        cleanup.callback(distance.close)
        far = replace(site, server_port=distance.port)
        targets = {name: KINDS[name](far, path) for name, path in paths.items()}
        for target in targets.values():
            cleanup.callback(target.close)
        for number in range(options.rounds):
            for settings, zones in ZONES.items():
                for name in Bench.turn(number, list(targets)):
                    figures.setdefault((settings, name), []).append(measure(targets[name], zones, options.seconds))
            say(f"  round {number + 1} of {options.rounds}")
    print(f"\n{2 * CLIENTS} clients over {SERVERS} server connections {options.distance} ms away; medians of {options.rounds} rounds")
    print(f"{'settings':>10} {'':>10} {'transactions/s':>15} {'CPU us':>8}")
    for (settings, name), rounds in figures.items():
        rate, cpu = (statistics.median(values) for values in zip(*rounds, strict=True))
        print(f"{settings:>10} {name:>10} {rate:15.0f} {cpu:8.1f}")


def main(argv: list[str] | None = None) -> int:
    """The exit status, as that of `compare`."""
    options = arguments(argv)
    return guarded("settings", lambda: run(options))
