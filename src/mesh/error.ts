// The one error shape of the project: a stable code from proto/tables.json, a sentence for the operator, and the cause kept whole.
import { type ErrorCode, errors } from "#contract/tables.ts";

export type MeshError = Error & { readonly code: ErrorCode };

/** An error with a code. `message` says what failed and for whom; what to do next comes from the table. */
export function meshError(code: ErrorCode, message: string, cause?: unknown): MeshError {
  return Object.assign(new Error(message, cause === undefined ? {} : { cause }), { code });
}

export function isMeshError(error: unknown): error is MeshError {
  return error instanceof Error && "code" in error && typeof error.code === "string" && error.code in errors;
}

/** One line for people: message, causes, code and the next step. */
export function explainError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const causes: string[] = [];
  for (let cause = error.cause; cause instanceof Error && causes.length < 8; cause = cause.cause) causes.push(cause.message);
  const text = [error.message, ...causes].join(": ");
  return isMeshError(error) ? `${text} (${error.code}; ${errors[error.code].next})` : text;
}
