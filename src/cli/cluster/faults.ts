// Documents that control could not put in force, as its own replicas tell them through the API server.
import { kubernetes, ports } from "#contract/tables.ts";
import { type Finding, finding } from "#install/finding.ts";
import { ourNamespace } from "#install/plan.ts";
import { isReady, partOf } from "#install/rollout.ts";
import { explainError } from "#mesh/error.ts";
import type { Fault } from "#source/source.ts";
import type { Cluster } from "./client.ts";
import type { Parts } from "./parts.ts";

/** Every replica reads the same documents: the first one that answers speaks for all. */
export async function controlFaults(cluster: Cluster, { pods }: Parts): Promise<Finding[]> {
  const failures: string[] = [];
  for (const { metadata } of pods.filter((pod) => partOf(pod) === kubernetes.control && isReady(pod))) {
    const path = `/api/v1/namespaces/${ourNamespace}/pods/${metadata?.name}:${ports.controlHealth}/proxy/v1/faults`;
    try {
      const { faults } = (await cluster.raw(path)) as { readonly faults: readonly Fault[] };
      return faults.map(({ key, file, field, reason, code }) =>
        finding("DOCUMENT_FAULT", key?.replace("/", " ") ?? file, `${field === "" ? "" : `${field}: `}${reason} (${code})`),
      );
    } catch (error) {
      failures.push(explainError(error));
    }
  }
  return failures.map((reason) =>
    finding("CLUSTER_FORBIDDEN", `Deployment ${kubernetes.control}`, `what it could not put in force was not read: ${reason}`),
  );
}
