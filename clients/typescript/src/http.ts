// `fetch` with deadlines, repeats and typed errors. Needs nothing but fetch, so it runs in browsers too.

import { DeadlineExceeded, errorOf, MeshError, NOT_CONNECTED, Overloaded, Unavailable } from "./errors";
import type { Detail, Failure } from "./errors";
import { newRequestId, REQUEST_ID } from "./request_id";
import { pauseMs, RETRY_POLICY, RetryBudget, retryAfterMs } from "./retry";
import type { RetryPolicy } from "./retry";

export interface FetchOptions {
  /** What paths are relative to, such as `https://mesh.example.com`. */
  baseUrl?: string;
  /** For a call with all its attempts and pauses, and reading its answer. 30 s unless told otherwise. */
  timeoutMs?: number;
  /** For one attempt until its answer begins. Unless told otherwise, all that is left. */
  attemptTimeoutMs?: number;
  retry?: Partial<RetryPolicy>;
  /** Shared by all calls of this fetch; give one to share it further. */
  budget?: RetryBudget;
  /** Sent with each call. */
  headers?: Record<string, string>;
}

export interface CallInit extends RequestInit {
  timeoutMs?: number;
  attemptTimeoutMs?: number;
  /** Whether running twice does no harm. Unless told otherwise that is so for GET, HEAD, PUT, DELETE and OPTIONS. */
  idempotent?: boolean;
}

/**
 * As `fetch`, but throws what failed:
 *
 * - `Overloaded`, `DeadlineExceeded`, `Unavailable` when no attempt got an answer in time;
 * - the `MeshError` that tells of whatever else mesh itself or a gRPC method answered as `application/problem+json`;
 * - what `signal` was aborted with.
 *
 * Every other answer is returned, whatever its status: it is your handler's. After `timeoutMs` reading the body ends
 * with `DeadlineExceeded`.
 *
 * A call is repeated if it surely never ran (it was shed, nobody was reached), or if it is idempotent and was lost
 * (502, 503, a broken connection, an attempt that took too long); never without time and budget left, and never if
 * its body is a stream.
 */
export type MeshFetch = (path: string | URL, init?: CallInit) => Promise<Response>;

const TIMEOUT_MS = 30_000;
const TIMEOUT_HEADER = "x-request-timeout-seconds";
const IDEMPOTENT = new Set(["GET", "HEAD", "PUT", "DELETE", "OPTIONS"]);
const PROBLEM_BYTES_MAX = 1_048_576;

/** Returns a fetch that behaves well under load. It throws TypeError for what `fetch` would not send. */
export function createFetch(options: FetchOptions = {}): MeshFetch {
  const policy = { ...RETRY_POLICY, ...options.retry };
  const budget = options.budget ?? new RetryBudget();
  return async (path, init = {}) => {
    const call = new Call(path, init, options);
    budget.deposit(performance.now());
    for (let attempt = 1; ; attempt++) {
      const answer = await call.send();
      if (answer instanceof Response) return answer;
      answer.attempts = attempt;
      const pause = pauseMs(policy, attempt, Math.random(), answer.retryAfterMs);
      const possible = attempt < policy.attemptsMax && pause < call.leftMs() && call.repeatable(answer);
      if (!possible || !budget.withdraw()) {
        call.over();
        throw answer;
      }
      await call.pause(pause);
    }
  };
}

/** One call with all its attempts. */
class Call {
  private readonly init: RequestInit;
  private readonly method: string;
  private readonly headers: Headers;
  private readonly url: string | URL;
  private readonly requestId: string;
  private readonly idempotent: boolean;
  private readonly attemptTimeoutMs: number;
  private readonly end: number;
  private sentAt = 0;
  /** Aborted at the end of the call's time, so that reading the answer ends as well. */
  private readonly deadline = new AbortController();
  private readonly timer: ReturnType<typeof setTimeout>;

  constructor(path: string | URL, init: CallInit, options: FetchOptions) {
    const { timeoutMs, attemptTimeoutMs, idempotent, ...rest } = init;
    const wholeMs = timeoutMs ?? options.timeoutMs ?? TIMEOUT_MS;
    this.attemptTimeoutMs = attemptTimeoutMs ?? options.attemptTimeoutMs ?? wholeMs;
    this.init = rest;
    this.method = (init.method ?? "GET").toUpperCase();
    this.idempotent = idempotent ?? IDEMPOTENT.has(this.method);
    this.url = options.baseUrl === undefined ? path : new URL(path, options.baseUrl);
    this.headers = new Headers(options.headers);
    new Headers(init.headers).forEach((value, name) => this.headers.set(name, value));
    this.requestId = this.headers.get(REQUEST_ID) ?? newRequestId();
    this.headers.set(REQUEST_ID, this.requestId);
    // What fetch would refuse is refused here; what it fails with later is the connection's doing.
    new Request(this.url, { method: this.method, headers: this.headers });
    if (init.body && ["GET", "HEAD"].includes(this.method)) throw new TypeError(`${this.method} takes no body`);
    this.end = performance.now() + wholeMs;
    this.timer = setTimeout(() => this.deadline.abort(this.tooLate(`no answer within ${wholeMs} ms`)), wholeMs);
    // In Node a timer holds the process; nobody waits for this one.
    (this.timer as { unref?: () => void }).unref?.();
  }

  leftMs(): number {
    return this.end - performance.now();
  }

