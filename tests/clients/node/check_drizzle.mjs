// What programs do with Drizzle, over node-postgres and over postgres.js.

import { count, eq, like, sql } from "drizzle-orm";
import { drizzle as overPg } from "drizzle-orm/node-postgres";
import { integer, jsonb, pgTable, serial, text } from "drizzle-orm/pg-core";
import { drizzle as overPostgres } from "drizzle-orm/postgres-js";
import pg from "pg";
import postgres from "postgres";
import { concurrency, equal, report, tls, url } from "./report.mjs";

const authors = pgTable("check_drizzle_author", { id: serial().primaryKey(), name: text().notNull().unique(), notes: jsonb() });
const books = pgTable("check_drizzle_book", { id: serial().primaryKey(), title: text(), authorId: integer("author_id") });

const pool = new pg.Pool({ connectionString: url, ssl: tls, max: 4, connectionTimeoutMillis: 60_000 });
const client = postgres(url, { ssl: tls, max: 4, connect_timeout: 60, onnotice: () => {} });

/** The SQLSTATE of a query's error, wherever the driver's own error is. */
const state = (error) => error.cause?.code ?? error.code;

function checksOf(driver, db) {
  const schema = async () => {
    await db.execute(sql`DROP TABLE IF EXISTS check_drizzle_author, check_drizzle_book`);
    await db.execute(sql`CREATE TABLE check_drizzle_author (id serial PRIMARY KEY, name text NOT NULL UNIQUE, notes jsonb)`);
    await db.execute(sql`CREATE TABLE check_drizzle_book (id serial PRIMARY KEY, title text, author_id int)`);
  };
  const crud = async () => {
    await db.insert(authors).values(Array.from({ length: 20 }, (_, n) => ({ name: `author ${n}`, notes: { n: [n, null] } })));
    const [{ id, notes }] = await db.select().from(authors).where(eq(authors.name, "author 3"));
    equal(notes, { n: [3, null] });
    await db.insert(books).values(Array.from({ length: 1000 }, (_, n) => ({ title: `book ${n}`, authorId: id })));
    equal((await db.update(books).set({ title: "changed" }).where(like(books.title, "%7")).returning()).length, 100);
    const joined = await db.select({ name: authors.name, books: count() }).from(books).innerJoin(authors, eq(authors.id, books.authorId)).groupBy(authors.name);
    equal(joined, [{ name: "author 3", books: 1000 }]);
  };
  const transactions = async () => {
    await db.transaction(async (outer) => {
      await outer.insert(authors).values({ name: "kept" });
      const inner = outer.transaction((nested) => nested.insert(authors).values({ name: "author 1" }));
      equal(await inner.catch(state), "23505");
      await outer.insert(authors).values({ name: "kept too" });
    });
    equal((await db.select({ n: count() }).from(authors).where(like(authors.name, "kept%")))[0].n, 2);
  };
  const prepared = async () => {
    const named = db.select({ name: authors.name }).from(authors).where(eq(authors.name, sql.placeholder("name"))).prepare("check_drizzle_by_name");
    const found = await Promise.all(Array.from({ length: 60 }, (_, n) => named.execute({ name: `author ${n % 20}` })));
    equal(found.map(([{ name }]) => name), Array.from({ length: 60 }, (_, n) => `author ${n % 20}`));
  };
  const concurrent = async () => {
    await Promise.all(Array.from({ length: concurrency }, async (_, n) => {
      await db.insert(authors).values({ name: `concurrent ${n}` });
      equal((await db.select().from(authors).where(eq(authors.name, `concurrent ${n}`))).length, 1);
    }));
    await db.execute(sql`DROP TABLE check_drizzle_author, check_drizzle_book`);
  };
  const checks = { schema, crud, transactions, prepared, concurrent };
  return Object.entries(checks).map(([name, check]) => Object.defineProperty(check, "name", { value: `${driver}_${name}` }));
}

const goodbye = async () => {
  await pool.end();
  await client.end();
};

await report(...checksOf("node_postgres", overPg(pool)), ...checksOf("postgres_js", overPostgres(client)), goodbye);
