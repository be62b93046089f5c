// The Gateway API's own conformance suite with its namespaces in the mesh: everything that this version claims passes, by tunnel.
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { cluster, type List, waitFor } from "../cluster.ts";
import { conformance, removeConformance } from "../conformance.ts";
import { flowsOn } from "../daemon.ts";
import { readSettings } from "../settings.ts";
import { capture, LABEL } from "../shop.ts";

const settings = readSettings();
const NAMESPACE = "gateway-conformance-mesh";

after(() => removeConformance(settings, console.log));

test("the tests of what this version claims pass, and the suite's pods were in the mesh", async (t) => {
  const c = await cluster(settings);
  const flags = [`--namespace-labels=${LABEL}=enabled`, "--cleanup-base-resources=false"];
  const { code, passed, failed, log } = await conformance(settings, (text) => t.diagnostic(text), "claimed", flags);
  assert.deepEqual(failed, [], log);
  assert.equal(code, 0, log);
  assert.deepEqual(passed, ["MeshBasic"]);
  await waitFor("the suite's pods are in the mesh", async () => {
    const { items } = await c.get<List>("pods", "-n", NAMESPACE);
    return items.length > 0 && items.every((pod) => capture(pod)?.status === "True");
  });
  await waitFor("the suite's requests are told of, none of them in clear", async () => {
    const flows = (await Promise.all(c.nodes.map((node) => flowsOn(c, node)))).flat();
    const its = flows.filter(({ direction, destination }) => direction === "outbound" && destination.namespace === NAMESPACE);
    assert.ok(
      its.every(({ path }) => path !== "plain"),
      JSON.stringify(its),
    );
    return its.some(({ verdict }) => verdict === "allowed");
  });
});
