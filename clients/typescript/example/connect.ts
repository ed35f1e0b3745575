// Unary calls over HTTP with JSON, as the Connect protocol has them: nothing but fetch, so it runs in browsers too.

const TIMEOUT_MS = 10_000;
const ATTEMPTS_MAX = 4;

/** One of the details of an error, such as google.rpc.BadRequest. */
export interface ConnectDetail {
  /** Full name of the message. */
  type: string;
  /** The message in base64, without padding. */
  value: string;
  /** The message as JSON, if the server knows it. */
  debug?: unknown;
}

/** What a call failed with. */
export class ConnectError extends Error {
  constructor(
    /** Name of the gRPC status code in lower case, such as `not_found`. */
    readonly code: string,
    message: string,
    readonly details: readonly ConnectDetail[] = [],
  ) {
    super(message);
    this.name = "ConnectError";
  }
}

export interface ConnectOptions {
  /** For all attempts together. */
  timeoutMs?: number;
  headers?: Record<string, string>;
}

/**
 * Calls `method` ("package.Service/Method") of the server at `baseUrl`. Throws ConnectError.
 *
 * A call that was shed never ran: it is repeated after the seconds in `Retry-After`, while time is left.
 */
export async function unary<Response>(
  baseUrl: string,
  method: string,
  request: object,
  options: ConnectOptions = {},
): Promise<Response> {
  const end = Date.now() + (options.timeoutMs ?? TIMEOUT_MS);
  for (let attempt = 1; ; attempt++) {
    const answer = await post(`${baseUrl}/${method}`, request, end - Date.now(), options.headers ?? {});
    if (answer.ok) return (await answer.json()) as Response;
    const error = await failure(answer);
    const pauseMs = 1000 * Number(answer.headers.get("retry-after") ?? NaN);
    const shed = error.code === "resource_exhausted" && pauseMs >= 0;
    if (!shed || attempt === ATTEMPTS_MAX || Date.now() + pauseMs >= end) throw error;
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
  }
}

async function post(url: string, request: object, leftMs: number, headers: Record<string, string>) {
  const timeoutMs = Math.max(1, leftMs);
  try {
    return await fetch(url, {
      method: "POST",
      headers: {
        ...headers,
        "Content-Type": "application/json",
        "Connect-Protocol-Version": "1",
        "Connect-Timeout-Ms": String(Math.ceil(timeoutMs)),
      },
      body: JSON.stringify(request),
      signal: AbortSignal.timeout(timeoutMs),
    });
  } catch (error) {
    const timedOut = error instanceof Error && error.name === "TimeoutError";
    throw new ConnectError(timedOut ? "deadline_exceeded" : "unavailable", `${url}: ${String(error)}`);
  }
}

/** What an answer means that is not the server's own error body: a proxy's, for instance. */
const CODES: Record<number, string> = {
  400: "internal",
  401: "unauthenticated",
  403: "permission_denied",
  404: "unimplemented",
  429: "unavailable",
  502: "unavailable",
  503: "unavailable",
  504: "unavailable",
};

async function failure(answer: Response): Promise<ConnectError> {
  const text = await answer.text();
  try {
    const body = JSON.parse(text) as { code?: unknown; message?: unknown; details?: ConnectDetail[] };
    if (typeof body.code === "string") {
      return new ConnectError(body.code, String(body.message ?? ""), body.details ?? []);
    }
  } catch {
    // Not JSON.
  }
  return new ConnectError(CODES[answer.status] ?? "unknown", `HTTP ${answer.status}: ${text.slice(0, 200)}`);
}
