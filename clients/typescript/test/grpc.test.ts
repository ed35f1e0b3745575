// gRPC against real meshes.

import assert from "node:assert/strict";
import { test } from "node:test";

import * as grpc from "@grpc/grpc-js";

import { connect } from "../example/library";
import { Cancelled, DeadlineExceeded, NotFound, Overloaded, serverStream, serviceConfig, unary, Unavailable } from "../src";
import { full, hold, raised, shed, untilShed, waiting } from "./served";

test("a call that was shed is sent again after the push-back", async () => {
  const client = connect(full.grpc, { retry: { backoffMs: 1 } });
  const before = await shed(full);
  const release = await hold(full);
  const started = performance.now();
  const made = unary(client, client.createShelf, { shelfId: "called", shelf: { title: "once" } });
  await untilShed(full, before + 1);
  await release();
  assert.equal((await made).name, "shelves/called");
  assert.ok(performance.now() - started >= 100, "without the push-back the pause is a millisecond");
  await unary(client, client.deleteShelf, { name: "shelves/called" });
  client.close();
});

test("what stays full is told as Overloaded; then nothing is repeated until it is better", async () => {
  const client = connect(full.grpc);
  const before = await shed(full);
  const release = await hold(full);
  try {
    const metadata = new grpc.Metadata();
    metadata.set("x-request-id", "busy");
    const error = await raised(unary(client, client.listShelves, {}, { metadata }));
    assert.ok(error instanceof Overloaded, String(error));
    assert.deepEqual([error.reason, error.requestId, error.neverRan], ["OVERLOADED", "busy", true]);
    assert.ok((error.retryAfterMs ?? 0) > 0);
    assert.match(error.message, /^Request dropped due to backpressure/);
    await Promise.all(Array.from({ length: 20 }, () => raised(unary(client, client.listShelves, {}))));
    const attempts = (await shed(full)) - before;
    assert.ok(attempts <= 30, `21 calls were ${attempts} attempts`);
  } finally {
    await release();
    client.close();
  }
});

test("deadlines and signals end calls", async () => {
  const client = connect(waiting.grpc);
  const release = await hold(waiting);
  try {
    const late = await raised(unary(client, client.listShelves, {}, { timeoutMs: 200 }));
    assert.ok(late instanceof DeadlineExceeded, String(late));
    assert.match(late.requestId, /^[0-9a-f]{32}$/);
    const controller = new AbortController();
    const call = unary(client, client.listShelves, {}, { signal: controller.signal });
    controller.abort();
    assert.ok((await raised(call)) instanceof Cancelled);
    const stream = serverStream(client, client.exportBooks, { parent: "shelves/none" }, { timeoutMs: 200 });
    assert.ok((await raised(stream.next())) instanceof DeadlineExceeded);
  } finally {
    await release();
    client.close();
  }
});

test("statuses of methods are errors with code and details", async () => {
  const client = connect(full.grpc);
  const error = await raised(unary(client, client.getShelf, { name: "shelves/none" }));
  assert.ok(error instanceof NotFound && error.code === "NOT_FOUND", String(error));
  assert.equal(error.details[0]?.["@type"], "type.googleapis.com/google.rpc.ResourceInfo");
  const stream = serverStream(client, client.exportBooks, { parent: "shelves/none" });
  const streamed = await raised(stream.next());
  assert.ok(streamed instanceof NotFound && streamed.code === "NOT_FOUND", String(streamed));
  client.close();
});

test("calls go round robin to all gateways", async () => {
  const both = connect([full.grpc, waiting.grpc]);
  const one = connect(full.grpc);
  await unary(one, one.createShelf, { shelfId: "here", shelf: { title: "only in one" } });
  const counts = new Map<number, number>();
  // Both connections are there when both have answered.
  while (counts.size < 2) {
    const { shelves } = await unary(both, both.listShelves, {});
    counts.set(shelves.filter((shelf) => shelf.name === "shelves/here").length, 0);
  }
  for (let call = 0; call < 20; call++) {
    const found = (await unary(both, both.listShelves, {})).shelves.filter((shelf) => shelf.name === "shelves/here").length;
    counts.set(found, counts.get(found)! + 1);
  }
  assert.deepEqual([counts.get(0), counts.get(1)], [10, 10]);
  await unary(one, one.deleteShelf, { name: "shelves/here" });
  one.close();
  both.close();
});

test("nobody there", async () => {
  const client = connect("127.0.0.1:1");
  const error = await raised(unary(client, client.listShelves, {}, { timeoutMs: 5_000 }));
  assert.ok(error instanceof Unavailable, String(error));
  client.close();
});

test("a service config repeats what may have run only where that does no harm", () => {
  const path = (method: string) => `/shop.v1.Shop/${method}`;
  const methods = { Buy: {}, Look: { idempotency_level: "NO_SIDE_EFFECTS" }, Put: {} };
  const service = Object.fromEntries(
    Object.entries(methods).map(([name, options]) => [name, { path: path(name), options }]),
  ) as unknown as grpc.ServiceDefinition;
  const config = serviceConfig(service, { idempotent: ["shop.v1.Shop/Put"] }) as { methodConfig: unknown[] };
  const policy = { maxAttempts: 3, initialBackoff: "0.1s", maxBackoff: "5s", backoffMultiplier: 2 };
  const names = (...of: string[]) => of.map((method) => ({ service: "shop.v1.Shop", method }));
  assert.deepEqual(config.methodConfig, [
    { name: names("Look", "Put"), retryPolicy: { ...policy, retryableStatusCodes: ["RESOURCE_EXHAUSTED", "UNAVAILABLE"] } },
    { name: names("Buy"), retryPolicy: { ...policy, retryableStatusCodes: ["RESOURCE_EXHAUSTED"] } },
  ]);
});
