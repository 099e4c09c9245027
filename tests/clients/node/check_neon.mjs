// Neon's serverless driver, unmodified, against SQL over HTTP: neon(), transaction(), Pool and Client through the WebSocket tunnel, and Drizzle over both.
// It needs API_URL (http://host:port or https://), and DATABASE_URL for whom to be.

import { Client, NeonDbError, Pool, neon, neonConfig } from "@neondatabase/serverless";
import { eq, sql as raw } from "drizzle-orm";
import { drizzle as overHttp } from "drizzle-orm/neon-http";
import { drizzle as overTunnel } from "drizzle-orm/neon-serverless";
import { integer, jsonb, pgTable, serial, text } from "drizzle-orm/pg-core";
import { WebSocket } from "ws";
import { concurrency, equal, fails, pause, report, sleepers, url } from "./report.mjs";

const api = process.env.API_URL;
neonConfig.fetchEndpoint = () => `${api}/sql`;
neonConfig.wsProxy = () => `${api.replace(/^https?:\/\//, "")}/v2`;
neonConfig.useSecureWebSocket = api.startsWith("https:");
neonConfig.webSocketConstructor = WebSocket;

const sql = neon(url);
const full = neon(url, { fullResults: true });
const authors = pgTable("check_neon_author", { id: serial().primaryKey(), name: text().notNull().unique(), notes: jsonb(), age: integer() });

/** The error of a promise that must be rejected. */
const error = (promise) => promise.then(() => { throw new Error("it was not refused"); }, (found) => found);

async function types() {
  const [row] = await sql`SELECT 1::int4 AS i, 9007199254740993::int8 AS l, 1.50::numeric AS n, true AS b, 'x' || ${"y"} AS t, NULL AS z,
    '2026-01-01T00:00:00Z'::timestamptz AS at, '{"a":[1,null]}'::jsonb AS j, ARRAY[1,2] AS a, '\\x01ff'::bytea AS by, 0.1::float8 AS f`;
  equal({ ...row, by: [...row.by] }, {
    i: 1, l: "9007199254740993", n: "1.50", b: true, t: "xy", z: null, at: "2026-01-01T00:00:00.000Z", j: { a: [1, null] }, a: [1, 2], by: [1, 255], f: 0.1,
  });
}

async function parameters() {
  const date = new Date("2026-02-03T04:05:06.789Z");
  const [row] = await sql`SELECT ${7}::int + 1 AS i, ${null}::text AS n, ${[1, 2, 3]}::int[] AS a, ${{ k: "v" }}::jsonb AS j, ${date}::timestamptz AS at, ${true}::bool AS b`;
  equal(row, { i: 8, n: null, a: [1, 2, 3], j: { k: "v" }, at: date.toISOString(), b: true });
  equal(await sql.query("SELECT $1::text || $2 AS t", ["a", "b"]), [{ t: "ab" }]);
}

async function fullResults() {
  await sql`DROP TABLE IF EXISTS check_neon_author`;
  const created = await full`CREATE TABLE check_neon_author (id serial PRIMARY KEY, name text NOT NULL UNIQUE, notes jsonb, age int)`;
  equal([created.command, created.rowCount, created.rows.length], ["CREATE", null, 0]);
  const inserted = await full`INSERT INTO check_neon_author (name) SELECT 'author ' || n FROM generate_series(1, 3) AS n RETURNING id, name`;
  equal([inserted.command, inserted.rowCount, inserted.fields.map(({ name, dataTypeID }) => [name, dataTypeID])], ["INSERT", 3, [["id", 23], ["name", 25]]]);
  const arrays = await neon(url, { arrayMode: true })`SELECT id, name FROM check_neon_author ORDER BY id`;
  equal(arrays, [[1, "author 1"], [2, "author 2"], [3, "author 3"]]);
}

