// fetch against real meshes; and against a server of its own for what only proxies answer.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";

import { createFetch, DeadlineExceeded, NotFound, Overloaded, RetryBudget, Unavailable } from "../src";
import { full, hold, raised, shed, untilShed, waiting } from "./served";

const JSON_HEADERS = { "content-type": "application/json" };
const shelf = (id: string) => ({ path: `/v1/shelves?shelfId=${id}`, body: JSON.stringify({ title: id }) });

test("answers of handlers are answers, what mesh and methods tell is thrown", async () => {
  const mesh = createFetch({ baseUrl: full.http });
  const answer = await mesh("/v1/shelves");
  assert.equal(answer.status, 200);
  assert.deepEqual(await answer.json(), []);
  const missing = await raised(mesh("/v1/shelves/none"));
  assert.ok(missing instanceof NotFound, String(missing));
  const { code, reason, status, attempts, message } = missing;
  assert.deepEqual([code, reason, status, attempts], ["NOT_FOUND", "METHOD_STATUS", 404, 1]);
  assert.equal(message, "there is no shelf 'shelves/none'");
  assert.equal(missing.details[0]?.["@type"], "type.googleapis.com/google.rpc.ResourceInfo");
  const unknown = await raised(mesh("/nowhere", { headers: { "x-request-id": "mine" } }));
  assert.ok(unknown instanceof NotFound && unknown.reason === "NO_SUCH_ROUTE", String(unknown));
  assert.equal(unknown.requestId, "mine");
});

test("a call that was shed is sent again after Retry-After, whatever its method", async () => {
  const mesh = createFetch({ baseUrl: full.http });
  const before = await shed(full);
  const release = await hold(full);
  const { path, body } = shelf("fetched");
  const started = performance.now();
  const made = mesh(path, { method: "POST", body, headers: JSON_HEADERS });
  await untilShed(full, before + 1);
  await release();
  assert.equal((await made).status, 200);
  assert.ok(performance.now() - started >= 1000, "Retry-After is at least a second");
  assert.equal(await shed(full), before + 1);
});

test("what stays full is told as Overloaded, with what the server said", async () => {
  const before = await shed(full);
  const release = await hold(full);
  try {
    const mesh = createFetch({ baseUrl: full.http, retry: { attemptsMax: 2 } });
    const error = await raised(mesh("/v1/shelves", { headers: { "x-request-id": "busy" } }));
    assert.ok(error instanceof Overloaded, String(error));
    const { reason, status, requestId, attempts, code } = error;
    assert.deepEqual([reason, status, requestId, attempts], ["OVERLOADED", 503, "busy", 2]);
    assert.equal(code, "RESOURCE_EXHAUSTED");
    assert.ok((error.retryAfterMs ?? 0) >= 1000);
    assert.equal(await shed(full), before + 2);
    // No time to come again: told at once.
    const hurried = await raised(mesh("/v1/shelves", { timeoutMs: 900 }));
    assert.ok(hurried instanceof Overloaded && hurried.attempts === 1, String(hurried));
    // No budget: told at once.
    const poor = createFetch({ baseUrl: full.http, budget: new RetryBudget(0.1, 1, 0.5) });
    const refused = await raised(poor("/v1/shelves"));
    assert.ok(refused instanceof Overloaded && refused.attempts === 1, String(refused));
    // A stream cannot be sent twice.
    const stream = new Blob(["{}"]).stream();
    const init = { method: "POST", body: stream, duplex: "half", headers: JSON_HEADERS } as const;
    const streamed = await raised(mesh("/v1/shelves?shelfId=streamed", init));
    assert.ok(streamed instanceof Overloaded && streamed.attempts === 1, String(streamed));
  } finally {
    await release();
  }
});

test("the caller's signal ends a call, also between attempts", async () => {
  const before = await shed(full);
  const release = await hold(full);
  try {
    const mesh = createFetch({ baseUrl: full.http });
    const controller = new AbortController();
    const call = mesh("/v1/shelves", { signal: controller.signal });
    await untilShed(full, before + 1);
    controller.abort(new Error("enough"));
    assert.equal(String(await raised(call)), "Error: enough");
    assert.equal(String(await raised(mesh("/v1/shelves", { signal: controller.signal }))), "Error: enough");
  } finally {
    await release();
  }
});

