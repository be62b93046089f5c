// What a waypoint is made of in the cluster, as data: the objects that control applies for a Gateway, each owned by it. Pure.
import { parse } from "yaml";
import { z } from "zod";
import { kubernetes, ports } from "#contract/tables.ts";
import type { Gateway } from "#mesh/gateway.ts";
import type { GatewayName } from "./waypoint.ts";

export type Manifest = {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace: string } & Readonly<Record<string, unknown>>;
  readonly [field: string]: unknown;
};

/** As control itself was started. */
export type ImageSettings = {
  readonly image: string;
  readonly pullPolicy: string;
  /** Names of Secrets, which must be in the waypoint's namespace too. */
  readonly pullSecrets: readonly string[];
};

/** What a ConfigMap that a Gateway refers to may say. */
export type Parameters = {
  /** Null: nobody's but an autoscaler's, at first one. */
  readonly replicas: number | null;
  readonly resources: Readonly<Record<string, unknown>> | null;
  /** Where spans of requests go. */
  readonly traces: {
    readonly collector: string;
    /** Name of a ConfigMap of the namespace; null: roots of the image, if it has some. */
    readonly roots: string | null;
    /** Null: the engine's own. */
    readonly share: number | null;
  } | null;
};

export type PlanInputs = {
  readonly gateway: Gateway;
  readonly image: ImageSettings;
  /** Control's namespace. */
  readonly namespace: string;
  readonly parameters: Parameters;
};

/** More would be a slip of the keyboard: one waypoint serves one namespace. */
const MOST_REPLICAS = 100;
/** The kubelet allows so long: a waypoint that is told to end lets its requests end first. */
const GRACE_SECONDS = 60;
/** And has so long to end itself after them. */
const END_SECONDS = 10;
/** As control's own. */
const USER = 65_532;
const TOKEN_SECONDS = 3600;
const ROOT_DIRECTORY = "/etc/trackbed/root";
const TOKEN_DIRECTORY = "/var/run/secrets/trackbed";
const TRACE_ROOTS_DIRECTORY = "/etc/trackbed/traces";
/** As cert-manager's trust bundles and the cluster's own `kube-root-ca.crt` have it. */
const TRACE_ROOTS_KEY = "ca.crt";
/** What it takes with a thousand requests a second, and room for a burst. No limit of memory: its buffers are bounded, and an out-of-memory kill would cut every request. */
const RESOURCES = { requests: { cpu: "100m", memory: "64Mi" } };

export const NO_PARAMETERS: Parameters = { replicas: null, resources: null, traces: null };