async function transaction() {
  const [updated, [counted]] = await sql.transaction([
    sql`UPDATE check_neon_author SET age = 40 WHERE id = 1 RETURNING age`,
    sql`SELECT count(*)::int AS n FROM check_neon_author WHERE age = 40`,
  ]);
  equal([updated[0].age, counted.n], [40, 1]);
  const [[mode], [level]] = await sql.transaction((tx) => [tx`SHOW transaction_read_only`, tx`SHOW transaction_isolation`], {
    isolationLevel: "Serializable", readOnly: true, deferrable: true,
  });
  equal([mode.transaction_read_only, level.transaction_isolation], ["on", "serializable"]);
}

async function rollback() {
  const failed = await error(sql.transaction([sql`INSERT INTO check_neon_author (name) VALUES ('gone')`, sql`SELECT 1/0`]));
  equal([failed instanceof NeonDbError, failed.code], [true, "22012"]);
  equal(await sql`SELECT 1 FROM check_neon_author WHERE name = 'gone'`, []);
}

async function errors() {
  const unique = await error(sql`INSERT INTO check_neon_author (name) VALUES ('author 1')`);
  equal([unique.name, unique.code, unique.severity, unique.table, unique.constraint, unique.schema], ["NeonDbError", "23505", "ERROR", "check_neon_author", "check_neon_author_name_key", "public"]);
  equal(/already exists/.test(unique.detail), true);
  const syntax = await error(sql`SELEC 1`);
  equal([syntax.code, syntax.position], ["42601", "1"]);
  await fails("42601", sql.query("SELECT 1; SELECT 2"));
  await fails("28P01", neon(url.replace("secret", "wrong"))`SELECT 1`);
  await fails("3D000", neon(url.replace(/\/app$/, "/nowhere"))`SELECT 1`);
}

async function settings() {
  const zone = neon(`${url}?options=${encodeURIComponent("-c timezone=Asia/Tokyo")}&application_name=check_neon`);
  equal(await zone`SELECT current_setting('timezone') AS zone, current_setting('application_name') AS name`, [{ zone: "Asia/Tokyo", name: "check_neon" }]);
  await sql`SET timezone = 'America/Lima'`;
  await sql`CREATE TEMPORARY TABLE check_neon_left (x int)`;
  const seen = await Promise.all(Array.from({ length: 20 }, () => sql`SELECT current_setting('timezone') AS zone, to_regclass('check_neon_left')::text AS left`));
  equal(seen.filter(([{ zone, left }]) => zone === "America/Lima" || left !== null), []);
}

async function deadline() {
  const hurried = neon(`${url}?options=${encodeURIComponent("-c pgweir.budget_ms=200")}`);
  const begun = Date.now();
  await fails("57014", hurried`SELECT pg_sleep(20)`);
  equal(Date.now() - begun < 10_000, true);
}

async function abort() {
  const controller = new AbortController();
  const sleeping = sql.query("SELECT pg_sleep(60) /* check_neon sleeps */", [], { fetchOptions: { signal: controller.signal } });
  const refused = error(sleeping);
  while ((await sql.query(sleepers("check_neon")))[0].n === 0) await pause(20);
  controller.abort();
  equal((await refused).name, "NeonDbError");
  while ((await sql.query(sleepers("check_neon")))[0].n > 0) await pause(20);
}

async function concurrent() {
  const found = await Promise.all(Array.from({ length: concurrency }, (_, n) => sql`SELECT ${n}::int AS n, pg_sleep(0.01)`));
  equal(found.map(([{ n }]) => n), Array.from({ length: concurrency }, (_, n) => n));
}

async function tunnel_pool() {
  const pool = new Pool({ connectionString: url, max: 4 });
  const rows = await Promise.all(Array.from({ length: 20 }, (_, n) => pool.query("SELECT $1::int AS n", [n])));
  equal(rows.map(({ rows: [{ n }] }) => n), Array.from({ length: 20 }, (_, n) => n));
  const client = await pool.connect();
  await client.query("BEGIN");
  await client.query("INSERT INTO check_neon_author (name) VALUES ($1)", ["tunnel"]);
  await client.query("ROLLBACK");
  equal((await client.query("SELECT 1 FROM check_neon_author WHERE name = 'tunnel'")).rowCount, 0);
  client.release();
  await fails("22012", pool.query("SELECT 1/0"));
  await pool.end();
}

