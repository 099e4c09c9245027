"""The Markdown page: what a ratio means, the table of ratios, and the table of everything."""

import os
from pathlib import Path

from .results import Results, Row

BASE, OURS = "pgbouncer", "pgweir"
IDLE_GROUPS = ("memory", "memory-tls")

READING = """\
Every figure is the median of {rounds} rounds. In a round the targets run one after another, in an order that changes from round to round,
and a **ratio is pgweir / PgBouncer within one round**; the table gives the median of those ratios and, in brackets, the lowest and highest.
Below 1.00 pgweir takes less (CPU, time, memory); for throughput above 1.00 is better. Load generator, PostgreSQL and proxy share this machine's
cores, so throughput and latency say as much about the machine as about the proxy: **CPU per transaction is the figure to compare**. It comes from the
kernel's account of the proxy's process, over a window in which no client logs in or leaves (except where connecting is the workload)."""

STORM = """\
`pgweir storm` plays Lambda: 1,000 invocations at once after a second and every four seconds, 100 a second beside them, for 10 s; one query by key each, after a login (SCRAM),
over 20 server connections, or straight to a PostgreSQL that allows 400. Two in a hundred are killed while their query runs: these have no column. It plays 1,000
environments at a time on the same cores, so that a part of each latency is its own.
"""

NEIGHBOUR = """\
A query by key every 50 ms, and 200 connections that want all they can get of queries that take milliseconds of server time, over 20 server connections that both share (PgBouncer:
`max_db_connections`). A query that is not answered within 20 s ends its measurement and counts as 20 s.
"""


def of(results: Results, *groups: str) -> list[Row]:
    """The rows of these groups."""
    return [row for row in results.rows if row.group in groups]


def loads(results: Results) -> list[Row]:
    """The rows of what has no table of its own: pgbench's."""
    return [row for row in results.rows if row.group not in (*IDLE_GROUPS, "counts", "http", "storm", "neighbour")]


def figure(value: float | None, digits: int = 0) -> str:
    """A number for a cell, a dash where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}"


def ratio(row: Row, measure: str) -> str:
    """The paired ratio for a cell."""
    found = row.ratio(OURS, BASE, measure)
    return "–" if found is None else f"**{found[0]:.2f}** ({found[1]:.2f}–{found[2]:.2f})"


def table(head: list[str], lines: list[list[str]]) -> str:
    """A Markdown table: the first column is text, the others are numbers."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *lines]) + "\n"


def summary(rows: list[Row]) -> str:
    """One line a workload: throughput of all, CPU of the poolers, the ratios."""
    head = ["workload, clients", "tps direct", "PgBouncer", "pgweir", "ratio tps", "CPU µs PgBouncer", "pgweir", "ratio CPU"]
    lines = []
    for row in rows:
        line = [row.title] + [figure(row.median(t, "tps")) for t in ("direct", BASE, OURS)] + [ratio(row, "tps")]
        line += [figure(row.median(t, "cpu_us"), 1) for t in (BASE, OURS)] + [ratio(row, "cpu_us")]
        lines.append(line)
    return table(head, lines)


def idle_table(rows: list[Row]) -> str:
    """Memory and login cost of idle clients."""
    head = ["idle clients", "KiB each, PgBouncer", "pgweir", "ratio", "CPU µs a login, PgBouncer", "pgweir", "ratio", "ms a login, PgBouncer", "pgweir"]
    lines = []
    for row in rows:
        kib = [row.median(t, "bytes_per_client") for t in (BASE, OURS)]
        line = [row.title] + [figure(None if k is None else k / 1024, 2) for k in kib] + [ratio(row, "bytes_per_client")]
        line += [figure(row.median(t, "login_us")) for t in (BASE, OURS)] + [ratio(row, "login_us")]
        line += [figure(row.median(t, "login_ms"), 2) for t in (BASE, OURS)]
        lines.append(line)
    return table(head, lines)


def counts_table(rows: list[Row]) -> str:
    """System calls and instructions."""
    head = ["workload × clients", "system calls, PgBouncer", "pgweir", "ratio", "instructions, PgBouncer", "pgweir", "ratio"]
    lines = []
    for row in rows:
        line = [row.title] + [figure(row.median(t, "syscalls"), 2) for t in (BASE, OURS)] + [ratio(row, "syscalls")]
        line += [figure(row.median(t, "instructions")) for t in (BASE, OURS)] + [ratio(row, "instructions")]
        lines.append(line)
    return table(head, lines)


def http_table(rows: list[Row]) -> str:
    """A query by key, over the protocol and over HTTP."""
    head = ["64 callers, a query by key", "per second", "p50 ms", "p99 ms", "the proxy's CPU µs for each"]
    measures = (("tps", 0), ("p50_ms", 2), ("p99_ms", 2), ("cpu_us", 1))
    return table(head, [[row.title] + [figure(row.median(OURS, measure), digits) for measure, digits in measures] for row in rows])


