// When a call is repeated, and how often. Pure: chance is handed in.

export interface RetryPolicy {
  /** Times a call is sent at most, the first one included. */
  attemptsMax: number;
  /** Upper end of the first pause; each further one is `backoffFactor` times as long. */
  backoffMs: number;
  backoffMaxMs: number;
  backoffFactor: number;
}

export const RETRY_POLICY: Readonly<RetryPolicy> = {
  attemptsMax: 3,
  backoffMs: 100,
  backoffMaxMs: 5_000,
  backoffFactor: 2,
};

/**
 * Returns the pause after attempt number `attempt` (from 1): anything up to the back-off ("full jitter"), so that
 * callers that failed together do not come again together; added to what the server asked for, if it did.
 * `random` is in [0, 1).
 */
export function pauseMs(policy: RetryPolicy, attempt: number, random: number, retryAfterMs = 0): number {
  const backoff = Math.min(policy.backoffMaxMs, policy.backoffMs * policy.backoffFactor ** (attempt - 1));
  return retryAfterMs + random * backoff;
}

/**
 * Keeps repeats a small share of the load, as repeats of everything by everybody are what keeps an overloaded server
 * overloaded: each call saves `ratio` of a repeat, and each second `perSecond`, for who calls seldom; at most `saved` are
 * saved up. It starts full. Times are in milliseconds.
 */
export class RetryBudget {
  private left: number;
  private at: number | undefined;

  constructor(
    private readonly ratio = 0.1,
    private readonly perSecond = 1,
    private readonly saved = 10,
  ) {
    this.left = saved;
  }

  /** Counts a call. */
  deposit(now: number): void {
    const passedMs = Math.max(0, now - (this.at ?? now));
    this.at = now;
    this.left = Math.min(this.saved, this.left + this.ratio + (this.perSecond * passedMs) / 1000);
  }

  /** Takes one repeat, if there is one. */
  withdraw(): boolean {
    if (this.left < 1) return false;
    this.left -= 1;
    return true;
  }
}

/** Returns the milliseconds that a Retry-After header asks for, in seconds or as a date; undefined if it does not. */
export function retryAfterMs(header: string | null, now: number): number | undefined {
  if (header === null || header.trim() === "") return undefined;
  const seconds = Number(header);
  const ms = Number.isNaN(seconds) ? Date.parse(header) - now : seconds * 1000;
  return Number.isFinite(ms) ? Math.max(0, ms) : undefined;
}
