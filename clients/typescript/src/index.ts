// Clients of a mesh that behave well under load. Browsers import `mesh-client/http`, which needs no grpc-js.

export * from "./errors";
export * from "./grpc";
export * from "./http";
export { pauseMs, RETRY_POLICY, RetryBudget } from "./retry";
export type { RetryPolicy } from "./retry";
