// What is wrong with a document and where in it, before anybody knows its file and line.
import type { z } from "zod";
import type { ErrorCode } from "#contract/tables.ts";

export type Path = readonly (string | number)[];

export type Problem = { readonly code: ErrorCode; readonly path: Path; readonly reason: string };

export const invalid = (path: Path, reason: string): Problem => ({ code: "E_SOURCE_INVALID", path, reason });

export const unsupported = (path: Path, reason: string): Problem => ({ code: "E_SOURCE_UNSUPPORTED", path, reason });

/** "spec.rules[0].from" */
export const formatPath = (path: Path): string =>
  path.map((part, i) => (typeof part === "number" ? `[${part}]` : `${i === 0 ? "" : "."}${part}`)).join("");

/** Unknown fields are named one by one: each is a promise that this version cannot keep. */
export function problemsOf(error: z.ZodError): Problem[] {
  return error.issues.flatMap((issue) => {
    const path = issue.path.map((part) => (typeof part === "number" ? part : String(part)));
    if (issue.code !== "unrecognized_keys") return [invalid(path, issue.message)];
    return issue.keys.map((key) => unsupported([...path, key], "this version does not know the field"));
  });
}
