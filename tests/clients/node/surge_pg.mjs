// A surge through node-postgres.

import pg from "pg";
import { surge } from "./surge.mjs";

await surge(async (connectionString, number, seconds) => {
  const client = new pg.Client({ connectionString, ssl: false, connectionTimeoutMillis: 80_000 });
  // What the server says of its own accord: the query's own error tells it too.
  client.on("error", () => {});
  await client.connect();
  try {
    return (await client.query("SELECT $1::int AS number FROM pg_sleep($2)", [number, seconds])).rows[0].number;
  } finally {
    await client.end();
  }
});
