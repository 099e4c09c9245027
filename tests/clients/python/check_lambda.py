"""The examples of a Lambda function in Python, as deploy/lambda has them."""

import asyncio
import http.server
import os
import pathlib
import sys
import threading
import time
import urllib.parse

import psycopg
from report import Report, Skip, equal, settings

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "deploy/lambda/python"))
from handler import handler  # noqa: E402

URL, AUTHORITY, _ = settings()


class Lasting:
    def __init__(self, millis):
        self.end = time.monotonic() + millis / 1000

    def get_remaining_time_in_millis(self):
        return int(1000 * (self.end - time.monotonic()))


class TokenService(http.server.BaseHTTPRequestHandler):
    """Plays AWS's: a token for whoever asks as its API says."""

    asked = []

    def do_POST(self):
        form = self.rfile.read(int(self.headers["content-length"])).decode()
        self.asked.append(dict(urllib.parse.parse_qsl(form)))
        body = (
            '<GetWebIdentityTokenResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetWebIdentityTokenResult>'
            f"<WebIdentityToken>{os.environ['WEB_IDENTITY_TOKEN']}</WebIdentityToken><Expiration>2099-01-01T00:00:00Z</Expiration>"
            "</GetWebIdentityTokenResult><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></GetWebIdentityTokenResponse>"
        ).encode()
        self.send_response(200)
        self.send_header("content-type", "text/xml")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


async def logs_in_with_its_role():
    if "WEB_IDENTITY_TOKEN" not in os.environ:
        raise Skip("there is no proxy with TLS in the way")
    service = http.server.ThreadingHTTPServer(("127.0.0.1", 0), TokenService)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    os.environ |= {"AWS_ENDPOINT_URL_STS": f"http://127.0.0.1:{service.server_port}", "AWS_REGION": "eu-west-1"}
    os.environ |= {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "secret"}
    from web_identity import web_identity

    there = psycopg.conninfo.conninfo_to_dict(URL)
    secured = there | {"user": "function", "sslmode": "verify-full", "sslrootcert": AUTHORITY}
    with psycopg.connect(**secured | {"password": web_identity()}) as db:
        equal(db.execute("SELECT current_user::text").fetchone(), ("app",))
    service.shutdown()
    (asked,) = TokenService.asked
    wanted = {"Action": "GetWebIdentityToken", "Audience.member.1": "pgweir", "SigningAlgorithm": "ES384", "DurationSeconds": "60"}
    equal({key: asked.get(key) for key in wanted}, wanted)
    try:
        psycopg.connect(**secured).close()
        raise AssertionError("a password is no token")
    except psycopg.OperationalError as error:
        equal("password authentication failed" in str(error), True)


async def answers():
    for number in (41, 1):
        equal(handler({"number": number}, Lasting(30_000)), {"answer": number + 1})


async def survives_a_lost_connection():
    with psycopg.connect(URL) as other:
        other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = current_user AND pid <> pg_backend_pid()")
    equal(handler({"number": 2}, Lasting(30_000)), {"answer": 3})


async def ends_with_its_time():
    with psycopg.connect(URL, autocommit=True) as other:
        other.execute("SET pgweir.deadline_ms = 60000")
        try:
            other.execute("SHOW pgweir.deadline_ms")
            raise Skip("no proxy in the way")
        except psycopg.errors.UndefinedObject:
            pass
    began = time.monotonic()
    try:
        handler({"number": 1, "sleep": 30}, Lasting(1_000))
        raise AssertionError("it was not cancelled")
    except psycopg.errors.QueryCanceled:
        pass
    equal(time.monotonic() - began < 10, True)
    equal(handler({"number": 3}, Lasting(30_000)), {"answer": 4})


async def main():
    report = Report()
    for check in (logs_in_with_its_role, answers, survives_a_lost_connection, ends_with_its_time):
        await report.check(check.__name__, check)
    report.end()


asyncio.run(main())