def storm_table(rows: list[Row]) -> str:
    """What became of invocations, one line a kind and target."""
    head = ["invocations with", "target", "came", "answered", "refused", "timed out", "lost", "p50 ms", "p99", "longest", "CPU µs each", "MiB behind it"]
    counted, timed = ("invocations", "answered", "refused", "timed_out", "lost"), ("p50_ms", "p99_ms", "max_ms", "cpu_us")
    lines = []
    for row in rows:
        for target in row.samples:
            line = [row.title, target] + [figure(row.median(target, m)) for m in (*counted, *timed)]
            resident = row.median(target, "resident")
            lines.append([*line, figure(None if resident is None else resident / 2**20, 1)])
    return table(head, lines)


def neighbour_table(rows: list[Row]) -> str:
    """What a quiet client gets, one line a situation."""
    head = ["the quiet client", "queries, PgBouncer", "pgweir", "p50 ms, PgBouncer", "pgweir", "p99 ms, PgBouncer", "pgweir", "longest ms, PgBouncer", "pgweir"]
    measures = (("queries", 0), ("p50_ms", 1), ("p99_ms", 1), ("max_ms", 1))
    return table(head, [[row.title] + [figure(row.median(t, m), digits) for m, digits in measures for t in (BASE, OURS)] for row in rows])


def details(rows: list[Row]) -> str:
    """Latencies and context switches, one line a workload and target."""
    head = ["workload, clients", "target", "tps", "mean ms", "p50", "p99", "p99.9", "CPU µs", "system", "sleeps", "preempted"]
    lines = []
    for row in rows:
        for target in row.samples:
            line = [row.title, target, figure(row.median(target, "tps"))]
            line += [figure(row.median(target, m), 3) for m in ("average_ms", "p50_ms", "p99_ms", "p999_ms")]
            line += [figure(row.median(target, m), 1) for m in ("cpu_us", "system_us")]
            line += [figure(row.median(target, m), 2) for m in ("voluntary", "involuntary")]
            lines.append(line)
    return table(head, lines)


def absences(rows: list[Row]) -> str:
    """Why cells are empty."""
    why: dict[str, list[str]] = {}
    for row in rows:
        for reason in row.notes.values():
            why.setdefault(reason, []).append(row.title)
    return "".join(f"- {reason}: {'; '.join(titles)}\n" for reason, titles in why.items())


def page(results: Results, charts: list[tuple[str, str]], folder: str) -> str:
    """The whole of docs/performance.md. `charts` are (file, what it shows)."""
    loaded, idles, counted, over_http = loads(results), of(results, *IDLE_GROUPS), of(results, "counts"), of(results, "http")
    storms, neighbours = of(results, "storm"), of(results, "neighbour")
    parts = ["# Performance\n", "This page is written by `benches/compare`; `benches/README.md` says how to run it and what each row is.\n"]
    parts.append(table(["", ""], [[key, value] for key, value in results.facts.items()]).replace("---:", "---"))
    parts.append(READING.format(rounds=results.facts["rounds"]) + "\n")
    parts += [f"![{alt}]({folder}/{file})\n" for file, alt in charts]
    if loaded:
        parts += ["## Throughput and CPU\n", "CPU is the proxy's own, in microseconds per transaction.\n", summary(loaded)]
    if storms:
        parts += ["## A storm of invocations\n", STORM, storm_table(storms)]
    if neighbours:
        parts += ["## A quiet client beside a greedy one\n", NEIGHBOUR, neighbour_table(neighbours)]
    if over_http:
        parts += ["## Over HTTP\n", "On one pgweir: pgbench with the extended protocol, and wrk.\n", http_table(over_http)]
    if idles:
        parts += ["## Idle clients\n", "Growth of resident memory per authenticated, idle client of a fresh process.\n", idle_table(idles)]
    if counted:
        parts += ["## Counted, not timed\n", "Per transaction: system calls by strace, instructions outside the kernel by valgrind.\n", counts_table(counted)]
    if loaded:
        parts += ["## Latency, and where the time goes\n"]
        parts += ["`system` is the part of the CPU time spent in the kernel; `sleeps` are voluntary context switches per transaction,"]
        parts += ["`preempted` involuntary ones. Under a connection per transaction, latency is the query's alone.\n", details(loaded)]
    missing = absences(results.rows)
    if missing:
        parts += ["## Empty cells\n", missing]
    return "\n".join(parts)


def machine() -> dict[str, str]:
    """Processor, memory, kernel."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    cores = len(os.sched_getaffinity(0))
    return {"machine": f"{cores} × {model}, {memory:.0f} GiB", "kernel": f"{os.uname().sysname} {os.uname().release} {os.uname().machine}"}
