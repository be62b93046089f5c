// Turns changes of desired state into changes of xDS resources, at the cost of what changed and not of the cluster.
import { meshError } from "#mesh/error.ts";
import type { MeshObject } from "#mesh/objects.ts";
import type { Change } from "#source/source.ts";
import type { Compiled, ObjectFault, Resource, TypeUrl } from "./resource.ts";

export type CompilerSettings = {
  readonly trustDomain: string;
  readonly clusterDomain: string;
  /** Policies without a selector here govern the whole mesh. */
  readonly rootNamespace: string;
  /** Name of the only network, usually empty. */
  readonly network: string;
  /** First part of workload uids, "Kubernetes". */
  readonly clusterId: string;
};

/**
 * What a node's stream said. `snapshot` names every captured pod of the node; otherwise only what changed. A node that never reported counts
 * as capturing what its labels ask for (peers must use HBONE); one that did counts for exactly what it said, also after its stream broke.
 */
export type NodeUpdate = {
  readonly node: string;
  readonly snapshot: boolean;
  readonly pods: readonly { readonly uid: string; readonly captured: boolean }[];
};

export type Compiler = {
  /** Applies a batch of the source (null = none) and node reports as one. */
  apply(change: Pick<Change, "reset" | "put" | "remove"> | null, nodes?: readonly NodeUpdate[]): Compiled;
  /** Every resource in force of a type. */
  resources(typeUrl: TypeUrl): Iterable<Resource>;
  /** Every object that is not in force as written, now. */
  faults(): readonly ObjectFault[];
  /** Objects in force, for identity checks and status. */
  objects(): Iterable<MeshObject>;
};

export function createCompiler(_settings: CompilerSettings): Compiler {
  throw meshError("E_POLICY_INVALID", "the compiler is not implemented yet");
}
