"""The matrix's script through asyncpg."""

import asyncio
import contextlib
import datetime
import decimal
import json
import uuid

import asyncpg

from report import Report, equal, settings
from urls import asyncpg_tls

URL, CA, CONCURRENT = settings()
TABLE = "check_asyncpg"
SESSIONS = 12


class connect:
    """A connection for the length of an `async with`."""

    async def __aenter__(self):
        self.connection = await asyncpg.connect(URL, ssl=asyncpg_tls(CA), timeout=60)
        return self.connection

    async def __aexit__(self, *_):
        await self.connection.close(timeout=10)


async def fails(code, work):
    try:
        await work
    except asyncpg.PostgresError as error:
        equal(error.sqlstate, code)
    else:
        raise AssertionError(f"{code} was expected")


async def crud():
    async with connect() as connection:
        await connection.execute(f"DROP TABLE IF EXISTS {TABLE}")
        await connection.execute(f"CREATE TABLE {TABLE} (id int PRIMARY KEY, note text)")
        await connection.executemany(f"INSERT INTO {TABLE} VALUES ($1, $2)", [(number, f"note {number}") for number in range(10)])
        equal(await connection.execute(f"UPDATE {TABLE} SET note = $1 WHERE id < $2", "changed", 5), "UPDATE 5")
        equal(await connection.execute(f"DELETE FROM {TABLE} WHERE id = $1", 9), "DELETE 1")
        rows = await connection.fetch(f"SELECT id FROM {TABLE} WHERE note = $1 ORDER BY id", "changed")
        equal([row["id"] for row in rows], list(range(5)))


async def parameters():
    moment = datetime.datetime(2026, 2, 28, 12, 30, tzinfo=datetime.timezone.utc)
    values = [
        ("int4", 42), ("int8", 2**53 + 1), ("float8", 1.5), ("numeric", decimal.Decimal("12345.6789")), ("text", "Grüße, 世界"),
        ("bytea", bytes(range(256))), ("bool", True), ("timestamptz", moment), ("uuid", uuid.UUID(int=7)), ("int4[]", [1, 2, None]),
        ("jsonb", json.dumps({"a": [1, None]})), ("text", None),
    ]
    async with connect() as connection:
        for kind, sent in values:
            equal(await connection.fetchval(f"SELECT $1::{kind}", sent), sent)


async def transactions():
    async with connect() as connection:
        before = await connection.fetchval(f"SELECT count(*) FROM {TABLE}")
        async with connection.transaction():
            await connection.execute(f"INSERT INTO {TABLE} VALUES (100, 'kept')")
        unwanted = connection.transaction()
        await unwanted.start()
        await connection.execute(f"INSERT INTO {TABLE} VALUES (101, 'dropped')")
        await unwanted.rollback()
        equal(await connection.fetchval(f"SELECT count(*) FROM {TABLE}"), before + 1)


async def error_in_transaction():
    async with connect() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(f"INSERT INTO {TABLE} VALUES (102, 'dropped')")
        await fails("22012", connection.fetchval("SELECT 1 / $1::int", 0))
        await fails("25P02", connection.fetchval("SELECT 1"))
        await transaction.rollback()
        equal(await connection.fetchval(f"SELECT count(*) FROM {TABLE} WHERE id = 102"), 0)


async def error_codes():
    async with connect() as connection:
        await fails("23505", connection.execute(f"INSERT INTO {TABLE} VALUES ($1, 'again')", 1))
        await fails("42P01", connection.fetch("SELECT * FROM no_such_table"))
        await fails("22012", connection.fetch("SELECT 1 / 0"))
        equal(await connection.fetchval("SELECT 1"), 1)


async def multi_statement():
    async with connect() as connection:
        equal(await connection.execute(f"SELECT 1; SELECT 2; UPDATE {TABLE} SET id = id WHERE false"), "UPDATE 0")
        await fails("22012", connection.execute("SELECT 1; SELECT 1 / 0; SELECT 3"))
        equal(await connection.fetchval("SELECT 4"), 4)


async def prepared():
    async with connect() as connection:
        statement = await connection.prepare("SELECT $1::int + 1")
        for number in range(20):
            equal(await statement.fetchval(number), number + 1)
        plus_two = await connection.prepare("SELECT $1::int + 2", name="plus two")
        equal(await connection.fetchval('EXECUTE "plus two" (40)'), 42)
        rows = await connection.fetch("SELECT name, parameter_types::text[] FROM pg_prepared_statements WHERE statement = 'SELECT $1::int + 2'")
        equal([tuple(row) for row in rows], [(plus_two.get_name(), ["integer"])])


