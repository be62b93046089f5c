// The receiving end of delta discovery: keeps one stream to control alive and hands every delta to its owner, who answers what he refused.
import { setTimeout as sleep } from "node:timers/promises";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { AggregatedDiscoveryService, type DeltaDiscoveryRequest } from "#contract/gen/envoy/discovery_pb.ts";
import { isMeshError, type MeshError, meshError } from "#mesh/error.ts";
import { backoff } from "./backoff.ts";
import type { ControlChannel } from "./channel.ts";
import { createQueue } from "./queue.ts";
import { RESOURCE_TYPES, type Rejection, type TypeUrl, type XdsDelta } from "./resource.ts";
import { createSession, type Held, type Received, type XdsNode } from "./session.ts";

export type XdsClientOptions = {
  readonly channel: ControlChannel;
  readonly node: XdsNode;
  /** Name → version of what is already held, per type: from the snapshot. Copied. */
  readonly held: Held;
  /**
   * Called with one delta at a time; the next one waits for the promise. What it resolves to was refused and is NACKed with its reasons,
   * everything else is ACKed and remembered as held. `whole`: with it
   * everything has arrived that control knew when the stream began. A rejection of the promise refuses the whole delta.
   */
  readonly onDelta: (delta: XdsDelta, whole: boolean) => Promise<readonly Rejection[]>;
  /** Called when connectivity() changed. */
  readonly onConnectivity?: (connectivity: Connectivity) => void;
  readonly types?: readonly TypeUrl[];
  /** Between 0 and 1; a test's own dice. */
  readonly random?: () => number;
};

export type Connectivity = {
  readonly connected: boolean;
  /** Every type was received whole and applied on this connection: nothing that control knew at that time is missing. */
  readonly synced: boolean;
  /** Since when `connected` is what it is. */
  readonly since: Date;
  /** Why it is not connected; null before the first attempt ended and while connected. */
  readonly error: MeshError | null;
};

export type XdsClient = {
  /** Connects and reconnects until `stop` is aborted. Never rejects for faults of the network or of control. */
  run(stop: AbortSignal): Promise<void>;
  connectivity(): Connectivity;
};

/** A stream that lived this long was healthy: the next break reconnects at once instead of where the back-off stood. */
const HEALTHY_MILLISECONDS = 5_000;

export function xdsClient(options: XdsClientOptions): XdsClient {
  const { channel, node, onDelta, types = RESOURCE_TYPES, random = Math.random } = options;
  const session = createSession(node, types, options.held);
  const discovery = createClient(AggregatedDiscoveryService, channel.transport);
  let connectivity: Connectivity = { connected: false, synced: false, since: new Date(), error: null };

  function become(connected: boolean, synced: boolean, error: MeshError | null): void {
    const same = connected === connectivity.connected;
    if (same && synced === connectivity.synced && error?.message === connectivity.error?.message) return;
    connectivity = { connected, synced, since: same ? connectivity.since : new Date(), error };
    options.onConnectivity?.(connectivity);
  }

  async function refusals({ delta, whole }: Received): Promise<readonly Rejection[]> {
    try {
      return await onDelta(delta, whole);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      const code = isMeshError(error) ? error.code : "E_SOURCE_INVALID";
      const names = [...delta.upsert.map(({ name }) => name), ...delta.remove];
      return names.map((name) => ({ name, code, reason }));
    }
  }

  async function stream(stop: AbortSignal): Promise<void> {
    const requests = createQueue<DeltaDiscoveryRequest>();
    for (const request of session.open()) requests.push(request);
    try {
      for await (const response of discovery.deltaAggregatedResources(requests, { signal: stop })) {
        const received = session.receive(response);
        become(true, session.synced(), null);
        requests.push(received.settle(await refusals(received)));
        become(true, session.synced(), null);
      }
    } finally {
      requests.end();
    }
  }

  async function run(stop: AbortSignal): Promise<void> {
    const wait = backoff(random);
    while (!stop.aborted) {
      const opened = Date.now();
      const error = await stream(stop).then(
        () => meshError("E_CONTROL_AWAY", "control closed the discovery stream"),
        (cause: unknown) => streamError(cause),
      );
      become(false, false, error);
      if (Date.now() - opened >= HEALTHY_MILLISECONDS) wait.reset();
      await sleep(wait.next(), undefined, { signal: stop }).catch(() => undefined);
    }
  }

  return { run, connectivity: () => connectivity };
}

function streamError(cause: unknown): MeshError {
  if (isMeshError(cause)) return cause;
  if (cause instanceof ConnectError) {
    if (isMeshError(cause.cause)) return cause.cause;
    if (cause.code === Code.Unauthenticated) return meshError("E_CONTROL_UNAUTHENTICATED", "control refused this node's token", cause);
  }
  return meshError("E_CONTROL_AWAY", "the discovery stream to control broke", cause);
}
