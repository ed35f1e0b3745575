import * as path from "node:path";

import { credentials, loadPackageDefinition } from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import { connect, createFetch, DeadlineExceeded, MeshError, Overloaded, unary } from "mesh-client";

import type { ProtoGrpcType } from "./generated/library";

async function main(http: string, grpc: string, protos: string): Promise<void> {
  // HTTP: as fetch, for browsers too. Error answers of the mesh and of gRPC methods are thrown.
  const mesh = createFetch({ baseUrl: http, timeoutMs: 10_000, attemptTimeoutMs: 3_000 });
  try {
    const answer = await mesh("/v1/shelves");
    console.log(answer.status, await answer.json());
    await mesh("/v1/shelves/none");
  } catch (error) {
    if (error instanceof Overloaded) console.log(`come again in ${error.retryAfterMs} ms`);
    else if (error instanceof DeadlineExceeded) console.log("too late");
    else if (error instanceof MeshError) console.log(error.code, error.message);
    else throw error;
  }

  // gRPC: any stub, generated or loaded, and any number of gateways.
  const includeDirs = [protos, path.dirname(require.resolve("protobufjs/package.json"))];
  const loaded = loadPackageDefinition(loadSync("library/v1/library.proto", { includeDirs })) as unknown as ProtoGrpcType;
  const library = connect(loaded.library.v1.LibraryService, [grpc], {
    credentials: credentials.createInsecure(),
    idempotent: ["library.v1.LibraryService/GetShelf"],
  });
  try {
    const shelf = await unary(library, library.createShelf, { shelfId: "new", shelf: { title: "New" } }, { timeoutMs: 3_000 });
    console.log(shelf.name);
    await unary(library, library.deleteShelf, { name: shelf.name });
  } finally {
    library.close();
  }
}

const [http = "http://127.0.0.1:8000", grpc = "127.0.0.1:9000", protos = "../../examples/library"] = process.argv.slice(2);
main(http, grpc, protos).catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
