"""The matrix's script through psycopg 3."""

import asyncio
import contextlib
import datetime
import decimal
import uuid

import psycopg
from psycopg.types.json import Jsonb

from report import Report, equal, settings, sleepers
from urls import libpq_tls

URL, CA, CONCURRENT = settings()
TABLE = "check_psycopg"
SESSIONS = 12


def connect(**options):
    return psycopg.AsyncConnection.connect(URL, connect_timeout=60, **libpq_tls(CA), **options)


async def value(connection, statement, parameters=None):
    cursor = await connection.execute(statement, parameters)
    return (await cursor.fetchone())[0]


async def fails(code, work):
    try:
        await work
    except psycopg.Error as error:
        equal(error.sqlstate, code)
    else:
        raise AssertionError(f"{code} was expected")


async def crud():
    async with await connect(autocommit=True) as connection:
        await connection.execute(f"DROP TABLE IF EXISTS {TABLE}")
        await connection.execute(f"CREATE TABLE {TABLE} (id int PRIMARY KEY, note text)")
        for number in range(10):
            await connection.execute(f"INSERT INTO {TABLE} VALUES (%s, %s)", (number, f"note {number}"))
        cursor = await connection.execute(f"UPDATE {TABLE} SET note = %s WHERE id < %s", ("changed", 5))
        equal(cursor.rowcount, 5)
        cursor = await connection.execute(f"DELETE FROM {TABLE} WHERE id = %s", (9,))
        equal(cursor.rowcount, 1)
        cursor = await connection.execute(f"SELECT id FROM {TABLE} WHERE note = %s ORDER BY id", ("changed",))
        equal(await cursor.fetchall(), [(number,) for number in range(5)])


async def parameters():
    moment = datetime.datetime(2026, 2, 28, 12, 30, tzinfo=datetime.timezone.utc)
    values = [
        ("int4", 42), ("int8", 2**53 + 1), ("float8", 1.5), ("numeric", decimal.Decimal("12345.6789")), ("text", "Grüße, 世界"),
        ("bytea", bytes(range(256))), ("bool", True), ("timestamptz", moment), ("uuid", uuid.UUID(int=7)), ("int4[]", [1, 2, None]),
    ]
    async with await connect(autocommit=True) as connection:
        for kind, sent in values:
            for binary in (False, True):
                cursor = connection.cursor(binary=binary)
                await cursor.execute(f"SELECT %s::{kind}", (sent,))
                equal((await cursor.fetchone())[0], sent)
        equal(await value(connection, "SELECT %s::jsonb", (Jsonb({"a": [1, None]}),)), {"a": [1, None]})
        equal(await value(connection, "SELECT %s::text", (None,)), None)


async def transactions():
    async with await connect() as connection:
        before = await value(connection, f"SELECT count(*) FROM {TABLE}")
        await connection.rollback()
        await connection.execute(f"INSERT INTO {TABLE} VALUES (100, 'kept')")
        await connection.commit()
        await connection.execute(f"INSERT INTO {TABLE} VALUES (101, 'dropped')")
        await connection.rollback()
        equal(await value(connection, f"SELECT count(*) FROM {TABLE}"), before + 1)


async def error_in_transaction():
    async with await connect() as connection:
        await connection.execute(f"INSERT INTO {TABLE} VALUES (102, 'dropped')")
        await fails("22012", connection.execute("SELECT 1 / %s::int", (0,)))
        await fails("25P02", connection.execute("SELECT 1"))
        await connection.rollback()
        equal(await value(connection, f"SELECT count(*) FROM {TABLE} WHERE id = 102"), 0)


async def error_codes():
    async with await connect(autocommit=True) as connection:
        await fails("23505", connection.execute(f"INSERT INTO {TABLE} VALUES (1, 'again')"))
        await fails("42P01", connection.execute("SELECT * FROM no_such_table"))
        await fails("22012", connection.execute("SELECT 1 / 0"))
        equal(await value(connection, "SELECT 1"), 1)


async def multi_statement():
    async with await connect(autocommit=True) as connection:
        cursor = await connection.execute("SELECT 1; SELECT 2; SELECT 3")
        found = [await cursor.fetchone()]
        while cursor.nextset():
            found.append(await cursor.fetchone())
        equal(found, [(1,), (2,), (3,)])
        await fails("22012", connection.execute("SELECT 1; SELECT 1 / 0; SELECT 3"))
        equal(await value(connection, "SELECT 4"), 4)


async def prepared():
    async with await connect(autocommit=True) as connection:
        for number in range(20):
            cursor = await connection.execute("SELECT %s::int + 1", (number,), prepare=True)
            equal(await cursor.fetchone(), (number + 1,))
        cursor = await connection.execute("SELECT name, statement, from_sql FROM pg_prepared_statements")
        (name, statement, from_sql), = await cursor.fetchall()
        equal((statement, from_sql), ("SELECT $1::int + 1", False))
        equal(await value(connection, f'EXECUTE "{name}" (41)'), 42)


