"""Invocations as Lambda's come, in bursts of so many at once, by `pgweir storm`."""

import json
import subprocess
from pathlib import Path

from .cluster import DATABASE, PASSWORD, USER
from .process import BenchError, Usage, resident_bytes
from .targets import Target

BURST = 1000
KINDS = {"a connection for each invocation": [], "a connection for each environment": ["--keep-connection"]}
# A burst a second after the start and every four seconds, and a hundred a second beside them; two in a hundred are killed while their statement runs.
SHAPE = ["--duration", "10s", "--rate", "100", "--burst", str(BURST), "--burst-every", "4s", "--kills", "0.02"]
STATEMENT = "SELECT abalance FROM pgbench_accounts WHERE aid = 1"
PATIENCE = 60


def storm(generator: Path, target: Target, kind: str, folder: Path) -> dict:
    """What came of one storm: counts, latencies in milliseconds, the proxy's CPU in microseconds for each invocation and its resident memory behind it."""
    report = folder / "storm.json"
    url = f"postgres://{USER}:{PASSWORD}@127.0.0.1:{target.port}/{DATABASE}?sslmode=disable"
    argv = [str(generator), "storm", "--url", url, *SHAPE, *KINDS[kind], "--statements", STATEMENT, "--json", str(report)]
    before = Usage.of(target.child.pid) if target.child else None
    ended = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if ended.returncode != 0:
        raise BenchError(f"a storm on {target.name} failed:\n{ended.stderr[-2000:]}")
    (tenant,) = json.loads(report.read_text())["tenants"]
    came, latency = tenant["invocations"], tenant["latency"]
    found = {key: tenant[key] for key in ("invocations", "answered", "killed", "timed_out")}
    found |= {"refused": sum(tenant["refused"].values()), "lost": sum(tenant["lost"].values())}
    if came != tenant["throttled"] + sum(found[key] for key in ("answered", "refused", "timed_out", "killed", "lost")):
        raise BenchError(f"not every invocation of a storm on {target.name} is accounted for: {found}")
    found |= {"p50_ms": latency["p50"], "p99_ms": latency["p99"], "max_ms": latency["max"]}
    if before is not None:
        found["cpu_us"] = (Usage.of(target.child.pid).cpu - before.cpu) * 1e6 / came
        found["resident"] = resident_bytes(target.child.pid)
    return found
