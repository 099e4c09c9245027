// A surge through postgres.js.

import postgres from "postgres";
import { surge } from "./surge.mjs";

await surge(async (url, number, seconds) => {
  const sql = postgres(url, { max: 1, ssl: false, connect_timeout: 80, fetch_types: false, onnotice: () => {} });
  try {
    const [row] = await sql`SELECT ${number}::int AS number FROM pg_sleep(${seconds})`;
    return row.number;
  } finally {
    await sql.end({ timeout: 10 });
  }
});
