// The order in which an installation's objects go in, and which of them an uninstallation may take away.
import { product } from "#contract/tables.ts";
import type { Manifest } from "./render.ts";

export const PART_OF = "app.kubernetes.io/part-of=trackbed";

export type Stages = {
  /** Names, rights and control: the daemons' pods wait for what control publishes. */
  readonly control: readonly Manifest[];
  readonly nodes: readonly Manifest[];
};

export const stagesOf = (manifests: readonly Manifest[]): Stages => ({
  control: manifests.filter(({ kind }) => kind !== "DaemonSet"),
  nodes: manifests.filter(({ kind }) => kind === "DaemonSet"),
});

/** Outside our namespace, which takes the rest along; what lets others act goes before what they act by. */
export const clusterScoped = (manifests: readonly Manifest[]): Manifest[] =>
  manifests.filter(({ kind, metadata }) => metadata.namespace === undefined && kind !== "Namespace").reverse();

export const ourNamespace = product.controlPlaneNamespace;

export const isOurs = ({ metadata }: { readonly metadata: { readonly labels?: Readonly<Record<string, string>> } }): boolean =>
  metadata.labels?.["app.kubernetes.io/part-of"] === "trackbed";
