// Requests of a web server, over one kept-alive connection: URL COUNT [HEADER:VALUE …]; prints each answer as a line of JSON.
import { Agent, request } from "node:http";

export type Answer = { readonly status: number; readonly by: string; readonly body: string; readonly error: string; readonly sum?: string };

const DEADLINE_MS = 8_000;

if (import.meta.main) {
  const [url = "", count = "1", ...headers] = process.argv.slice(2);
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const given = Object.fromEntries(headers.map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1)]));
  for (let i = 0; i < Number(count); i++) console.log(JSON.stringify(await ask(url, given, agent)));
  agent.destroy();
}

function ask(url: string, headers: Record<string, string>, agent: Agent): Promise<Answer> {
  return new Promise((resolve) => {
    const failed = (error: Error): void => resolve({ status: 0, by: "", body: "", error: error.message });
    const sent = request(url, { agent, headers, timeout: DEADLINE_MS }, (response) => {
      let body = "";
      response.setEncoding("utf8").on("data", (text: string) => {
        body += text;
      });
      response.on("end", () =>
        resolve({
          status: response.statusCode ?? 0,
          by: String(response.headers["x-served-by"] ?? ""),
          body,
          error: "",
          ...(response.trailers["x-sum"] === undefined ? {} : { sum: response.trailers["x-sum"] }),
        }),
      );
      response.on("error", failed);
    });
    sent.on("timeout", () => sent.destroy(new Error("no answer in time")));
    sent.on("error", failed);
    sent.end();
  });
}
