// Runs inside a pod's namespace: reads attempts as JSON on standard input, makes each with the independent peer, prints what came of them.
import { text } from "node:stream/consumers";
import { type ClientOptions, connectPeer, connectStream } from "./peer.ts";

export type Attempt = ClientOptions & {
  readonly name: string;
  readonly authority: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** Sent after 200, followed by the end of the stream; the answer is read to its end. */
  readonly payload: string;
  /** Longest wait for the answer to CONNECT; the connection is dropped then. */
  readonly answerMs?: number;
};

export type Outcome = {
  readonly name: string;
  /** Status of the CONNECT, null when it did not come that far. */
  readonly status: number | null;
  readonly answer: string;
  readonly headers: Readonly<Record<string, unknown>>;
  readonly peerUris: readonly string[];
  readonly error: string | null;
};

async function make(attempt: Attempt): Promise<Outcome> {
  const nothing = { name: attempt.name, status: null, answer: "", headers: {}, peerUris: [] };
  try {
    const peer = await connectPeer(attempt);
    try {
      const { status, headers, stream } = await connectStream(peer, attempt.authority, attempt.headers, attempt.answerMs);
      let answer = "";
      if (status === 200) {
        stream.end(attempt.payload);
        answer = await text(stream);
      }
      return { name: attempt.name, status, answer, headers, peerUris: peer.peerUris, error: null };
    } finally {
      peer.close();
    }
  } catch (error) {
    return { ...nothing, error: error instanceof Error ? error.message : String(error) };
  }
}

const attempts = JSON.parse(await text(process.stdin)) as Attempt[];
const outcomes: Outcome[] = [];
for (const attempt of attempts) outcomes.push(await make(attempt));
process.stdout.write(`${JSON.stringify(outcomes)}\n`);
