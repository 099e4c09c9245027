"""A private PostgreSQL for the matrix, gone when the `with` ends."""

import contextlib
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time

CONF = """
listen_addresses = 'localhost'
port = {port}
unix_socket_directories = '{folder}'
max_connections = 300
fsync = off
autovacuum = off
timezone = 'UTC'
ssl = on
ssl_cert_file = '{folder}/server.crt'
ssl_key_file = '{folder}/server.key'
"""
HBA = "local all postgres trust\nhost all all localhost scram-sha-256\n"


def binaries():
    """The folder with PostgreSQL's programs: PG_BIN, else on PATH, else the usual folders (15 before the newest)."""
    if "PG_BIN" in os.environ:
        return pathlib.Path(os.environ["PG_BIN"])
    usual = sorted(
        pathlib.Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: (path.parent.name != "15", -int(path.parent.name))
    )
    for folder in [*map(pathlib.Path, os.environ.get("PATH", "").split(":")), *usual]:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return (folder / "postgres").resolve().parent
    raise SystemExit("PostgreSQL's programs were not found: set PG_BIN to their folder")


def unprivileged():
    """Whom the server runs as: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise SystemExit("neither a user postgres nor nobody: run as an ordinary user")


def certificates(folder):
    """An authority `ca.crt` and a certificate for localhost and 127.0.0.1 that it signed."""

    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"]
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=pgweir client matrix")
    openssl("req", *curve[:-2], "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30",
            "-extfile", "names", "-out", "server.crt")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextlib.contextmanager
def cluster():
    """A running server: its folder (with `ca.crt`, `server.crt`, `server.key`) and its port. User app, password secret."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="pgweir-clients-"))
    server = None
    try:
        folder.chmod(0o755)
        certificates(folder)
        who = unprivileged()
        if who:
            for path in (folder, folder / "server.key"):
                os.chown(path, who["user"], who["group"])
        data, port, programs = folder / "data", free_port(), binaries()
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
            check=True, stdout=subprocess.DEVNULL, cwd="/", **who,
        )
        with open(data / "postgresql.conf", "a") as conf:
            conf.write(CONF.format(port=port, folder=folder))
        (data / "pg_hba.conf").write_text(HBA)
        log = open(folder / "log", "wb")
        # A session of its own: Ctrl-C must end the matrix first, and the matrix ends the server.
        server = subprocess.Popen([programs / "postgres", "-D", data], cwd="/", stdout=log, stderr=log, start_new_session=True, **who)
        ready(programs, folder, port, server)
        for statement in ("CREATE ROLE app LOGIN PASSWORD 'secret'", "CREATE DATABASE app OWNER app"):
            subprocess.run(
                [programs / "psql", "-X", "-q", "-h", folder, "-p", str(port), "-U", "postgres", "-d", "postgres", "-c", statement],
                check=True,
            )
        yield folder, port
    finally:
        if server and server.poll() is None:
            server.send_signal(signal.SIGQUIT)
            server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def ready(programs, folder, port, server):
    deadline = time.monotonic() + 30
    while subprocess.run([programs / "pg_isready", "-q", "-h", folder, "-p", str(port)]).returncode != 0:
        if server.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("PostgreSQL did not start:\n" + (folder / "log").read_text())
        time.sleep(0.02)
