"""A private PostgreSQL cluster in a temporary folder, and the certificate that all three targets present."""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from signal import SIGINT

from .process import Account, BenchError, Child, free_port

USER = "bench"
PASSWORD = "bench-secret"
DATABASE = "bench"

SETTINGS = {
    "listen_addresses": "'127.0.0.1'",
    "max_connections": "400",  # 256 clients direct, and two pools of 20
    "shared_buffers": "'512MB'",  # scale 10 fits, so PostgreSQL is as cheap as it gets
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "password_encryption": "'scram-sha-256'",
    "ssl": "on",
    "log_min_messages": "fatal",
    "logging_collector": "off",
}


def find_program(name: str) -> str:
    """A PostgreSQL program: PG_BIN, then PATH, then the usual folders, newest version first."""
    folders = [os.environ.get("PG_BIN", ""), *os.environ.get("PATH", "").split(":")]
    for pattern in ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin"):
        folders += sorted((str(p) for p in Path("/").glob(pattern[1:])), reverse=True)
    found = shutil.which(name, path=":".join(filter(None, folders)))
    if found is None:
        raise BenchError(f"{name} not found: install PostgreSQL (Debian: postgresql, postgresql-contrib) or set PG_BIN")
    return found


def make_certificate(folder: Path, account: Account, kind: str) -> tuple[Path, Path]:
    """A self-signed certificate and key for 127.0.0.1, by the openssl program."""
    cert, key = folder / "server.crt", folder / "server.key"
    algorithm = {"rsa": ["rsa:2048"], "p256": ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]}[kind]
    run(
        ["openssl", "req", "-x509", "-nodes", "-days", "30", "-subj", "/CN=127.0.0.1", "-newkey", *algorithm]
        + ["-keyout", str(key), "-out", str(cert)]
    )
    for path in (cert, key):
        account.own(path)
    key.chmod(0o600)
    return cert, key


def run(argv: list[str], **more) -> str:
    """Runs a program to its end; its output, or an error with what it said."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, **more)
    if done.returncode != 0:
        raise BenchError(f"{' '.join(argv[:4])} .. failed:\n{done.stdout[-500:]}{done.stderr[-2000:]}")
    return done.stdout


class Cluster:
    """A running PostgreSQL with pgbench's tables. `close` stops it; the folder belongs to the caller."""

    def __init__(self, folder: Path, account: Account, certificate: tuple[Path, Path], scale: int):
        self.port = free_port()
        self._account = account
        self._data = folder / "data"
        self._child: Child | None = None
        self._initdb(folder)
        self._configure(folder, certificate)
        self._start(folder)
        try:
            self._fill(folder, scale)
        except BaseException:
            self.close()
            raise

    def _initdb(self, folder: Path) -> None:
        secret = folder / "superuser"
        secret.write_text(PASSWORD)
        self._account.own(secret)
        run(
            [find_program("initdb"), "-D", str(self._data), "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"]
            + ["--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={secret}"],
            **self._account.popen_args(),
        )

    def _configure(self, folder: Path, certificate: tuple[Path, Path]) -> None:
        lines = [f"{key} = {value}" for key, value in SETTINGS.items()]
        lines += [f"port = {self.port}", f"unix_socket_directories = '{folder}'"]
        lines += [f"ssl_cert_file = '{certificate[0]}'", f"ssl_key_file = '{certificate[1]}'"]
        with open(self._data / "postgresql.conf", "a") as conf:
            conf.write("\n".join(lines) + "\n")

    def _start(self, folder: Path) -> None:
        argv = [find_program("postgres"), "-D", str(self._data)]
        self._child = Child("postgres", argv, self._account, folder / "postgres.log")
        ready = [find_program("pg_isready"), "-q", "-h", str(folder), "-p", str(self.port)]
        deadline = time.monotonic() + 30
        while subprocess.run(ready).returncode != 0:
            self._child.check_alive()
            if time.monotonic() > deadline:
                raise BenchError(f"postgres did not get ready:\n{self._child.tail()}")
            time.sleep(0.05)

    def _fill(self, folder: Path, scale: int) -> None:
        host = ["-h", str(folder), "-p", str(self.port)]
        psql = [find_program("psql"), "-X", "-q", *host, "-U", "postgres"]
        run([*psql, "-c", f"CREATE ROLE {USER} LOGIN SUPERUSER PASSWORD '{PASSWORD}'"])
        run([*psql, "-c", f"CREATE DATABASE {DATABASE} OWNER {USER}"])
        run([find_program("pgbench"), "-i", "-q", "-s", str(scale), *host, "-U", USER, DATABASE])
        self.version = run([*psql, "-At", "-c", "SHOW server_version"]).strip()
        self.verifier = run([*psql, "-At", "-c", f"SELECT rolpassword FROM pg_authid WHERE rolname = '{USER}'"]).strip()

    def close(self) -> None:
        """Stops the server at once, whoever is connected."""
        if self._child is not None:
            self._child.stop(SIGINT, patience=20)
            self._child = None


class Workspace:
    """The temporary folder of one run: made on entry, removed on exit, readable by the unprivileged account."""

    def __init__(self, account: Account):
        self._account = account

    def __enter__(self) -> Path:
        self.path = Path(tempfile.mkdtemp(prefix="pgweir-compare-"))
        self.path.chmod(0o755)
        self._account.own(self.path)
        return self.path

    def __exit__(self, *_) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
