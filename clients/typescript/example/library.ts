// The library over gRPC: a typed client that is made from library.proto when the program starts.

import * as path from "node:path";

import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

import { connect as connectStub } from "../src";
import type { ConnectOptions } from "../src";
import type { ProtoGrpcType } from "./generated/library";
import type { LibraryServiceClient } from "./generated/library/v1/LibraryService";

const ROOT = path.resolve(__dirname, "..", "..", "..", "..", "examples", "library");
// protobufjs brings google/api/annotations.proto, which library.proto imports.
const COMMON = path.dirname(require.resolve("protobufjs/package.json"));
const READS = ["GetShelf", "ListShelves", "GetBook", "ListBooks", "ExportBooks"];

/** Returns a client of the library at `target`, in plaintext. Close it when done. */
export function connect(target: string | readonly string[], options: ConnectOptions = {}): LibraryServiceClient {
  const definition = loadSync("library/v1/library.proto", {
    includeDirs: [ROOT, COMMON],
    // As the types are generated (`npm run generate`).
    longs: String,
    enums: String,
    defaults: true,
    oneofs: true,
  });
  const loaded = grpc.loadPackageDefinition(definition) as unknown as ProtoGrpcType;
  const idempotent = READS.map((method) => `library.v1.LibraryService/${method}`);
  return connectStub(loaded.library.v1.LibraryService, target, { idempotent, ...options });
}
