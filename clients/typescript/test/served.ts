// The meshes that the tests call: both serve the library, one call at a time. `full` sheds what comes meanwhile,
// `waiting` lets it wait. test_typescript.py starts them.

import assert from "node:assert/strict";
import { once } from "node:events";

import { connect } from "../example/library";

export interface Mesh {
  http: string;
  grpc: string;
  admin: string;
}

function mesh(name: string): Mesh {
  const [http, grpc, admin] = (process.env[name] ?? "").split(" ");
  assert.ok(http && grpc && admin, `${name} is "http://host:port host:port http://host:port"`);
  return { http, grpc, admin };
}

export const full = mesh("MESH_FULL");
export const waiting = mesh("MESH_WAITING");

/** Takes the one place of a mesh until the function that it returns is called. */
export async function hold(mesh: Mesh): Promise<() => Promise<void>> {
  const client = connect(mesh.grpc, { retry: { attemptsMax: 1 } });
  const call = client.searchBooks();
  call.write({ query: "" });
  await once(call, "data");
  return async () => {
    call.end();
    await once(call.resume(), "end");
    client.close();
  };
}

/** Returns how many calls a mesh has shed. */
export async function shed(mesh: Mesh): Promise<number> {
  const metrics = await (await fetch(`${mesh.admin}/metrics`)).text();
  const counts = metrics.match(/^mesh_requests_shed_total\{.*\} .*$/gm) ?? [];
  return counts.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" "))), 0);
}

/** Waits until a mesh has shed `count` calls. */
export async function untilShed(mesh: Mesh, count: number): Promise<void> {
  while ((await shed(mesh)) < count) await new Promise((resolve) => setTimeout(resolve, 10));
}

/** Returns what a promise is rejected with. */
export async function raised(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    (value) => assert.fail(`succeeded: ${String(value)}`),
    (error: unknown) => error,
  );
}
