// A pod's spec for tests, valid as it is.
import type { PodSpec } from "./desired.ts";

const none = { ports: [], cidrs: [] };
export const specimen = (uid: string, more: Partial<PodSpec> = {}): PodSpec => ({
  uid,
  namespace: "shop",
  name: uid,
  serviceAccount: "default",
  desired: "enrolled",
  netns: `/netns/${uid}`,
  addresses: ["10.0.0.1"],
  dnsSearch: [],
  capture: { inbound: true, dns: true, excludeOutbound: none, excludeInbound: none, probePorts: [] },
  observe: "protocol",
  closed: false,
  vacant: false,
  refused: null,
  annotationFaults: [],
  ...more,
});
