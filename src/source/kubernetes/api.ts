// One API server as the mesh asks it: fresh credentials, one pool, bounded answers, typed failures. Knows paths and JSON, no kinds.
import type { Readable } from "node:stream";
import { type Dispatcher, request as send } from "undici";
import { isMeshError } from "#mesh/error.ts";
import { type Credentials, inClusterCredentials, kubeconfigCredentials } from "./credentials.ts";
import { apiFailure } from "./failure.ts";

export type ApiRequest = {
  readonly method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  /** "/api/v1/pods", parts already encoded. */
  readonly path: string;
  readonly query?: Readonly<Record<string, string>>;
  /** Sent as JSON. */
  readonly body?: unknown;
  /** Besides those of every request. */
  readonly headers?: Readonly<Record<string, string>>;
  /** Content type of the body: a patch says by it what it is. */
  readonly type?:
    | "application/json"
    | "application/apply-patch+yaml"
    | "application/merge-patch+json"
    | "application/strategic-merge-patch+json";
  readonly signal?: AbortSignal;
};

export type Api = {
  readonly server: string;
  /** The answer's JSON, or an ApiFailure. */
  call(request: ApiRequest): Promise<unknown>;
  /** The answer's body as it comes, for watches; the caller must end it. No time limit of its own behind the headers. */
  open(request: ApiRequest): Promise<Readable>;
  close(): Promise<void>;
};

export type ApiOptions = {
  /** Of the kubeconfig; its current one where it is not named. */
  readonly context?: string;
  /** Longest wait for the head of an answer, and for the next bytes of a body that is not a watch. */
  readonly answerMilliseconds?: number;
};

/** The server's own limit of a request is 60 s; slower lists are asked for in smaller pages. */
const ANSWER_MILLISECONDS = 30_000;
/** A page of 500 pods has 5 MB; an object has at most 1.5 MB by etcd's limit, so nothing honest is near this. */
const ANSWER_BYTES = 64 * 2 ** 20;
/** Of an error's body only so much is read for people. */
const REFUSAL_BYTES = 64 * 1024;
const REFUSAL_CHARACTERS = 300;
/** Longer demands to wait are a mistake of a proxy between. */
const RETRY_AFTER_MILLISECONDS = 60_000;

/** Credentials of a kubeconfig; null = those of the pod we run in. */
export async function connectApi(kubeconfig: string | null, options: ApiOptions = {}): Promise<Api> {
  return createApi(kubeconfig === null ? inClusterCredentials() : await kubeconfigCredentials(kubeconfig, options.context), options);
}

export function createApi(credentials: Credentials, options: ApiOptions = {}): Api {
  const answerMilliseconds = options.answerMilliseconds ?? ANSWER_MILLISECONDS;

  async function exchange(request: ApiRequest, bodyTimeout: number): Promise<Dispatcher.ResponseData> {
    const { method, path, query, body, type = "application/json", signal } = request;
    const { headers: own, dispatcher } = await credentials.passport();
    const search = query === undefined ? "" : `?${new URLSearchParams(query)}`;
    try {
      const answer = await send(`${credentials.server}${path}${search}`, {
        method,
        dispatcher,
        headers: { ...request.headers, ...own, accept: "application/json", ...(body === undefined ? {} : { "content-type": type }) },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        ...(signal === undefined ? {} : { signal }),
        headersTimeout: answerMilliseconds,
        bodyTimeout,
      });
      if (answer.statusCode >= 200 && answer.statusCode < 300) return answer;
      if (answer.statusCode === 401) credentials.renew();
      throw await refusalOf(request, answer);
    } catch (cause) {
      throw asFailure(request, cause, credentials);
    }
  }

  return {
    server: credentials.server,
    call: async (request) => {
      const answer = await exchange(request, answerMilliseconds);
      try {
        return JSON.parse(await textOf(answer.body, ANSWER_BYTES));
      } catch (cause) {
        throw asFailure(request, cause, credentials);
      }
    },
    open: async (request) => (await exchange(request, 0)).body,
    close: () => credentials.close(),
  };
}

async function refusalOf({ method, path }: ApiRequest, answer: Dispatcher.ResponseData): Promise<Error> {
  const text = await textOf(answer.body, REFUSAL_BYTES);
  const { reason, message } = statusObject(text);
  const after = Number(answer.headers["retry-after"]);
  const retryAfterMilliseconds = Number.isFinite(after) && after > 0 ? Math.min(after * 1000, RETRY_AFTER_MILLISECONDS) : null;
  const refusal = { status: answer.statusCode, reason, message: message.slice(0, REFUSAL_CHARACTERS) };
  return apiFailure(method, path, refusal, { retryAfterMilliseconds });
}

/** Proxies between answer with anything. */
function statusObject(text: string): { readonly reason: string; readonly message: string } {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null) {
      const reason = "reason" in value && typeof value.reason === "string" ? value.reason : "";
      const message = "message" in value && typeof value.message === "string" ? value.message : reason;
      return { reason, message };
    }
  } catch {
    return { reason: "", message: text }; // it was not JSON: then the text is the message
  }
  return { reason: "", message: text };
}

async function textOf(body: Readable, most: number): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of body as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > most) {
      body.destroy();
      throw new RangeError(`the answer is larger than ${most} bytes`);
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

function asFailure({ method, path, signal }: ApiRequest, cause: unknown, credentials: Credentials): unknown {
  if (isMeshError(cause) || signal?.aborted === true) return cause;
  // A certificate that stopped to fit may have been replaced on disk meanwhile.
  if (cause instanceof Error && "code" in cause && String(cause.code).includes("CERT")) credentials.renew();
  const message = cause instanceof Error ? cause.message : String(cause);
  return apiFailure(method, path, { status: 0, reason: "", message }, { cause });
}
