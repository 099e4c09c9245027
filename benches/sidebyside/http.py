"""The same point query over HTTP and over the PostgreSQL protocol, on one pgweir: kept connections, and one for each query.

pgbench is the load of the protocol, wrk that of HTTP; both are C programs with a few threads. The CPU time is the proxy's own.
"""

import argparse
import base64
import re
import statistics
import subprocess
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from .cli import ROOT, Bench, binaries, guarded, opened, say
from .cluster import DATABASE, PASSWORD, USER, find_program
from .load import Workload, measure
from .process import BenchError, Usage, free_port, raise_file_limit
from .targets import MAX_CLIENTS, Pgweir

SCRIPT = "\\set aid random(1, 100000)\nSELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n"

# What one caller sends, again and again: another key each time, in the form of Neon's driver or of `/query`.
LUA = """
local url, close, path = "{url}", {close}, "{path}"
math.randomseed(os.time())
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Neon-Connection-String"] = url
wrk.headers["Neon-Raw-Text-Output"] = "true"
wrk.headers["Neon-Array-Mode"] = "true"
wrk.headers["Authorization"] = "{basic}"
if close then wrk.headers["Connection"] = "close" end
function request()
  local key = math.random(100000)
  local name = path == "/sql" and "query" or "sql"
  local more = path == "/sql" and "" or ',"database":"{database}"'
  local body = string.format('{{"%s":"SELECT abalance FROM pgbench_accounts WHERE aid = $1","params":["%d"]%s}}', name, key, more)
  return wrk.format(nil, path, nil, body)
end
"""


class WithApi(Pgweir):
    """pgweir with a port for SQL over HTTP."""

    def write_config(self, path: Path) -> None:
        super().write_config(path)
        self.api = free_port()
        self.operations = int(re.search(r'^http = "127.0.0.1:(\d+)"$', path.read_text(), re.MULTILINE)[1])
        text = path.read_text().replace("[tls.client]", f'api = "127.0.0.1:{self.api}"\n\n[tls.client]', 1)
        path.write_text(text)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benches/http", description="Point queries over HTTP and over the PostgreSQL protocol, on one pgweir.")
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured (default 5)")
    parser.add_argument("--seconds", type=float, default=5, help="length of one measurement (default 5)")
    parser.add_argument("--callers", type=int, default=64, help="callers at once (default 64)")
    parser.add_argument("--pgweir", type=Path, default=ROOT / "target/release/pgweir", help="default target/release/pgweir")
    options = parser.parse_args(argv)
    options.targets = ["pgweir"]
    options.pgbouncer = None
    return options


def over_http(target: WithApi, options: argparse.Namespace, path: str, tls: bool, close: bool) -> tuple[float, float, float, float]:
    """Requests a second, p50 and p99 in milliseconds, and the proxy's CPU time for each in microseconds."""
    basic = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    script = target.folder / "load.lua"
    url = f"postgres://{USER}:{PASSWORD}@localhost/{DATABASE}"
    script.write_text(LUA.format(url=url, close="true" if close else "false", path=path, basic=basic, database=DATABASE))
    scheme = "https" if tls else "http"
    argv = [find_program("wrk"), "-t", "2", "-c", str(options.callers), "-d", f"{options.seconds + 1:.0f}s", "--latency", "-s", str(script)]
    argv += [f"{scheme}://127.0.0.1:{target.api}{path}"]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        time.sleep(0.5)
        # The proxy answers nobody else: its CPU time and its transactions between two moments are these callers'.
        before, count = Usage.of(target.child.pid), answered(target)
        time.sleep(options.seconds)
        after, total = Usage.of(target.child.pid), answered(target)
        output, _ = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode or "Non-2xx" in output:
        raise BenchError(f"wrk failed:\n{output[-1500:]}")
    done = total - count
    return done / (after.wall - before.wall), percentile(output, "50%"), percentile(output, "99%"), (after.cpu - before.cpu) * 1e6 / done


def answered(target: WithApi) -> int:
    """Transactions so far, as the proxy counts them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{target.operations}/metrics", timeout=10) as page:
        text = page.read().decode()
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in text.splitlines() if line.startswith("pgweir_transactions_total{"))


def percentile(output: str, which: str) -> float:
    """Of wrk's table, in milliseconds."""
    found = re.search(rf"^\s*{re.escape(which)}\s+([0-9.]+)(us|ms|s)$", output, re.MULTILINE)
    if not found:
        raise BenchError(f"wrk told no latency:\n{output[-1500:]}")
    return float(found[1]) * {"us": 0.001, "ms": 1, "s": 1000}[found[2]]


def over_the_wire(target: WithApi, options: argparse.Namespace, reconnect: bool, tls: bool) -> tuple[float, float, float, float]:
    """The same of pgbench."""
    workload = Workload("point", options.callers, protocol="extended", reconnect=reconnect, tls=tls, script=SCRIPT)
    taken = measure(target, workload, options.seconds, target.site.folder, 2)
    return taken.tps, taken.p50_ms, taken.p99_ms, taken.cpu_us


def run(options: argparse.Namespace) -> None:
    """Starts everything, measures, prints the table, and takes everything down again."""
    paths = binaries(options)
    raise_file_limit(3 * MAX_CLIENTS)
    ways = {
        "protocol, kept, plaintext": lambda target: over_the_wire(target, options, False, False),
        "POST /sql, kept, plaintext": lambda target: over_http(target, options, "/sql", False, False),
        "POST /query, kept, plaintext": lambda target: over_http(target, options, "/query", False, False),
        "protocol, kept, TLS": lambda target: over_the_wire(target, options, False, True),
        "POST /sql, kept, TLS": lambda target: over_http(target, options, "/sql", True, False),
        "protocol, connect-query-close, TLS": lambda target: over_the_wire(target, options, True, True),
        "POST /sql, connect-query-close, TLS": lambda target: over_http(target, options, "/sql", True, True),
    }
    figures: dict[str, list[tuple[float, float, float, float]]] = {}
    with ExitStack() as cleanup:
        site, _ = opened(cleanup, "p256", 10)
        target = WithApi(site, paths["pgweir"])
        try:
            for number in range(options.rounds):
                for words in Bench.turn(number, list(ways)):
                    figures.setdefault(words, []).append(ways[words](target))
                say(f"  round {number + 1} of {options.rounds}")
        finally:
            target.close()
    table(options, ways, figures)


def table(options: argparse.Namespace, ways: dict, figures: dict) -> None:
    """Medians over the rounds."""
    print(f"\n{options.callers} callers, a query by key, medians of {options.rounds} rounds of {options.seconds:g} s")
    print(f"{'':>38} {'per second':>11} {'p50 ms':>8} {'p99 ms':>8} {'CPU µs':>8}")
    for words in ways:
        tps, p50, p99, cpu = (statistics.median(column) for column in zip(*figures[words], strict=True))
        print(f"{words:>38} {tps:11,.0f} {p50:8.2f} {p99:8.2f} {cpu:8.1f}")


def main(argv: list[str] | None = None) -> int:
    """The exit status, as that of `compare`."""
    options = arguments(argv)
    return guarded("http", lambda: run(options))
