"""The matrix's script through psql, driven as a person or a shell script drives it."""

import asyncio
import os
import pty

from report import Report, Skip, equal, settings, sleepers

URL, CA, CONCURRENT = settings()
TABLE = "check_psql"
ENVIRONMENT = {**os.environ, "PGSSLMODE": "verify-full" if CA else "disable", "PGCONNECT_TIMEOUT": "60", "PSQLRC": "/dev/null"}
OPTIONS = ["-X", "-q", "-A", "-t", "-v", "VERBOSITY=verbose", "-d", URL]


async def psql(script, *more):
    """Exit status, output and errors of a script on standard input."""
    process = await asyncio.create_subprocess_exec(
        "psql", *OPTIONS, *more, env=ENVIRONMENT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, errors = await process.communicate(script.encode())
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode, out.decode(), errors.decode()


async def gives(script, expected):
    status, out, errors = await psql(script, "-v", "ON_ERROR_STOP=1")
    equal((status, out.split("\n")[:-1], errors), (0, expected, ""))


def has(text, *words):
    for word in words:
        if word not in text:
            raise AssertionError(f"{word!r} was expected in {text!r}")


async def crud():
    await gives(
        f"""SET client_min_messages = warning;
            DROP TABLE IF EXISTS {TABLE};
            CREATE TABLE {TABLE} (id int PRIMARY KEY, note text);
            INSERT INTO {TABLE} SELECT n, 'note ' || n FROM generate_series(0, 9) n;
            UPDATE {TABLE} SET note = 'changed' WHERE id < 3;
            DELETE FROM {TABLE} WHERE id = 9;
            SELECT id FROM {TABLE} WHERE note = 'changed' ORDER BY id;
            SELECT count(*) FROM {TABLE};""",
        ["0", "1", "2", "9"],
    )


async def parameters():
    raise Skip("psql 15 binds no parameters")


async def transactions():
    await gives(
        f"""BEGIN; INSERT INTO {TABLE} VALUES (100, 'kept'); COMMIT;
            BEGIN; INSERT INTO {TABLE} VALUES (101, 'dropped'); ROLLBACK;
            SELECT count(*) FROM {TABLE};""",
        ["10"],
    )


async def error_in_transaction():
    _, out, errors = await psql(
        f"""BEGIN;
            INSERT INTO {TABLE} VALUES (102, 'dropped');
            SELECT 1 / 0;
            SELECT 1;
            ROLLBACK;
            SELECT count(*) FROM {TABLE} WHERE id = 102;"""
    )
    equal(out, "0\n")
    has(errors, "ERROR:  22012", "ERROR:  25P02")


async def error_codes():
    _, out, errors = await psql(
        f"INSERT INTO {TABLE} VALUES (1, 'again');\nSELECT * FROM no_such_table;\nSELECT 1 / 0;\nSELECT 1;"
    )
    equal(out, "1\n")
    has(errors, "ERROR:  23505", "ERROR:  42P01", "ERROR:  22012")


async def multi_statement():
    # \; sends several statements as one query.
    await gives("SELECT 1\\; SELECT 2\\; SELECT 3;", ["1", "2", "3"])
    _, out, errors = await psql("SELECT 1\\; SELECT 1 / 0\\; SELECT 3;\nSELECT 4;")
    has(errors, "ERROR:  22012")
    equal(out.split()[-1], "4")


async def prepared():
    raise Skip("psql 15 prepares by SQL only")


async def copy():
    lines = "\n".join(f"{number}\trow {number}" for number in range(10_000))
    await gives(f"TRUNCATE {TABLE};\n\\copy {TABLE} FROM STDIN\n{lines}\n\\.\nSELECT sum(id) FROM {TABLE};", [str(sum(range(10_000)))])
    _, out, _ = await psql(f"\\copy (SELECT id FROM {TABLE}) TO STDOUT")
    equal(sum(int(line) for line in out.split()), sum(range(10_000)))


async def copy_error():
    _, out, errors = await psql(f"\\copy {TABLE} FROM STDIN\nnot a number\tx\n\\.\nSELECT 1;")
    has(errors, "22P02")
    equal(out, "1\n")


async def cancel():
    # At a terminal Ctrl-C cancels the query and psql goes on.
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        "psql", *OPTIONS, "-P", "pager=off", env=ENVIRONMENT, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    seen = ""

    async def until(word):
        nonlocal seen
        for _ in range(1000):
            try:
                seen += os.read(ours, 65536).decode()
            except BlockingIOError:
                await asyncio.sleep(0.01)
            if word in seen:
                return
        raise AssertionError(f"{word!r} was expected in {seen!r}")

    try:
        await until("=> ")
        os.write(ours, f"SELECT pg_sleep(60) /* {TABLE} sleeps */;\n".encode())
        while (await psql(sleepers(TABLE)))[1] != "1\n":
            await asyncio.sleep(0.05)
        process.send_signal(2)
        await until("57014")
        os.write(ours, b"SELECT 'still' || 'here';\n")
        await until("stillhere")
        os.write(ours, b"\\q\n")
        equal(await process.wait(), 0)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(ours)


async def big_values():
    await gives(f"SELECT length('{'x' * 5_000_000}');", ["5000000"])
    await gives("SELECT repeat('y', 5000000);", ["y" * 5_000_000])


async def notices():
    _, _, errors = await psql("DO $$ BEGIN RAISE NOTICE 'hear me'; END $$;")
    has(errors, "NOTICE:  00000: hear me")


async def concurrent():
    async def client(number):
        await gives(
            f"""BEGIN;
                INSERT INTO {TABLE} VALUES (100000 + {number}, 'client {number}');
                SELECT note FROM {TABLE} WHERE id = 100000 + {number};
                COMMIT;""",
            [f"client {number}"],
        )

    await asyncio.gather(*(client(number) for number in range(CONCURRENT)))
    await gives(f"SELECT count(*) FROM {TABLE} WHERE id >= 100000;\nDROP TABLE {TABLE};", [str(CONCURRENT)])


async def main():
    report = Report()
    for work in (crud, parameters, transactions, error_in_transaction, error_codes, multi_statement, prepared, copy,
                 copy_error, cancel, big_values, notices, concurrent):
        await report.check(work.__name__, work)
    report.end()


asyncio.run(main())
