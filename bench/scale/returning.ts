// Nodes that come back to control at once with what they hold, in a thread of their own so that their work is not taken for control's.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { parentPort, workerData } from "node:worker_threads";
import { controlChannel } from "#xds/channel.ts";
import { xdsClient } from "#xds/client.ts";
import { ADDRESS_TYPE } from "#xds/resource.ts";

export type Returning = {
  readonly control: string;
  /** Holds the roots, and a token for each node. */
  readonly directory: string;
  readonly nodes: readonly string[];
  readonly held: ReadonlyMap<string, string>;
};

export type Returned = { readonly resources: number; readonly bytes: number };

export function follow(
  { control, directory, held }: Omit<Returning, "nodes">,
  node: string,
  stop: AbortSignal,
  onDelta: (upsert: readonly { name: string; version: string; body: Uint8Array }[]) => void,
) {
  writeFileSync(join(directory, node), node);
  const client = xdsClient({
    // Control accepts only so many connections from one address.
    channel: controlChannel({ control, root: join(directory, "root"), token: join(directory, node), localAddress: addressOf(node) }),
    node: { id: node, metadata: {} },
    held: new Map([[ADDRESS_TYPE, held]]),
    onDelta: async ({ upsert }) => {
      onDelta(upsert);
      return [];
    },
  });
  void client.run(stop);
  return client;
}

const addressOf = (node: string): string => `127.0.1.${(Number(node.replace(/\D/g, "")) % 250) + 1}`;

if (parentPort !== null) {
  const work = workerData as Returning;
  const sent = { resources: 0, bytes: 0 };
  const stop = new AbortController();
  const clients = work.nodes.map((node) =>
    follow(work, node, stop.signal, (upsert) => {
      sent.resources += upsert.length;
      for (const { name, body } of upsert) sent.bytes += name.length + body.length;
    }),
  );
  while (!clients.every((client) => client.connectivity().synced)) await new Promise((resolve) => setTimeout(resolve, 5));
  parentPort.postMessage(sent satisfies Returned);
}
