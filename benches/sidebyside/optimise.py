"""Profile-guided optimisation: an instrumented build is put to work, and the build that counts is laid out by what it wrote down.

The work is that of a proxy: point queries by each of the protocol's ways, transactions, results of many rows, settings, and logins, with TLS and without.
"""

import argparse
import os
import re
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

from .cli import ROOT, guarded, opened, say
from .load import ROWS_SCRIPT, Workload, measure
from .process import BenchError, raise_file_limit
from .targets import MAX_CLIENTS, Pgweir, Site

# What a profile was written by must be what it is used for, but for this flag: nothing else may differ between the two builds.
FOLDER = ROOT / "target/profiled"

TRANSACTION = """\\set aid random(1, 1000000)
\\set bid random(1, 10)
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, :bid, :aid, :delta, CURRENT_TIMESTAMP);
COMMIT;
"""
SETTINGS = """\\set mb random(1, 3)
\\set aid random(1, 1000000)
SET work_mem = ':mb MB';
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
SELECT current_setting('work_mem');
"""


def work() -> list[Workload]:
    """What the instrumented program is put to."""
    points = [Workload(protocol, clients, protocol=protocol) for protocol in ("simple", "extended", "prepared") for clients in (1, 8, 64, 256)]
    points += [Workload("simple", 8, tls=True), Workload("prepared", 64, protocol="prepared", tls=True)]
    # pgbench waits for each Parse of its own with all its clients, so those who keep a server connection must not be more than there are.
    transactions = [Workload("transaction", 64, script=TRANSACTION), Workload("prepared transaction", 16, protocol="prepared", script=TRANSACTION)]
    others = [Workload("rows", 8, script=ROWS_SCRIPT), Workload("settings", 8, script=SETTINGS)]
    logins = [Workload("connect", 8, reconnect=True), Workload("connect-tls", 8, reconnect=True, tls=True)]
    return points + transactions + others + logins


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benches/optimise", description="A build of pgweir that is laid out by a profile of itself at work.")
    parser.add_argument("--profile", default="release", help="cargo's profile (default release)")
    parser.add_argument("--seconds", type=float, default=2, help="how long each of the loads is, while the profile is made (default 2)")
    parser.add_argument("--out", type=Path, default=ROOT / "target/optimised/pgweir", help="where the program goes (default target/optimised/pgweir)")
    return parser.parse_args(argv)


def said_by(*argv: str) -> str:
    """What a program says."""
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout


def compiler() -> tuple[str, str]:
    """The host's triple, and the major version of the compiler's LLVM."""
    about = said_by("rustc", "-vV")
    host, llvm = re.search(r"^host: (\S+)", about, re.MULTILINE), re.search(r"^LLVM version: (\d+)", about, re.MULTILINE)
    if host is None or llvm is None:
        raise BenchError(f"rustc does not tell what it is:\n{about}")
    return host[1], llvm[1]


def profdata(host: str, llvm: str) -> str:
    """The program that reads profiles: rustup's, or that of the same LLVM. An older one does not understand them."""
    of_rustup = Path(said_by("rustc", "--print", "sysroot").strip()) / "lib/rustlib" / host / "bin/llvm-profdata"
    for found in (os.environ.get("LLVM_PROFDATA"), str(of_rustup), f"llvm-profdata-{llvm}"):
        if found and shutil.which(found):
            return found
    raise BenchError(f"no llvm-profdata of LLVM {llvm}: `rustup component add llvm-tools`, or Debian's llvm-{llvm} (tests/setup optimise)")


def build(profile: str, host: str, flag: str) -> Path:
    """One build; where the program is."""
    # With a target named, the flags are not those of the build scripts and macros.
    argv = ["cargo", "build", "--locked", "--profile", profile, "--bin", "pgweir", "--target", host, "--target-dir", str(FOLDER)]
    flags = f"{os.environ.get('RUSTFLAGS', '')} {flag}".strip()
    if subprocess.run(argv, stdin=subprocess.DEVNULL, env=os.environ | {"RUSTFLAGS": flags}, check=False).returncode != 0:
        raise BenchError(f"the build with {flag} failed")
    return FOLDER / host / ("debug" if profile == "dev" else profile) / "pgweir"


def train(site: Site, binary: Path, seconds: float) -> list[Path]:
    """Puts the instrumented program to work; what it wrote down when it ended."""
    written = site.folder / "profile"
    written.mkdir()
    site.account.own(written)
    pgweir = Pgweir(site, binary, ["env", f"LLVM_PROFILE_FILE={written}/%p.profraw"])
    try:
        for load in work():
            taken = measure(pgweir, load, seconds, site.folder, 1)
            say(f"  {load.title}{' over TLS' if load.tls else ''}: {taken.tps:.0f} a second")
        pgweir.child.interrupt()
    finally:
        pgweir.close()
    return sorted(written.glob("*.profraw"))


def run(options: argparse.Namespace) -> None:
    """Builds, trains, builds."""
    host, llvm = compiler()
    reader = profdata(host, llvm)
    raise_file_limit(3 * MAX_CLIENTS)
    say("building with instruments")
    instrumented = build(options.profile, host, f"-Cprofile-generate={FOLDER}/raw")
    merged = FOLDER / "pgweir.profdata"
    say("at work")
    with ExitStack() as cleanup:
        site, _ = opened(cleanup, "p256", 10)
        written = train(site, instrumented, options.seconds)
        if not written:
            raise BenchError("the instrumented program has written nothing down")
        subprocess.run([reader, "merge", "-sparse", "-o", str(merged), *map(str, written)], check=True)
    met = re.search(r"^Total functions: (\d+)", said_by(reader, "show", str(merged)), re.MULTILINE)
    say(f"building for what was met in {met[1] if met else 'an unknown number of'} functions")
    optimised = build(options.profile, host, f"-Cprofile-use={merged}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(optimised, options.out)
    say(f"{options.out}: {said_by(str(options.out), '--version').splitlines()[0]}")


def main(argv: list[str] | None = None) -> int:
    """The exit status: 0 built, 1 something was wrong, 130 interrupted."""
    options = arguments(argv)
    return guarded("optimise", lambda: run(options))
