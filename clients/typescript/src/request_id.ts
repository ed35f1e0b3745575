// The id of a call: chosen here, so that it is known also of calls that were never answered.

export const REQUEST_ID = "x-request-id";

/** Returns a new id: 32 hexadecimal digits. */
export function newRequestId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
