// A mesh to ask about: the very resources that engines get, and who the workloads among them are.
import { fromBinary } from "@bufbuild/protobuf";
import { type Compiler, type CompilerSettings, createCompiler } from "#compile/compiler.ts";
import { ADDRESS_TYPE, AUTHORIZATION_TYPE, type ObjectFault } from "#compile/resource.ts";
import { AddressSchema, TunnelProtocol, type Workload } from "#contract/gen/istio/workload_pb.ts";
import { formatAddress } from "#mesh/address.ts";
import type { MeshObject } from "#mesh/objects.ts";
import type { EvalResource, EvalSettings, EvalState, EvalType } from "./contract.ts";
import type { Evaluator } from "./evaluator.ts";
import { resourceOf } from "./state.ts";

export type AskedMesh = {
  readonly settings: EvalSettings;
  readonly resources: ReadonlyMap<string, EvalResource>;
  readonly faults: readonly ObjectFault[];
};

/** A workload as people name it. */
export type Known = {
  readonly uid: string;
  readonly namespace: string;
  readonly name: string;
  readonly serviceAccount: string;
  /** Name of what made it, such as a Deployment; its own without. */
  readonly workload: string;
  /** spiffe://… */
  readonly identity: string;
  readonly addresses: readonly string[];
  readonly node: string;
  readonly inMesh: boolean;
  /** "namespace/name" of those that pick it by selector. */
  readonly policies: readonly string[];
};

const keyOf = (type: EvalType, name: string): string => `${type}/${name}`;

export const meshOf = (settings: EvalSettings, resources: Iterable<EvalResource>, faults: readonly ObjectFault[] = []): AskedMesh => ({
  settings,
  resources: new Map([...resources].map((resource) => [keyOf(resource.type, resource.name), resource])),
  faults,
});

/** As control compiles it, and nodes would have it once they have taken it over. */
export function compileMesh(objects: readonly MeshObject[], settings: CompilerSettings, encryptSameNode = false): AskedMesh {
  const compiler = createCompiler(settings);
  compiler.apply({ reset: true, put: objects, remove: [] });
  return compiledMesh(compiler, settings, encryptSameNode);
}

export function compiledMesh(compiler: Compiler, settings: CompilerSettings, encryptSameNode: boolean): AskedMesh {
  const { trustDomain, clusterDomain, network } = settings;
  return meshOf(
    { trustDomain, clusterDomain, network, encryptSameNode },
    [
      ...[...compiler.resources(AUTHORIZATION_TYPE)].map((one) => resourceOf("authorization", one)),
      ...[...compiler.resources(ADDRESS_TYPE)].map((one) => resourceOf("address", one)),
      ...[...compiler.routes().values()].map((one) => resourceOf("routes", one)),
      ...[...compiler.policies.access.values()].map((one) => resourceOf("access", one)),
    ],
    compiler.faults(),
  );
}

/** Gives an evaluator a mesh, and says what no engine could use of it. */
export async function load(evaluator: Evaluator, mesh: AskedMesh) {
  await evaluator.begin(mesh.settings);
  return evaluator.change({ upsert: [...mesh.resources.values()], remove: [] });
}

/** What makes one mesh of another. */
export function difference(before: AskedMesh, after: AskedMesh): EvalState {
  const changed = ([key, { version }]: [string, EvalResource]): boolean => before.resources.get(key)?.version !== version;
  return {
    upsert: [...after.resources].filter(changed).map(([, resource]) => resource),
    remove: [...before.resources.values()]
      .filter(({ type, name }) => !after.resources.has(keyOf(type, name)))
      .map(({ type, name }) => ({ type, name })),
  };
}

export function workloadsOf({ resources, settings }: AskedMesh): Known[] {
  const known: Known[] = [];
  for (const { type, body } of resources.values()) {
    if (type !== "address") continue;
    const address = fromBinary(AddressSchema, Buffer.from(body, "base64"));
    if (address.type.case === "workload") known.push(knownOf(address.type.value, settings));
  }
  return known;
}

function knownOf(workload: Workload, settings: EvalSettings): Known {
  const { uid, namespace, name, node, tunnelProtocol, workloadName } = workload;
  const serviceAccount = workload.serviceAccount || "default";
  return {
    uid,
    namespace,
    name,
    serviceAccount,
    workload: workloadName || name,
    identity: `spiffe://${workload.trustDomain || settings.trustDomain}/ns/${namespace}/sa/${serviceAccount}`,
    addresses: workload.addresses.map(formatAddress),
    node,
    inMesh: tunnelProtocol === TunnelProtocol.HBONE,
    policies: [...workload.authorizationPolicies],
  };
}
