// What programs do with Knex over node-postgres and its pool.

import knex from "knex";
import { concurrency, equal, report, tls, url } from "./report.mjs";

const TABLE = "check_knex";
const db = knex({ client: "pg", connection: { connectionString: url, ssl: tls }, pool: { min: 0, max: 4 }, acquireConnectionTimeout: 60_000 });

const count = async (filter = {}) => Number((await db(TABLE).where(filter).count("* AS count"))[0].count);

const schema = async () => {
  await db.schema.dropTableIfExists(TABLE);
  await db.schema.createTable(TABLE, (table) => {
    table.increments("id");
    table.string("name").unique();
    table.jsonb("notes");
  });
  equal(await db.schema.hasColumn(TABLE, "notes"), true);
};

const crud = async () => {
  await db.batchInsert(TABLE, Array.from({ length: 2000 }, (_, n) => ({ name: `name ${n}`, notes: JSON.stringify({ n: [n, null] }) })), 300);
  equal(await db(TABLE).where("name", "like", "%7").update({ notes: null }), 200);
  equal(await db(TABLE).where({ name: "name 8" }).first("notes"), { notes: { n: [8, null] } });
  equal(await db(TABLE).where("id", ">", 1990).del(), 10);
  equal((await db(TABLE).insert({ name: "returned" }).returning("name"))[0], { name: "returned" });
};

const transactions = async () => {
  await db.transaction(async (outer) => {
    await outer(TABLE).insert({ name: "kept" });
    const inner = outer.transaction((nested) => nested(TABLE).insert({ name: "name 1" }));
    equal(await inner.catch((error) => error.code), "23505");
    await outer(TABLE).insert({ name: "kept too" });
  });
  const undone = db.transaction(async (outer) => {
    await outer(TABLE).insert({ name: "undone" });
    throw new Error("no");
  });
  equal(await undone.catch((error) => error.message), "no");
  equal([await count({ name: "kept" }), await count({ name: "kept too" }), await count({ name: "undone" })], [1, 1, 0]);
};

const serializable = () => db.transaction(
  async (outer) => equal((await outer.raw("SHOW transaction_isolation")).rows[0].transaction_isolation, "serializable"),
  { isolationLevel: "serializable" },
);

const concurrent = async () => {
  await Promise.all(Array.from({ length: concurrency }, async (_, n) => {
    await db(TABLE).insert({ name: `concurrent ${n}` });
    equal((await db(TABLE).where({ name: `concurrent ${n}` }).first("name")).name, `concurrent ${n}`);
  }));
  await db.schema.dropTable(TABLE);
  await db.destroy();
};

await report(schema, crud, transactions, serializable, concurrent);
