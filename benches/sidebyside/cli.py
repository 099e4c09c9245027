"""Options, the order of the rounds, and what is written at the end."""

import argparse
import datetime
import json
import os
import shutil
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

from . import beside, chart, counts, http, report, storm
from .cluster import DATABASE, PASSWORD, USER, Cluster, Workspace, make_certificate
from .idle import idle_cost, probe_beside
from .load import ROWS_SCRIPT, Workload, measure
from .process import Account, BenchError, raise_file_limit
from .results import Results, Row
from .targets import MAX_CLIENTS, POOL_SIZE, Direct, PgBouncer, Pgweir, Pooler, Site, Target

ROOT = Path(__file__).resolve().parents[2]
GROUPS = ["simple", "extended", "prepared", "connect", "connect-tls", "rows", "http", "storm", "neighbour", "memory", "memory-tls", "probe", "syscalls", "instructions"]
POOLERS = {"pgbouncer": PgBouncer, "pgweir": Pgweir}


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benches/compare", description="PostgreSQL direct, PgBouncer and pgweir, side by side in one run.")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default 3)")
    parser.add_argument("--seconds", type=float, default=5, help="length of one measurement (default 5)")
    parser.add_argument("--only", default=",".join(GROUPS), metavar="GROUP,..", help=f"of {','.join(GROUPS)}")
    parser.add_argument("--clients", default="1,8,64,256", metavar="N,..", help="client counts of simple, extended, prepared")
    parser.add_argument("--targets", default="direct,pgbouncer,pgweir", metavar="NAME,..", help="which of the three to run")
    parser.add_argument("--pgbouncer", type=Path, help="a PgBouncer binary (default: the one installed)")
    parser.add_argument("--pgweir", type=Path, default=ROOT / "target/release/pgweir", help="default target/release/pgweir")
    parser.add_argument("--idle", type=int, default=5000, help="idle clients of the memory measurements")
    parser.add_argument("--beside", type=int, default=10000, help="idle clients beside the probe")
    parser.add_argument("--scale", type=int, default=10, help="pgbench scale factor")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1) // 4), help="threads of pgbench")
    parser.add_argument("--certificate", choices=["rsa", "p256"], default="rsa", help="RSA 2048 or ECDSA P-256")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/performance", help="OUT.md, OUT/*.svg and OUT/results.json")
    parser.add_argument("--serve", action="store_true", help="only start everything, print the addresses, wait for Ctrl-C")
    options = parser.parse_args(argv)
    options.only, options.targets = options.only.split(","), options.targets.split(",")
    options.clients = [int(n) for n in options.clients.split(",")]
    for given, known in ((options.only, GROUPS), (options.targets, ["direct", *POOLERS])):
        for name in given:
            if name not in known:
                parser.error(f"unknown: {name} (known: {', '.join(known)})")
    return options


def workloads(options: argparse.Namespace) -> list[Workload]:
    """What pgbench runs, in the order of the table."""
    chosen = [Workload(g, n, protocol=g) for g in ("simple", "extended", "prepared") for n in options.clients]
    chosen += [Workload("connect", 8, reconnect=True), Workload("connect-tls", 8, reconnect=True, tls=True)]
    chosen += [Workload("rows", 8, script=ROWS_SCRIPT)]
    return [workload for workload in chosen if workload.group in options.only]


def binaries(options: argparse.Namespace) -> dict[str, Path]:
    """Where the chosen poolers are."""
    installed = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")
    found = {"pgbouncer": options.pgbouncer or (installed and Path(installed)), "pgweir": options.pgweir}
    hints = {"pgbouncer": "install it or name one with --pgbouncer", "pgweir": "cargo build --release, or --pgweir PATH"}
    for name in set(options.targets) & set(POOLERS):
        if found[name] is None or not found[name].is_file():
            raise BenchError(f"no {name} at {found[name]}: {hints[name]}")
    return {name: path for name, path in found.items() if name in options.targets}


class Bench:
    """One run: the targets, and what was measured."""

    def __init__(self, options: argparse.Namespace, site: Site, targets: list[Target], paths: dict[str, Path]):
        self.options, self.site, self.targets, self.paths = options, site, targets, paths
        self.rows: dict[str, Row] = {}
        self.with_api: http.WithApi | None = None

    def row(self, title: str, group: str) -> Row:
        """The row of that title, made when it is first asked for."""
        return self.rows.setdefault(title, Row(title, group))

    @staticmethod
    def turn(number: int, things: list) -> list:
        """The same things in an order that changes with the round, so that nobody always runs on the warm cache."""
        shift = number % len(things) if things else 0
        return things[shift:] + things[:shift]

    def round(self, number: int) -> None:
        """Measures everything once."""
        for workload in workloads(self.options):
            row = self.row(workload.title, workload.group)
            for target in self.turn(number, self.targets):
                reason = target.why_not(workload.protocol, workload.clients)
                if reason is not None:
                    row.add(target.name, None)
                    row.notes[target.name] = reason
                    continue
                taken = measure(target, workload, self.options.seconds, self.site.folder, self.options.jobs)
                row.add(target.name, taken.as_dict())
                cpu = "" if taken.cpu_us is None else f"{taken.cpu_us:7.1f} µs CPU"
                say(f"  {workload.title:24} {target.name:10} {taken.tps:9.0f} tps  p50 {taken.p50_ms:8.3f}  p99 {taken.p99_ms:8.3f} ms {cpu}")
        if "http" in self.options.only and "pgweir" in self.paths:
            self.http_round(number)
        if "storm" in self.options.only:
            self.storm_round(number)
        if "neighbour" in self.options.only:
            self.neighbour_round(number)
        for name in self.turn(number, list(self.paths)):
            self.idle_round(name)
        self.count_round(number)

    def http_round(self, number: int) -> None:
        """A query by key over HTTP and over the protocol, on a pgweir that speaks both."""
        self.with_api = self.with_api or http.WithApi(self.site, self.paths["pgweir"])
        ways = http.ways(self.with_api, self.options.seconds)
        for words in self.turn(number, list(ways)):
            taken = ways[words]()
            self.row(words, "http").add("pgweir", taken)
            say(f"  {words:38} {taken['tps']:9.0f} tps  p50 {taken['p50_ms']:8.3f}  p99 {taken['p99_ms']:8.3f} ms {taken['cpu_us']:7.1f} µs CPU")

    def storm_round(self, number: int) -> None:
        """Bursts of invocations at once, through each target and straight."""
        for kind in storm.KINDS:
            for target in self.turn(number, self.targets):
                taken = storm.storm(self.options.pgweir, target, kind, self.site.folder)
                self.row(kind, "storm").add(target.name, taken)
                say(f"  storm, {kind:33} {target.name:10} {taken['answered']} of {taken['invocations']} answered, p99 {taken['p99_ms']:.0f} ms")

    def neighbour_round(self, number: int) -> None:
        """A quiet client alone and beside a greedy one, on processes of their own."""
        for name in self.turn(number, list(self.paths)):
            target = beside.KINDS[name](self.site, self.paths[name])
            try:
                for words, took in beside.situations(target, 2 * self.options.seconds, beside.CONNECTIONS, self.site.folder):
                    p50, p99, longest = (beside.percentile(took, share) for share in (0.5, 0.99, 1))
                    self.row(words, "neighbour").add(name, {"queries": len(took), "p50_ms": p50, "p99_ms": p99, "max_ms": longest})
                    say(f"  neighbour, {words:25} {name:10} {len(took)} queries, p50 {p50:.1f} ms, p99 {p99:.1f} ms")
            finally:
                target.close()

    def close(self) -> None:
        """Ends what only some rounds need."""
        if self.with_api is not None:
            self.with_api.close()

    def idle_round(self, name: str) -> None:
        """The measurements around idle clients, on processes of their own."""

        def start():
            return POOLERS[name](self.site, self.paths[name])

        for group, tls in (("memory", False), ("memory-tls", True)):
            if group in self.options.only:
                cost = idle_cost(start, self.options.idle, tls)
                self.row(f"{self.options.idle:,} {'TLS' if tls else 'plaintext'}", group).add(name, cost.as_dict())
                say(f"  {group:24} {name:10} {cost.bytes_per_client:9.0f} bytes a client, {cost.login_us:.0f} µs CPU and {cost.login_ms:.2f} ms a login")
        if "probe" in self.options.only:
            alone, beside = probe_beside(start, self.options.beside, self.options.seconds, self.site.folder)
            self.row("probe, alone", "probe").add(name, alone.as_dict())
            self.row(f"probe, beside {self.options.beside:,} idle", "probe").add(name, beside.as_dict())
            say(f"  {'probe':24} {name:10} p50 {alone.p50_ms:.3f} -> {beside.p50_ms:.3f} ms, p99 {alone.p99_ms:.3f} -> {beside.p99_ms:.3f} ms")


    def count_round(self, number: int) -> None:
        """What is counted instead of timed."""
        for protocol, clients in counts.WORKLOADS:
            for target in self.turn(number, [t for t in self.targets if isinstance(t, Pooler)]):
                if target.why_not(protocol, clients) is not None:
                    continue

                def start(under: list[str], name: str = target.name) -> Pooler:
                    return POOLERS[name](self.site, self.paths[name], under)

                found: dict[str, float] = {}
                if "syscalls" in self.options.only:
                    found |= counts.syscalls(target, protocol, clients, self.site.folder)
                if "instructions" in self.options.only:
                    found |= counts.instructions(start, protocol, clients)
                if found:
                    self.row(f"{protocol} × {clients}", "counts").add(target.name, found)
                    listed = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
                    say(f"  {protocol:>10} × {clients:<11} {target.name:10} {listed}")


def say(text: str) -> None:
    """Progress, to the terminal."""
    print(text, file=sys.stderr, flush=True)


def write(results: Results, out: Path) -> None:
    """The page, its charts and the raw figures."""
    out.mkdir(parents=True, exist_ok=True)
    loads, idles, counted = report.loads(results), report.of(results, *report.IDLE_GROUPS), report.of(results, "counts")
    subtitle = f"{results.facts['machine']}, {results.facts['date']}"
    wanted = [
        ("cpu.svg", "CPU of the proxy per transaction, µs (less is better)", loads, ["pgbouncer", "pgweir"], "cpu_us", 1, 1),
        ("throughput.svg", "Transactions per second (more is better)", loads, ["direct", "pgbouncer", "pgweir"], "tps", 1, 0),
        ("storm.svg", "A storm of invocations: p99 latency, ms (less is better)", report.of(results, "storm"), ["direct", "pgbouncer", "pgweir"], "p99_ms", 1, 0),
        ("neighbour.svg", "A quiet client beside 200 greedy ones: p99, ms (less is better)", report.of(results, "neighbour"), ["pgbouncer", "pgweir"], "p99_ms", 1, 1),
        ("memory.svg", "Resident memory per idle client, KiB (less is better)", idles, ["pgbouncer", "pgweir"], "bytes_per_client", 1 / 1024, 2),
        ("instructions.svg", "User-space instructions per transaction (less is better)", counted, ["pgbouncer", "pgweir"], "instructions", 1, 0),
    ]
    charts = []
    for file, title, rows, targets, measured, scale, digits in wanted:
        drawn = chart.bar_chart(title, subtitle, rows, targets, measured, scale, digits)
        if drawn is not None:
            (out / file).write_text(drawn)
            charts.append((file, title))
    (out / "results.json").write_text(json.dumps(results.as_dict(), indent=1) + "\n")
    out.with_suffix(".md").write_text(report.page(results, charts, out.name))
    say(f"written: {out.with_suffix('.md')}")


def facts(options: argparse.Namespace, cluster: Cluster, targets: list[Target]) -> dict[str, str]:
    """What a reader must know to judge the figures."""
    known = report.machine() | {"PostgreSQL": cluster.version}
    known |= {t.name.replace("pgb", "PgB"): t.version for t in targets if not isinstance(t, Direct)}
    if "pgweir" in known:
        program = options.pgweir.resolve()
        known["pgweir"] += f", {program.relative_to(ROOT) if program.is_relative_to(ROOT) else program.name}"
    known["date"] = datetime.date.today().isoformat()
    known["rounds"] = str(options.rounds)
    known["a measurement"] = f"{options.seconds:g} s after a warm-up"
    known["pool"] = f"{POOL_SIZE} server connections, transaction mode, SCRAM-SHA-256 on both legs, TLS towards the client only where named"
    known["certificate"] = {"rsa": "RSA 2048", "p256": "ECDSA P-256"}[options.certificate]
    known["load before the start"] = f"{LOAD_AT_START:.2f} (1 min average)"
    return known


LOAD_AT_START = os.getloadavg()[0]


def serve(targets: list[Target]) -> None:
    """Prints where everything is and waits: for perf, strace and trying things by hand."""
    for target in targets:
        pid = f"pid {target.child.pid}" if target.child else ""
        say(f"{target.name:10} postgres://{USER}:{PASSWORD}@127.0.0.1:{target.port}/{DATABASE} {pid}")
    signal.pause()


def opened(cleanup: ExitStack, certificate_kind: str, scale: int) -> tuple[Site, Cluster]:
    """A folder with a running cluster in it; both go with `cleanup`."""
    account = Account.unprivileged()
    folder = cleanup.enter_context(Workspace(account))
    certificate = make_certificate(folder, account, certificate_kind)
    cluster = Cluster(folder, account, certificate, scale)
    cleanup.callback(cluster.close)
    return Site(folder, account, cluster.port, cluster.verifier, certificate), cluster


def run(options: argparse.Namespace) -> None:
    """Starts everything, measures, writes, and takes everything down again."""
    paths = binaries(options)
    if "storm" in options.only and not options.pgweir.is_file():
        raise BenchError(f"no pgweir at {options.pgweir}, which plays the storm: cargo build --release, --pgweir PATH, or --only without storm")
    raise_file_limit(3 * MAX_CLIENTS)
    with ExitStack() as cleanup:
        site, cluster = opened(cleanup, options.certificate, options.scale)
        targets: list[Target] = [Direct(cluster.port)] if "direct" in options.targets else []
        for name, path in paths.items():
            targets.append(POOLERS[name](site, path))
            cleanup.callback(targets[-1].close)
        if options.serve:
            return serve(targets)
        if "neighbour" in options.only:
            beside.admit_greedy(cluster, site.folder)
        bench = Bench(options, site, targets, paths)
        cleanup.callback(bench.close)
        known = facts(options, cluster, targets)
        for number in range(options.rounds):
            say(f"round {number + 1} of {options.rounds}")
            bench.round(number)
        write(Results(list(bench.rows.values()), known), options.out)


def main(argv: list[str] | None = None) -> int:
    """The exit status: 0 measured, 1 something was wrong, 130 interrupted."""
    options = arguments(argv)
    return guarded("compare", lambda: run(options))


def guarded(name: str, work) -> int:
    """Does the work of a program of that name, ended by signals as by Ctrl-C; its exit status."""

    def interrupted(*_) -> None:
        raise KeyboardInterrupt

    # SIGINT too: a shell starts background jobs with it ignored, and then nothing would be cleaned up.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupted)
    try:
        work()
    except BenchError as error:
        say(f"{name}: {error}")
        return 1
    except KeyboardInterrupt:
        say(f"{name}: interrupted; everything it started has been stopped")
        return 130
    return 0