async def sessions():
    """More sessions than server connections stay open, each with the driver's own cache of statements, and settings of its own."""
    async with contextlib.AsyncExitStack() as stack:
        all_of_them = [await stack.enter_async_context(connect()) for _ in range(SESSIONS)]
        for number, connection in enumerate(all_of_them):
            await connection.execute(f"SET work_mem = '{1000 + number}kB'")
            await connection.fetchval("SELECT set_config('app.session', $1, false)", str(number))

        async def work(number, connection):
            for _ in range(8):
                for more in range(4):
                    equal(await connection.fetchval(f"SELECT $1::int + {more}", number), number + more)
                async with connection.transaction():
                    rows = [row[0] async for row in connection.cursor("SELECT generate_series(1, $1::int)", 120)]
                    equal(rows, list(range(1, 121)))
                equal(await connection.fetchval("SHOW work_mem"), f"{1000 + number}kB")
                equal(await connection.fetchval("SELECT current_setting('app.session')"), str(number))

        await asyncio.gather(*(work(number, connection) for number, connection in enumerate(all_of_them)))
        await all_of_them[0].reset()
        equal(await all_of_them[0].fetchval("SHOW work_mem"), "4MB")


async def copy():
    async with connect() as connection:
        await connection.execute(f"TRUNCATE {TABLE}")
        records = [(number, f"row {number}") for number in range(10_000)]
        equal(await connection.copy_records_to_table(TABLE, records=records), "COPY 10000")
        out = []

        async def take(data):
            out.append(data)

        await connection.copy_from_query(f"SELECT id FROM {TABLE}", output=take)
        equal(sum(int(line) for line in b"".join(out).split()), sum(range(10_000)))


async def copy_error():
    async def broken():
        yield b"not a number\tx\n"

    async with connect() as connection:
        await fails("22P02", connection.copy_to_table(TABLE, source=broken()))
        equal(await connection.fetchval("SELECT 1"), 1)


async def cancel():
    async with connect() as connection:
        try:
            await connection.fetch("SELECT pg_sleep(60)", timeout=1)
        except TimeoutError:
            pass
        else:
            raise AssertionError("a timeout was expected")
        equal(await connection.fetchval("SELECT 1"), 1)


async def big_values():
    big = "x" * 5_000_000
    async with connect() as connection:
        equal(await connection.fetchval("SELECT $1::text", big), big)
        equal(await connection.fetchval("SELECT repeat('y', 5000000)"), "y" * 5_000_000)


async def notices():
    heard = []
    async with connect() as connection:
        connection.add_log_listener(lambda _, notice: heard.append((notice.severity, notice.message)))
        await connection.execute("DO $$ BEGIN RAISE NOTICE 'hear me'; END $$")
        await connection.fetchval("SELECT 1")
    equal(heard, [("NOTICE", "hear me")])


async def listens():
    heard = asyncio.Queue()
    async with connect() as listener, connect() as speaker:
        def hear(_connection, _pid, channel, payload):
            heard.put_nowait((channel, payload))

        await listener.add_listener(TABLE, hear)
        async with speaker.transaction():
            await speaker.execute(f"SELECT pg_notify('{TABLE}', 'first')")
            await speaker.execute(f"NOTIFY {TABLE}, 'second'")
        equal(await asyncio.wait_for(heard.get(), 60), (TABLE, "first"))
        equal(await asyncio.wait_for(heard.get(), 60), (TABLE, "second"))
        await listener.execute(f"NOTIFY {TABLE}, 'to myself'")
        equal(await asyncio.wait_for(heard.get(), 60), (TABLE, "to myself"))
        await listener.remove_listener(TABLE, hear)
        await listener.execute(f"NOTIFY {TABLE}")
        equal(await listener.fetchval("SELECT count(*) FROM pg_listening_channels()"), 0)
        equal(heard.qsize(), 0)


async def concurrent():
    async def client(number):
        async with connect() as connection, connection.transaction():
            await connection.execute(f"INSERT INTO {TABLE} VALUES ($1, $2)", 100_000 + number, f"client {number}")
            found = await connection.fetchval(f"SELECT note FROM {TABLE} WHERE id = $1", 100_000 + number)
            equal(found, f"client {number}")

    await asyncio.gather(*(client(number) for number in range(CONCURRENT)))
    async with connect() as connection:
        equal(await connection.fetchval(f"SELECT count(*) FROM {TABLE} WHERE id >= 100000"), CONCURRENT)
        await connection.execute(f"DROP TABLE {TABLE}")


async def main():
    report = Report()
    for work in (crud, parameters, transactions, error_in_transaction, error_codes, multi_statement, prepared, sessions, copy,
                 copy_error, cancel, big_values, notices, listens, concurrent):
        await report.check(work.__name__, work)
    report.end()


asyncio.run(main())
