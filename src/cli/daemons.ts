// Finds the daemons to talk to and asks them: HTTP on their admin sockets.
import { existsSync } from "node:fs";
import { type IncomingMessage, request } from "node:http";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { paths } from "#contract/tables.ts";
import type { FlowLine } from "#inspect/flow.ts";
import { lineOf, readFrames } from "#inspect/frames.ts";
import type { RecordingLine, RecordingRequest } from "#inspect/pcap/recording.ts";
import { RECORDINGS } from "#inspect/pcap/stream.ts";
import type { AnswerLine, Question } from "#inspect/question.ts";
import type { AdminError, NodeStatus, PodExplanation } from "#inspect/status.ts";
import { meshError } from "#mesh/error.ts";
import { runDirectories, runningLabs } from "../lab/find.ts";
import { daemonAway, isDaemonAway } from "./outcome.ts";

const ANSWER_MS = 3000;
/** No admin answer is near this; flows are read line by line and do not count. */
const LARGEST_ANSWER = 64 << 20;

export type Daemon = { readonly run: string };

/** Where to look, in order: --run, TRACKBED_RUN (colons between), /run/trackbed, then every lab on this machine. The first that is there wins. */
export function findDaemons(runs: readonly string[], env: NodeJS.ProcessEnv = process.env): Daemon[] {
  const told = runs.length > 0 ? runs : (env["TRACKBED_RUN"] ?? "").split(":").filter((path) => path !== "");
  if (told.length > 0) return told.map((run) => ({ run }));
  if (existsSync(join(paths.run, paths.adminSocket))) return [{ run: paths.run }];
  const found = runningLabs().flatMap(runDirectories);
  if (found.length === 0) throw daemonAway(`no daemon found: no ${join(paths.run, paths.adminSocket)} and no running lab that has one`);
  return found.map((run) => ({ run }));
}

/** Controls of the labs on this machine: they keep what waypoints said of requests, where a daemon keeps what it saw of connections. */
export const labControls = (): Daemon[] =>
  runningLabs()
    .map(({ directory }) => join(directory, "control", "run"))
    .filter((run) => existsSync(join(run, paths.adminSocket)))
    .map((run) => ({ run }));

export type Asked<T> = { readonly answers: readonly T[]; readonly failures: readonly { readonly run: string; readonly error: Error }[] };

/** Asks every daemon; rejects with NoDaemon when none could be reached. */
export async function askAll<T>(daemons: readonly Daemon[], ask: (daemon: Daemon) => Promise<T>): Promise<Asked<T>> {
  const results = await Promise.allSettled(daemons.map(ask));
  const answers = results.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
  const failures = results.flatMap((result, index) =>
    result.status === "rejected" ? [{ run: daemons[index]?.run ?? "", error: result.reason as Error }] : [],
  );
  const first = failures[0];
  if (first !== undefined && failures.length === daemons.length && failures.every(({ error }) => isDaemonAway(error))) throw first.error;
  return { answers, failures };
}

export const status = (daemon: Daemon): Promise<NodeStatus> => getJson<NodeStatus>(daemon, "/v1/status");

/** Null when the node does not know the pod. */
export async function explainPod(daemon: Daemon, namespace: string, name: string): Promise<PodExplanation | null> {
  const { code, body } = await get(daemon, `/v1/pods/${namespace}/${name}`);
  return code === 404 ? null : parse<PodExplanation>(code, body);
}

/** Records that are kept, and with `follow` those to come until `stop`. */
export async function* flows(
  daemon: Daemon,
  follow: boolean,
  stop: AbortSignal,
  connected?: () => void,
  since?: string,
): AsyncGenerator<FlowLine> {
  const query = new URLSearchParams({ ...(follow ? { follow: "true" } : {}), ...(since === undefined ? {} : { since }) });
  const response = await openAdmin(daemon, `/v1/flows${query.size > 0 ? `?${query}` : ""}`, stop);
  if (response.statusCode !== 200) {
    parse(response.statusCode ?? 0, await text(response));
    return;
  }
  connected?.();
  try {
    for await (const line of createInterface({ input: response })) if (line !== "") yield JSON.parse(line) as FlowLine;
  } catch (error) {
    if (!stop.aborted) throw error;
  }
}

/** Every line of the answer, until it is over or `stop` is aborted. */
export async function* askDaemon(
  daemon: Daemon,
  question: Question,
  stop: AbortSignal,
  connected?: () => void,
): AsyncGenerator<AnswerLine> {
  const response = await openAdmin(daemon, `/v1/ask?${new URLSearchParams({ question: JSON.stringify(question) })}`, stop);
  if (response.statusCode !== 200) {
    parse(response.statusCode ?? 0, await text(response));
    return;
  }
  connected?.();
  try {
    for await (const frame of readFrames(response)) yield lineOf<AnswerLine>(frame);
  } catch (error) {
    if (!stop.aborted) throw error;
  }
}

/** Until a limit, or after `stop` until what was recorded by then is here. */
export async function* record(daemon: Daemon, recording: RecordingRequest, stop: AbortSignal): AsyncGenerator<RecordingLine> {
  const given = new AbortController();
  const response = await openAdmin(daemon, RECORDINGS, given.signal, { method: "POST", body: recording });
  const { location } = response.headers;
  if (response.statusCode !== 201 || location === undefined) {
    parse(response.statusCode ?? 0, await text(response));
    return;
  }
  const end = (): void => {
    openAdmin(daemon, location, AbortSignal.timeout(ANSWER_MS), { method: "DELETE" }).then(
      (answer) => answer.resume(),
      () => given.abort(), // nobody is there who could end it
    );
    setTimeout(() => given.abort(), ANSWER_MS).unref();
  };
  stop.addEventListener("abort", end, { once: true });
  try {
    if (stop.aborted) end();
    for await (const frame of readFrames(response)) yield lineOf<RecordingLine>(frame);
  } catch (error) {
    if (!stop.aborted) throw error;
  } finally {
    stop.removeEventListener("abort", end);
    response.destroy();
  }
}

async function getJson<T>(daemon: Daemon, path: string): Promise<T> {
  const { code, body } = await get(daemon, path);
  return parse<T>(code, body);
}

function parse<T>(code: number, body: string): T {
  if (code === 200) return JSON.parse(body) as T;
  const error = JSON.parse(body) as AdminError;
  throw meshError(error.code, error.message);
}

async function get(daemon: Daemon, path: string): Promise<{ code: number; body: string }> {
  const response = await openAdmin(daemon, path, AbortSignal.timeout(ANSWER_MS));
  return { code: response.statusCode ?? 0, body: await text(response) };
}

async function text(response: IncomingMessage): Promise<string> {
  let all = "";
  for await (const chunk of response.setEncoding("utf8")) {
    all += String(chunk);
    if (all.length > LARGEST_ANSWER) throw new Error(`an answer of more than ${LARGEST_ANSWER} bytes`);
  }
  return all;
}

type Asking = { readonly method: "GET" | "POST" | "DELETE"; readonly body?: unknown };

/** An answer as it comes, for those that are read by lines. */
export function openAdmin(
  { run }: Daemon,
  path: string,
  signal: AbortSignal,
  { method, body }: Asking = { method: "GET" },
): Promise<IncomingMessage> {
  const socketPath = join(run, paths.adminSocket);
  return new Promise((resolve, reject) => {
    const req = request({ socketPath, path, signal, method }, resolve);
    req.once("error", (cause) => reject(daemonAway(`no daemon answers on ${socketPath}`, cause)));
    req.end(body === undefined ? undefined : JSON.stringify(body));
  });
}
