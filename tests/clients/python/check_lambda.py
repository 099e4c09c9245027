"""The example of a Lambda function in Python, as deploy/lambda has it."""

import asyncio
import pathlib
import sys
import time

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
    for check in (answers, survives_a_lost_connection, ends_with_its_time):
        await report.check(check.__name__, check)
    report.end()


asyncio.run(main())
