"""The three things compared: PostgreSQL itself, PgBouncer, pgweir, with equal settings for both poolers."""

import os
import re
import shutil
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

from .cluster import DATABASE, PASSWORD, USER, run
from .process import Account, BenchError, Child, free_port
from .wire import Client, Refused

POOL_SIZE = 20
MAX_CLIENTS = 20_000


@dataclass(frozen=True)
class Site:
    """What every target needs to know about the run."""

    folder: Path
    account: Account
    server_port: int
    verifier: str  # the bench user's SCRAM-SHA-256 verifier, as PostgreSQL stores it
    certificate: tuple[Path, Path]


class Target:
    """Something that pgbench can connect to."""

    name = "direct"

    def __init__(self, port: int):
        self.port = port
        self.child: Child | None = None

    def why_not(self, protocol: str, clients: int) -> str | None:
        """Why this target has no figure for a workload, or None."""
        del protocol, clients
        return None

    def wait_ready(self) -> None:
        """Returns once a login and a query succeed; raises after 20 s or when the process has ended."""
        deadline = time.monotonic() + 20
        while True:
            try:
                client = Client(self.port).login(USER, PASSWORD, DATABASE)
                client.query("SELECT 1")
                client.close()
                return
            except (OSError, Refused) as error:
                if self.child is not None:
                    self.child.check_alive()
                if time.monotonic() > deadline:
                    log = self.child.tail() if self.child else ""
                    raise BenchError(f"{self.name} did not answer a query: {error}\n{log}") from error
                time.sleep(0.05)

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self.child is not None:
            self.child.stop()
            self.child = None


class Direct(Target):
    """No proxy: PostgreSQL itself."""

    def why_not(self, protocol: str, clients: int) -> str | None:
        del protocol
        return "more clients than max_connections" if clients > 350 else None


class Pooler(Target):
    """A proxy process of its own, started from a copy of its binary that the unprivileged account may read.

    `under` is a tool's command line to run it under (valgrind).
    """

    def __init__(self, site: Site, binary: Path, under: list[str] | None = None):
        super().__init__(free_port())
        self.site = site
        self.folder = site.folder / f"{self.name}-{self.port}"
        self.folder.mkdir()
        self._binary = self.folder / self.name
        shutil.copy(binary, self._binary)
        self._binary.chmod(0o755)
        config = self.folder / "config"
        self.write_config(config)
        for path in (self.folder, *self.folder.iterdir()):
            site.account.own(path)
        argv = (under or []) + self.argv(str(self._binary), config)
        self.child = Child(self.name, argv, site.account, self.folder / "log", env={"PATH": os.environ.get("PATH", "")})
        try:
            self.wait_ready()
        except BaseException:
            self.close()
            raise

    def write_config(self, path: Path) -> None:
        """Writes the configuration file (and what belongs beside it)."""
        raise NotImplementedError

    def argv(self, binary: str, config: Path) -> list[str]:
        """The command line that serves that configuration."""
        raise NotImplementedError


class PgBouncer(Pooler):
    """PgBouncer in transaction mode."""

    name = "pgbouncer"

    def __init__(self, site: Site, binary: Path, under: list[str] | None = None):
        self.version = version_of(binary)
        super().__init__(site, binary, under)

    def why_not(self, protocol: str, clients: int) -> str | None:
        del clients
        if protocol == "prepared" and not self._knows_prepared():
            return f"PgBouncer {self.version} has no prepared statements in transaction mode"
        return None

    def _knows_prepared(self) -> bool:
        return tuple(int(n) for n in re.findall(r"\d+", self.version)[:2]) >= (1, 21)

    def write_config(self, path: Path) -> None:
        userlist = path.parent / "userlist"
        # With the password itself PgBouncer would derive the keys anew (4,096 rounds) at every login, for 3 ms of CPU.
        userlist.write_text(f'"{USER}" "{self.site.verifier}"\n')
        cert, key = self.site.certificate
        lines = [
            "[databases]",
            f"{DATABASE} = host=127.0.0.1 port={self.site.server_port}",
            "[pgbouncer]",
            "listen_addr = 127.0.0.1",
            f"listen_port = {self.port}",
            "unix_socket_dir =",
            "pool_mode = transaction",
            "auth_type = scram-sha-256",
            f"auth_file = {userlist}",
            f"default_pool_size = {POOL_SIZE}",
            f"max_client_conn = {MAX_CLIENTS}",
            "listen_backlog = 4096",
            "query_wait_timeout = 300",
            "client_tls_sslmode = allow",
            f"client_tls_cert_file = {cert}",
            f"client_tls_key_file = {key}",
            "server_tls_sslmode = disable",
            "log_connections = 0",
            "log_disconnections = 0",
        ]
        if self._knows_prepared():
            lines.append("max_prepared_statements = 200")  # the default since 1.24
        path.write_text("\n".join(lines) + "\n")

    def argv(self, binary: str, config: Path) -> list[str]:
        return [binary, "-q", str(config)]


class Pgweir(Pooler):
    """pgweir in transaction mode, with its defaults."""

    name = "pgweir"

    def __init__(self, site: Site, binary: Path, under: list[str] | None = None):
        self.version = version_of(binary)
        super().__init__(site, binary, under)

    def write_config(self, path: Path) -> None:
        cert, key = self.site.certificate
        http = free_port()
        path.write_text(
            f"""
[listen]
postgres = ["127.0.0.1:{self.port}"]
http = "127.0.0.1:{http}"

[tls.client]
mode = "prefer"
cert = "{cert}"
key = "{key}"

[tls.server]
mode = "disable"

[upstreams.main]
host = "127.0.0.1"
port = {self.site.server_port}
max_connections = {POOL_SIZE}

[databases."*"]
upstream = "main"

[users.{USER}]
password = "{PASSWORD}"

[defaults]
max_clients = {MAX_CLIENTS}
max_queue = {MAX_CLIENTS}
queue_timeout = "300s"
"""
        )

    def argv(self, binary: str, config: Path) -> list[str]:
        return [binary, "serve", "--config", str(config)]


def version_of(binary: Path) -> str:
    """The number in the first line of `--version`."""
    first = run([str(binary), "--version"]).splitlines()[0]
    return first.split()[-1]


def idle_clients(target: Target, count: int, tls: ssl.SSLContext | None) -> list[Client]:
    """Logs in so many clients, one after the other, and leaves them idle."""
    clients: list[Client] = []
    try:
        for _ in range(count):
            clients.append(Client(target.port, tls).login(USER, PASSWORD, DATABASE))
    except BaseException:
        close_all(clients)
        raise
    return clients


def close_all(clients: list[Client]) -> None:
    """Hangs up on all of them."""
    for client in clients:
        client.close()
