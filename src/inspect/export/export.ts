// The exports of one process put together: a sink for each place that its settings name.
import { explainError } from "#mesh/error.ts";
import type { Flows } from "../flows.ts";
import { collectorSink } from "./collector.ts";
import { createExporter, type Exporter, type Sink } from "./exporter.ts";
import { fileSink, outputSink } from "./file.ts";
import type { ExportSettings } from "./settings.ts";

export type From = { readonly node: string; readonly version: string; readonly output: NodeJS.WritableStream };

/** `trouble`: why a sink does not take all; null when it does again. */
export function createExports(
  { filter, otlp, file }: ExportSettings,
  flows: Pick<Flows, "read">,
  { node, version, output }: From,
  trouble: (sink: string, reason: string | null) => void,
): Exporter {
  const sinks: Sink[] = [];
  if (otlp !== null)
    sinks.push(collectorSink({ settings: otlp, node, version, trouble: (reason) => trouble(`otlp ${new URL(otlp.url).host}`, reason) }));
  if (file?.path === "-") sinks.push(outputSink(node, output));
  else if (file != null)
    sinks.push(fileSink(node, file, (error) => trouble(`file ${file.path}`, error === null ? null : explainError(error))));
  return createExporter(flows, filter, sinks);
}
