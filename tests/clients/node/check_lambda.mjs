// The example of a Lambda function in Node.js, as deploy/lambda has it.

import { copyFileSync } from "node:fs";
import pg from "pg";
import { equal, fails, report, Skip, tls, url } from "./report.mjs";

// A module finds its packages from where it lies.
const here = new URL("../node_modules/.lambda-handler.mjs", import.meta.url);
copyFileSync(new URL("../../../deploy/lambda/node/handler.mjs", import.meta.url), here);
const { handler } = await import(here);

const lasting = (ms) => {
  const end = Date.now() + ms;
  return { getRemainingTimeInMillis: () => end - Date.now() };
};

async function other(work) {
  const client = new pg.Client({ connectionString: url, ssl: tls });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

await report(
  async function answers() {
    for (const number of [41, 1]) equal(await handler({ number }, lasting(30_000)), { answer: number + 1 });
  },
  async function survives_a_lost_connection() {
    await other((db) => db.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = current_user AND pid <> pg_backend_pid()"));
    equal(await handler({ number: 2 }, lasting(30_000)), { answer: 3 });
  },
  async function ends_with_its_time() {
    const isDirect = await other(async (db) => {
      await db.query("SET pgweir.deadline_ms = 60000");
      return db.query("SHOW pgweir.deadline_ms").then(() => true, () => false);
    });
    if (isDirect) throw new Skip("no proxy in the way");
    const began = Date.now();
    await fails("57014", handler({ number: 1, sleep: 30 }, lasting(1_000)));
    if (Date.now() - began > 10_000) throw new Error(`${Date.now() - began} ms`);
    equal(await handler({ number: 3 }, lasting(30_000)), { answer: 4 });
  },
);
