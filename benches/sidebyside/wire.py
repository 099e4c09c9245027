"""A small PostgreSQL client: TLS, SCRAM-SHA-256 and the simple protocol over a blocking socket.

It exists to hold thousands of idle, authenticated connections from one process, which libpq-based tools do not.
The slow half of SCRAM (4,096 rounds of PBKDF2) is done once per salt and kept, so that a login costs us little and
what is measured is the proxy. It is a load generator: it trusts its peer's nonce and does not check its signature.
"""

import base64
import hashlib
import hmac
import os
import socket
import ssl
import struct
from functools import lru_cache


class Refused(Exception):
    """The server answered with an ErrorResponse, or hung up."""


@lru_cache(maxsize=64)
def client_key(password: str, salt: bytes, iterations: int) -> tuple[bytes, bytes]:
    """ClientKey and StoredKey (RFC 5802, section 3)."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    key = hmac.digest(salted, b"Client Key", "sha256")
    return key, hashlib.sha256(key).digest()


def tls_context() -> ssl.SSLContext:
    """Encryption without verification: the certificate is the run's own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Client:
    """One connection. Not for concurrent use."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None, patience: float = 60):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=patience)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if tls is not None:
                self._start_tls(tls)
        except BaseException:
            self._socket.close()
            raise

    def _start_tls(self, context: ssl.SSLContext) -> None:
        self._socket.sendall(struct.pack("!ii", 8, 80877103))
        if self._socket.recv(1) != b"S":
            raise Refused("no TLS")
        self._socket = context.wrap_socket(self._socket)

    def login(self, user: str, password: str, database: str, **more: str) -> "Client":
        """Logs in, with more startup parameters if any, and reads up to the first ReadyForQuery."""
        named = {"user": user, "database": database, **more}
        params = b"".join(p.encode() + b"\0" for pair in named.items() for p in pair) + b"\0"
        self._socket.sendall(struct.pack("!ii", 8 + len(params), 196608) + params)
        while True:
            kind, body = self._message()
            if kind == b"Z":
                return self
            if kind == b"R":
                self._authenticate(body, password)

    def _authenticate(self, body: bytes, password: str) -> None:
        code = struct.unpack_from("!i", body)[0]
        if code == 10:
            self._nonce = base64.b64encode(os.urandom(18)).decode()
            first = f"n,,n=,r={self._nonce}".encode()
            self._send(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", len(first)) + first)
        elif code == 11:
            self._send(b"p", self._scram_final(body[4:].decode(), password))
        elif code not in (0, 12):
            raise Refused(f"authentication method {code}")

    def _scram_final(self, server_first: str, password: str) -> bytes:
        fields = dict(part.split("=", 1) for part in server_first.split(","))
        key, stored = client_key(password, base64.b64decode(fields["s"]), int(fields["i"]))
        bare = f"c=biws,r={fields['r']}"
        signed = f"n=,r={self._nonce},{server_first},{bare}".encode()
        proof = bytes(a ^ b for a, b in zip(key, hmac.digest(stored, signed, "sha256")))
        return f"{bare},p={base64.b64encode(proof).decode()}".encode()

    def query(self, text: str) -> None:
        """A simple query; its rows are read and dropped."""
        self._send(b"Q", text.encode() + b"\0")
        while self._message()[0] != b"Z":
            pass

    @property
    def socket(self) -> socket.socket:
        """The connection, for a selector."""
        return self._socket

    def notification(self) -> str:
        """The payload of the notification that comes next."""
        kind, body = self._message()
        if kind != b"A":
            raise Refused(f"a notification was expected, not {kind!r}")
        return body[4:].split(b"\0")[1].decode()

    def close(self) -> None:
        """Hangs up."""
        self._socket.close()

    def _send(self, kind: bytes, body: bytes) -> None:
        self._socket.sendall(kind + struct.pack("!i", 4 + len(body)) + body)

    def _message(self) -> tuple[bytes, bytes]:
        head = self._exactly(5)
        body = self._exactly(struct.unpack_from("!i", head, 1)[0] - 4)
        if head[:1] == b"E":
            raise Refused(body.replace(b"\0", b" ").decode(errors="replace"))
        return head[:1], body

    def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            more = self._socket.recv(length - len(data))
            if not more:
                raise Refused("the connection was closed")
            data += more
        return data
