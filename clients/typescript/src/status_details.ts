// Reads `grpc-status-details-bin`: a google.rpc.Status, of which three small messages matter here.

import { Reader } from "protobufjs/minimal";

import type { Detail } from "./errors";

const DOMAIN = "mesh";

/** What a google.rpc.Status says beyond code and message. */
export interface StatusDetails {
  /** Of mesh's own google.rpc.ErrorInfo; applications have words of their own. */
  reason: string;
  /** Of google.rpc.RetryInfo; undefined if there is none. */
  retryAfterMs: number | undefined;
  /** All details, each with its encoded message as `value`. */
  details: Detail[];
}

/** Returns what a serialized google.rpc.Status says. What cannot be read says nothing. */
export function statusDetails(encoded: Uint8Array): StatusDetails {
  const found: StatusDetails = { reason: "", retryAfterMs: undefined, details: [] };
  try {
    for (const any of fieldsOf(encoded).messages(3)) {
      const { messages, text } = fieldsOf(any);
      const type = text(1);
      const value = messages(2)[0] ?? new Uint8Array();
      found.details.push({ "@type": type, value });
      if (type.endsWith("/google.rpc.ErrorInfo") && fieldsOf(value).text(2) === DOMAIN) found.reason = fieldsOf(value).text(1);
      if (type.endsWith("/google.rpc.RetryInfo")) found.retryAfterMs = milliseconds(fieldsOf(value).messages(1)[0]);
    }
  } catch {
    // Broken off: what was read so far is told.
  }
  return found;
}

function milliseconds(duration: Uint8Array | undefined): number {
  const { number } = fieldsOf(duration ?? new Uint8Array());
  return number(1) * 1000 + number(2) / 1_000_000;
}

/** Returns the fields of a message of which only strings, messages and numbers are asked for. */
function fieldsOf(encoded: Uint8Array) {
  const bytes = new Map<number, Uint8Array[]>();
  const numbers = new Map<number, number>();
  const reader = Reader.create(encoded);
  while (reader.pos < reader.len) {
    const tag = reader.uint32();
    if ((tag & 7) === 2) bytes.set(tag >>> 3, [...(bytes.get(tag >>> 3) ?? []), reader.bytes()]);
    else if ((tag & 7) === 0) numbers.set(tag >>> 3, Number(reader.int64()));
    else reader.skipType(tag & 7);
  }
  return {
    messages: (field: number) => bytes.get(field) ?? [],
    text: (field: number) => new TextDecoder().decode(bytes.get(field)?.at(-1)),
    number: (field: number) => numbers.get(field) ?? 0,
  };
}
