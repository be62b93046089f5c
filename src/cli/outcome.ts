// What a command ends with: exit codes that scripts can rely on, and errors for people.
import { type ErrorCode, errors } from "#contract/tables.ts";
import { explainError, isMeshError, meshError } from "#mesh/error.ts";

export const exit = {
  ok: 0,
  /** Something is not healthy, or the command could not do what it was asked for. */
  failed: 1,
  /** sysexits.h EX_USAGE: the command line is wrong. */
  usage: 64,
  /** sysexits.h EX_UNAVAILABLE: no daemon, or no API server, can be reached. */
  unavailable: 69,
} as const;

export type Exit = (typeof exit)[keyof typeof exit];

export type Format = "text" | "json";

export const usage = (message: string): Error => meshError("E_USAGE", message);

export const isUsage = (error: unknown): boolean => isMeshError(error) && error.code === "E_USAGE";

/** Nothing answered where a daemon was looked for. */
export const daemonAway = (message: string, cause?: unknown): Error => meshError("E_DAEMON_AWAY", message, cause);

export const isDaemonAway = (error: unknown): boolean => isMeshError(error) && error.code === "E_DAEMON_AWAY";

const isApiAway = (error: unknown): boolean =>
  isMeshError(error) && (error.code === "E_API_UNREACHABLE" || error.code === "E_API_CREDENTIALS");

export function exitOf(error: unknown): number {
  if (isDaemonAway(error) || isApiAway(error)) return exit.unavailable;
  return isUsage(error) ? exit.usage : exit.failed;
}

/** For people one line; for scripts the fields of the error table. */
export function describeError(error: unknown, format: Format): string {
  if (format === "text") return `trackbed: ${explainError(error)}`;
  const code: ErrorCode | null = isMeshError(error) ? error.code : null;
  const message = error instanceof Error ? error.message : String(error);
  return JSON.stringify({ error: { code, message, next: code === null ? null : errors[code].next } });
}
