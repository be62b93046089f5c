// An API server in memory for tests: objects, lists in pages, watches, patches and versions as the real one has them, and every way to fail.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo } from "node:net";
import { Agent } from "undici";
import type { Credentials } from "#source/kubernetes/credentials.ts";

export type ApiObject = Record<string, unknown> & {
  metadata: { name: string; namespace?: string; uid?: string; resourceVersion?: string } & Record<string, unknown>;
};

/** What a request asks for, taken apart. */
export type Asked = {
  readonly method: string;
  readonly path: string;
  readonly query: URLSearchParams;
  readonly headers: IncomingMessage["headers"];
  /** "/api/v1/pods": where objects of all namespaces are listed. */
  readonly collection: string;
  readonly namespace: string;
  readonly name: string;
  readonly subresource: string;
  readonly body: unknown;
};

/** Instead of an answer: a status, silence, or a connection that ends. */
export type Fault = { readonly status: number; readonly body?: unknown; readonly headers?: Record<string, string> } | "silence" | "cut";

export type OpenWatch = {
  readonly asked: Asked;
  /** Raw bytes, for half lines and wrong ones. */
  write(bytes: string | Buffer): void;
  end(): void;
  destroy(): void;
  readonly closed: boolean;
};

type Event = {
  readonly version: number;
  readonly type: "ADDED" | "MODIFIED" | "DELETED";
  readonly collection: string;
  readonly object: ApiObject;
};

export type FakeApi = {
  readonly url: string;
  readonly credentials: Credentials;
  readonly requests: Asked[];
  /** Asked first for every request; null lets it pass. */
  fault: (asked: Asked) => Fault | null;
  put(collection: string, object: ApiObject): ApiObject;
  delete(collection: string, namespace: string, name: string): void;
  get(collection: string, namespace: string, name: string): ApiObject | undefined;
  all(collection: string): ApiObject[];
  /** Kinds that exist although nothing of them does. */
  serve(collection: string): void;
  unserve(collection: string): void;
  watches(collection: string): OpenWatch[];
  /** Tells every watch of a collection the version, as the server does about once a minute. */
  bookmark(collection: string): void;
  /** Watches from versions before now are answered 410, as after a compaction. */
  compact(): void;
  /** Answers POSTs of kinds that are not kept, such as TokenReview. */
  answer: (asked: Asked) => unknown;
  version(): number;
  setVersion(version: number): void;
  close(): Promise<void>;
};

const EVENTS = "/api/v1/events";
/** As the real one: shorter ones close connections under a client that is just using them again. */
const IDLE_MILLISECONDS = 180_000;