test("an attempt that takes too long is repeated if the call is idempotent", async () => {
  const mesh = createFetch({ baseUrl: waiting.http, attemptTimeoutMs: 500 });
  const release = await hold(waiting);
  const listed = mesh("/v1/shelves");
  const { path, body } = shelf("late");
  const posted = await raised(mesh(path, { method: "POST", body, headers: JSON_HEADERS }));
  assert.ok(posted instanceof DeadlineExceeded && posted.attempts === 1, String(posted));
  assert.match(posted.requestId, /^[0-9a-f]{32}$/);
  // By now the first attempt to list them has ended as well.
  const hurried = await raised(mesh("/v1/shelves", { attemptTimeoutMs: 50 }));
  assert.ok(hurried instanceof DeadlineExceeded && hurried.attempts === 3, String(hurried));
  await release();
  // What was given up was not run.
  assert.deepEqual(await (await listed).json(), []);
});

test("the whole call ends in time, and says so", async () => {
  const release = await hold(waiting);
  try {
    const mesh = createFetch({ baseUrl: waiting.http, timeoutMs: 400 });
    const error = await raised(mesh("/v1/shelves"));
    assert.ok(error instanceof DeadlineExceeded && error.attempts === 1, String(error));
  } finally {
    await release();
  }
});

test("nobody there: refused before anything was sent", async () => {
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  const mesh = createFetch({ baseUrl: `http://127.0.0.1:${port}`, retry: { backoffMs: 1 } });
  const error = await raised(mesh("/", { method: "POST", body: "x" }));
  assert.ok(error instanceof Unavailable && error.reason === "NOT_CONNECTED", String(error));
  assert.equal(error.attempts, 3);
});

test("a call that fetch would not send is not an error of the mesh", async () => {
  const mesh = createFetch();
  for (const call of [mesh("no url"), mesh("http://127.0.0.1", { body: "x" }), mesh("http://x", { method: "A B" })]) {
    assert.ok((await raised(call)) instanceof TypeError);
  }
});

/** Serves with `answer` while `run` runs. */
async function answered(
  answer: (request: IncomingMessage, response: ServerResponse, number: number) => void,
  run: (url: string) => Promise<void>,
): Promise<void> {
  let count = 0;
  const server = createServer((request, response) => answer(request, response, ++count)).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  try {
    await run(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

test("what a proxy loses is repeated only if it is idempotent", async () => {
  const lost = (_: IncomingMessage, response: ServerResponse, number: number) => {
    if (number % 3 === 1) response.destroy();
    else response.writeHead(number % 3 === 2 ? 502 : 200).end("from behind");
  };
  await answered(lost, async (url) => {
    const mesh = createFetch({ baseUrl: url, retry: { backoffMs: 1 } });
    assert.equal(await (await mesh("/")).text(), "from behind");
    const broken = await raised(mesh("/", { method: "POST" }));
    assert.ok(broken instanceof Unavailable && broken.reason === "CONNECTION_BROKEN", String(broken));
    const lost = await raised(mesh("/", { method: "POST" }));
    assert.ok(lost instanceof Unavailable && lost.status === 502 && lost.attempts === 1, String(lost));
  });
});

test("an answer that stops in the middle ends with the call's time", async () => {
  await answered(
    (_, response) => void response.writeHead(200).write("a"),
    async (url) => {
      const answer = await createFetch({ baseUrl: url, timeoutMs: 200, attemptTimeoutMs: 100 })("/");
      assert.ok((await raised(answer.text())) instanceof DeadlineExceeded);
    },
  );
});

test("errors that handlers answer themselves are answers", async () => {
  const own = (_: IncomingMessage, response: ServerResponse) =>
    void response.writeHead(422, { "content-type": "application/problem+json" }).end('{"title": "no"}');
  await answered(own, async (url) => {
    const answer = await createFetch({ baseUrl: url })("/");
    assert.deepEqual([answer.status, await answer.json()], [422, { title: "no" }]);
  });
});
