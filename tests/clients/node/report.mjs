// Runs the checks of one client and prints a line for each; the last line counts them.

import { readFileSync } from "node:fs";

const DEADLINE_MS = 90_000;

/** What a check throws when the client has no such thing. */
export class Skip extends Error {}

export const url = process.env.DATABASE_URL;

/** TLS settings for node's drivers; `false` for none. */
export const tls = process.env.PGSSLROOTCERT ? { ca: readFileSync(process.env.PGSSLROOTCERT, "utf8") } : false;

const flag = process.argv.indexOf("--concurrent");
export const concurrency = flag < 0 ? 200 : Number(process.argv[flag + 1]);

export function equal(found, expected) {
  const [left, right] = [JSON.stringify(found), JSON.stringify(expected)];
  if (left !== right) throw new Error(`expected ${right?.slice(0, 200)}, found ${left?.slice(0, 200)}`);
}

/** Awaits a promise that must be rejected with this SQLSTATE. */
export async function fails(code, promise) {
  let found = "no error";
  try {
    await promise;
  } catch (error) {
    found = error.code ?? error.message;
  }
  equal(found, code);
}

/** A statement that counts the running statements which say in a comment that NAME sleeps. */
export const sleepers = (name) =>
  `SELECT count(*)::int AS n FROM pg_stat_activity
   WHERE state = 'active' AND query LIKE '%* ${name} sleeps *%' AND pid <> pg_backend_pid()`;

// What has one client wait, in a session that it keeps, for what another does.
const NEEDS_TWO = ["cancel", "listens"];

export const pause = (ms) => new Promise((wake) => setTimeout(wake, ms));

/** Runs functions in order, each named for what it checks. */
export async function report(...checks) {
  let [passed, failed, skipped] = [0, 0, 0];
  for (const check of checks) {
    let timer;
    const deadline = new Promise((_, late) => {
      timer = setTimeout(() => late(new Error(`not within ${DEADLINE_MS} ms`)), DEADLINE_MS);
    });
    try {
      if (process.env.ONE_CONNECTION && NEEDS_TWO.includes(check.name)) throw new Skip("it needs two server connections");
      await Promise.race([check(), deadline]);
      passed += 1;
      console.log(`ok   ${check.name}`);
    } catch (error) {
      if (error instanceof Skip) {
        skipped += 1;
        console.log(`skip ${check.name}: ${error.message}`);
      } else {
        failed += 1;
        console.log(`FAIL ${check.name}: ${error.code ?? ""} ${String(error.message).replaceAll(/\s+/g, " ")}`);
        if (process.env.VERBOSE) console.error(error);
      }
    } finally {
      clearTimeout(timer);
    }
  }
  console.log(`${passed} passed, ${failed} failed, ${skipped} skipped`);
  process.exit(failed ? 1 : 0);
}
