// Claims about policies that are only tried: their namespace may say so for all of them, at pods and at waypoints, and no slip opens anything.
import assert from "node:assert/strict";
import { test } from "node:test";
import { fromBinary } from "@bufbuild/protobuf";
import { AccessSchema } from "#contract/gen/authorization_pb.ts";
import { annotations, kubernetes } from "#contract/tables.ts";
import { DRY_RUN } from "#mesh/dry-run.ts";
import type { MeshObject } from "#mesh/objects.ts";
import { gatewayOf } from "#mesh/route-specimen.ts";
import { ENABLED, held, meta, namespace, pod, policy, put, service, settings } from "./specimen.ts";

const tried = (value: string): MeshObject => {
  const shop = namespace("shop", ENABLED);
  return { ...shop, metadata: { ...shop.metadata, annotations: { [annotations.dryRun]: value } } } as MeshObject;
};
const saying = (name: string, value: string) => {
  const one = policy("shop", name);
  return { ...one, dryRun: value === "true", metadata: { ...one.metadata, annotations: { [DRY_RUN]: value } } };
};

test("a namespace has all of its policies tried, but for those that say it themselves, and takes it back", () => {
  const mesh = held();
  mesh.apply(put(namespace("shop", ENABLED), policy("shop", "p"), saying("own", "false"), saying("tried", "true"), policy("other", "p")));
  const dry = (): (boolean | undefined)[] => ["shop/p", "shop/own", "shop/tried", "other/p"].map((name) => mesh.policy(name)?.dryRun);
  assert.deepEqual(dry(), [false, false, true, false]);
  mesh.apply(put(tried("true")));
  assert.deepEqual(dry(), [true, false, true, false]);
  mesh.apply(put(tried("false")));
  assert.deepEqual(dry(), [false, false, true, false]);
});

test("a word that is neither true nor false leaves them enforced, and is told", () => {
  const mesh = held();
  mesh.apply(put(tried("yes"), policy("shop", "p")));
  assert.equal(mesh.policy("shop/p")?.dryRun, false);
  assert.match(mesh.compiler.faults()[0]?.reason ?? "", /must be true or false, and is "yes"; the policy is enforced/);
});

test("at a waypoint the same holds", () => {
  const mesh = held();
  const gate = { [kubernetes.gatewayNameLabel]: "gate", [kubernetes.gatewayClassLabel]: kubernetes.waypointClass };
  const target = (kind: string, name: string) => ({
    group: kind === "Service" ? "" : "gateway.networking.k8s.io",
    kind,
    name,
    sectionName: "",
  });
  const attached = (name: string, kind: string, to: string) => policy("shop", name, { targets: [target(kind, to)] });
  mesh.apply(
    put(
      namespace("shop", ENABLED),
      service("shop", "web", { app: "web" }, { metadata: meta("shop", "web", { "trackbed.dev/use-waypoint": "gate" }) }),
      service("shop", "gate", gate),
      pod("shop", "gate-1", gate),
      gatewayOf("shop", "gate"),
      attached("of-service", "Service", "web"),
      attached("of-gateway", "Gateway", "gate"),
    ),
  );
  const dry = (): Record<string, boolean> => {
    const body = mesh.compiler.policies.access.get(`shop/web.shop.svc.${settings.clusterDomain}`)?.body;
    assert.ok(body !== undefined);
    return Object.fromEntries(fromBinary(AccessSchema, body).policies.map(({ name, dryRun }) => [name, dryRun]));
  };
  assert.deepEqual(dry(), { "shop/of-gateway": false, "shop/of-service": false });
  mesh.apply(put(tried("true")));
  assert.deepEqual(dry(), { "shop/of-gateway": true, "shop/of-service": true });
  mesh.apply(put(namespace("shop", ENABLED)));
  assert.deepEqual(dry(), { "shop/of-gateway": false, "shop/of-service": false });
});
