// What documents of all four kinds of route have in common, and how one becomes an object: strict, with what nobody knows remembered.
import { z } from "zod";
import type { Unsupported } from "#mesh/gateway.ts";
import type { ObjectMeta } from "#mesh/objects.ts";
import type { Route } from "#mesh/route.ts";
import { metadata } from "../fields.ts";
import { formatPath, invalid, type Path } from "../problem.ts";
import type { Projector } from "../projector.ts";
import { type Remembered, remembering } from "../remember.ts";
import type { Notes } from "./filter.ts";
import { parentRefs, readParents } from "./reference.ts";

/** Bounds of the API's schema. */
const MOST = { rules: 16, backends: 16, hostnames: 16, weight: 1_000_000 };

const hostname = z
  .string()
  .min(1)
  .max(253)
  .regex(/^(?:\*\.)?[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*$/, "must be a DNS name, or *. and a DNS name");

export const ruleName = z.string().max(253).default("");
export const weight = z.int().min(0).max(MOST.weight).default(1);
export const backendsOf = <T extends z.ZodType>(backend: T) => z.array(backend).max(MOST.backends).default([]);

export const generation = z.int().min(0).default(0);

const head = z.object({ metadata: metadata.extend({ generation }) });

type Spec<R> = { readonly parentRefs: z.infer<typeof parentRefs>; readonly hostnames: string[]; readonly rules: readonly R[] };
type Document<R> = { readonly metadata: { readonly generation: number }; readonly spec: Spec<R> };

/** `read` makes of one rule as it was written the rule that it means. */
export type RouteKind<K extends Route["kind"], R> = {
  readonly kind: K;
  readonly rule: z.ZodType<R>;
  /** What the API fills in where there are no rules. */
  readonly rules: readonly unknown[];
  readonly read: (rule: R, at: Path, notes: Notes) => Extract<Route, { kind: K }>["rules"][number];
};

export function routeProjector<K extends Route["kind"], R extends { readonly name: string }>(
  of: RouteKind<K, R>,
): Projector<Extract<Route, { kind: K }>, Remembered<Document<R>>> {
  const spec = z.strictObject({
    parentRefs,
    hostnames: z.array(hostname).max(MOST.hostnames).default([]),
    rules: z
      .array(of.rule)
      .max(MOST.rules)
      .prefault([...of.rules] as never),
  });
  const document: z.ZodType<Document<R>> = z.strictObject({
    apiVersion: z.string(),
    kind: z.string(),
    ...head.shape,
    spec,
    status: z.unknown().optional(),
  });

  function project({ document: { metadata, spec }, unsupported }: Remembered<Document<R>>, meta: ObjectMeta) {
    const notes: Notes = { namespace: meta.namespace, unsupported: [...unsupported], problems: [] };
    const rules = spec.rules.map((rule, i) => of.read(rule, ["spec", "rules", i], notes));
    const names = spec.rules.map(({ name }) => name).filter((name) => name !== "");
    if (new Set(names).size < names.length) notes.problems.push(invalid(["spec", "rules"], "names of rules must differ"));
    const parents = readParents(spec.parentRefs, meta.namespace);
    const { generation } = metadata;
    const object = routeOf(of.kind, {
      metadata: meta,
      generation,
      parents,
      hostnames: spec.hostnames,
      rules,
      unsupported: notes.unsupported,
    });
    return { object: notes.problems.length > 0 ? null : object, problems: notes.problems };
  }

  /** So that its status can say what is wrong: it stands for nothing else, since nobody knows which requests it means. */
  function standIn(raw: unknown, meta: ObjectMeta, problem: { readonly path: Path; readonly reason: string }) {
    const parsed = z.object({ ...head.shape, spec: z.object({ parentRefs }) }).safeParse(raw);
    if (!parsed.success) return null;
    const { metadata, spec } = parsed.data;
    const parents = readParents(spec.parentRefs, meta.namespace);
    const unsupported: Unsupported[] = [{ field: formatPath(problem.path), reason: problem.reason }];
    return routeOf(of.kind, { metadata: meta, generation: metadata.generation, parents, hostnames: [], rules: [], unsupported });
  }

  return { kind: of.kind, scope: "namespace", schema: remembering(document), project, standIn };
}

/** The compiler cannot see that a kind and its own rules make a route of that kind. */
const routeOf = <K extends Route["kind"]>(
  kind: K,
  rest: Omit<Route, "kind" | "rules"> & { readonly rules: readonly Route["rules"][number][] },
): Extract<Route, { kind: K }> => ({ kind, ...rest }) as unknown as Extract<Route, { kind: K }>;
