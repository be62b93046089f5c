// The other replicas of control: each has its own nodes and waypoints, and is asked with the very token of whoever asks us.
import { type ClientHttp2Session, connect, constants } from "node:http2";
import { kubernetes } from "#contract/tables.ts";
import { timeOf } from "#inspect/answer.ts";
import { type Frame, readFrames } from "#inspect/frames.ts";
import type { AnswerLine, Question } from "#inspect/question.ts";
import type { Item, Missing } from "./inspection.ts";
import { ASK_PATH, HERE } from "./people.ts";

export type Peer = { readonly name: string; readonly address: string };

export type PeersOptions = {
  /** Live replicas besides this one. */
  readonly list: () => readonly Peer[];
  readonly port: number;
  /** PEM of the roots that their certificates must chain to, and the name in them. */
  readonly roots: () => string;
  readonly serverName: string;
};

export type Gathered = { readonly missing: Missing[]; readonly nodes: Set<string> };

export type Peers = {
  /** One generator for each replica. Who took part, and who is missing, is added to `gathered`. */
  ask(question: Question, token: string, gathered: Gathered, stop: AbortSignal): readonly AsyncGenerator<Item>[];
};

const CONNECT_MILLISECONDS = 3_000;
/** Of a refusal only so much is told. */
const REFUSAL_CHARACTERS = 300;

/** Of a control that is alone. */
export const noPeers: Peers = { ask: () => [] };

export function createPeers({ list, port, roots, serverName }: PeersOptions): Peers {
  async function* askOne(peer: Peer, question: Question, token: string, gathered: Gathered, stop: AbortSignal): AsyncGenerator<Item> {
    let session: ClientHttp2Session | null = null;
    try {
      session = await open(`https://${peer.address.includes(":") ? `[${peer.address}]` : peer.address}:${port}`, roots(), serverName);
      const search = new URLSearchParams({ question: JSON.stringify(question), [HERE]: "" });
      const stream = session.request({ ":path": `${ASK_PATH}?${search}`, [kubernetes.viewerTokenHeader]: token }, { signal: stop });
      const status = await new Promise<number>((resolve, reject) => {
        stream.once("response", (headers) => resolve(Number(headers[constants.HTTP2_HEADER_STATUS])));
        stream.once("error", reject);
        stream.once("close", () => reject(new Error("it closed the connection")));
      });
      for await (const frame of readFrames(stream)) {
        if (status !== 200) throw new Error(`it refused: ${frame.json.slice(0, REFUSAL_CHARACTERS)}`);
        yield* read(frame, gathered);
      }
      if (stream.rstCode !== 0) throw new Error("its answer broke off");
    } catch (error) {
      if (!stop.aborted)
        gathered.missing.push({ node: `replica ${peer.name}`, reason: error instanceof Error ? error.message : String(error) });
    } finally {
      session?.destroy();
    }
  }

  return {
    ask: (question, token, gathered, stop) => list().map((peer) => askOne(peer, question, token, gathered, stop)),
  };
}

function* read(frame: Frame, { missing, nodes }: Gathered): Generator<Item> {
  const line = JSON.parse(frame.json) as AnswerLine;
  if (line.type === "missing") missing.push({ node: line.node, reason: line.reason });
  else if (line.type === "answered") for (const node of line.nodes) nodes.add(node);
  else yield { time: timeOf(line), ...frame };
}

function open(origin: string, ca: string, servername: string): Promise<ClientHttp2Session> {
  return new Promise((resolve, reject) => {
    const session = connect(origin, { ca, servername, minVersion: "TLSv1.3" });
    const timer = setTimeout(
      () => session.destroy(new Error(`no connection within ${CONNECT_MILLISECONDS / 1000} s`)),
      CONNECT_MILLISECONDS,
    );
    session.once("connect", () => {
      clearTimeout(timer);
      resolve(session);
    });
    session.on("error", (error) => {
      clearTimeout(timer);
      reject(error);
    });
  });
}
