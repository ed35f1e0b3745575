// Calls a library that runs, over gRPC (MESH_GRPC=host:port), over HTTP (MESH_HTTP=http://host:port), or both, and
// checks every answer. What it makes it takes away again. Exits with 1 at the first answer that is wrong.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { once } from "node:events";

import * as grpc from "@grpc/grpc-js";

import { DeadlineExceeded, errorFrom, MeshError, serverStream, unary, within } from "../src";
import * as connect from "./connect";
import type { ImportBooksResponse__Output } from "./generated/library/v1/ImportBooksResponse";
import type { SearchBooksResponse__Output } from "./generated/library/v1/SearchBooksResponse";
import * as library from "./library";

const SERVICE = "library.v1.LibraryService";

async function check(what: string, run: () => Promise<void>): Promise<void> {
  await run();
  console.log(`ok ${what}`);
}

async function overGrpc(address: string): Promise<void> {
  const client = library.connect(address);
  const shelfId = `grpc-${randomBytes(4).toString("hex")}`;
  const name = `shelves/${shelfId}`;
  try {
    await check("grpc unary", async () => {
      const shelf = await unary(client, client.createShelf, { shelfId, shelf: { title: "From grpc-js" } });
      assert.deepEqual(shelf, { name, title: "From grpc-js", bookCount: 0 });
    });
    await check("grpc client streaming", async () => {
      const imported = await new Promise<ImportBooksResponse__Output>((resolve, reject) => {
        const call = client.importBooks(new grpc.Metadata(), within(10_000), (error, response) => {
          if (error) reject(error);
          else resolve(response!);
        });
        const published = { seconds: -1_262_304_000, nanos: 0 };
        call.write({ parent: name, bookId: "origin", book: { title: "On the Origin of Species", genre: "SCIENCE" } });
        call.write({ parent: name, bookId: "emma", book: { title: `Emma ${shelfId}`, publishTime: published } });
        call.end();
      });
      assert.equal(imported.bookCount, 2);
    });
    await check("grpc server streaming", async () => {
      const titles: string[] = [];
      for await (const book of serverStream(client, client.exportBooks, { parent: name }, { timeoutMs: 10_000 })) {
        titles.push(book.title);
      }
      assert.deepEqual(titles, [`Emma ${shelfId}`, "On the Origin of Species"]);
    });
    await check("grpc bidirectional streaming", async () => {
      const call = client.searchBooks(within(10_000));
      const answers = call[Symbol.asyncIterator]() as AsyncIterator<SearchBooksResponse__Output>;
      for (const [query, found] of [[`EMMA ${shelfId}`, 1], [`no ${shelfId}`, 0]] as const) {
        call.write({ query });
        for (let i = 0; i < found; i++) {
          assert.equal((await answers.next()).value.book?.name, `${name}/books/emma`);
        }
        assert.deepEqual((await answers.next()).value, { query, book: null });
      }
      call.end();
      assert.equal((await answers.next()).done, true);
    });
    await check("grpc status, message and details", async () => {
      const missing = unary(client, client.getBook, { name: `${name}/books/none` });
      const error: MeshError = await missing.then(() => assert.fail("found"), (raised) => raised);
      assert.equal(error.code, "NOT_FOUND");
      assert.equal(error.message, `there is no book '${name}/books/none'`);
      assert.deepEqual(error.details.map((detail) => detail["@type"]), ["type.googleapis.com/google.rpc.ResourceInfo"]);
    });
    await check("grpc deadline", async () => {
      const call = client.searchBooks(within(50));
      const [error] = (await once(call.resume(), "error")) as [grpc.ServiceError];
      assert.ok(errorFrom(error) instanceof DeadlineExceeded, String(error));
    });
    await check("grpc cancellation", async () => {
      const call = client.searchBooks(within(10_000));
      call.write({ query: shelfId });
      await once(call, "data");
      const ended = once(call, "end").catch((raised: grpc.ServiceError) => [raised]);
      call.cancel();
      const [error] = (await ended) as [grpc.ServiceError];
      assert.equal(error.code, grpc.status.CANCELLED);
    });
  } finally {
    await unary(client, client.deleteShelf, { name, force: true });
    client.close();
  }
}

interface JsonBook {
  name: string;
  title: string;
  genre?: string;
  publishTime?: string;
  pageCount?: number;
}

async function overHttp(url: string): Promise<void> {
  const call = <Response>(method: string, request: object) =>
    connect.unary<Response>(url, `${SERVICE}/${method}`, request);
  const shelfId = `http-${randomBytes(4).toString("hex")}`;
  const name = `shelves/${shelfId}`;
  const book = { title: "Emma", genre: "FICTION", publishTime: "1815-12-23T00:00:00Z", pageCount: 474 };
  await call("CreateShelf", { shelfId, shelf: { title: "From fetch" } });
  try {
    await check("connect unary", async () => {
      const made = await call<JsonBook>("CreateBook", { parent: name, bookId: "emma", book });
      assert.deepEqual(made, { name: `${name}/books/emma`, ...book });
      assert.deepEqual(await call<JsonBook>("GetBook", { name: made.name }), made);
    });
    await check("connect error with details", async () => {
      const missing = call("GetBook", { name: `${name}/books/none` });
      const error: connect.ConnectError = await missing.then(() => assert.fail("found"), (raised) => raised);
      assert.ok(error instanceof connect.ConnectError, String(error));
      assert.equal(error.code, "not_found");
      assert.equal(error.message, `there is no book '${name}/books/none'`);
      assert.deepEqual(error.details.map((detail) => detail.type), ["google.rpc.ResourceInfo"]);
    });
    await check("connect error for an unknown field", async () => {
      const wrong = call("GetBook", { nmae: `${name}/books/emma` });
      const error: connect.ConnectError = await wrong.then(() => assert.fail("accepted"), (raised) => raised);
      assert.equal(error.code, "invalid_argument");
    });
  } finally {
    await call("DeleteShelf", { name, force: true });
  }
}

async function main(): Promise<void> {
  const { MESH_GRPC, MESH_HTTP } = process.env;
  assert.ok(MESH_GRPC || MESH_HTTP, "set MESH_GRPC=host:port, MESH_HTTP=http://host:port, or both");
  if (MESH_GRPC) await overGrpc(MESH_GRPC);
  if (MESH_HTTP) await overHttp(MESH_HTTP);
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
