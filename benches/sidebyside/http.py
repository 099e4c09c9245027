"""The same query by key over HTTP and over the PostgreSQL protocol, on one pgweir: kept connections, and one for each query.

pgbench is the load of the protocol, wrk that of HTTP; both are C programs with a few threads. The CPU time is the proxy's own.
"""

import base64
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from .cluster import DATABASE, PASSWORD, USER, find_program
from .load import Workload, measure
from .process import BenchError, Usage, free_port
from .targets import Pgweir

CALLERS = 64

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


def over_http(target: WithApi, seconds: float, path: str, tls: bool, close: bool) -> dict[str, float]:
    """Requests a second, p50 and p99 in milliseconds, and the proxy's CPU time for each in microseconds."""
    basic = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    script = target.folder / "load.lua"
    url = f"postgres://{USER}:{PASSWORD}@localhost/{DATABASE}"
    script.write_text(LUA.format(url=url, close="true" if close else "false", path=path, basic=basic, database=DATABASE))
    scheme = "https" if tls else "http"
    argv = [find_program("wrk"), "-t", "2", "-c", str(CALLERS), "-d", f"{seconds + 1:.0f}s", "--latency", "-s", str(script)]
    argv += [f"{scheme}://127.0.0.1:{target.api}{path}"]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        time.sleep(0.5)
        # The proxy answers nobody else: its CPU time and its transactions between two moments are these callers'.
        before, count = Usage.of(target.child.pid), answered(target)
        time.sleep(seconds)
        after, total = Usage.of(target.child.pid), answered(target)
        output, _ = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode or "Non-2xx" in output:
        raise BenchError(f"wrk failed:\n{output[-1500:]}")
    done = total - count
    return {
        "tps": done / (after.wall - before.wall),
        "p50_ms": percentile(output, "50%"),
        "p99_ms": percentile(output, "99%"),
        "cpu_us": (after.cpu - before.cpu) * 1e6 / done,
    }


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


def over_the_wire(target: WithApi, seconds: float, reconnect: bool, tls: bool) -> dict[str, float]:
    """The same of pgbench."""
    workload = Workload("point", CALLERS, protocol="extended", reconnect=reconnect, tls=tls, script=SCRIPT)
    return measure(target, workload, seconds, target.site.folder, 2).as_dict()


def ways(target: WithApi, seconds: float) -> dict[str, Callable[[], dict[str, float]]]:
    """Each way to put the query, by its words."""
    return {
        "protocol, kept, plaintext": lambda: over_the_wire(target, seconds, False, False),
        "POST /sql, kept, plaintext": lambda: over_http(target, seconds, "/sql", False, False),
        "POST /query, kept, plaintext": lambda: over_http(target, seconds, "/query", False, False),
        "protocol, kept, TLS": lambda: over_the_wire(target, seconds, False, True),
        "POST /sql, kept, TLS": lambda: over_http(target, seconds, "/sql", True, False),
        "protocol, connect-query-close, TLS": lambda: over_the_wire(target, seconds, True, True),
        "POST /sql, connect-query-close, TLS": lambda: over_http(target, seconds, "/sql", True, True),
    }
