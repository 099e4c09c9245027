// AWS's SDK for JavaScript and Drizzle's driver, unmodified, against the RDS Data API of the proxy.
// They need API_URL, and the keys in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION).

import {
  BatchExecuteStatementCommand, BeginTransactionCommand, CommitTransactionCommand, ExecuteStatementCommand, RDSDataClient, RollbackTransactionCommand,
} from "@aws-sdk/client-rds-data";
import { eq, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/aws-data-api/pg";
import { boolean, date, jsonb, numeric, pgTable, serial, text, timestamp, uuid } from "drizzle-orm/pg-core";
import { concurrency, equal, report } from "./report.mjs";

const arns = { resourceArn: "arn:aws:rds:eu-west-1:123456789012:cluster:app", secretArn: "arn:aws:secretsmanager:eu-west-1:123456789012:secret:app" };
const client = new RDSDataClient({ endpoint: process.env.API_URL });
const things = pgTable("check_data_thing", {
  id: serial().primaryKey(), name: text().notNull(), key: uuid(), notes: jsonb(), price: numeric(), day: date(), at: timestamp(), ok: boolean(),
});

const execute = (text, parameters, more) => client.send(new ExecuteStatementCommand({ ...arns, sql: text, parameters, ...more }));

async function refused(name, promise) {
  const found = await promise.then(() => "no error", (error) => error.name);
  equal(found, name);
}

async function values() {
  const { records, columnMetadata, numberOfRecordsUpdated } = await execute(
    "SELECT :l + 1 AS l, :s AS s, :b AS b, :n::text AS n, 1.50::numeric AS d, ARRAY[1,2] AS a, timestamptz '2026-01-01 01:00+01' AS at",
    [{ name: "l", value: { longValue: 41 } }, { name: "s", value: { stringValue: "x" } }, { name: "b", value: { blobValue: new Uint8Array([1, 255]) } }, { name: "n", value: { isNull: true } }],
    { includeResultMetadata: true },
  );
  equal(records.map((record) => record.map((field) => (field.blobValue ? [...field.blobValue] : field))), [[
    { longValue: 42 }, { stringValue: "x" }, [1, 255], { isNull: true }, { stringValue: "1.50" }, { arrayValue: { longValues: [1, 2] } }, { stringValue: "2026-01-01 00:00:00" },
  ]]);
  equal(columnMetadata.map(({ label, typeName, type }) => [label, typeName, type]), [
    ["l", "int8", -5], ["s", "text", 12], ["b", "bytea", -2], ["n", "text", 12], ["d", "numeric", 2], ["a", "_int4", 2003], ["at", "timestamptz", 93],
  ]);
  equal(numberOfRecordsUpdated, 0);
}

async function json() {
  const { formattedRecords, records } = await execute("SELECT 1 AS i, 'x' AS t, NULL AS n, 2.5::float8 AS f", undefined, { formatRecordsAs: "JSON" });
  equal([JSON.parse(formattedRecords), records], [[{ i: 1, t: "x", n: null, f: 2.5 }], undefined]);
}

async function transactions() {
  await execute("DROP TABLE IF EXISTS check_data_thing");
  await execute("CREATE TABLE check_data_thing (id serial PRIMARY KEY, name text NOT NULL, key uuid, notes jsonb, price numeric, day date, at timestamp, ok bool)");
  const { transactionId } = await client.send(new BeginTransactionCommand(arns));
  const { numberOfRecordsUpdated } = await execute("INSERT INTO check_data_thing (name) VALUES ('seen'), ('too')", undefined, { transactionId });
  equal(numberOfRecordsUpdated, 2);
  equal((await execute("SELECT count(*) FROM check_data_thing")).records, [[{ longValue: 0 }]]);
  const { transactionStatus } = await client.send(new CommitTransactionCommand({ ...arns, transactionId }));
  equal(transactionStatus, "Transaction Committed");
  equal((await execute("SELECT count(*) FROM check_data_thing")).records, [[{ longValue: 2 }]]);
  const { transactionId: second } = await client.send(new BeginTransactionCommand(arns));
  await execute("DELETE FROM check_data_thing", undefined, { transactionId: second });
  await client.send(new RollbackTransactionCommand({ ...arns, transactionId: second }));
  equal((await execute("SELECT count(*) FROM check_data_thing")).records, [[{ longValue: 2 }]]);
  await refused("TransactionNotFoundException", client.send(new CommitTransactionCommand({ ...arns, transactionId: second })));
}

async function batch() {
  const parameterSets = Array.from({ length: 50 }, (_, n) => [{ name: "n", value: { stringValue: `batch ${n}` } }]);
  const { updateResults } = await client.send(new BatchExecuteStatementCommand({ ...arns, sql: "INSERT INTO check_data_thing (name) VALUES (:n)", parameterSets }));
  equal(updateResults.length, 50);
  parameterSets.push([{ name: "n", value: { isNull: true } }]);
  await refused("DatabaseErrorException", client.send(new BatchExecuteStatementCommand({ ...arns, sql: "INSERT INTO check_data_thing (name) VALUES (:n)", parameterSets })));
  equal((await execute("SELECT count(*) FROM check_data_thing WHERE name LIKE 'batch%'")).records, [[{ longValue: 50 }]]);
}

async function errors() {
  const error = await execute("SELECT * FROM check_data_nowhere").catch((found) => found);
  equal([error.name, error.message, error.$metadata.httpStatusCode, error.$metadata.attempts],
    ["DatabaseErrorException", 'ERROR: relation "check_data_nowhere" does not exist; Position: 15; SQLState: 42P01', 400, 1]);
  const wrong = new RDSDataClient({ endpoint: process.env.API_URL, credentials: { accessKeyId: process.env.AWS_ACCESS_KEY_ID, secretAccessKey: "wrong" } });
  await refused("InvalidSignatureException", wrong.send(new ExecuteStatementCommand({ ...arns, sql: "SELECT 1" })));
}

async function slash() {
  const other = new RDSDataClient({ endpoint: `${process.env.API_URL}/some/path/` });
  equal((await other.send(new ExecuteStatementCommand({ ...arns, sql: "SELECT 1" }))).records, [[{ longValue: 1 }]]);
}

async function drizzles() {
  const db = drizzle(client, { database: "app", ...arns });
  const thing = { name: "drizzle", key: "7e0e5f44-4ac1-4f4f-9f8d-0c5f3c1b2a10", notes: { a: [1, null] }, price: "12.50", day: "2026-02-03", at: new Date("2026-02-03T04:05:06Z"), ok: true };
  const [{ id }] = await db.insert(things).values(thing).returning({ id: things.id });
  equal((await db.select().from(things).where(eq(things.id, id)))[0], { id, ...thing });
  await db.transaction(async (outer) => {
    await outer.update(things).set({ name: "kept" }).where(eq(things.id, id));
    await outer.transaction(async (nested) => {
      await nested.update(things).set({ name: "undone" }).where(eq(things.id, id));
      throw new Error("enough");
    }).catch(() => {});
  });
  equal((await db.select({ name: things.name }).from(things).where(eq(things.id, id)))[0], { name: "kept" });
  equal((await db.execute(sql`SELECT ${"x"}::text AS t`)).rows, [{ t: "x" }]);
}

async function concurrent() {
  const found = await Promise.all(Array.from({ length: concurrency }, (_, n) => execute("SELECT :n", [{ name: "n", value: { longValue: n } }])));
  equal(found.map(({ records: [[{ longValue }]] }) => longValue), Array.from({ length: concurrency }, (_, n) => n));
  await execute("DROP TABLE check_data_thing");
}

await report(values, json, transactions, batch, errors, slash, drizzles, concurrent);
