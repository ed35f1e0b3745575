// Decisions, without a server.

import assert from "node:assert/strict";
import { test } from "node:test";

import { errorOf, MeshError, Overloaded } from "../src";
import { pauseMs, RETRY_POLICY, RetryBudget, retryAfterMs } from "../src/retry";
import { statusDetails } from "../src/status_details";

test("pauses grow to a bound, anything up to the back-off, added to what the server asks for", () => {
  const longest = [1, 2, 3, 4, 5, 6, 7, 8].map((attempt) => pauseMs(RETRY_POLICY, attempt, 1));
  assert.deepEqual(longest, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
  assert.equal(pauseMs(RETRY_POLICY, 8, 0), 0);
  assert.equal(pauseMs(RETRY_POLICY, 1, 0.5, 2000), 2050);
});

test("a budget allows what was saved, then a tenth", () => {
  const budget = new RetryBudget(0.1, 10);
  let repeats = 0;
  for (let call = 0; call < 1000; call++) {
    budget.deposit();
    if (budget.withdraw()) repeats++;
  }
  assert.ok(repeats >= 105 && repeats <= 110, String(repeats));
});

test("Retry-After in seconds and as a date", () => {
  const now = Date.parse("2026-01-01T00:00:00Z");
  assert.equal(retryAfterMs("2", now), 2000);
  assert.equal(retryAfterMs("Thu, 01 Jan 2026 00:00:03 GMT", now), 3000);
  assert.equal(retryAfterMs("Wed, 31 Dec 2025 00:00:00 GMT", now), 0);
  for (const nothing of [null, "", "soon", "Infinity"]) assert.equal(retryAfterMs(nothing, now), undefined);
});

test("errors are told apart by class", () => {
  const shed = errorOf({ code: "RESOURCE_EXHAUSTED", reason: "OVERLOADED", message: "full" });
  assert.ok(shed instanceof Overloaded && shed.refused && shed.name === "Overloaded");
  const large = errorOf({ code: "RESOURCE_EXHAUSTED", reason: "MESSAGE_TOO_LARGE", message: "large" });
  assert.ok(large instanceof MeshError && !(large instanceof Overloaded) && !large.refused);
  assert.ok(!errorOf({ code: "RESOURCE_EXHAUSTED", reason: "METHOD_STATUS", message: "quota" }).refused);
});

test("status details that break off are no error", () => {
  for (let end = 0; end < 8; end++) {
    assert.equal(statusDetails(Uint8Array.from([0x1a, 0x7f, 0x0a, 0x02, 0x61, 0x62, 0x12, 0x01]).slice(0, end)).reason, "");
  }
});
