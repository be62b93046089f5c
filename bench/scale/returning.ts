// Nodes that come back to control at once, with all that they held or with nothing, in a thread of their own so that their work is not taken
// for control's. They do less than a daemon does: 200 of those would keep the machine busier than the control that is measured.
import { connect } from "node:http2";
import { setTimeout as sleep } from "node:timers/promises";
import { connect as connectTls } from "node:tls";
import { parentPort, workerData } from "node:worker_threads";
import { create, toBinary } from "@bufbuild/protobuf";
import { BinaryReader } from "@bufbuild/protobuf/wire";
import {
  AggregatedDiscoveryService,
  type DeltaDiscoveryRequest,
  DeltaDiscoveryRequestSchema,
  DeltaDiscoveryResponseSchema,
} from "#contract/gen/envoy/discovery_pb.ts";
import { BUCKETS_NAME, digestsOf, formatDigests } from "#xds/buckets.ts";
import { ADDRESS_TYPE } from "#xds/resource.ts";
import { isPartial } from "#xds/revision.ts";

export type Returning = {
  /** https://ADDRESS:PORT */
  readonly control: string;
  readonly roots: string;
  readonly nodes: readonly string[];
  /** Name → version; nothing: they start from nothing. */
  readonly held: ReadonlyMap<string, string>;
};

/** What all of them were sent until each had everything, and how many of their connections broke before. */
export type Returned = { readonly resources: number; readonly bytes: number; readonly broken: number };

/** Of a gRPC message: whether it is compressed, and its length. */
const HEADER_BYTES = 5;
const ATTEMPTS = 5;
const FIELD = DeltaDiscoveryResponseSchema.field;

/** Control accepts only so many connections from one address. */
export const addressOf = (node: string): string => `127.0.1.${(Number(node.replace(/\D/g, "")) % 250) + 1}`;

function framed(request: DeltaDiscoveryRequest): Buffer {
  const message = toBinary(DeltaDiscoveryRequestSchema, request);
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt32BE(message.length, 1);
  return Buffer.concat([header, message]);
}

/** Counts the resources without reading them: that would be the work of 200 machines. */
function scan(message: Uint8Array): { resources: number; nonce: string; partial: boolean } {
  const reader = new BinaryReader(message);
  const seen = { resources: 0, nonce: "", partial: false };
  while (reader.pos < reader.len) {
    const [number, wireType] = reader.tag();
    if (number === FIELD.nonce.number) seen.nonce = reader.string();
    else if (number === FIELD.systemVersionInfo.number) seen.partial = isPartial(reader.string());
    else {
      if (number === FIELD.resources.number) seen.resources++;
      reader.skip(wireType, number);
    }
  }
  return seen;
}

type Back = Returned & { leave: () => void };

/** As a daemon does: again after a moment when the connection breaks. */
async function comeBack(work: Returning, node: string, opening: DeltaDiscoveryRequest): Promise<Back> {
  for (let broken = 0; ; broken++) {
    const back = await attempt(work, node, opening).catch((error: unknown) => error);
    if (!(back instanceof Error)) return { ...(back as Back), broken };
    if (broken === ATTEMPTS) throw back;
    await sleep(Math.random() * 1_000);
  }
}

/** Resolves when it has everything; then it stays, until it is told to leave. */
function attempt({ control, roots }: Returning, node: string, opening: DeltaDiscoveryRequest): Promise<Back> {
  const { promise, resolve, reject } = Promise.withResolvers<Back>();
  const { hostname: host, port } = new URL(control);
  const socket = { host, port: Number(port), ca: roots, localAddress: addressOf(node), ALPNProtocols: ["h2"] };
  const session = connect(control, { createConnection: () => connectTls(socket) });
  const stream = session.request({
    ":method": "POST",
    ":path": `/${AggregatedDiscoveryService.typeName}/${AggregatedDiscoveryService.method.deltaAggregatedResources.name}`,
    "content-type": "application/grpc",
    te: "trailers",
    authorization: `Bearer ${node}`,
  });
  const sent = { resources: 0, bytes: 0, broken: 0 };
  let chunks: Buffer[] = [];
  let length = 0;
  stream.on("data", (chunk: Buffer) => {
    chunks.push(chunk);
    length += chunk.length;
    if (length < HEADER_BYTES || (chunks[0]?.length ?? 0) < HEADER_BYTES) return;
    const whole = HEADER_BYTES + (chunks[0]?.readUInt32BE(1) ?? 0);
    if (length < whole) return;
    const message = Buffer.concat(chunks).subarray(HEADER_BYTES, whole);
    // One response is unanswered at a time, so that nothing follows it.
    [chunks, length] = [[], 0];
    const { resources, nonce, partial } = scan(message);
    sent.resources += resources;
    sent.bytes += whole;
    stream.write(framed(create(DeltaDiscoveryRequestSchema, { typeUrl: ADDRESS_TYPE, responseNonce: nonce })));
    if (!partial) resolve({ ...sent, leave: () => session.destroy() });
  });
  const broke = (error?: Error): void => {
    session.destroy();
    reject(new Error(`${node} lost its connection`, { cause: error }));
  };
  session.on("error", broke);
  stream.on("error", broke);
  stream.on("close", () => broke());
  stream.write(framed(opening));
  return promise;
}

if (parentPort !== null) {
  const work = workerData as Returning;
  const initialResourceVersions = work.held.size === 0 ? {} : { [BUCKETS_NAME]: formatDigests(digestsOf(work.held)) };
  const opening = create(DeltaDiscoveryRequestSchema, { typeUrl: ADDRESS_TYPE, initialResourceVersions });
  parentPort.postMessage("begin");
  const all = await Promise.all(work.nodes.map((node) => comeBack(work, node, opening)));
  const sum = (of: (one: Returned) => number): number => all.reduce((total, one) => total + of(one), 0);
  const total: Returned = { resources: sum((one) => one.resources), bytes: sum((one) => one.bytes), broken: sum((one) => one.broken) };
  parentPort.postMessage(total);
  for (const { leave } of all) leave();
  parentPort.close();
}
