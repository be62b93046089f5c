// Runs inside a pod: requests one after the other on one kept-alive connection, and what became of them. Prints one line of JSON.
// Arguments: URL, how many, headers as NAME:VALUE. Whoever answers says its version.
import { Agent, request } from "node:http";

export type Requests = {
  /** How many answers had each status; those without an answer have 0. */
  readonly statuses: Record<string, number>;
  /** How many good answers came from each version. */
  readonly versions: Record<string, number>;
};

const ANSWER_MS = 5000;
const [url = "", count = "1", ...lines] = process.argv.slice(2);
const headers = Object.fromEntries(lines.map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1)]));
const result: Requests = { statuses: {}, versions: {} };
const agent = new Agent({ keepAlive: true, maxSockets: 1 });

function add(counts: Record<string, number>, name: string): void {
  counts[name] = (counts[name] ?? 0) + 1;
}

function once(): Promise<void> {
  return new Promise((resolve) => {
    const failed = (): void => {
      add(result.statuses, "0");
      resolve();
    };
    const sent = request(url, { agent, headers, timeout: ANSWER_MS }, (response) => {
      let body = "";
      response.setEncoding("utf8").on("data", (text: string) => {
        body += text;
      });
      response.once("error", failed).once("end", () => {
        add(result.statuses, String(response.statusCode));
        if (response.statusCode === 200) add(result.versions, (JSON.parse(body) as { version: string }).version);
        resolve();
      });
    });
    sent.once("timeout", () => sent.destroy(new Error("no answer in time"))).once("error", failed);
    sent.end();
  });
}

for (let i = 0; i < Number(count); i++) await once();
agent.destroy();
console.log(JSON.stringify(result));
