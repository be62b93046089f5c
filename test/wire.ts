// A witness of the wire: counts what a node forwards to or from an application's port. Unlike a capture it needs no root.
import assert from "node:assert/strict";
import type { NodePlace } from "../src/lab/api.ts";

/** The packets seen between now and the call of what this returns: none, as long as all of it goes by tunnel. */
export async function watchWire(node: NodePlace, port: number): Promise<() => Promise<number>> {
  const rules = `table inet witness
delete table inet witness
table inet witness {
  chain seen {
    type filter hook forward priority 0
    tcp sport ${port} counter
    tcp dport ${port} counter
  }
}
`;
  await node.run(["nft", "-f", "-"], { input: rules });
  return async () => {
    const counters = [...(await node.run(["nft", "list", "table", "inet", "witness"])).matchAll(/counter packets (\d+)/g)];
    assert.equal(counters.length, 2, "the witness is still there");
    return counters.reduce((sum, [, packets]) => sum + Number(packets), 0);
  };
}
