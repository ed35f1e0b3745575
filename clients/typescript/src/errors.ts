// What a call may fail with, the same over gRPC and HTTP. Pure: no transport is known here.

/** What is known of a failure. */
export interface Failure {
  /** Name of the gRPC status code, such as `NOT_FOUND`. */
  code: string;
  /** Why, for programs: mesh's own reasons are `OVERLOADED`, `NO_REPLICA`, `REPLICA_LOST` and so on. */
  reason?: string;
  message: string;
  /** Under which the logs of the mesh have the call. */
  requestId?: string;
  /** HTTP status, if there was an answer over HTTP. */
  status?: number;
  /** When to come again, as the server asked. */
  retryAfterMs?: number;
  /** Details of google.rpc.Status: decoded JSON over HTTP, `{ "@type", value }` with encoded bytes over gRPC. */
  details?: readonly Detail[];
  cause?: unknown;
}

export interface Detail {
  /** Such as `type.googleapis.com/google.rpc.BadRequest`. */
  "@type": string;
  [field: string]: unknown;
}

/** A call failed. Subclasses name the failures that callers treat apart; every other one is told by `code`. */
export class MeshError extends Error {
  readonly code: string;
  readonly reason: string;
  readonly requestId: string;
  readonly status: number | undefined;
  readonly retryAfterMs: number | undefined;
  readonly details: readonly Detail[];
  /** How often the call was sent; 0 if that is not known (gRPC repeats inside its channel). */
  attempts = 0;

  constructor(failure: Failure) {
    super(failure.message, failure.cause === undefined ? undefined : { cause: failure.cause });
    this.name = new.target.name;
    this.code = failure.code;
    this.reason = failure.reason ?? "";
    this.requestId = failure.requestId ?? "";
    this.status = failure.status;
    this.retryAfterMs = failure.retryAfterMs;
    this.details = failure.details ?? [];
  }

  /** Whether the call surely never ran, so that repeating it does no harm whatever it does. */
  get refused(): boolean {
    return REFUSALS.has(this.reason);
  }
}

/** A limit is reached. Come again after `retryAfterMs`, or do without. */
export class Overloaded extends MeshError {}

/** Nothing serves the call, or what served it was lost. */
export class Unavailable extends MeshError {}

/** The time that the caller or the server set has passed. The call may have run. */
export class DeadlineExceeded extends MeshError {}

/** The caller cancelled the call. */
export class Cancelled extends MeshError {}

/** Reason of an error that this side of the connection told: nobody was reached. */
export const NOT_CONNECTED = "NOT_CONNECTED";
const REFUSALS = new Set(["OVERLOADED", "NO_REPLICA", NOT_CONNECTED]);

const CLASSES: Record<string, typeof MeshError> = {
  RESOURCE_EXHAUSTED: Overloaded,
  UNAVAILABLE: Unavailable,
  DEADLINE_EXCEEDED: DeadlineExceeded,
  CANCELLED: Cancelled,
};

/** Returns the error that tells of a failure. */
export function errorOf(failure: Failure): MeshError {
  // No limit of load: such a message is never taken.
  if (failure.reason === "MESSAGE_TOO_LARGE") return new MeshError(failure);
  return new (CLASSES[failure.code] ?? MeshError)(failure);
}
