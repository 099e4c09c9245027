"""boto3 and the AWS CLI, unmodified, against the RDS Data API of the proxy. They need API_URL, and the keys in the environment."""

import asyncio
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time
import urllib.parse

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from report import Report, Skip, equal, settings

API = os.environ["API_URL"]
ARNS = {"resourceArn": "arn:aws:rds:eu-west-1:123456789012:cluster:app", "secretArn": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:app"}

# The endpoint comes from the environment, as it would in a Lambda: no line of a program changes.
os.environ["AWS_ENDPOINT_URL_RDS_DATA"] = API
client = boto3.client("rds-data", config=Config(max_pool_connections=50))


def execute(sql, parameters=(), **more):
    return client.execute_statement(**ARNS, sql=sql, parameters=list(parameters), **more)


def refused(work):
    try:
        work()
    except ClientError as error:
        return error
    raise AssertionError("it was not refused")


def check_values():
    answer = execute(
        "SELECT :i::int AS i, :s AS s, :f AS f, :b AS b, :y AS y, :u AS u",
        [
            {"name": "i", "value": {"longValue": 7}},
            {"name": "s", "value": {"stringValue": "it's :x"}},
            {"name": "f", "value": {"doubleValue": 0.5}},
            {"name": "b", "value": {"booleanValue": True}},
            {"name": "y", "value": {"blobValue": b"\x01\xff"}},
            {"name": "u", "value": {"stringValue": "7e0e5f44-4ac1-4f4f-9f8d-0c5f3c1b2a10"}, "typeHint": "UUID"},
        ],
        includeResultMetadata=True,
    )
    equal(
        answer["records"],
        [[{"longValue": 7}, {"stringValue": "it's :x"}, {"doubleValue": 0.5}, {"booleanValue": True}, {"blobValue": b"\x01\xff"},
          {"stringValue": "7e0e5f44-4ac1-4f4f-9f8d-0c5f3c1b2a10"}]],
    )
    equal([column["typeName"] for column in answer["columnMetadata"]], ["int4", "text", "float8", "bool", "bytea", "uuid"])


def check_options():
    options = {"decimalReturnType": "DOUBLE_OR_LONG", "longReturnType": "STRING"}
    equal(execute("SELECT 1.5::numeric, 2::bigint", resultSetOptions=options)["records"], [[{"doubleValue": 1.5}, {"stringValue": "2"}]])
    formatted = execute("SELECT 1 AS i, ARRAY['a','b'] AS a", formatRecordsAs="JSON")["formattedRecords"]
    equal(json.loads(formatted), [{"i": 1, "a": ["a", "b"]}])


def check_user_types():
    execute("DROP TYPE IF EXISTS check_data_mood")
    execute("CREATE TYPE check_data_mood AS ENUM ('glad', 'sad')")
    answer = execute("SELECT 'glad'::check_data_mood AS mood", includeResultMetadata=True)
    equal((answer["records"], answer["columnMetadata"][0]["typeName"]), ([[{"stringValue": "glad"}]], "check_data_mood"))
    execute("DROP TYPE check_data_mood")


def check_errors():
    error = refused(lambda: execute("SELECT 1/0"))
    equal((error.response["Error"]["Code"], error.response["Error"]["Message"]), ("DatabaseErrorException", "ERROR: division by zero; SQLState: 22012"))
    equal(error.response["ResponseMetadata"]["RetryAttempts"], 0)
    equal(refused(lambda: execute("SELECT 1; SELECT 2")).response["Error"]["Code"], "ValidationException")
    equal(refused(lambda: execute("SELECT :gone")).response["Error"]["Message"], "Cannot find parameter: gone")
    equal(refused(lambda: execute("SELECT '$1'::money")).response["Error"]["Code"], "UnsupportedResultException")
    equal(refused(lambda: execute("SELECT 1", schema="public")).response["Error"]["Code"], "ValidationException")
    equal(refused(lambda: execute("SELECT 1", database="nowhere")).response["Error"]["Code"], "DatabaseErrorException")
    equal(refused(lambda: execute("SELECT 1", transactionId="nowhere.x")).response["Error"]["Code"], "TransactionNotFoundException")


def check_transactions():
    execute("DROP TABLE IF EXISTS check_data_boto")
    execute("CREATE TABLE check_data_boto (n int)")
    begun = client.begin_transaction(**ARNS, database="app")["transactionId"]
    execute("INSERT INTO check_data_boto VALUES (1)", transactionId=begun)
    error = refused(lambda: execute("SELECT 1/0", transactionId=begun))
    equal("22012" in error.response["Error"]["Message"], True)
    equal("25P02" in refused(lambda: execute("SELECT 1", transactionId=begun)).response["Error"]["Message"], True)
    equal("rolled back" in refused(lambda: client.commit_transaction(resourceArn=ARNS["resourceArn"], secretArn=ARNS["secretArn"], transactionId=begun)).response["Error"]["Message"], True)
    equal(execute("SELECT count(*) FROM check_data_boto")["records"], [[{"longValue": 0}]])
    # Savepoints work, as in any transaction.
    begun = client.begin_transaction(**ARNS)["transactionId"]
    execute("SAVEPOINT a", transactionId=begun)
    refused(lambda: execute("SELECT 1/0", transactionId=begun))
    execute("ROLLBACK TO SAVEPOINT a", transactionId=begun)
    execute("INSERT INTO check_data_boto VALUES (2)", transactionId=begun)
    equal(client.commit_transaction(**ARNS, transactionId=begun)["transactionStatus"], "Transaction Committed")
    equal(execute("SELECT n FROM check_data_boto")["records"], [[{"longValue": 2}]])


def check_batch():
    sets = [[{"name": "n", "value": {"longValue": n}}] for n in range(100)]
    equal(len(client.batch_execute_statement(**ARNS, sql="INSERT INTO check_data_boto VALUES (:n)", parameterSets=sets)["updateResults"]), 100)
    equal(execute("SELECT count(*) FROM check_data_boto")["records"], [[{"longValue": 101}]])
    execute("DROP TABLE check_data_boto")


def check_deadline():
    def hurried(request, **_):
        request.headers["Pgweir-Deadline-Ms"] = "200"

    hasty = boto3.client("rds-data")
    hasty.meta.events.register("before-sign.rds-data.ExecuteStatement", hurried)
    begun = time.monotonic()
    equal(refused(lambda: hasty.execute_statement(**ARNS, sql="SELECT pg_sleep(20)")).response["Error"]["Code"], "StatementTimeoutException")
    if time.monotonic() - begun > 10:
        raise AssertionError("the deadline was not kept")


class Forgetful:
    """A way to the proxy on which the answer to the first request is lost: the connection ends when it has come."""

    def __init__(self):
        target = urllib.parse.urlsplit(API)
        self.target = (target.hostname, target.port)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{target.scheme}://localhost:{self.listener.getsockname()[1]}"
        self.answers = 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(self.target)
            threading.Thread(target=self.carry, args=(client, server), daemon=True).start()
            threading.Thread(target=self.carry, args=(server, client, True), daemon=True).start()

    def carry(self, source, sink, answers=False):
        with source, sink:
            while data := source.recv(65536):
                if answers and b"HTTP/1.1 200" in data:
                    self.answers += 1
                    if self.answers == 1:
                        sink.shutdown(socket.SHUT_RDWR)
                        return
                sink.sendall(data)


def check_retry():
    if API.startswith("https:"):
        raise Skip("what is lost cannot be chosen inside TLS")
    execute("DROP TABLE IF EXISTS check_data_retry")
    execute("CREATE TABLE check_data_retry (n int)")
    way = Forgetful()
    answer = boto3.client("rds-data", endpoint_url=way.url).execute_statement(**ARNS, sql="INSERT INTO check_data_retry VALUES (1)")
    equal((answer["numberOfRecordsUpdated"], answer["ResponseMetadata"]["RetryAttempts"], way.answers), (1, 1, 2))
    equal(execute("SELECT count(*) FROM check_data_retry")["records"], [[{"longValue": 1}]])
    execute("DROP TABLE check_data_retry")


def check_cli():
    command = [str(pathlib.Path(sys.executable).parent / "aws"), "rds-data", "execute-statement", "--resource-arn", ARNS["resourceArn"], "--secret-arn", ARNS["secretArn"]]
    command += ["--sql", "SELECT :n::int + 1 AS n", "--parameters", json.dumps([{"name": "n", "value": {"longValue": 1}}])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise AssertionError(done.stderr)
    equal(json.loads(done.stdout)["records"], [[{"longValue": 2}]])


async def main():
    _, _, concurrent = settings()
    report = Report()

    async def concurrently():
        answers = await asyncio.gather(*(asyncio.to_thread(execute, "SELECT :n", [{"name": "n", "value": {"longValue": n}}]) for n in range(concurrent)))
        equal([answer["records"] for answer in answers], [[[{"longValue": n}]] for n in range(concurrent)])

    checks = (check_values, check_options, check_user_types, check_errors, check_transactions, check_batch, check_deadline, check_retry, check_cli)
    for check in checks:
        await report.check(check.__name__.removeprefix("check_"), lambda check=check: asyncio.to_thread(check))
    await report.check("concurrent", concurrently)
    report.end()


asyncio.run(main())
