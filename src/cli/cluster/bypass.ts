// `trackbed bypass NAMESPACE --for 30m`: takes a namespace out of the mesh for a while; it comes back by itself.
import type { V1Namespace } from "@kubernetes/client-node";
import { annotations } from "#contract/tables.ts";
import { type Exit, exit, type Format, usage } from "../outcome.ts";
import { connect, type Target } from "./client.ts";
import { parseDuration } from "./wait.ts";

/** Longer is no bypass any more but a change of what is wanted, and belongs into the label. */
const LONGEST_MS = 24 * 3600 * 1000;

export type BypassOptions = { readonly namespace: string; readonly for: string | undefined; readonly end: boolean };

export async function runBypass(target: Target, options: BypassOptions, format: Format): Promise<Exit> {
  const { namespace } = options;
  const until = untilOf(options);
  const cluster = await connect(target);
  try {
    if ((await cluster.get<V1Namespace>("Namespace", namespace)) === null) throw new Error(`there is no namespace ${namespace}`);
    await cluster.merge("Namespace", namespace, { metadata: { annotations: { [annotations.bypassUntil]: until } } });
    if (format === "json") console.log(JSON.stringify({ namespace, bypassUntil: until }));
    else
      console.log(
        until === null
          ? `the bypass of ${namespace} is over: its pods go back into the mesh`
          : `${namespace} leaves the mesh until ${until}: its new connections are plaintext and no policy holds for them`,
      );
    return exit.ok;
  } finally {
    await cluster.close();
  }
}

export function untilOf({ for: length, end }: BypassOptions, now = Date.now()): string | null {
  if (end === (length !== undefined)) throw usage("say either --for DURATION or --end");
  if (end || length === undefined) return null;
  const milliseconds = parseDuration(length);
  if (milliseconds === null || milliseconds > LONGEST_MS) throw usage(`--for ${length} is not a time up to 24h such as 30m`);
  return new Date(now + milliseconds).toISOString().replace(/\.\d+Z$/, "Z");
}
