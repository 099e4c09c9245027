// The matrix's script through node-postgres.

import pg from "pg";
import { from as copyFrom, to as copyTo } from "pg-copy-streams";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { concurrency, equal, fails, pause, report, sleepers, tls, url } from "./report.mjs";

const TABLE = "check_pg";
const SESSIONS = 12;
const config = { connectionString: url, ssl: tls, connectionTimeoutMillis: 60_000 };

async function connected(work) {
  const client = new pg.Client(config);
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

const value = async (client, text, values) => Object.values((await client.query(text, values)).rows[0])[0];

const crud = () => connected(async (client) => {
  await client.query(`DROP TABLE IF EXISTS ${TABLE}`);
  await client.query(`CREATE TABLE ${TABLE} (id int PRIMARY KEY, note text)`);
  for (let id = 0; id < 10; id += 1) await client.query(`INSERT INTO ${TABLE} VALUES ($1, $2)`, [id, `note ${id}`]);
  equal((await client.query(`UPDATE ${TABLE} SET note = $1 WHERE id < $2`, ["changed", 5])).rowCount, 5);
  equal((await client.query(`DELETE FROM ${TABLE} WHERE id = $1`, [9])).rowCount, 1);
  const found = await client.query(`SELECT id FROM ${TABLE} WHERE note = $1 ORDER BY id`, ["changed"]);
  equal(found.rows.map((row) => row.id), [0, 1, 2, 3, 4]);
});

const parameters = () => connected(async (client) => {
  const cases = [
    ["int4", 42], ["int8", "9007199254740993"], ["float8", 1.5], ["numeric", "12345.6789"], ["text", "Grüße, 世界"], ["bool", true],
    ["bytea", Buffer.from([...Array(256).keys()])], ["timestamptz", new Date("2026-02-28T12:30:00Z")], ["int4[]", [1, 2, null]],
    ["jsonb", { a: [1, null] }], ["uuid", "00000000-0000-0000-0000-000000000007"], ["text", null],
  ];
  for (const [type, sent] of cases) equal(await value(client, `SELECT $1::${type}`, [sent]), sent);
});

const transactions = () => connected(async (client) => {
  const before = Number(await value(client, `SELECT count(*) FROM ${TABLE}`));
  await client.query("BEGIN");
  await client.query(`INSERT INTO ${TABLE} VALUES ($1, 'kept')`, [100]);
  await client.query("COMMIT");
  await client.query("BEGIN");
  await client.query(`INSERT INTO ${TABLE} VALUES ($1, 'dropped')`, [101]);
  await client.query("ROLLBACK");
  equal(Number(await value(client, `SELECT count(*) FROM ${TABLE}`)), before + 1);
});

const error_in_transaction = () => connected(async (client) => {
  await client.query("BEGIN");
  await client.query(`INSERT INTO ${TABLE} VALUES (102, 'dropped')`);
  await fails("22012", client.query("SELECT 1 / $1::int", [0]));
  await fails("25P02", client.query("SELECT 1"));
  await client.query("ROLLBACK");
  equal(await value(client, `SELECT count(*) FROM ${TABLE} WHERE id = 102`), "0");
});

const error_codes = () => connected(async (client) => {
  await fails("23505", client.query(`INSERT INTO ${TABLE} VALUES ($1, 'again')`, [1]));
  await fails("42P01", client.query("SELECT * FROM no_such_table"));
  await fails("22012", client.query("SELECT 1 / 0"));
  equal(await value(client, "SELECT 1"), 1);
});

const multi_statement = () => connected(async (client) => {
  const results = await client.query("SELECT 1 AS n; SELECT 2 AS n; SELECT 3 AS n");
  equal(results.map((result) => result.rows[0].n), [1, 2, 3]);
  await fails("22012", client.query("SELECT 1; SELECT 1 / 0; SELECT 3"));
  equal(await value(client, "SELECT 4"), 4);
});

const prepared = () => connected(async (client) => {
  for (let n = 0; n < 20; n += 1) {
    equal(await value(client, { name: "add one", text: "SELECT $1::int + 1", values: [n] }), n + 1);
  }
  equal(await value(client, 'EXECUTE "add one" (41)'), 42);
  const { rows } = await client.query({ text: "SELECT name, statement FROM pg_prepared_statements", rowMode: "array" });
  equal(rows, [["add one", "SELECT $1::int + 1"]]);
});

// More sessions than server connections stay open, each with named queries and settings of its own.
const sessions = async () => {
  const clients = await Promise.all(Array.from({ length: SESSIONS }, async () => {
    const client = new pg.Client(config);
    await client.connect();
    return client;
  }));
  try {
    await Promise.all(clients.map(async (client, n) => {
      await client.query(`SET work_mem = '${1000 + n}kB'`);
      await client.query("SELECT set_config('app.session', $1, false)", [String(n)]);
      for (let turn = 0; turn < 8; turn += 1) {
        for (let more = 0; more < 4; more += 1) {
          equal(await value(client, { name: `add ${more}`, text: `SELECT $1::int + ${more} + ${n}`, values: [turn] }), turn + more + n);
        }
        equal(await value(client, "SHOW work_mem"), `${1000 + n}kB`);
        equal(await value(client, { name: "own", text: "SELECT current_setting('app.session')" }), String(n));
        if (turn === 4) await fails("22012", client.query({ name: "fails", text: "SELECT 1 / $1::int", values: [0] }));
      }
    }));
  } finally {
    await Promise.all(clients.map((client) => client.end()));
  }
};

const copy = () => connected(async (client) => {
  await client.query(`TRUNCATE ${TABLE}`);
  const lines = Readable.from(Array.from({ length: 10_000 }, (_, n) => `${n}\trow ${n}\n`));
  await pipeline(lines, client.query(copyFrom(`COPY ${TABLE} FROM STDIN`)));
  let text = "";
  for await (const piece of client.query(copyTo(`COPY (SELECT id FROM ${TABLE}) TO STDOUT`))) text += piece;
  equal(text.trim().split("\n").reduce((sum, line) => sum + Number(line), 0), 49_995_000);
});

const copy_error = () => connected(async (client) => {
  const lines = Readable.from(["not a number\tx\n"]);
  await fails("22P02", pipeline(lines, client.query(copyFrom(`COPY ${TABLE} FROM STDIN`))));
  equal(await value(client, "SELECT 1"), 1);
});

const cancel = () => connected((observer) => connected(async (client) => {
  const sleeping = new pg.Query(`SELECT pg_sleep(60) /* ${TABLE} sleeps */`);
  const ended = new Promise((resolve, reject) => sleeping.once("end", resolve).once("error", reject));
  client.query(sleeping);
  while ((await value(observer, sleepers(TABLE))) !== 1) await pause(50);
  new pg.Client(config).cancel(client, sleeping);
  await fails("57014", ended);
  equal(await value(client, "SELECT 1"), 1);
}));

const big_values = () => connected(async (client) => {
  const big = "x".repeat(5_000_000);
  equal((await value(client, "SELECT $1::text", [big])) === big, true);
  equal((await value(client, "SELECT repeat('y', 5000000)")) === "y".repeat(5_000_000), true);
});

const notices = () => connected(async (client) => {
  const heard = [];
  client.on("notice", (notice) => heard.push([notice.severity, notice.message]));
  await client.query("DO $$ BEGIN RAISE NOTICE 'hear me'; END $$");
  equal(heard, [["NOTICE", "hear me"]]);
});

const concurrent = async () => {
  await Promise.all(Array.from({ length: concurrency }, (_, n) => connected(async (client) => {
    await client.query("BEGIN");
    await client.query(`INSERT INTO ${TABLE} VALUES ($1, $2)`, [100_000 + n, `client ${n}`]);
    equal(await value(client, `SELECT note FROM ${TABLE} WHERE id = $1`, [100_000 + n]), `client ${n}`);
    await client.query("COMMIT");
  })));
  await connected(async (client) => {
    equal(Number(await value(client, `SELECT count(*) FROM ${TABLE} WHERE id >= 100000`)), concurrency);
    await client.query(`DROP TABLE ${TABLE}`);
  });
};

const listens = () => connected((listener) => connected(async (speaker) => {
  const heard = [];
  listener.on("notification", ({ channel, payload }) => heard.push([channel, payload]));
  await listener.query(`LISTEN ${TABLE}`);
  await listener.query(`NOTIFY ${TABLE}, 'to myself'`);
  equal(heard, [[TABLE, "to myself"]]);
  await speaker.query("BEGIN");
  await speaker.query("SELECT pg_notify($1, $2)", [TABLE, "first"]);
  await speaker.query(`NOTIFY ${TABLE}, 'second'`);
  await speaker.query("COMMIT");
  while (heard.length < 3) await pause(10);
  equal(heard.slice(1), [[TABLE, "first"], [TABLE, "second"]]);
  await listener.query(`UNLISTEN ${TABLE}`);
  await listener.query(`NOTIFY ${TABLE}`);
  equal(heard.length, 3);
}));

await report(
  crud, parameters, transactions, error_in_transaction, error_codes, multi_statement, prepared, sessions, copy, copy_error, cancel,
  big_values, notices, listens, concurrent,
);
