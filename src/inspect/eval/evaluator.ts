// The engine's deciding functions as a process to ask: questions go in as lines, answers come back in their order.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { findBinary } from "#engine/binary.ts";
import { meshError } from "#mesh/error.ts";
import type {
  Admit,
  AdmitAnswer,
  Connect,
  ConnectAnswer,
  EvalAnswer,
  EvalLine,
  EvalSettings,
  EvalState,
  RejectedResource,
  Replay,
  ReplayAnswer,
} from "./contract.ts";

/** Resources of one line: some hundred KiB, where a whole mesh in one line could pass what a string can hold. */
const RESOURCES_PER_LINE = 500;
/** Of what the program says about its end. */
const ERROR_CHARACTERS = 4096;

export type Evaluator = AsyncDisposable & {
  /** Begins an empty mesh. */
  begin(settings: EvalSettings): Promise<void>;
  /** What could not be used. */
  change(state: EvalState): Promise<readonly RejectedResource[]>;
  connect(question: Connect): Promise<ConnectAnswer>;
  /** In the order of the questions; many at once cost little more than few. */
  admit(questions: Iterable<Admit>): Promise<readonly AdmitAnswer[]>;
  /** Likewise. */
  replay(questions: Iterable<Replay>): Promise<readonly ReplayAnswer[]>;
};

type Waiting = { readonly resolve: (answer: EvalAnswer) => void; readonly reject: (error: Error) => void };

export function startEvaluator(binary: string = findBinary("trackbed-engine")): Evaluator {
  const child = spawn(binary, ["eval"], { stdio: ["pipe", "pipe", "pipe"] });
  const waiting: Waiting[] = [];
  const closed = new Promise<void>((resolve) => child.once("close", () => resolve()));
  let said = "";
  let over: Error | null = null;

  const end = (error: Error): void => {
    over ??= error;
    for (const { reject } of waiting.splice(0)) reject(over);
  };
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    said = `${said}${text}`.slice(0, ERROR_CHARACTERS);
  });
  child.once("error", (cause) => end(meshError("E_USAGE", `${binary} cannot be run`, cause)));
  child.once("close", (code) =>
    end(new Error(`${binary} eval ended${code === 0 ? "" : ` with code ${code}`}: ${said.trim() || "no reason given"}`)),
  );
  child.stdin.on("error", () => undefined); // its end is told with what it said, above
  createInterface({ input: child.stdout }).on("line", (line) => waiting.shift()?.resolve(JSON.parse(line) as EvalAnswer));

  async function write(line: EvalLine): Promise<void> {
    if (over !== null) throw over;
    if (child.stdin.write(`${JSON.stringify(line)}\n`)) return;
    await Promise.race([once(child.stdin, "drain"), closed]);
  }

  function answer(): Promise<EvalAnswer> {
    const { promise, resolve, reject } = Promise.withResolvers<EvalAnswer>();
    if (over === null) waiting.push({ resolve, reject });
    else reject(over);
    promise.catch(() => undefined); // awaited after the question was written, which may fail first
    return promise;
  }

  async function ask(line: EvalLine): Promise<EvalAnswer> {
    const answered = answer();
    await write(line);
    return answered;
  }

  async function askMany<Question>(questions: Iterable<Question>, lineOf: (question: Question) => EvalLine): Promise<EvalAnswer[]> {
    const answers: Promise<EvalAnswer>[] = [];
    for (const question of questions) {
      answers.push(answer());
      await write(lineOf(question));
    }
    return Promise.all(answers);
  }

  return {
    begin: (settings) => write({ settings }),
    change: async ({ upsert, remove }) => {
      const rejected: RejectedResource[] = [];
      for (let from = 0; from === 0 || from < upsert.length; from += RESOURCES_PER_LINE) {
        const state = { upsert: upsert.slice(from, from + RESOURCES_PER_LINE), remove: from === 0 ? remove : [] };
        const answered = await ask({ state });
        if ("state" in answered) rejected.push(...answered.state.rejected);
      }
      return rejected;
    },
    connect: async (question) => {
      const answered = await ask({ connect: question });
      if (!("connect" in answered)) throw new Error(`${binary} eval answered another question`);
      return answered.connect;
    },
    admit: async (questions) =>
      (await askMany(questions, (admit) => ({ admit }))).map((answered) => {
        if (!("admit" in answered)) throw new Error(`${binary} eval answered another question`);
        return answered.admit;
      }),
    replay: async (questions) =>
      (await askMany(questions, (replay) => ({ replay }))).map((answered) => {
        if (!("replay" in answered)) throw new Error(`${binary} eval answered another question`);
        return answered.replay;
      }),
    [Symbol.asyncDispose]: async () => {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.stdin.end();
      await closed;
    },
  };
}
