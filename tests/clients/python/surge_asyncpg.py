"""A surge through asyncpg."""

import asyncpg

from surge import surge


async def invocation(url, number, seconds):
    connection = await asyncpg.connect(url, ssl=False, timeout=80)
    try:
        return await connection.fetchval("SELECT $1::int FROM pg_sleep($2)", number, seconds)
    finally:
        await connection.close(timeout=10)


surge(invocation, asyncpg.PostgresError, lambda error: error.sqlstate)
