// A Lambda function in Node.js with node-postgres, through pgweir: one connection for each environment, and no query outlives its invocation.
import { readFileSync } from "node:fs";
import pg from "pg";

const ca = process.env.PGSSLROOTCERT;
let client;

/** The environment's connection, opened when it is first needed and again when it was lost. */
async function database() {
  if (!client) {
    const fresh = new pg.Client({ connectionString: process.env.DATABASE_URL, ssl: ca ? { ca: readFileSync(ca, "utf8") } : false });
    // Without a listener, a connection that breaks while the environment sleeps would end the process.
    fresh.on("error", () => { if (client === fresh) client = undefined; });
    await fresh.connect();
    client = fresh;
  }
  return client;
}

/** The one line: pgweir cancels what runs, and undoes it, when the invocation's time is nearly over. PostgreSQL itself takes it for a setting. */
const withinTime = (db, context) => db.query(`SET pgweir.deadline_ms = ${Math.max(1, context.getRemainingTimeInMillis() - 200)}`);

/** Runs work, once more if the connection turns out to be lost before anything was begun. */
async function onDatabase(context, work) {
  for (let again = true; ; again = false) {
    const db = await database();
    try {
      await withinTime(db, context);
    } catch (error) {
      client = undefined;
      if (!again) throw error;
      continue;
    }
    return work(db);
  }
}

export async function handler(event, context) {
  // The answer does not wait for the connection, which stays open for the next invocation.
  context.callbackWaitsForEmptyEventLoop = false;
  return onDatabase(context, async (db) => {
    const { rows } = await db.query("SELECT $1::int + 1 AS answer, pg_sleep($2)", [event.number, event.sleep ?? 0]);
    return { answer: rows[0].answer };
  });
}