  /** Sends it once. Returns an answer of the handler, or what failed; throws what the caller's signal says. */
  async send(): Promise<Response | MeshError> {
    const limitMs = Math.max(1, Math.min(this.attemptTimeoutMs, this.leftMs()));
    this.sentAt = performance.now();
    const attempt = new AbortController();
    const timer = setTimeout(() => attempt.abort(this.tooLate(`an attempt took ${limitMs.toFixed()} ms`)), limitMs);
    const signals = [attempt.signal, this.deadline.signal];
    if (this.init.signal) signals.push(this.init.signal);
    // The server gives up when this side does.
    this.headers.set(TIMEOUT_HEADER, (limitMs / 1000).toFixed(3));
    try {
      const answer = await fetch(this.url, {
        ...this.init,
        method: this.method,
        headers: this.headers,
        signal: AbortSignal.any(signals),
      });
      return (await failureOf(answer, this.requestId)) ?? answer;
    } catch (error) {
      return this.failed(error);
    } finally {
      clearTimeout(timer);
    }
  }

  repeatable(error: MeshError): boolean {
    if (this.init.body instanceof ReadableStream) return false;
    if (error.neverRan) return true;
    if (!this.idempotent) return false;
    if (error instanceof Overloaded || error instanceof Unavailable) return true;
    // Only where the attempt's own time was up: a server that gave up by itself would give up again.
    return error instanceof DeadlineExceeded && performance.now() - this.sentAt >= this.attemptTimeoutMs - 1;
  }

  /** Waits; ends early, by throwing, when the caller's signal does. */
  async pause(ms: number): Promise<void> {
    const signal = this.init.signal;
    await new Promise<void>((resolve, reject) => {
      const done = () => {
        signal?.removeEventListener("abort", aborted);
        resolve();
      };
      const timer = setTimeout(done, ms);
      const aborted = () => {
        clearTimeout(timer);
        this.over();
        reject(signal?.reason);
      };
      if (signal?.aborted) aborted();
      else signal?.addEventListener("abort", aborted, { once: true });
    });
  }

  /** Nothing more comes of this call. */
  over(): void {
    clearTimeout(this.timer);
  }

  private failed(error: unknown): MeshError {
    if (this.init.signal?.aborted) {
      this.over();
      throw this.init.signal.reason;
    }
    if (error instanceof MeshError) return error;
    const cause = (error instanceof Error ? error.cause : undefined) as { code?: string; message?: string } | undefined;
    return new Unavailable({
      code: "UNAVAILABLE",
      reason: NEVER_SENT.has(cause?.code ?? "") ? NOT_CONNECTED : "CONNECTION_BROKEN",
      message: `${this.method} ${String(this.url)}: ${cause?.message || cause?.code || String(error)}`,
      requestId: this.requestId,
      cause: error,
    });
  }

  private tooLate(message: string): DeadlineExceeded {
    const { requestId } = this;
    return new DeadlineExceeded({ code: "DEADLINE_EXCEEDED", reason: "DEADLINE_EXCEEDED", message, requestId });
  }
}

/** What Node says of connections that never were. Browsers say nothing of why. */
const NEVER_SENT = new Set([
  ...["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "EHOSTUNREACH", "ENETUNREACH", "UND_ERR_CONNECT_TIMEOUT"],
]);

/** What an answer without a problem document means, if it is not the handler's: a proxy's, for instance. */
const CODES: Record<number, string> = {
  429: "RESOURCE_EXHAUSTED",
  502: "UNAVAILABLE",
  503: "UNAVAILABLE",
  504: "DEADLINE_EXCEEDED",
};

interface Problem {
  code?: unknown;
  reason?: unknown;
  detail?: unknown;
  request_id?: unknown;
  details?: Detail[];
}

async function failureOf(answer: Response, requestId: string): Promise<MeshError | undefined> {
  const isProblem = (answer.headers.get("content-type") ?? "").startsWith("application/problem+json");
  if (answer.ok || !(isProblem || answer.status in CODES)) return undefined;
  const after = retryAfterMs(answer.headers.get("retry-after"), Date.now());
  const failure: Failure = {
    code: CODES[answer.status] ?? "UNKNOWN",
    message: `HTTP ${answer.status} ${answer.statusText}`.trim(),
    requestId: answer.headers.get(REQUEST_ID) ?? requestId,
    status: answer.status,
    ...(after === undefined ? {} : { retryAfterMs: after }),
  };
  const known = isProblem ? await problemOf(answer) : undefined;
  if (typeof known?.code !== "string" && !(answer.status in CODES)) return undefined;
  await answer.body?.cancel();
  if (typeof known?.code !== "string") return errorOf(failure);
  failure.code = known.code;
  failure.reason = String(known.reason ?? "");
  failure.message = String(known.detail ?? failure.message);
  if (typeof known.request_id === "string") failure.requestId = known.request_id;
  if (Array.isArray(known.details)) failure.details = known.details;
  return errorOf(failure);
}

/** Returns the problem document in an answer, which stays unread. */
async function problemOf(answer: Response): Promise<Problem | undefined> {
  if (Number(answer.headers.get("content-length") ?? 0) > PROBLEM_BYTES_MAX) return undefined;
  const text = await answer.clone().text();
  try {
    const document: unknown = JSON.parse(text);
    return typeof document === "object" && document !== null ? document : undefined;
  } catch {
    return undefined;
  }
}
