// One kind of document: its schema, and how it becomes an object of the mesh.
import type { z } from "zod";
import type { Kind, MeshObject, ObjectMeta } from "#mesh/objects.ts";
import type { Problem } from "./problem.ts";

export type Projector<T extends MeshObject = MeshObject, D = unknown> = {
  readonly kind: Kind;
  readonly scope: "cluster" | "namespace";
  readonly schema: z.ZodType<D>;
  /** In a policy a field without a value is refused: read as absent, as API servers do, an unfinished `from:` would mean everybody. */
  readonly refusesNull?: boolean;
  /** `object` is null when there are problems that the schema cannot see. */
  readonly project: (document: D, meta: ObjectMeta) => { readonly object: T | null; readonly problems: readonly Problem[] };
  /**
   * What stands for a document that is not valid and never was: null = nothing. Policies stand in closed, because nobody may gain access by
   * a typing error.
   */
  readonly standIn?: (raw: unknown, meta: ObjectMeta, problem: Problem) => T | null;
};
