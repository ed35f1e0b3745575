// The library over gRPC, with @grpc/grpc-js: a typed client that is made from library.proto when the program starts.

import * as path from "node:path";

import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

import type { ProtoGrpcType } from "./generated/library";
import type { LibraryServiceClient } from "./generated/library/v1/LibraryService";

const ROOT = path.resolve(__dirname, "..", "..", "..", "examples", "library");
// protobufjs brings google/api/annotations.proto, which library.proto imports.
const COMMON = path.dirname(require.resolve("protobufjs/package.json"));
const SERVICE = "library.v1.LibraryService";
const READS = ["GetShelf", "ListShelves", "GetBook", "ListBooks", "ExportBooks"];
const BACKOFF = { maxAttempts: 4, initialBackoff: "0.1s", maxBackoff: "2s", backoffMultiplier: 2 };

// A call that was shed never ran and may always be repeated; one that ended as UNAVAILABLE may have run. grpc-js waits
// as long as the server asks it to (`grpc-retry-pushback-ms`), else with back-off and jitter.
const SERVICE_CONFIG = {
  loadBalancingConfig: [],
  methodConfig: [
    {
      name: READS.map((method) => ({ service: SERVICE, method })),
      retryPolicy: { ...BACKOFF, retryableStatusCodes: ["RESOURCE_EXHAUSTED", "UNAVAILABLE"] },
    },
    {
      name: [{ service: SERVICE }],
      retryPolicy: { ...BACKOFF, retryableStatusCodes: ["RESOURCE_EXHAUSTED"] },
    },
  ],
  retryThrottling: { maxTokens: 10, tokenRatio: 0.1 },
};

/** Returns a client of the library at `address` (host:port), in plaintext. Close it when done. */
export function connect(address: string): LibraryServiceClient {
  const definition = loadSync("library/v1/library.proto", {
    includeDirs: [ROOT, COMMON],
    // As the types are generated (`npm run generate`).
    longs: String,
    enums: String,
    defaults: true,
    oneofs: true,
  });
  const loaded = grpc.loadPackageDefinition(definition) as unknown as ProtoGrpcType;
  const options = { "grpc.service_config": JSON.stringify(SERVICE_CONFIG) };
  return new loaded.library.v1.LibraryService(address, grpc.credentials.createInsecure(), options);
}

/** Returns call options that end the call after `seconds`. */
export function within(seconds: number): grpc.CallOptions {
  return { deadline: Date.now() + seconds * 1000 };
}

type Unary<Request, Response> = (
  request: Request,
  metadata: grpc.Metadata,
  options: grpc.CallOptions,
  callback: (error: grpc.ServiceError | null, response?: Response) => void,
) => grpc.ClientUnaryCall;

/** Calls a unary method of a client; rejects with grpc.ServiceError. */
export function unary<Request, Response>(
  client: grpc.Client,
  method: Unary<Request, Response>,
  request: Request,
  options: grpc.CallOptions = within(10),
): Promise<Response> {
  return new Promise((resolve, reject) => {
    method.call(client, request, new grpc.Metadata(), options, (error, response) => {
      if (error) reject(error);
      else resolve(response as Response);
    });
  });
}
