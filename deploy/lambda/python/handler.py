"""A Lambda function in Python with psycopg, through pgweir: one connection for each environment, and no query outlives its invocation."""

import os

import psycopg

connection = None


def database():
    """The environment's connection, opened when it is first needed and again when it was lost."""
    global connection
    if connection is None or connection.closed:
        connection = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
    return connection


def within_time(db, context):
    """The one line: pgweir cancels what runs, and undoes it, when the invocation's time is nearly over. PostgreSQL itself takes it for a setting."""
    db.execute(f"SET pgweir.deadline_ms = {max(1, context.get_remaining_time_in_millis() - 200)}")


def on_database(context, work):
    """Runs work, once more if the connection turns out to be lost before anything was begun."""
    global connection
    try:
        within_time(database(), context)
    except psycopg.OperationalError:
        connection = None
        within_time(database(), context)
    return work(database())


def handler(event, context):
    def work(db):
        row = db.execute("SELECT %s::int + 1, pg_sleep(%s)", (event["number"], event.get("sleep", 0))).fetchone()
        return {"answer": row[0]}

    return on_database(context, work)
