// Runs one program to its end, with a deadline and bounded output, and says what it said when it fails.
import { spawn } from "node:child_process";

/** An image import or a rollout of everything on a busy machine; what takes longer hangs. */
const DEADLINE_MS = 120_000;
/** All Pods of a test cluster as JSON are below one megabyte. */
const OUTPUT_BYTES = 32 << 20;

export type Output = { readonly code: number; readonly stdout: string; readonly stderr: string };
export type Run = {
  readonly input?: string | Buffer | undefined;
  readonly deadlineMs?: number | undefined;
  readonly env?: NodeJS.ProcessEnv | undefined;
  readonly cwd?: string | undefined;
};

/** Rejects only when the program cannot be started or has to be killed. */
export function execute(
  argv: readonly string[],
  { input = "", deadlineMs = DEADLINE_MS, env = process.env, cwd }: Run = {},
): Promise<Output> {
  const [program = "", ...args] = argv;
  const { promise, resolve, reject } = Promise.withResolvers<Output>();
  const child = spawn(program, args, { stdio: "pipe", env, cwd });
  const fail = (reason: string, cause?: unknown): void => {
    child.kill("SIGKILL");
    for (const pipe of [child.stdout, child.stderr]) pipe.destroy(); // what the program started may hold them open
    reject(new Error(`${argv.join(" ")}: ${reason}`, { cause }));
  };
  const texts = { stdout: "", stderr: "" };
  const timer = setTimeout(() => fail(`no end within ${deadlineMs} ms\n${texts.stderr}`), deadlineMs);
  for (const name of ["stdout", "stderr"] as const)
    child[name].setEncoding("utf8").on("data", (chunk: string) => {
      texts[name] += chunk;
      if (texts[name].length > OUTPUT_BYTES) fail(`it wrote more than ${OUTPUT_BYTES} bytes`);
    });
  child.on("error", (error) => {
    clearTimeout(timer);
    fail(error.message, error);
  });
  child.on("close", (code, signal) => {
    clearTimeout(timer);
    resolve({ ...texts, code: code ?? -1, stderr: signal === null ? texts.stderr : `${texts.stderr}ended by ${signal}` });
  });
  child.stdin.on("error", () => undefined); // EPIPE of a program that ended early: its code says so
  child.stdin.end(input);
  return promise;
}

/** What the program wrote to stdout; a code other than 0 rejects with what it wrote to stderr. */
export async function run(argv: readonly string[], options: Run = {}): Promise<string> {
  const { code, stdout, stderr } = await execute(argv, options);
  if (code !== 0) throw new Error(`${argv.join(" ")}: exit ${code}: ${stderr.trim() || stdout.trim() || "it wrote no reason"}`);
  return stdout;
}
