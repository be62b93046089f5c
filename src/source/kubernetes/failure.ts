// How a request to the API server fails: typed by what the caller does next, with the path it was about.
import type { ErrorCode } from "#contract/tables.ts";
import { isMeshError, type MeshError, meshError } from "#mesh/error.ts";

export type ApiFailure = MeshError & {
  /** HTTP status, 0 when there was no answer. */
  readonly status: number;
  /** The Status object's reason, such as AlreadyExists or Conflict; empty when it had none. */
  readonly reason: string;
  readonly path: string;
  /** How long the server asked us to wait; null when it did not. */
  readonly retryAfterMilliseconds: number | null;
};

export type Refusal = { readonly status: number; readonly reason: string; readonly message: string };

const codeOf = (status: number): ErrorCode =>
  status === 401 || status === 403
    ? "E_API_FORBIDDEN"
    : status === 0 || status === 408 || status === 429 || status >= 500
      ? "E_API_UNREACHABLE"
      : "E_API_REJECTED";

export function apiFailure(
  method: string,
  path: string,
  refusal: Refusal,
  more: { readonly cause?: unknown; readonly retryAfterMilliseconds?: number | null } = {},
): ApiFailure {
  const { status, reason, message } = refusal;
  const text = status === 0 ? `${method} ${path}: ${message}` : `${method} ${path}: HTTP ${status} ${message}`;
  const error = meshError(codeOf(status), text, more.cause);
  return Object.assign(error, { status, reason, path, retryAfterMilliseconds: more.retryAfterMilliseconds ?? null });
}

export const isApiFailure = (error: unknown): error is ApiFailure => isMeshError(error) && "status" in error && "path" in error;

/** The watch or list cannot go on from where it was: everything has to be listed again. */
export const isGone = (error: unknown): boolean => isApiFailure(error) && error.status === 410;

export const isStatus = (error: unknown, status: number): boolean => isApiFailure(error) && error.status === status;