export async function fakeApi(tls?: { readonly key: string; readonly cert: string }): Promise<FakeApi> {
  const collections = new Map<string, Map<string, ApiObject>>();
  const log: Event[] = [];
  const watches = new Map<OpenWatch, number>();
  const requests: Asked[] = [];
  let version = 100;
  let compacted = 0;
  let uids = 0;

  const keyOf = (namespace: string | undefined, name: string): string => `${namespace ?? ""}/${name}`;
  const of = (collection: string): Map<string, ApiObject> => {
    const found = collections.get(collection) ?? new Map<string, ApiObject>();
    collections.set(collection, found);
    return found;
  };
  for (const known of ["namespaces", "nodes", "pods", "services", "secrets", "configmaps", "events"]) of(`/api/v1/${known}`);
  for (const known of ["coordination.k8s.io/v1/leases", "discovery.k8s.io/v1/endpointslices"]) of(`/apis/${known}`);

  function tell(event: Event): void {
    log.push(event);
    for (const [watch] of watches) if (watch.asked.collection === event.collection) send(watch, event);
  }
  function send(watch: OpenWatch, { type, object }: Event): void {
    if (matches(object, watch.asked)) watch.write(`${JSON.stringify({ type, object })}\n`);
  }
  function put(collection: string, object: ApiObject): ApiObject {
    const key = keyOf(object.metadata.namespace, object.metadata.name);
    const before = of(collection).get(key);
    const uid = object.metadata.uid ?? before?.metadata.uid ?? `uid-${++uids}`;
    const stored: ApiObject = { ...object, metadata: { ...object.metadata, uid, resourceVersion: String(++version) } };
    of(collection).set(key, stored);
    tell({ version, type: before === undefined ? "ADDED" : "MODIFIED", collection, object: stored });
    return stored;
  }
  function remove(collection: string, namespace: string, name: string): void {
    const before = of(collection).get(keyOf(namespace, name));
    if (before === undefined) throw new Error(`no ${namespace}/${name} in ${collection}`);
    of(collection).delete(keyOf(namespace, name));
    const object = { ...before, metadata: { ...before.metadata, resourceVersion: String(++version) } };
    tell({ version, type: "DELETED", collection, object });
  }

  function watch(asked: Asked, response: ServerResponse): void {
    const from = Number(asked.query.get("resourceVersion"));
    response.writeHead(200, { "content-type": "application/json" });
    response.flushHeaders();
    const open: OpenWatch = {
      asked,
      write: (bytes) => response.write(bytes),
      end: () => {
        watches.delete(open);
        response.end();
      },
      destroy: () => {
        watches.delete(open);
        response.destroy();
      },
      get closed() {
        return response.closed;
      },
    };
    watches.set(open, from);
    response.once("close", () => watches.delete(open));
    if (from < compacted) {
      open.write(`${JSON.stringify({ type: "ERROR", object: { kind: "Status", code: 410, reason: "Expired", message: "too old" } })}\n`);
      open.end();
      return;
    }
    for (const event of log) if (event.version > from && event.collection === asked.collection) send(open, event);
  }

  function list(asked: Asked): unknown {
    const limit = Number(asked.query.get("limit") ?? 0);
    const start = Number(asked.query.get("continue") ?? 0);
    const all = [...of(asked.collection).values()].filter((object) => matches(object, asked));
    const items = (limit > 0 ? all.slice(start, start + limit) : all).map(({ kind: _kind, apiVersion: _version, ...rest }) => rest);
    const more = limit > 0 && start + limit < all.length;
    return { kind: "List", metadata: { resourceVersion: String(version), ...(more ? { continue: String(start + limit) } : {}) }, items };
  }

  function write(asked: Asked): { status: number; body: unknown } {
    const { collection, namespace, method, subresource } = asked;
    const body = (asked.body ?? {}) as ApiObject;
    if (method === "POST") {
      if (!collections.has(collection)) return { status: 201, body: fake.answer(asked) };
      const name = body.metadata.name ?? "";
      if (of(collection).has(keyOf(namespace, name))) return status(409, "AlreadyExists", `${name} exists`);
      return {
        status: 201,
        body: put(collection, {
          ...body,
          metadata: { creationTimestamp: new Date().toISOString(), ...body.metadata, ...(namespace === "" ? {} : { namespace }) },
        }),
      };
    }
    const apply = asked.headers["content-type"] === "application/apply-patch+yaml";
    const before = of(collection).get(keyOf(namespace, asked.name));
    if (before === undefined && !(apply && subresource === "")) return status(404, "NotFound", `${asked.name} not found`);
    if (method === "DELETE") {
      remove(collection, namespace, asked.name);
      return { status: 200, body: { kind: "Status", status: "Success" } };
    }
    const { uid, resourceVersion } = body.metadata;
    if (before !== undefined && uid !== undefined && uid !== before.metadata.uid)
      return status(422, "Invalid", "metadata.uid: field is immutable");
    if (before !== undefined && resourceVersion !== undefined && resourceVersion !== before.metadata.resourceVersion)
      return status(409, "Conflict", "the object has been modified");
    if (method === "PUT") return { status: 200, body: put(collection, { ...body, metadata: { ...body.metadata, namespace } }) };
    const base = before ?? { metadata: { name: asked.name, namespace } };
    return { status: 200, body: put(collection, merge(base, body, apply) as ApiObject) };
  }

  function answer(asked: Asked, response: ServerResponse): void {
    const known = collections.has(asked.collection) || asked.method === "POST";
    const reply = ({ status, body }: { status: number; body: unknown }): void => {
      response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
    };
    if (!known) reply(status(404, "NotFound", "the server could not find the requested resource"));
    else if (asked.method !== "GET") reply(write(asked));
    else if (asked.name !== "") {
      const found = of(asked.collection).get(keyOf(asked.namespace, asked.name));
      reply(found === undefined ? status(404, "NotFound", `${asked.name} not found`) : { status: 200, body: found });
    } else if (asked.query.get("watch") === "1") watch(asked, response);
    else reply({ status: 200, body: list(asked) });
  }

  async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const asked = await read(request);
    requests.push(asked);
    const fault = fake.fault(asked);
    if (fault === "silence") return;
    if (fault === "cut") response.destroy();
    else if (fault === null) answer(asked, response);
    else {
      const { status: code, body = status(code, "Failure", "as the test wants it").body, headers = {} } = fault;
      response.writeHead(code, { "content-type": "application/json", ...headers });
      response.end(typeof body === "string" ? body : JSON.stringify(body));
    }
  }

  const listener = (request: IncomingMessage, response: ServerResponse): void => {
    handle(request, response).catch((error: unknown) => response.destroy(error as Error));
  };
  const server: Server = tls === undefined ? createServer(listener) : (createTlsServer(tls, listener) as Server);
  server.keepAliveTimeout = IDLE_MILLISECONDS;
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http${tls === undefined ? "" : "s"}://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const dispatcher = new Agent();

  const fake: FakeApi = {
    url,
    credentials: {
      server: url,
      passport: async () => ({ headers: {}, dispatcher }),
      renew: () => undefined,
      close: async () => undefined,
    },
    requests,
    fault: () => null,
    put,
    delete: remove,
    get: (collection, namespace, name) => of(collection).get(keyOf(namespace, name)),
    all: (collection) => [...of(collection).values()],
    serve: (collection) => void of(collection),
    unserve: (collection) => void collections.delete(collection),
    watches: (collection) => [...watches.keys()].filter(({ asked }) => asked.collection === collection),
    bookmark: (collection) => {
      for (const [open] of watches)
        if (open.asked.collection === collection)
          open.write(`${JSON.stringify({ type: "BOOKMARK", object: { kind: "X", metadata: { resourceVersion: String(version) } } })}\n`);
    },
    compact: () => {
      compacted = version;
    },
    answer: () => ({}),
    version: () => version,
    setVersion: (to) => {
      version = to;
    },
    close: async () => {
      server.closeAllConnections();
      await dispatcher.destroy();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
  return fake;
}

export const events = (api: FakeApi): ApiObject[] => api.all(EVENTS);

async function read(request: IncomingMessage): Promise<Asked> {
  const chunks: Buffer[] = [];
  for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk);
  const text = Buffer.concat(chunks).toString();
  const url = new URL(request.url ?? "", "http://fake");
  const path = url.pathname;
  const [, root = "", rest = ""] = /^(\/api\/v1|\/apis\/[^/]+\/[^/]+)\/(.*)$/.exec(path) ?? [];
  const parts = rest.split("/").map(decodeURIComponent);
  const scoped = parts[0] === "namespaces" && parts.length > 2;
  const [plural = "", name = "", subresource = ""] = scoped ? parts.slice(2) : parts;
  return {
    method: request.method ?? "",
    path,
    query: url.searchParams,
    headers: request.headers,
    collection: `${root}/${plural}`,
    namespace: scoped ? (parts[1] ?? "") : "",
    name,
    subresource,
    body: text === "" ? undefined : JSON.parse(text),
  };
}

