// What programs do with Prisma, over its adapter for node-postgres.

import { PrismaPg } from "@prisma/adapter-pg";
import client from "@prisma/client";
import { concurrency, equal, report, tls, url } from "./report.mjs";

const prisma = new client.PrismaClient({
  adapter: new PrismaPg({ connectionString: url, ssl: tls, max: 8, connectionTimeoutMillis: 60_000 }),
  transactionOptions: { maxWait: 60_000, timeout: 60_000 },
});

/** Awaits a promise that must be rejected with this SQLSTATE, or with this code of Prisma's own. */
async function fails(code, promise) {
  const found = await promise.then(() => "no error", (error) => error.meta?.driverAdapterError?.cause?.originalCode ?? error.code ?? error.message);
  equal(found, code);
}

async function schema() {
  await prisma.$executeRawUnsafe("DROP TABLE IF EXISTS check_prisma_book, check_prisma_author");
  await prisma.$executeRawUnsafe("CREATE TABLE check_prisma_author (id serial PRIMARY KEY, name text NOT NULL UNIQUE, notes jsonb)");
  await prisma.$executeRawUnsafe(`CREATE TABLE check_prisma_book (id serial PRIMARY KEY, title text NOT NULL, pages bigint, price numeric(65,30),
    printed timestamp(3), cover bytea, tags text[], author_id int NOT NULL REFERENCES check_prisma_author)`);
}

async function crud() {
  await prisma.author.createMany({ data: Array.from({ length: 20 }, (_, n) => ({ name: `author ${n}`, notes: { n: [n, null] } })) });
  const { id, notes } = await prisma.author.findUniqueOrThrow({ where: { name: "author 3" } });
  equal(notes, { n: [3, null] });
  await prisma.book.createMany({ data: Array.from({ length: 1000 }, (_, n) => ({ title: `book ${n}`, authorId: id })) });
  equal((await prisma.book.updateMany({ where: { title: { endsWith: "7" } }, data: { title: "changed" } })).count, 100);
  const found = await prisma.author.findMany({ where: { books: { some: { title: "changed" } } }, include: { _count: { select: { books: true } } } });
  equal(found.map(({ name, _count }) => [name, _count.books]), [["author 3", 1000]]);
  const upserted = await prisma.author.upsert({ where: { name: "author 3" }, update: { notes: { n: 4 } }, create: { name: "author 3" } });
  equal(upserted.notes, { n: 4 });
  equal((await prisma.book.deleteMany({ where: { title: { not: "changed" } } })).count, 900);
  const nested = await prisma.author.create({ data: { name: "nested", books: { create: [{ title: "one" }, { title: "two" }] } }, include: { books: { orderBy: { id: "asc" } } } });
  equal(nested.books.map(({ title }) => title), ["one", "two"]);
}

async function types() {
  const { id } = await prisma.author.findUniqueOrThrow({ where: { name: "nested" } });
  const sent = { title: "Grüße, 世界", pages: 9007199254740993n, price: "12345.678900000000000000000000000001", printed: new Date("2026-02-28T12:30:00.123Z"), cover: new Uint8Array(256).map((_, n) => n), tags: ["a", "", "ü"], authorId: id };
  const found = await prisma.book.findUnique({ where: { id: (await prisma.book.create({ data: sent })).id } });
  const shown = ({ title, pages, price, printed, cover, tags }) => [title, String(pages), String(price), printed, Buffer.from(cover).toString("hex"), tags];
  equal(shown(found), shown(sent));
}

async function transactions() {
  await prisma.$transaction(async (outer) => {
    await outer.author.create({ data: { name: "kept" } });
    equal(await outer.author.count({ where: { name: "kept" } }), 1);
  }, { isolationLevel: "Serializable" });
  const undone = prisma.$transaction(async (outer) => {
    await outer.author.create({ data: { name: "dropped" } });
    throw new Error("changed its mind");
  });
  await fails("changed its mind", undone);
  equal(await prisma.$transaction([prisma.author.count({ where: { name: "kept" } }), prisma.author.count({ where: { name: "dropped" } })]), [1, 0]);
}

async function errors() {
  await fails("23505", prisma.author.create({ data: { name: "kept" } }));
  await fails("23503", prisma.book.create({ data: { title: "nobody's", authorId: -1 } }));
  await fails("P2025", prisma.author.delete({ where: { id: -1 } }));
  await fails("22012", prisma.$queryRaw`SELECT 1 / ${0}::int`);
  const inside = prisma.$transaction(async (outer) => {
    await outer.author.create({ data: { name: "kept" } }).catch(() => {});
    await outer.author.count();
  });
  await fails("25P02", inside);
}

async function prepared() {
  const found = await Promise.all(Array.from({ length: 60 }, (_, n) => prisma.author.findUnique({ where: { name: `author ${n % 20}` } })));
  equal(found.map(({ name }) => name), Array.from({ length: 60 }, (_, n) => `author ${n % 20}`));
  equal(await prisma.$queryRaw`SELECT ${"a"}::text AS a, ${7}::int AS n`, [{ a: "a", n: 7 }]);
}

async function concurrent() {
  await Promise.all(Array.from({ length: concurrency }, (_, n) => prisma.$transaction(async (outer) => {
    await outer.author.create({ data: { name: `concurrent ${n}` } });
    equal(await outer.author.count({ where: { name: `concurrent ${n}` } }), 1);
  })));
  equal(await prisma.author.count({ where: { name: { startsWith: "concurrent" } } }), concurrency);
  await prisma.$executeRawUnsafe("DROP TABLE check_prisma_book, check_prisma_author");
}

const goodbye = async () => {
  await prisma.$disconnect();
};

await report(schema, crud, types, transactions, errors, prepared, concurrent, goodbye);
