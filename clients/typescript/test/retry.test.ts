// Decisions, without a server.

import assert from "node:assert/strict";
import { test } from "node:test";

import { errorOf, HandlerFailed, Overloaded, ReplicaLost, ResourceExhausted, Unavailable } from "../src";
import { pauseMs, RETRY_POLICY, RetryBudget, retryAfterMs } from "../src/retry";
import { statusDetails } from "../src/status_details";

test("pauses grow to a bound, anything up to the back-off, added to what the server asks for", () => {
  const longest = [1, 2, 3, 4, 5, 6, 7, 8].map((attempt) => pauseMs(RETRY_POLICY, attempt, 1));
  assert.deepEqual(longest, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
  assert.equal(pauseMs(RETRY_POLICY, 8, 0), 0);
  assert.equal(pauseMs(RETRY_POLICY, 1, 0.5, 2000), 2050);
});

test("a budget allows what was saved, then a tenth", () => {
  const budget = new RetryBudget(0.1, 1, 10);
  const repeatsOf = (calls: number, eachMs: number) => {
    let repeats = 0;
    for (let call = 0; call < calls; call++) {
      budget.deposit((now += eachMs));
      if (budget.withdraw()) repeats++;
    }
    return repeats;
  };
  let now = 0;
  const many = repeatsOf(1000, 0);
  assert.ok(many >= 105 && many <= 110, String(many));
  // Who calls once a second may repeat each.
  assert.equal(repeatsOf(100, 1000), 100);
});

test("Retry-After in seconds and as a date", () => {
  const now = Date.parse("2026-01-01T00:00:00Z");
  assert.equal(retryAfterMs("2", now), 2000);
  assert.equal(retryAfterMs("Thu, 01 Jan 2026 00:00:03 GMT", now), 3000);
  assert.equal(retryAfterMs("Wed, 31 Dec 2025 00:00:00 GMT", now), 0);
  for (const nothing of [null, "", "soon", "Infinity"]) assert.equal(retryAfterMs(nothing, now), undefined);
});

test("errors are told apart by class", () => {
  const of = (code: string, reason: string) => errorOf({ code, reason, message: "" });
  const shed = of("RESOURCE_EXHAUSTED", "OVERLOADED");
  assert.ok(shed instanceof Overloaded && shed.neverRan && shed.name === "Overloaded");
  // The one that called the child ran.
  const child = of("RESOURCE_EXHAUSTED", "CHILD_OVERLOADED");
  assert.ok(child instanceof Overloaded && !child.neverRan);
  assert.ok(of("RESOURCE_EXHAUSTED", "METHOD_STATUS") instanceof ResourceExhausted);
  assert.ok(of("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE") instanceof HandlerFailed);
  const lost = of("UNAVAILABLE", "REPLICA_LOST");
  assert.ok(lost instanceof ReplicaLost && lost instanceof Unavailable && !lost.neverRan);
  assert.ok(of("UNAVAILABLE", "NO_REPLICA").neverRan);
  assert.ok(of("SOMETHING_NEW", "") instanceof HandlerFailed);
});

test("status details that break off are no error", () => {
  for (let end = 0; end < 8; end++) {
    assert.equal(statusDetails(Uint8Array.from([0x1a, 0x7f, 0x0a, 0x02, 0x61, 0x62, 0x12, 0x01]).slice(0, end)).reason, "");
  }
});
