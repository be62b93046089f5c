// `trackbed explain pod/NAME`: where a pod stands, what was seen in its namespace, what the daemon did and what it would do next.
import type { PodExplanation } from "#inspect/status.ts";
import { askAll, explainPod, findDaemons, status } from "./daemons.ts";
import { type Exit, exit, type Format } from "./outcome.ts";
import { parsePod, pickPod } from "./pod.ts";
import { paint, table } from "./table.ts";

export async function runExplain(text: string, namespace: string | undefined, runs: readonly string[], format: Format): Promise<Exit> {
  const wanted = parsePod(text, namespace);
  const daemons = findDaemons(runs);
  const { answers } = await askAll(daemons, status);
  const pod = pickPod(
    wanted,
    answers.flatMap(({ pods }) => pods),
  );
  const explained = await askAll(daemons, (daemon) => explainPod(daemon, pod.namespace, pod.name));
  const explanation = explained.answers.find((answer) => answer !== null);
  if (explanation === undefined) throw new Error(`${pod.namespace}/${pod.name} left its node while it was looked at`);
  console.log(format === "json" ? JSON.stringify(explanation, null, 2) : page(explanation));
  return explanation.problem === null && (explanation.desired !== "enrolled" || explanation.phase === "ready") ? exit.ok : exit.failed;
}

const yes = (value: boolean): string => (value ? "yes" : paint("no", "yellow"));

function page(pod: PodExplanation): string {
  const { observed, engine, problem } = pod;
  const facts = table(
    ["FACT", "VALUE"],
    [
      ["node", pod.node],
      ["addresses", pod.addresses.join(", ")],
      ["identity", pod.identity],
      ["desired", pod.desired],
      ["phase", paint(pod.phase, pod.phase === "ready" ? "green" : "yellow")],
      ["namespace", `${pod.netnsPath ?? "unknown"} (cookie ${pod.netnsCookie ?? "unknown"})`],
      ["rules", observed.rules],
      ["routing", yes(observed.routing)],
      ["foreign rules", observed.foreign ?? "none"],
      ["proof", observed.proof],
      ["listeners bound", engine === null ? "-" : yes(engine.listening)],
      ["certificate", engine === null ? "-" : (engine.certificateNotAfter ?? (engine.identity ? "yes" : paint("none", "yellow")))],
      ["policy known", engine === null ? "-" : yes(engine.policy)],
      ["captured connections", String(pod.connections)],
      ["not meshed until reopened", pod.notMeshed === null ? "not counted" : String(pod.notMeshed)],
      ["next step", pod.nextStep],
    ],
  );
  const trouble = problem === null ? "" : `${problem.reason} (${problem.code})\n  next: ${problem.next}`;
  const steps = pod.steps.map(({ time, step, result, reason }) => [time, step, result, reason]);
  const history = steps.length === 0 ? "" : table(["TIME", "STEP", "RESULT", "REASON"], steps);
  return [
    paint(`pod ${pod.namespace}/${pod.name}`, "bold"),
    facts,
    trouble,
    pod.warnings.join("\n"),
    pod.rulesDifference.join("\n"),
    history,
  ]
    .filter(Boolean)
    .join("\n\n");
}
