// Claims about addresses that two objects claim.
import assert from "node:assert/strict";
import { test } from "node:test";
import { fromBinary } from "@bufbuild/protobuf";
import { createCompiler } from "#compile/compiler.ts";
import { ADDRESS_TYPE } from "#compile/resource.ts";
import { AddressSchema } from "#contract/gen/istio/workload_pb.ts";
import { formatAddress } from "#mesh/address.ts";
import { keyOf, type MeshObject, type Pod, type Service } from "#mesh/objects.ts";
import * as specimen from "./specimen.ts";

const pod = (name: string, created: string, podIPs: string[], more: Partial<Pod> = {}): Pod =>
  specimen.pod("shop", name, {}, { metadata: specimen.meta("shop", name, {}, created), podIPs, ...more });
const service = (name: string, created: string, clusterIPs: string[]): Service =>
  specimen.service("shop", name, {}, { metadata: specimen.meta("shop", name, {}, created), clusterIPs });

const OLD = "2026-01-01T00:00:00Z";
const NEW = "2026-01-02T00:00:00Z";

function mesh(...objects: MeshObject[]) {
  const compiler = createCompiler(specimen.settings);
  const apply = (put: MeshObject[], gone: MeshObject[] = []) => compiler.apply({ reset: false, put, remove: gone.map(keyOf) });
  apply(objects);
  const addresses = (): Record<string, string[]> =>
    Object.fromEntries(
      [...compiler.resources(ADDRESS_TYPE)].map(({ body }) => {
        const { type } = fromBinary(AddressSchema, body);
        if (type.case === "workload") return [type.value.name, type.value.addresses.map(formatAddress)];
        return [type.value?.name ?? "", type.value?.addresses.map(({ address }) => formatAddress(address)) ?? []];
      }),
    );
  return { apply, addresses, faults: () => compiler.faults().map(({ key, field, reason }) => [key, field, reason] as const) };
}

test("of two live pods with one address the older has it, the other keeps the rest and names both", () => {
  const [younger, older] = [pod("a", NEW, ["10.0.0.1", "fd00::a"]), pod("b", OLD, ["10.0.0.1"])];
  const { apply, addresses, faults } = mesh(younger, older);
  assert.deepEqual(addresses(), { a: ["fd00::a"], b: ["10.0.0.1"] });
  const [[key, field, reason] = [], ...more] = faults();
  assert.deepEqual([key, field, more.length], ["Pod/shop/a", "status.podIPs", 0]);
  assert.match(reason ?? "", /10\.0\.0\.1 belongs to Pod shop\/b.*Pod shop\/a is in force without it/);
  apply([], [older]);
  assert.deepEqual([addresses(), faults()], [{ a: ["10.0.0.1", "fd00::a"] }, []]);
});

test("of two services with one address the first by name has it when neither has a date, in whatever order and spelling they come", () => {
  const [first, second] = [service("a", "", ["fd00::1"]), service("b", "", ["fd00:0::1"])];
  for (const order of [
    [first, second],
    [second, first],
  ]) {
    const { addresses, faults } = mesh(...order);
    assert.deepEqual(addresses(), { a: ["fd00::1"], b: [] });
    assert.deepEqual(
      faults().map(([key, field]) => [key, field]),
      [["Service/shop/b", "spec.clusterIPs"]],
    );
  }
});

test("an address goes to its heir as soon as the owner is over, and pods on the host's network share theirs", () => {
  const [older, younger] = [pod("a", OLD, ["10.0.0.1"]), pod("b", NEW, ["10.0.0.1"])];
  const { apply, addresses, faults } = mesh(older, younger);
  assert.equal(faults().length, 1);
  apply([{ ...older, phase: "Succeeded" }]);
  assert.deepEqual([addresses(), faults()], [{ b: ["10.0.0.1"] }, []]);
  const host = { hostNetwork: true };
  assert.deepEqual(mesh(pod("a", OLD, ["192.0.2.1"], host), pod("b", NEW, ["192.0.2.1"], host)).faults(), []);
});
