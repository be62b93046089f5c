// Flow records to an OTLP collector, by HTTP or gRPC: what can be tried again is, for as long as it takes; what cannot is counted.
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { gzip } from "node:zlib";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { compressionGzip, createGrpcTransport } from "@connectrpc/connect-node";
import { Agent, type Dispatcher, request as send } from "undici";
import {
  type ExportLogsServiceRequest,
  ExportLogsServiceRequestSchema,
  type ExportLogsServiceResponse,
  ExportLogsServiceResponseSchema,
  LogsService,
} from "#contract/gen/opentelemetry/logs_pb.ts";
import { backoff } from "#xds/backoff.ts";
import type { Sink } from "./exporter.ts";
import { logsRequest, type Teller } from "./otlp.ts";
import type { OtlpSettings } from "./settings.ts";

const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 30_000;
/** A collector that wants to be left alone for longer is asked again all the same. */
const LONGEST_WAIT_MS = 120_000;
/** Of an answer, which is some bytes; and of the reason that is told. */
const ANSWER_BYTES = 64 * 1024;
const REASON_CHARACTERS = 300;

/** `refused`: what it took none of, though it took the rest. */
type Sent =
  | { readonly refused: number; readonly reason: string }
  /** Not now. */
  | { readonly again: string; readonly afterMs: number | null }
  /** Never. */
  | { readonly never: string };
type Send = (request: ExportLogsServiceRequest, stop: AbortSignal) => Promise<Sent>;

export type CollectorOptions = {
  readonly settings: OtlpSettings;
  readonly node: string;
  readonly version: string;
  /** Told when it becomes unable to take records, and why; null when it takes them again. */
  readonly trouble: (reason: string | null) => void;
  readonly random?: () => number;
  readonly firstRetryMs?: number;
};

export function collectorSink({
  settings,
  node,
  version,
  trouble,
  random = Math.random,
  firstRetryMs = FIRST_RETRY_MS,
}: CollectorOptions): Sink {
  const sendOnce = settings.protocol === "grpc" ? overGrpc(settings) : overHttp(settings);
  const teller: Teller = { node, version, resource: settings.resource };
  let told: string | null = null;

  function tell(reason: string | null): void {
    if (reason !== told) trouble(reason);
    told = reason;
  }

  return {
    name: "otlp",
    take: async (lines, stop) => {
      const request = logsRequest(lines, teller, Date.now());
      const wait = backoff(random, firstRetryMs, LAST_RETRY_MS);
      for (;;) {
        const sent = await sendOnce(request, stop);
        stop.throwIfAborted();
        if ("refused" in sent) {
          tell(sent.refused > 0 ? `it refused ${sent.refused} of ${lines.length} records: ${sent.reason}` : null);
          return { refused: sent.refused };
        }
        if ("never" in sent) {
          tell(sent.never);
          return { refused: lines.length };
        }
        tell(sent.again);
        await sleep(Math.min(sent.afterMs ?? wait.next(), LONGEST_WAIT_MS), undefined, { signal: stop });
      }
    },
  };
}

/** What OTLP lets be tried again. */
const RETRIED: ReadonlySet<number> = new Set([429, 502, 503, 504]);

function overHttp({ url, headers, ca, gzip: compress, timeoutMs }: OtlpSettings): Send {
  const dispatcher = new Agent({ connect: ca === null ? {} : { ca }, connections: 1 });
  const all = { ...headers, "content-type": "application/x-protobuf", ...(compress ? { "content-encoding": "gzip" } : {}) };
  return async (request, stop) => {
    const plain = toBinary(ExportLogsServiceRequestSchema, request);
    const body = compress ? await promisify(gzip)(plain) : plain;
    try {
      const signal = AbortSignal.any([stop, AbortSignal.timeout(timeoutMs)]);
      const answer = await send(url, { method: "POST", headers: all, body, dispatcher, signal });
      const bytes = await readAnswer(answer.body);
      if (answer.statusCode === 200) return taken(readResponse(bytes));
      const reason = `it answered HTTP ${answer.statusCode}${printable(bytes)}`;
      if (!RETRIED.has(answer.statusCode)) return { never: reason };
      return { again: reason, afterMs: retryAfter(answer.headers["retry-after"]) };
    } catch (error) {
      return { again: reasonOf(error), afterMs: null };
    }
  };
}

/** What stands in front of a collector may answer for it with a body of its own: taken is taken. */
function readResponse(bytes: Buffer): ExportLogsServiceResponse | null {
  try {
    return fromBinary(ExportLogsServiceResponseSchema, bytes);
  } catch {
    return null;
  }
}

async function readAnswer(body: Dispatcher.ResponseData["body"]): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of body as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > ANSWER_BYTES) throw new Error(`its answer has more than ${ANSWER_BYTES} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/** Errors are a protobuf Status whose message is readable, or text of whatever stands in front. */
function printable(bytes: Buffer): string {
  const text = bytes
    .toString("utf8")
    .replace(/[^\x20-\x7e]+/g, " ")
    .trim()
    .slice(0, REASON_CHARACTERS);
  return text === "" ? "" : `: ${text}`;
}

/** Seconds, or a date. */
function retryAfter(header: string | string[] | undefined): number | null {
  if (typeof header !== "string") return null;
  const at = /^\d+$/.test(header) ? Date.now() + Number(header) * 1000 : Date.parse(header);
  return Number.isNaN(at) ? null : Math.max(0, at - Date.now());
}

/** What OTLP lets be tried again. */
const RETRIED_CODES: ReadonlySet<Code> = new Set([
  Code.Canceled,
  Code.DeadlineExceeded,
  Code.ResourceExhausted,
  Code.Aborted,
  Code.OutOfRange,
  Code.Unavailable,
  Code.DataLoss,
]);

function overGrpc({ url, headers, ca, gzip: compress, timeoutMs }: OtlpSettings): Send {
  const transport = createGrpcTransport({
    baseUrl: url,
    ...(ca === null ? {} : { nodeOptions: { ca } }),
    ...(compress ? { sendCompression: compressionGzip } : {}),
  });
  const client = createClient(LogsService, transport);
  return async (request, stop) => {
    try {
      return taken(await client.export(request, { headers, timeoutMs, signal: stop }));
    } catch (error) {
      const failure = ConnectError.from(error);
      return RETRIED_CODES.has(failure.code) ? { again: reasonOf(failure), afterMs: null } : { never: reasonOf(failure) };
    }
  };
}

const taken = (response: ExportLogsServiceResponse | null): Sent => ({
  refused: Number(response?.partialSuccess?.rejectedLogRecords ?? 0n),
  reason: (response?.partialSuccess?.errorMessage ?? "").slice(0, REASON_CHARACTERS),
});

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const cause = error.cause instanceof Error ? `: ${error.cause.message}` : "";
  return `${error.message || error.name}${cause}`.slice(0, REASON_CHARACTERS);
}
