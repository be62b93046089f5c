// The workload of the drills: a web service on every node and a client on every node, in whatever namespace a drill asks for.
import assert from "node:assert/strict";
import { type Cluster, type Condition, type Document, type List, waitFor } from "./cluster.ts";

export const IMAGE = "trackbed.test/busybox:1";
/** A body that nothing else on the wire contains: where it can be read, traffic is in clear. */
export const MARKER = "the-platypus-travels-in-clear";
const PORT = 8080;
export const CAPTURED = "trackbed.dev/Captured";
export const LABEL = "trackbed.dev/mesh";
/** Enrolment of a running pod: list-watch, rules, certificate, proof; seconds on a busy machine. */
const CAPTURE_MS = 60_000;

type Options = { readonly labels?: Readonly<Record<string, string>> };

/** web: Deployment of two (one per node), Service web and headless web-direct; client: DaemonSet that sleeps. */
export function shop(namespace: string, { labels = {} }: Options = {}): string {
  return `
apiVersion: v1
kind: Namespace
metadata: {name: ${namespace}, labels: ${JSON.stringify(labels)}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: ${namespace}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: client, namespace: ${namespace}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: ${namespace}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      serviceAccountName: web
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
        - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}
      containers:
        - name: web
          image: ${IMAGE}
          imagePullPolicy: Never
          command: [sh, -c, "mkdir -p /www && echo ${MARKER} $HOSTNAME >/www/index.html && echo serving && exec httpd -f -p ${PORT} -h /www"]
          ports: [{name: http, containerPort: ${PORT}}]
          readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
          livenessProbe: {tcpSocket: {port: http}, periodSeconds: 1}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: client, namespace: ${namespace}}
spec:
  selector: {matchLabels: {app: client}}
  template:
    metadata: {labels: {app: client}}
    spec:
      serviceAccountName: client
      terminationGracePeriodSeconds: 1
      containers:
        - {name: client, image: ${IMAGE}, imagePullPolicy: Never, command: [sleep, "1000000"]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: ${namespace}}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
---
apiVersion: v1
kind: Service
metadata: {name: web-direct, namespace: ${namespace}}
spec:
  clusterIP: None
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
  ports: [{port: ${PORT}}]
`;
}

export type Shop = {
  readonly namespace: string;
  /** Those that run and are not being deleted. */
  pods(app?: string): Promise<readonly Document[]>;
  podOn(app: string, node: string): Promise<Document>;
  /** What a client on \`node\` reads from a URL; rejects when it gets no answer. */
  get(node: string, url: string): Promise<string>;
  /** Whether a client on \`node\` is answered at all. */
  reaches(node: string, url: string): Promise<boolean>;
  /** Waits until every pod is in the mesh (or none is). */
  captured(): Promise<void>;
  released(): Promise<void>;
  label(value: "enabled" | null): Promise<void>;
  /** It ends while the next drill begins; who needs its end waits for \`removed\`. */
  remove(): Promise<void>;
  removed(): Promise<void>;
};

export async function openShop(c: Cluster, namespace: string, options: Options = {}): Promise<Shop> {
  await c.kubectl("wait", "--for=delete", `namespace/${namespace}`, "--timeout=60s"); // of an earlier run of the same drill
  await c.apply(shop(namespace, options));
  for (const workload of ["deployment/web", "daemonset/client"])
    await c.kubectl("-n", namespace, "rollout", "status", workload, "--timeout=90s");
  const pods = async (app?: string): Promise<readonly Document[]> =>
    (await c.get<List>("pods", "-n", namespace, ...(app === undefined ? [] : ["-l", `app=${app}`]))).items.filter(
      ({ metadata, status }) => metadata.deletionTimestamp === undefined && status?.phase === "Running",
    );
  const podOn = async (app: string, node: string): Promise<Document> => {
    const found = (await pods(app)).find(({ spec }) => spec?.nodeName === node);
    assert.ok(found, `no pod of ${app} of ${namespace} on ${node}`);
    return found;
  };
  const get = async (node: string, url: string): Promise<string> => {
    const client = (await podOn("client", node)).metadata.name;
    try {
      return await c.podExec(namespace, client, fetching(url));
    } catch (cause) {
      throw new Error(`${client} on ${node} got no answer from ${url}\n${await whatEnginesSay(c)}`, { cause });
    }
  };
  const conditions = async (): Promise<(Condition | null)[]> => (await pods()).map(capture);
  return {
    namespace,
    pods,
    podOn,
    get,
    reaches: (node, url) =>
      get(node, url).then(
        () => true,
        () => false,
      ),
    async captured() {
      let last: (Condition | null)[] = [];
      await waitFor(
        `every pod of ${namespace} is in the mesh`,
        async () => {
          last = await conditions();
          if (last.every((condition) => condition?.status === "True" && condition.reason === "Ready")) return true;
          throw new Error(JSON.stringify(last));
        },
        CAPTURE_MS,
      );
    },
    released: async () =>
      void (await waitFor(
        `no pod of ${namespace} is in the mesh`,
        async () => (await conditions()).every((condition) => condition === null),
        CAPTURE_MS,
      )),
    label: async (value) =>
      void (await c.kubectl("label", "namespace", namespace, "--overwrite", value === null ? `${LABEL}-` : `${LABEL}=${value}`)),
    remove: async () => void (await c.kubectl("delete", "namespace", namespace, "--ignore-not-found", "--wait=false")),
    removed: async () => void (await c.kubectl("wait", "--for=delete", `namespace/${namespace}`, "--timeout=60s")),
  };
}

/** The last lines of every engine: why a connection failed stands there, and the cluster is gone when somebody reads of it. */
const whatEnginesSay = (c: Cluster): Promise<string> =>
  c.kubectl("-n", "trackbed-system", "logs", "-l", "app.kubernetes.io/name=trackbed-engine", "--prefix", "--tail=40").catch(String);

/** The capture condition of a pod, null when it has none. */
export const capture = ({ status }: Document): Condition | null => status?.conditions?.find(({ type }) => type === CAPTURED) ?? null;

/** busybox 1.35: wget -T crashes. */
export const fetching = (url: string): string => `timeout 5 wget -qO- '${url}'`;

export const podUrl = (pod: Document, family = 0): string => {
  const address = pod.status?.podIPs?.[family]?.ip;
  assert.ok(address !== undefined, `pod ${pod.metadata.name} has no address of family ${family}`);
  return address.includes(":") ? `http://[${address}]:${PORT}/` : `http://${address}:${PORT}/`;
};
