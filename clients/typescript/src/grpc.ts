// gRPC with @grpc/grpc-js: clients that balance, wait and repeat as they should, and calls that end with typed errors.

import * as grpc from "@grpc/grpc-js";

import { errorOf } from "./errors";
import type { Failure, MeshError } from "./errors";
import { newRequestId, REQUEST_ID } from "./request_id";
import { RETRY_POLICY } from "./retry";
import type { RetryPolicy } from "./retry";
import { statusDetails } from "./status_details";

export interface ConnectOptions {
  /** Plaintext unless told otherwise. */
  credentials?: grpc.ChannelCredentials;
  /**
   * Methods that may run twice, such as `library.v1.LibraryService/GetShelf`, beside those whose `idempotency_level`
   * says so: they are repeated also when nobody knows whether they ran.
   */
  idempotent?: readonly string[];
  /** `attemptsMax` is at most 5: gRPC allows no more. */
  retry?: Partial<RetryPolicy>;
  /** Further options of the channel. They win. */
  channel?: grpc.ChannelOptions;
}

interface Stub<Client extends grpc.Client> {
  new (address: string, credentials: grpc.ChannelCredentials, options?: grpc.ChannelOptions): Client;
  service: grpc.ServiceDefinition;
}

/**
 * Returns a client of the service whose constructor `Stub` is, generated or loaded. Close it when done.
 *
 * `target` is one address or name as gRPC takes them (`gateway:9000`, `dns:///gateway:9000`), or several IP addresses
 * with port. Calls go round robin to all that are there.
 */
export function connect<Client extends grpc.Client>(
  Stub: Stub<Client>,
  target: string | readonly string[],
  options: ConnectOptions = {},
): Client {
  const credentials = options.credentials ?? grpc.credentials.createInsecure();
  return new Stub(typeof target === "string" ? target : targetOf(target), credentials, {
    "grpc.service_config": JSON.stringify(serviceConfig(Stub.service, options)),
    "grpc.service_config_disable_resolution": 1,
    ...options.channel,
  });
}

function targetOf(addresses: readonly string[]): string {
  return `${addresses[0]?.startsWith("[") ? "ipv6" : "ipv4"}:${addresses.join(",")}`;
}

/**
 * Returns the service config of clients of a service.
 *
 * What was shed (RESOURCE_EXHAUSTED) never ran and is always repeated, after the pause that the server asks for with
 * `grpc-retry-pushback-ms`, else with back-off and jitter; what ended as UNAVAILABLE may have run, and is repeated only
 * if the method is idempotent. When half of the calls fail, none is repeated until it is better.
 */
export function serviceConfig(
  service: grpc.ServiceDefinition,
  options: Pick<ConnectOptions, "idempotent" | "retry"> = {},
): object {
  const given = new Set(options.idempotent);
  const policy = { ...RETRY_POLICY, ...options.retry };
  const names = { safe: [] as object[], others: [] as object[] };
  for (const definition of Object.values(service)) {
    const [name = "", method = ""] = definition.path.slice(1).split("/");
    const level = (definition as { options?: { idempotency_level?: string } }).options?.idempotency_level;
    const safe = given.has(`${name}/${method}`) || level === "NO_SIDE_EFFECTS" || level === "IDEMPOTENT";
    (safe ? names.safe : names.others).push({ service: name, method });
  }
  const methods = (name: object[], retryableStatusCodes: string[]) =>
    name.length && policy.attemptsMax > 1 ? [{ name, retryPolicy: { ...retryPolicy(policy), retryableStatusCodes } }] : [];
  return {
    loadBalancingConfig: [{ round_robin: {} }],
    methodConfig: [
      ...methods(names.safe, ["RESOURCE_EXHAUSTED", "UNAVAILABLE"]),
      ...methods(names.others, ["RESOURCE_EXHAUSTED"]),
    ],
    retryThrottling: { maxTokens: 10, tokenRatio: 0.1 },
  };
}

function retryPolicy(policy: RetryPolicy) {
  return {
    maxAttempts: Math.min(5, policy.attemptsMax),
    initialBackoff: `${policy.backoffMs / 1000}s`,
    maxBackoff: `${policy.backoffMaxMs / 1000}s`,
    backoffMultiplier: policy.backoffFactor,
  };
}

export interface CallOptions {
  /** For the call with all its attempts. 30 s for unary calls unless told otherwise; streams have no end of their own. */
  timeoutMs?: number;
  metadata?: grpc.Metadata;
  signal?: AbortSignal;
}

const TIMEOUT_MS = 30_000;

