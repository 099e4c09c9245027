"""A surge through psycopg."""

import psycopg

from surge import TOO_MANY, surge

# libpq keeps the SQLSTATE of a failed login to itself; the words are in its error.
REFUSALS = ("too many clients are waiting for a server connection", "no server connection would become free in time")


async def invocation(url, number, seconds):
    async with await psycopg.AsyncConnection.connect(url, sslmode="disable", connect_timeout=80) as connection:
        cursor = await connection.execute("SELECT %s::int FROM pg_sleep(%s)", (number, seconds))
        return (await cursor.fetchone())[0]


def sqlstate(error):
    at_login = any(words in str(error) for words in REFUSALS)
    return error.sqlstate or (TOO_MANY if at_login else None)


surge(invocation, psycopg.Error, sqlstate)
