// Gateways of the Gateway API, as far as they are waypoints: what was asked for, and what of it this version does not do.
import type { Labels, ObjectMeta } from "./objects.ts";

/** A field that this version cannot put in force. Whoever holds one is not accepted: nothing that was written is ignored. */
export type Unsupported = {
  /** "spec.rules[0].filters[1].extensionRef" */
  readonly field: string;
  readonly reason: string;
};

export type LocalReference = { readonly group: string; readonly kind: string; readonly name: string };

export type Listener = {
  readonly name: string;
  readonly port: number;
  /** "HBONE" for a waypoint. */
  readonly protocol: string;
  /** Of which namespaces what is there may use it: "Same", "All", or "Selector" with the labels that it asks for. */
  readonly from: string;
  readonly selector: Labels;
};

export type GatewayClass = {
  readonly kind: "GatewayClass";
  readonly metadata: ObjectMeta;
  readonly generation: number;
  readonly controllerName: string;
  /** A ConfigMap with the Deployment of all its waypoints; the Gateway's own beats it. */
  readonly parametersRef: (LocalReference & { readonly namespace: string }) | null;
  readonly unsupported: readonly Unsupported[];
};

export type Gateway = {
  readonly kind: "Gateway";
  readonly metadata: ObjectMeta;
  readonly generation: number;
  readonly className: string;
  readonly listeners: readonly Listener[];
  /** For every object that is made for it. */
  readonly infrastructure: {
    readonly labels: Readonly<Record<string, string>>;
    readonly annotations: Readonly<Record<string, string>>;
    readonly parametersRef: LocalReference | null;
  };
  /**
   * Its status says Programmed: it was ready once. From then on its services are reached through it or not at all, also while no pod of it is
   * ready: a waypoint that restarts must not let past what it is there to see.
   */
  readonly programmed: boolean;
  readonly unsupported: readonly Unsupported[];
};
