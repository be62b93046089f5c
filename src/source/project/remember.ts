// Reads a document strictly and remembers which of its fields nobody knows, so that its author can be told in its status.
import { z } from "zod";
import type { Unsupported } from "#mesh/gateway.ts";
import { formatPath, type Path } from "./problem.ts";

export type Remembered<D> = { readonly document: D; readonly unsupported: readonly Unsupported[] };

/** A hostile document must not cost a parse for each of its fields: unknown ones are found all at once, those inside of them not at all. */
const MOST_PASSES = 4;

/** `schema` refuses unknown fields; with them left out the rest must be valid. */
export function remembering<D>(schema: z.ZodType<D>): z.ZodType<Remembered<D>> {
  return z.unknown().transform((raw, context): Remembered<D> => {
    const unknown: Path[] = [];
    let value = raw;
    for (let pass = 0; pass < MOST_PASSES; pass++) {
      const parsed = schema.safeParse(value);
      if (parsed.success)
        return {
          document: parsed.data,
          unsupported: unknown.map((path) => ({ field: formatPath(path), reason: "this version does not support the field" })),
        };
      const found = parsed.error.issues.flatMap(unknownIn);
      unknown.push(...found);
      if (found.length < parsed.error.issues.length && parsed.error.issues.some((issue) => issue.code !== "unrecognized_keys")) {
        for (const issue of parsed.error.issues)
          if (issue.code !== "unrecognized_keys") context.addIssue({ code: "custom", path: issue.path, message: issue.message });
        return z.NEVER;
      }
      value = without(value, found);
    }
    context.addIssue({ code: "custom", message: "has unknown fields inside of unknown fields" });
    return z.NEVER;
  });
}

function unknownIn(issue: z.core.$ZodIssue): Path[] {
  if (issue.code !== "unrecognized_keys") return [];
  return issue.keys.map((key) => [...issue.path.map((part) => (typeof part === "number" ? part : String(part))), key]);
}

/** A copy without these fields; only what leads to them is copied. */
function without(value: unknown, paths: readonly Path[]): unknown {
  if (paths.length === 0) return value;
  if (Array.isArray(value)) return value.map((item, i) => without(item, below(paths, i)));
  if (typeof value !== "object" || value === null) return value;
  const gone = new Set(paths.filter(({ length }) => length === 1).map(([name]) => name));
  return Object.fromEntries(
    Object.entries(value)
      .filter(([name]) => !gone.has(name))
      .map(([name, field]) => [name, without(field, below(paths, name))]),
  );
}

const below = (paths: readonly Path[], part: string | number): Path[] =>
  paths.filter((path) => path.length > 1 && path[0] === part).map((path) => path.slice(1));