// Methods of clients are overloaded, and inference sees the last signature, whose arguments differ from generator to
// generator: what matters is its first argument and its last.
type UnaryMethod = (...args: never[]) => grpc.ClientUnaryCall;
type ServerStreamMethod = (...args: never[]) => grpc.ClientReadableStream<unknown>;
type RequestOf<Method> = Method extends (request: infer Request, ...args: never[]) => unknown ? Request : never;
type ResponseOf<Method> = Method extends (...args: infer Arguments) => unknown
  ? Arguments extends [...unknown[], (error: grpc.ServiceError | null, response?: infer Response) => void]
    ? Response
    : never
  : never;
type StreamedOf<Method> = Method extends (...args: never[]) => grpc.ClientReadableStream<infer Message> ? Message : never;

type Unary = (
  request: unknown,
  metadata: grpc.Metadata,
  options: grpc.CallOptions,
  callback: (error: grpc.ServiceError | null, response?: unknown) => void,
) => grpc.ClientUnaryCall;
type ServerStream = (
  request: unknown,
  metadata: grpc.Metadata,
  options: grpc.CallOptions,
) => grpc.ClientReadableStream<unknown>;

/** Calls a unary method of a client: `unary(client, client.getShelf, { name })`. Rejects with MeshError. */
export function unary<Method extends UnaryMethod>(
  client: grpc.Client,
  method: Method,
  request: RequestOf<Method>,
  options: CallOptions = {},
): Promise<ResponseOf<Method>> {
  const metadata = metadataOf(options);
  const send = method as unknown as Unary;
  return new Promise((resolve, reject) => {
    const call = send.call(client, request, metadata, within(options.timeoutMs ?? TIMEOUT_MS), (error, response) => {
      options.signal?.removeEventListener("abort", cancel);
      if (error) reject(errorFrom(error, requestIdOf(metadata)));
      else resolve(response as ResponseOf<Method>);
    });
    const cancel = () => call.cancel();
    options.signal?.addEventListener("abort", cancel, { once: true });
    if (options.signal?.aborted) cancel();
  });
}

/** Yields what a server-streaming method answers. Throws MeshError. A loop that is left cancels the call. */
export async function* serverStream<Method extends ServerStreamMethod>(
  client: grpc.Client,
  method: Method,
  request: RequestOf<Method>,
  options: CallOptions = {},
): AsyncGenerator<StreamedOf<Method>, void, undefined> {
  const metadata = metadataOf(options);
  const send = method as unknown as ServerStream;
  const call = send.call(client, request, metadata, options.timeoutMs ? within(options.timeoutMs) : {});
  const cancel = () => call.cancel();
  options.signal?.addEventListener("abort", cancel, { once: true });
  try {
    if (options.signal?.aborted) cancel();
    for await (const message of call) yield message as StreamedOf<Method>;
  } catch (error) {
    throw isServiceError(error) ? errorFrom(error, requestIdOf(metadata)) : error;
  } finally {
    options.signal?.removeEventListener("abort", cancel);
    call.cancel();
  }
}

/** Returns call options that end a call after `ms`, for calls made with grpc-js alone. */
export function within(ms: number): grpc.CallOptions {
  return { deadline: Date.now() + ms };
}

/** Returns the error that tells what grpc-js ended a call with. */
export function errorFrom(error: grpc.ServiceError, requestId = ""): MeshError {
  const encoded = error.metadata?.get("grpc-status-details-bin")[0];
  const told = statusDetails(encoded instanceof Buffer ? encoded : new Uint8Array());
  const pushback = Number(error.metadata?.get("grpc-retry-pushback-ms")[0] ?? NaN);
  const after = told.retryAfterMs ?? (pushback >= 0 ? pushback : undefined);
  const failure: Failure = {
    code: grpc.status[error.code] ?? "UNKNOWN",
    reason: told.reason,
    message: error.details,
    requestId: String(error.metadata?.get(REQUEST_ID)[0] ?? requestId),
    details: told.details,
    cause: error,
    ...(after === undefined ? {} : { retryAfterMs: after }),
  };
  return errorOf(failure);
}

function isServiceError(error: unknown): error is grpc.ServiceError {
  return error instanceof Error && "code" in error && "details" in error;
}

function metadataOf(options: CallOptions): grpc.Metadata {
  const metadata = options.metadata?.clone() ?? new grpc.Metadata();
  if (metadata.get(REQUEST_ID).length === 0) metadata.set(REQUEST_ID, newRequestId());
  return metadata;
}

function requestIdOf(metadata: grpc.Metadata): string {
  return String(metadata.get(REQUEST_ID)[0]);
}
