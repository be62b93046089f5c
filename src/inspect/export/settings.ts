// Where flow records are sent besides the ledger: what was said on the command line and by the variables that every OTLP exporter knows.
import { readFileSync } from "node:fs";
import { product } from "#contract/tables.ts";
import { meshError } from "#mesh/error.ts";
import { parseFilter } from "../filter.ts";
import { flowFields } from "../ledger/fields.ts";

export type OtlpSettings = {
  readonly protocol: "http/protobuf" | "grpc";
  /** Whole address of the requests; of gRPC that of the collector. */
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  /** PEM of the roots that the collector's certificate must chain to; null: those of the system. */
  readonly ca: string | null;
  readonly gzip: boolean;
  readonly timeoutMs: number;
  /** Attributes of who tells, besides the node. */
  readonly resource: Readonly<Record<string, string>>;
};

export type FileSettings = { /** "-" is standard output. */ readonly path: string; readonly mostBytes: number };

export type ExportSettings = {
  /** Which records leave; see filter.ts. */
  readonly filter: string;
  readonly otlp: OtlpSettings | null;
  readonly file: FileSettings | null;
};

/** The record of a connection's end tells all that the one of its beginning does. */
export const DEFAULT_FILTER = "phase == closed";
/** All files of an export together: some hundred thousand records. */
export const DEFAULT_FILE_BYTES = 64 << 20;
const TIMEOUT_MS = 10_000;
const LONGEST_TIMEOUT_MS = 60_000;

export type Given = {
  /** Empty: what the environment says. */
  readonly otlpEndpoint: string;
  /** Empty: none. */
  readonly exportFile: string;
  readonly exportFileBytes: number;
  readonly exportFilter: string;
};

/** Throws E_USAGE for what nobody could mean. `env`: OTEL_EXPORTER_OTLP_… as OpenTelemetry defines them; those with LOGS in their name come first. */
export function exportSettings(given: Given, env: Readonly<Record<string, string | undefined>>): ExportSettings {
  const { exportFile, exportFileBytes, exportFilter } = given;
  try {
    parseFilter(exportFilter, flowFields);
  } catch (error) {
    throw meshError("E_USAGE", `--export-filter ${exportFilter}: ${error instanceof Error ? error.message : String(error)}`);
  }
  if (exportFile !== "" && exportFile !== "-" && !exportFile.startsWith("/"))
    throw meshError("E_USAGE", `--export-file ${exportFile}: expected an absolute path, or - for standard output`);
  return {
    filter: exportFilter,
    otlp: otlpSettings(given.otlpEndpoint, env),
    file: exportFile === "" ? null : { path: exportFile, mostBytes: exportFileBytes },
  };
}

function otlpSettings(endpoint: string, env: Readonly<Record<string, string | undefined>>): OtlpSettings | null {
  const get = (name: string): string => env[`OTEL_EXPORTER_OTLP_LOGS_${name}`] || env[`OTEL_EXPORTER_OTLP_${name}`] || "";
  const base = endpoint || env["OTEL_EXPORTER_OTLP_ENDPOINT"] || "";
  const whole = endpoint === "" ? (env["OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"] ?? "") : "";
  if (base === "" && whole === "") return null;
  const protocol = get("PROTOCOL") || "http/protobuf";
  if (protocol !== "http/protobuf" && protocol !== "grpc")
    throw meshError("E_USAGE", `OTEL_EXPORTER_OTLP_PROTOCOL=${protocol}: expected http/protobuf or grpc`);
  const compression = get("COMPRESSION") || "none";
  if (compression !== "none" && compression !== "gzip")
    throw meshError("E_USAGE", `OTEL_EXPORTER_OTLP_COMPRESSION=${compression}: expected gzip or none`);
  const timeoutMs = Number(get("TIMEOUT") || TIMEOUT_MS);
  if (!Number.isInteger(timeoutMs) || timeoutMs < 1 || timeoutMs > LONGEST_TIMEOUT_MS)
    throw meshError("E_USAGE", `OTEL_EXPORTER_OTLP_TIMEOUT=${get("TIMEOUT")}: expected milliseconds from 1 to ${LONGEST_TIMEOUT_MS}`);
  return {
    protocol,
    url: urlOf(whole || base, whole === "" && protocol === "http/protobuf"),
    headers: pairs("OTEL_EXPORTER_OTLP_HEADERS", get("HEADERS")),
    ca: certificates(get("CERTIFICATE")),
    gzip: compression === "gzip",
    timeoutMs,
    resource: {
      "service.name": env["OTEL_SERVICE_NAME"] || product.labelPrefix.split(".")[0] || "",
      ...pairs("OTEL_RESOURCE_ATTRIBUTES", env["OTEL_RESOURCE_ATTRIBUTES"] ?? ""),
    },
  };
}

/** A base is that of all signals: logs have a path below it. */
function urlOf(text: string, isBase: boolean): string {
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url === null || (url.protocol !== "http:" && url.protocol !== "https:"))
    throw meshError("E_USAGE", `the OTLP endpoint ${text} is not http://HOST:PORT or https://HOST:PORT`);
  if (isBase) url.pathname = `${url.pathname.replace(/\/$/, "")}/v1/logs`;
  return url.href;
}

/** "key=value,key2=value2", values percent-encoded where they need it. */
function pairs(name: string, text: string): Record<string, string> {
  const found: Record<string, string> = {};
  for (const pair of text.split(",").filter((one) => one.trim() !== "")) {
    const at = pair.indexOf("=");
    if (at < 1) throw meshError("E_USAGE", `${name}: ${JSON.stringify(pair.slice(0, 20))}… is not key=value`);
    try {
      found[pair.slice(0, at).trim()] = decodeURIComponent(pair.slice(at + 1).trim());
    } catch {
      throw meshError("E_USAGE", `${name}: the value of ${pair.slice(0, at)} is not percent-encoded as it should be`);
    }
  }
  return found;
}

function certificates(path: string): string | null {
  if (path === "") return null;
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    throw meshError("E_USAGE", `OTEL_EXPORTER_OTLP_CERTIFICATE=${path} cannot be read`, cause);
  }
}