async function tunnel_large() {
  const client = new Client(url);
  await client.connect();
  const { rows: [{ t }] } = await client.query("SELECT repeat('x', 3000000) AS t");
  equal(t.length, 3_000_000);
  equal((await client.query("SELECT length($1) AS n", ["y".repeat(2_000_000)])).rows[0].n, 2_000_000);
  await client.end();
}

async function tunnel_without_pipelining() {
  neonConfig.pipelineConnect = false;
  try {
    const client = new Client(url);
    await client.connect();
    equal((await client.query("SELECT 5 AS n")).rows, [{ n: 5 }]);
    await client.end();
  } finally {
    neonConfig.pipelineConnect = "password";
  }
}

async function tunnel_password() {
  // The driver says that it is connected before the password was looked at; what is wrong with it comes as an event.
  const client = new Client(url.replace("secret", "wrong"));
  const refused = new Promise((wake) => client.on("error", wake));
  await client.connect();
  equal((await refused).code, "28P01");
}

async function tunnel_listen() {
  const client = new Client(url);
  await client.connect();
  const heard = new Promise((wake) => client.on("notification", wake));
  await client.query("LISTEN check_neon_channel");
  await sql`SELECT pg_notify('check_neon_channel', 'hello')`;
  equal((await heard).payload, "hello");
  await client.end();
}

async function tunnel_cancel() {
  const [client, other] = [new Client(url), new Client(url)];
  await client.connect();
  const sleeping = error(client.query("SELECT pg_sleep(60) /* check_neon_tunnel sleeps */"));
  while ((await sql.query(sleepers("check_neon_tunnel")))[0].n === 0) await pause(20);
  other.cancel(client, client.activeQuery ?? client._activeQuery ?? client._getActiveQuery?.());
  equal((await sleeping).code, "57014");
  await client.end();
}

async function tunnel_vanishes() {
  const client = new Client(url);
  client.on("error", () => {});
  await client.connect();
  client.query("SELECT pg_sleep(60) /* check_neon_gone sleeps */").catch(() => {});
  while ((await sql.query(sleepers("check_neon_gone")))[0].n === 0) await pause(20);
  client.connection.stream.destroy();
  while ((await sql.query(sleepers("check_neon_gone")))[0].n > 0) await pause(20);
}

async function drizzle_http() {
  const db = overHttp(sql);
  const [{ id }] = await db.insert(authors).values({ name: "drizzle", notes: { n: [1, null] } }).returning({ id: authors.id });
  equal(await db.select().from(authors).where(eq(authors.id, id)), [{ id, name: "drizzle", notes: { n: [1, null] }, age: null }]);
  const [, rows] = await db.batch([db.update(authors).set({ age: 9 }).where(eq(authors.id, id)), db.select({ age: authors.age }).from(authors).where(eq(authors.id, id))]);
  equal(rows, [{ age: 9 }]);
  equal((await db.execute(raw`SELECT ${"x"}::text AS t`)).rows, [{ t: "x" }]);
}

async function drizzle_tunnel() {
  const pool = new Pool({ connectionString: url, max: 2 });
  const db = overTunnel(pool);
  await db.transaction(async (tx) => {
    await tx.insert(authors).values({ name: "kept" });
    const nested = tx.transaction((inner) => inner.insert(authors).values({ name: "author 1" }));
    equal(await nested.catch((found) => found.cause?.code ?? found.code), "23505");
  });
  equal((await db.select({ name: authors.name }).from(authors).where(eq(authors.name, "kept"))).length, 1);
  await pool.end();
  await sql`DROP TABLE check_neon_author`;
}

await report(
  types, parameters, fullResults, transaction, rollback, errors, settings, deadline, abort, concurrent,
  tunnel_pool, tunnel_large, tunnel_without_pipelining, tunnel_password, tunnel_listen, tunnel_cancel, tunnel_vanishes,
  drizzle_http, drizzle_tunnel,
);
