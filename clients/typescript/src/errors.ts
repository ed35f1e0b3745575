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

  /** Whether the call was refused before anything ran, so that repeating it does no harm whatever it does. */
  get neverRan(): boolean {
    return NEVER_RAN.has(this.reason);
  }
}

/** A limit of the mesh is reached. Come again after `retryAfterMs`, or do without. */
export class Overloaded extends MeshError {}

/** Nobody could take the call, or the connection broke. */
export class Unavailable extends MeshError {}

/** The replica went away while it ran the call. */
export class ReplicaLost extends Unavailable {}

/** It took longer than it may. The call may have run. */
export class DeadlineExceeded extends MeshError {}

/** The caller called it off. */
export class Cancelled extends MeshError {}

/** The other side wants to know who calls, and was not told, or wrongly. */
export class Unauthenticated extends MeshError {}

/** The other side knows who calls, and does not allow it. */
export class PermissionDenied extends MeshError {}

/** The request is wrong. */
export class InvalidRequest extends MeshError {}

/** There is no such route, service, method or thing. */
export class NotFound extends MeshError {}

/** The state of things does not allow it: it exists already, or somebody else changed it. */
export class Conflict extends MeshError {}

/** A limit of the application itself, not of the mesh. */
export class ResourceExhausted extends MeshError {}

/** The handler raised. */
export class HandlerFailed extends MeshError {}

/** Reason of an error that this side of the connection told: nobody was reached. */
export const NOT_CONNECTED = "NOT_CONNECTED";
/** A deployment that was overloaded further down is not among them: the one that called it ran. */
const NEVER_RAN = new Set(["OVERLOADED", "NO_REPLICA", NOT_CONNECTED]);

const BY_REASON: Record<string, typeof MeshError> = {
  OVERLOADED: Overloaded,
  CHILD_OVERLOADED: Overloaded,
  REPLICA_LOST: ReplicaLost,
  MESSAGE_TOO_LARGE: HandlerFailed,
};
const BY_CODE: Record<string, typeof MeshError> = {
  CANCELLED: Cancelled,
  UNKNOWN: HandlerFailed,
  INVALID_ARGUMENT: InvalidRequest,
  DEADLINE_EXCEEDED: DeadlineExceeded,
  NOT_FOUND: NotFound,
  ALREADY_EXISTS: Conflict,
  PERMISSION_DENIED: PermissionDenied,
  RESOURCE_EXHAUSTED: ResourceExhausted,
  FAILED_PRECONDITION: Conflict,
  ABORTED: Conflict,
  OUT_OF_RANGE: InvalidRequest,
  UNIMPLEMENTED: NotFound,
  INTERNAL: HandlerFailed,
  UNAVAILABLE: Unavailable,
  DATA_LOSS: HandlerFailed,
  UNAUTHENTICATED: Unauthenticated,
};

/** Returns the error that tells of a failure. */
export function errorOf(failure: Failure): MeshError {
  return new (BY_REASON[failure.reason ?? ""] ?? BY_CODE[failure.code] ?? HandlerFailed)(failure);
}
