"""Thousands of invocations at once, each with a connection of its own: every one is answered, or refused in a way that its driver understands."""

import asyncio
import collections
import time

from report import Report, equal, settings

URL, _, INVOCATIONS = settings()
# The same database for a tenant that does not let many wait.
HASTY_URL = URL.rpartition("/")[0] + "/hasty"
TOO_MANY = "53300"


def surge(invocation, error_class, sqlstate):
    """Runs the checks with a driver's `invocation(url, number, seconds)`, which answers the number, its errors, and what `sqlstate(error)` makes of them."""
    Surge(invocation, error_class, sqlstate).run()


class Surge:
    def __init__(self, invocation, error_class, sqlstate):
        self.invocation, self.error_class, self.sqlstate = invocation, error_class, sqlstate

    async def outcome(self, url, number, seconds):
        try:
            equal(await self.invocation(url, number, seconds), number)
        except self.error_class as error:
            return self.sqlstate(error) or f"lost: {type(error).__name__}: {error}"
        except OSError as error:
            return f"lost: {type(error).__name__}: {error}"
        return "answered"

    async def all_at_once(self, url, seconds):
        return collections.Counter(await asyncio.gather(*(self.outcome(url, number, seconds) for number in range(INVOCATIONS))))

    async def who_can_wait_is_answered(self):
        equal(dict(await self.all_at_once(URL, 0.002)), {"answered": INVOCATIONS})

    async def who_cannot_is_refused(self):
        outcomes = await self.all_at_once(HASTY_URL, 0.05)
        print(f"     {dict(outcomes)}")
        equal(sorted(outcomes), [TOO_MANY, "answered"])

    async def and_a_second_later_it_is_over(self):
        begun = time.monotonic()
        equal(await self.outcome(HASTY_URL, 1, 0), "answered")
        if (took := time.monotonic() - begun) > 1:
            raise AssertionError(f"{took:.1f} s")

    async def checks(self):
        report = Report()
        for work in (self.who_can_wait_is_answered, self.who_cannot_is_refused, self.and_a_second_later_it_is_over):
            await report.check(work.__name__, work)
        report.end()

    def run(self):
        asyncio.run(self.checks())
