"""Runs the checks of one client and prints a line for each; the last line counts them."""

import asyncio
import os
import sys
import traceback

DEADLINE_SECONDS = 90


# What has one client wait, in a session that it keeps, for what another does.
NEEDS_TWO = ("cancel", "listens")


class Skip(Exception):
    """The client has no such thing."""


class Report:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    async def check(self, name, work):
        try:
            if name in NEEDS_TWO and os.environ.get("ONE_CONNECTION"):
                raise Skip("it needs two server connections")
            async with asyncio.timeout(DEADLINE_SECONDS):
                await work()
        except Skip as reason:
            self.skipped += 1
            print(f"skip {name}: {reason}", flush=True)
        except Exception as error:
            self.failed += 1
            words = " ".join(str(error).split()) or type(error).__name__
            print(f"FAIL {name}: {type(error).__name__}: {words}", flush=True)
            if os.environ.get("VERBOSE"):
                traceback.print_exc()
        else:
            self.passed += 1
            print(f"ok   {name}", flush=True)

    def end(self):
        print(f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped", flush=True)
        sys.exit(1 if self.failed else 0)


def settings():
    """The database's URL, the file with the authority's certificate (None: no TLS), how many clients at once."""
    arguments = sys.argv[1:]
    concurrent = int(arguments[arguments.index("--concurrent") + 1]) if "--concurrent" in arguments else 200
    return os.environ["DATABASE_URL"], os.environ.get("PGSSLROOTCERT"), concurrent


def sleepers(name):
    """A statement that counts the running statements which say in a comment that NAME sleeps."""
    return f"SELECT count(*)::int FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%* {name} sleeps *%' AND pid <> pg_backend_pid()"


def equal(found, expected):
    if found != expected:
        raise AssertionError(f"expected {expected!r:.200}, found {found!r:.200}")
