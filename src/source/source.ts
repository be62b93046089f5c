// Desired state in, one interface: what a directory of YAML and an API server both look like to the rest of the mesh.
import type { ErrorCode } from "#contract/tables.ts";
import type { MeshObject, ObjectKey } from "#mesh/objects.ts";

/** A document that is not in force, and where to mend it. The last valid version of the same object stays in force. */
export type Fault = {
  readonly code: ErrorCode;
  /** Object the fault belongs to, null when not even that could be read. */
  readonly key: ObjectKey | null;
  /** File and line (1-based), or the API path. */
  readonly file: string;
  readonly line: number;
  /** Path inside the document, "spec.rules[0].from"; empty for the whole document. */
  readonly field: string;
  readonly reason: string;
};

/** Where a document is: file and line (1-based), or the API path. */
export type Place = { readonly file: string; readonly line: number };

/** Asked rather than held: a hundred thousand paths would be as large as the objects. */
export type Places = { get(key: ObjectKey): Place | undefined };

/** One batch, applied as one. The first batch is complete (`reset`): what it does not name does not exist. */
export type Change = {
  readonly reset: boolean;
  readonly put: readonly MeshObject[];
  readonly remove: readonly ObjectKey[];
  /** Every fault there is now, not only the new ones. */
  readonly faults: readonly Fault[];
  /** Where each object in force was written. Stays up to date between batches too: a comment above a document moves it. */
  readonly places: Places;
};

/** Batches until `stop` is aborted. Faults of the source itself (directory unreadable) reject only before the first batch. */
export type Source = (stop: AbortSignal) => AsyncIterable<Change>;