async def sessions():
    """More sessions than server connections stay open; each has statements, settings and a prepared cache of its own."""
    async with contextlib.AsyncExitStack() as stack:
        all_of_them = [await stack.enter_async_context(await connect(autocommit=True, prepare_threshold=1)) for _ in range(SESSIONS)]
        for number, connection in enumerate(all_of_them):
            connection.prepared_max = 2
            await connection.execute(f"SET work_mem = '{1000 + number}kB'")
            await connection.execute("SELECT set_config('app.session', %s, false)", (str(number),))

        async def work(number, connection):
            for turn in range(8):
                for more in range(4):
                    equal(await value(connection, f"SELECT %s::int + {more}", (number,)), number + more)
                equal(await value(connection, "SHOW work_mem"), f"{1000 + number}kB")
                equal(await value(connection, "SELECT current_setting('app.session')"), str(number))
                if turn == 4:
                    await fails("22012", connection.execute("SELECT 1 / %s::int", (0,)))
                    await connection.execute("DEALLOCATE ALL")

        await asyncio.gather(*(work(number, connection) for number, connection in enumerate(all_of_them)))


async def copy():
    async with await connect() as connection:
        await connection.execute(f"TRUNCATE {TABLE}")
        cursor = connection.cursor()
        async with cursor.copy(f"COPY {TABLE} FROM STDIN") as into:
            for number in range(10_000):
                await into.write_row((number, f"row {number}"))
        total = 0
        async with cursor.copy(f"COPY (SELECT id FROM {TABLE}) TO STDOUT") as out:
            async for row in out.rows():
                total += int(row[0])
        equal(total, sum(range(10_000)))
        await connection.commit()


async def copy_error():
    async def broken():
        async with connection.cursor().copy(f"COPY {TABLE} FROM STDIN") as into:
            await into.write("not a number\tx\n")

    async with await connect(autocommit=True) as connection:
        await fails("22P02", broken())
        equal(await value(connection, "SELECT 1"), 1)


async def cancel():
    async with await connect(autocommit=True) as connection, await connect(autocommit=True) as observer:
        sleeping = asyncio.create_task(fails("57014", connection.execute(f"SELECT pg_sleep(60) /* {TABLE} sleeps */")))
        while not await value(observer, sleepers(TABLE)):
            await asyncio.sleep(0.05)
        await connection.cancel_safe(timeout=10)
        await sleeping
        equal(await value(connection, "SELECT 1"), 1)


async def big_values():
    big = "x" * 5_000_000
    async with await connect(autocommit=True) as connection:
        equal(await value(connection, "SELECT %s::text", (big,)), big)
        equal(await value(connection, "SELECT repeat('y', 5000000)"), "y" * 5_000_000)


async def notices():
    heard = []
    async with await connect(autocommit=True) as connection:
        connection.add_notice_handler(lambda notice: heard.append((notice.severity, notice.message_primary)))
        await connection.execute("DO $$ BEGIN RAISE NOTICE 'hear me'; END $$")
    equal(heard, [("NOTICE", "hear me")])


async def listens():
    heard = []
    async with await connect(autocommit=True) as listener, await connect() as speaker:
        listener.add_notify_handler(lambda notify: heard.append((notify.channel, notify.payload)))
        await listener.execute(f"LISTEN {TABLE}")
        # What one says to oneself is there with the answer.
        await listener.execute(f"NOTIFY {TABLE}, 'to myself'")
        equal(heard, [(TABLE, "to myself")])
        async with speaker.transaction():
            await speaker.execute(f"SELECT pg_notify('{TABLE}', 'first')")
            await speaker.execute(f"NOTIFY {TABLE}, 'second'")
        async for notify in listener.notifies(timeout=60, stop_after=2):
            heard.append((notify.channel, notify.payload))
        equal([payload for _, payload in heard if payload != "to myself"][-1], "second")
        await listener.execute(f"UNLISTEN {TABLE}")
        heard.clear()
        await listener.execute(f"NOTIFY {TABLE}")
        equal(heard, [])


async def concurrent():
    async def client(number):
        async with await connect() as connection:
            await connection.execute(f"INSERT INTO {TABLE} VALUES (%s, %s)", (100_000 + number, f"client {number}"))
            found = await value(connection, f"SELECT note FROM {TABLE} WHERE id = %s", (100_000 + number,))
            equal(found, f"client {number}")

    await asyncio.gather(*(client(number) for number in range(CONCURRENT)))
    async with await connect(autocommit=True) as connection:
        equal(await value(connection, f"SELECT count(*) FROM {TABLE} WHERE id >= 100000"), CONCURRENT)
        await connection.execute(f"DROP TABLE {TABLE}")


async def main():
    report = Report()
    for work in (crud, parameters, transactions, error_in_transaction, error_codes, multi_statement, prepared, sessions, copy,
                 copy_error, cancel, big_values, notices, listens, concurrent):
        await report.check(work.__name__, work)
    report.end()


asyncio.run(main())