const amounts = z.record(z.string(), z.union([z.string(), z.number()]));
const resources = z.strictObject({ requests: amounts.optional(), limits: amounts.optional() });
const replicas = z.coerce.number().int().min(1).max(MOST_REPLICAS);
const collector = z
  .string()
  .regex(/^https?:\/\/[^/?#@\s]+:\d+$/, "expected http://HOST:PORT or https://HOST:PORT of a collector that takes OTLP over gRPC");
/** Of a Kubernetes object. */
const configMap = z.string().regex(/^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$/, "expected the name of a ConfigMap");
const share = z.coerce.number().min(0).max(1);
const parameters = z
  .strictObject({
    replicas: replicas.optional(),
    resources: z.string().optional(),
    traces: collector.optional(),
    traceRoots: configMap.optional(),
    traceShare: share.optional(),
  })
  .refine(({ traces, traceShare }) => traceShare === undefined || traces !== undefined, "traceShare says nothing without traces")
  .refine(
    ({ traces, traceRoots }) => traceRoots === undefined || traces?.startsWith("https:"),
    "traceRoots says nothing without traces over https",
  );

/** The data of the ConfigMap; a text says what of it cannot be used. */
export function parseParameters(data: Readonly<Record<string, string>>): Parameters | string {
  const read = parameters.safeParse(data);
  if (!read.success) return z.prettifyError(read.error);
  const { replicas: count = null, resources: text, traces: url, traceRoots = null, traceShare = null } = read.data;
  const traces = url === undefined ? null : { collector: url, roots: traceRoots, share: traceShare };
  if (text === undefined) return { replicas: count, resources: null, traces };
  try {
    const found = resources.safeParse(parse(text));
    return found.success ? { replicas: count, resources: found.data, traces } : `resources: ${z.prettifyError(found.error)}`;
  } catch (error) {
    return `resources: ${error instanceof Error ? error.message : String(error)}`;
  }
}

const OURS = { "app.kubernetes.io/managed-by": kubernetes.fieldManager };

/** On every object of a waypoint; by the two of them its pods are known. */
const labelsOf = ({ metadata, className, infrastructure }: Gateway) => ({
  ...infrastructure.labels,
  ...OURS,
  [kubernetes.gatewayNameLabel]: metadata.name,
  [kubernetes.gatewayClassLabel]: className,
});

/** Deleting the Gateway deletes what was made for it. */
const ownerOf = ({ metadata }: Gateway) => ({
  apiVersion: GATEWAY_VERSION,
  kind: "Gateway",
  name: metadata.name,
  uid: metadata.uid,
});

const GATEWAY_VERSION = "gateway.networking.k8s.io/v1";

function metadataOf(gateway: Gateway): Manifest["metadata"] {
  const { metadata, infrastructure } = gateway;
  const annotations = Object.keys(infrastructure.annotations).length === 0 ? {} : { annotations: infrastructure.annotations };
  return {
    name: metadata.name,
    namespace: metadata.namespace,
    labels: labelsOf(gateway),
    ...annotations,
    ownerReferences: [ownerOf(gateway)],
  };
}

/** In the order in which they are applied. */
export function planOf(inputs: PlanInputs): readonly Manifest[] {
  const { gateway } = inputs;
  const metadata = metadataOf(gateway);
  const selector = { [kubernetes.gatewayNameLabel]: gateway.metadata.name };
  return [
    { apiVersion: "v1", kind: "ServiceAccount", metadata, automountServiceAccountToken: false },
    {
      apiVersion: "v1",
      kind: "Service",
      metadata,
      spec: {
        type: "ClusterIP",
        ipFamilyPolicy: "PreferDualStack",
        selector,
        ports: [{ name: "hbone", port: ports.hbone, targetPort: ports.hbone, protocol: "TCP" }],
      },
    },
    deployment(inputs, metadata, selector),
    {
      // of a waypoint with one replica it allows the one to go: nothing would be gained by a node that cannot be drained
      apiVersion: "policy/v1",
      kind: "PodDisruptionBudget",
      metadata,
      spec: { maxUnavailable: 1, selector: { matchLabels: selector } },
    },
  ];
}

function deployment(
  { gateway, image, namespace, parameters: wanted }: PlanInputs,
  metadata: Manifest["metadata"],
  selector: object,
): Manifest {
  const template = {
    metadata: { labels: labelsOf(gateway), annotations: gateway.infrastructure.annotations },
    spec: {
      serviceAccountName: gateway.metadata.name,
      // it parses what pods send: it must not be able to ask the API server for anything
      automountServiceAccountToken: false,
      enableServiceLinks: false,
      imagePullSecrets: image.pullSecrets.map((name) => ({ name })),
      nodeSelector: { "kubernetes.io/os": "linux" },
      terminationGracePeriodSeconds: GRACE_SECONDS,
      topologySpreadConstraints: [
        {
          maxSkew: 1,
          topologyKey: "kubernetes.io/hostname",
          whenUnsatisfiable: "ScheduleAnyway",
          labelSelector: { matchLabels: selector },
        },
      ],
      securityContext: { runAsNonRoot: true, runAsUser: USER, runAsGroup: USER, seccompProfile: { type: "RuntimeDefault" } },
      containers: [container(image, namespace, wanted)],
      volumes: [
        {
          name: "root",
          configMap: { name: kubernetes.rootConfigMap, items: [{ key: kubernetes.rootKey, path: kubernetes.rootKey }] },
        },
        {
          name: "token",
          // bound to the pod and made for control alone: of no use at the API server
          projected: {
            sources: [{ serviceAccountToken: { path: "token", audience: kubernetes.tokenAudience, expirationSeconds: TOKEN_SECONDS } }],
          },
        },
        ...traceRoots(wanted, (name) => ({
          name: "trace-roots",
          // without it spans are lost and told so, and requests go on
          configMap: { name, optional: true, items: [{ key: TRACE_ROOTS_KEY, path: TRACE_ROOTS_KEY }] },
        })),
      ],
    },
  };
  return {
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata,
    spec: {
      ...(wanted.replicas === null ? {} : { replicas: wanted.replicas }),
      selector: { matchLabels: selector },
      // never fewer than asked for: a new one serves before an old one goes
      strategy: { type: "RollingUpdate", rollingUpdate: { maxSurge: 1, maxUnavailable: 0 } },
      template,
    },
  };
}

function container({ image, pullPolicy }: ImageSettings, namespace: string, wanted: Parameters): object {
  return {
    name: "waypoint",
    image,
    imagePullPolicy: pullPolicy,
    command: ["/usr/local/bin/trackbed-engine"],
    args: [
      "waypoint",
      `--control=${kubernetes.control}.${namespace}.svc:${ports.control}`,
      `--roots=${ROOT_DIRECTORY}/${kubernetes.rootKey}`,
      `--token=${TOKEN_DIRECTORY}/token`,
      `--drain=${GRACE_SECONDS - END_SECONDS}`,
      "--log-format=json",
      ...tracesArguments(wanted.traces),
    ],
    ports: [
      { name: "hbone", containerPort: ports.hbone, protocol: "TCP" },
      { name: "http-metrics", containerPort: ports.engineMetrics, protocol: "TCP" },
      { name: "http-health", containerPort: ports.daemonHealth, protocol: "TCP" },
    ],
    readinessProbe: { httpGet: { path: "/healthz/ready", port: ports.daemonHealth }, periodSeconds: 2 },
    resources: wanted.resources ?? RESOURCES,
    securityContext: { allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { drop: ["ALL"] } },
    volumeMounts: [
      { name: "root", mountPath: ROOT_DIRECTORY, readOnly: true },
      { name: "token", mountPath: TOKEN_DIRECTORY, readOnly: true },
      ...traceRoots(wanted, () => ({ name: "trace-roots", mountPath: TRACE_ROOTS_DIRECTORY, readOnly: true })),
    ],
  };
}

/** What is there for the ConfigMap with a collector's roots, if one is named. */
const traceRoots = <T>({ traces }: Parameters, of: (name: string) => T): T[] =>
  traces === null || traces.roots === null ? [] : [of(traces.roots)];

function tracesArguments(traces: Parameters["traces"]): string[] {
  if (traces === null) return [];
  const roots = traces.roots === null ? [] : [`--trace-roots=${TRACE_ROOTS_DIRECTORY}/${TRACE_ROOTS_KEY}`];
  return [`--traces=${traces.collector}`, ...roots, ...(traces.share === null ? [] : [`--trace-share=${traces.share}`])];
}

/** The roots in a namespace with waypoints: it goes with the last of their Gateways. */
export function rootsOf(namespace: string, gateways: readonly Gateway[], roots: string): Manifest {
  return {
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: {
      name: kubernetes.rootConfigMap,
      namespace,
      labels: OURS,
      ownerReferences: gateways.filter(({ metadata }) => metadata.namespace === namespace).map(ownerOf),
    },
    data: { [kubernetes.rootKey]: roots },
  };
}

/** The Gateway of a namespace that is labelled auto. */
export const autoGateway = ({ namespace, name }: GatewayName): Manifest => ({
  apiVersion: GATEWAY_VERSION,
  kind: "Gateway",
  metadata: { name, namespace, labels: OURS },
  spec: { gatewayClassName: kubernetes.waypointClass, listeners: [{ name: "mesh", port: ports.hbone, protocol: "HBONE" }] },
});

/** Made by us because a namespace is labelled auto, not written by anybody. */
export const isAuto = ({ metadata }: Gateway): boolean =>
  metadata.name === kubernetes.waypointAuto && metadata.labels["app.kubernetes.io/managed-by"] === kubernetes.fieldManager;

export const gatewayClass = (): Omit<Manifest, "metadata"> & { readonly metadata: { readonly name: string } } => ({
  apiVersion: GATEWAY_VERSION,
  kind: "GatewayClass",
  metadata: { name: kubernetes.waypointClass },
  spec: { controllerName: kubernetes.waypointController, description: "Trackbed waypoints: HTTP routing for the services of a namespace" },
});