const status = (code: number, reason: string, message: string): { status: number; body: unknown } => ({
  status: code,
  body: { kind: "Status", status: "Failure", code, reason, message },
});

function matches(object: ApiObject, { query, namespace }: Asked): boolean {
  if (namespace !== "" && object.metadata.namespace !== namespace) return false;
  const [field = "", value = ""] = (query.get("fieldSelector") ?? "").split("=");
  if (field === "") return true;
  return (
    String(field.split(".").reduce<unknown>((at, part) => (at as Record<string, unknown> | undefined)?.[part], object) ?? "") === value
  );
}

/** What a field manager of ours owns: server-side apply takes away what it owns and does not name. */
const OWN = "trackbed.dev/";

/** As server-side apply does it for the lists that we write: conditions are merged by type. Null removes. */
function merge(before: unknown, patch: unknown, apply: boolean, field = ""): unknown {
  if (apply && field === "conditions" && Array.isArray(patch)) {
    const kept = (Array.isArray(before) ? before : []).filter(({ type }: { type: string }) => !type.startsWith(OWN));
    return [...kept, ...patch];
  }
  if (typeof patch !== "object" || patch === null || Array.isArray(patch)) return patch;
  const result: Record<string, unknown> = { ...((typeof before === "object" && before) || {}) };
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete result[key];
    else result[key] = merge(result[key], value, apply, key);
  }
  return result;
}
