// Objects for tests, each valid as it is: a test says only what it is about.
import type { ObjectMeta, Pod } from "./objects.ts";

export const meta = (namespace: string, name: string, more: Partial<ObjectMeta> = {}): ObjectMeta => ({
  namespace,
  name,
  uid: `uid-${name}`,
  labels: {},
  annotations: {},
  creationTimestamp: "",
  ...more,
});

export const podOf = (metadata: ObjectMeta, more: Partial<Pod> = {}): Pod => ({
  kind: "Pod",
  metadata,
  nodeName: "n1",
  serviceAccountName: "default",
  hostNetwork: false,
  phase: "Running",
  ready: true,
  podIPs: ["10.0.0.1"],
  ports: [],
  probePorts: [],
  clusterSearch: true,
  dnsSearch: [],
  owner: null,
  captured: null,
  ...more,
});
