// What documents of our own policies have in common: a strict spec, its generation, and what stands for one that is not valid.
import { z } from "zod";
import type { TargetRef } from "#mesh/authorization.ts";
import type { Unsupported } from "#mesh/gateway.ts";
import type { ObjectMeta } from "#mesh/objects.ts";
import type { BackendPolicy, RequestPolicy } from "#mesh/traffic.ts";
import { metadata } from "../fields.ts";
import { formatPath, type Problem } from "../problem.ts";
import type { Projector } from "../projector.ts";

const generation = z.int().min(0).default(0);
const head = z.object({ metadata: metadata.extend({ generation }) });

/** What every policy says of itself. */
export type Head = {
  readonly metadata: ObjectMeta;
  readonly generation: number;
  readonly targets: readonly TargetRef[];
  readonly unsupported: readonly Unsupported[];
};

type Policy = BackendPolicy | RequestPolicy;
type Document<S> = { readonly metadata: { readonly generation: number }; readonly spec: S };

export type PolicyKind<P extends Policy, S> = {
  readonly kind: P["kind"];
  readonly spec: z.ZodType<S>;
  readonly targets: (spec: S) => readonly TargetRef[];
  /** Of a document that is not valid elsewhere. */
  readonly readTargets: (raw: unknown) => readonly TargetRef[];
  /** `problems` takes what a schema cannot see. */
  readonly read: (spec: S, head: Head, problems: Problem[]) => P;
  /** One that says nothing. */
  readonly empty: (head: Head) => P;
};

export function policyProjector<P extends Policy, S>(of: PolicyKind<P, S>): Projector<P, Document<S>> {
  const document: z.ZodType<Document<S>> = z.strictObject({
    apiVersion: z.string(),
    kind: z.string(),
    ...head.shape,
    spec: of.spec,
    status: z.unknown().optional(),
  });
  return {
    kind: of.kind,
    scope: "namespace",
    schema: document,
    refusesNull: true,
    project: ({ metadata, spec }, meta) => {
      const problems: Problem[] = [];
      const object = of.read(
        spec,
        { metadata: meta, generation: metadata.generation, targets: of.targets(spec), unsupported: [] },
        problems,
      );
      return { object: problems.length > 0 ? null : object, problems };
    },
    /** So that its status can say what is wrong. Nothing of it is in force: whom it would have limited is not known. */
    standIn: (raw, meta, problem) => {
      const parsed = z.object({ ...head.shape, spec: z.unknown() }).safeParse(raw);
      if (!parsed.success) return null;
      const unsupported: Unsupported[] = [{ field: formatPath(problem.path), reason: problem.reason }];
      const targets = of.readTargets(parsed.data.spec);
      return of.empty({ metadata: meta, generation: parsed.data.metadata.generation, targets, unsupported });
    },
  };
}
