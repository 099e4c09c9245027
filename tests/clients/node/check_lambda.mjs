// The examples of a Lambda function in Node.js, as deploy/lambda has them.

import { copyFileSync } from "node:fs";
import { createServer } from "node:http";
import pg from "pg";
import { equal, fails, report, Skip, tls, url } from "./report.mjs";

// A module finds its packages from where it lies.
async function example(name) {
  const here = new URL(`../node_modules/.lambda-${name}`, import.meta.url);
  copyFileSync(new URL(`../../../deploy/lambda/node/${name}`, import.meta.url), here);
  return import(here);
}
const { handler } = await example("handler.mjs");

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

/** Plays the security token service: a token for whoever asks as its API says. */
async function tokenService(token) {
  const asked = [];
  const server = createServer(async (request, response) => {
    const form = new URLSearchParams(Buffer.concat(await request.toArray()).toString());
    asked.push(Object.fromEntries(form));
    response.setHeader("content-type", "text/xml");
    response.end(`<GetWebIdentityTokenResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetWebIdentityTokenResult>
      <WebIdentityToken>${token}</WebIdentityToken><Expiration>2099-01-01T00:00:00Z</Expiration>
      </GetWebIdentityTokenResult><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></GetWebIdentityTokenResponse>`);
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  return { url: `http://127.0.0.1:${server.address().port}`, asked, end: () => server.close() };
}

await report(
  async function logs_in_with_its_role() {
    const token = process.env.WEB_IDENTITY_TOKEN;
    if (!token) throw new Skip("there is no proxy with TLS in the way");
    const service = await tokenService(token);
    Object.assign(process.env, { AWS_ENDPOINT_URL_STS: service.url, AWS_REGION: "eu-west-1", AWS_ACCESS_KEY_ID: "AKID", AWS_SECRET_ACCESS_KEY: "secret" });
    const { webIdentity } = await example("web-identity.mjs");
    const { hostname: host, port } = new URL(url);
    const there = { host, port, user: "function", database: "app", ssl: tls };
    for (let round = 0; round < 2; round += 1) {
      const client = new pg.Client({ ...there, password: webIdentity });
      await client.connect();
      equal((await client.query("SELECT current_user::text AS me")).rows, [{ me: "app" }]);
      await client.end();
    }
    service.end();
    equal(service.asked.length, 2);
    equal(service.asked[0].Action, "GetWebIdentityToken");
    equal([service.asked[0]["Audience.member.1"], service.asked[0].SigningAlgorithm, service.asked[0].DurationSeconds], ["pgweir", "ES384", "60"]);
    await fails("28P01", new pg.Client({ ...there, password: "secret" }).connect());
  },
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
