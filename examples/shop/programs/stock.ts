// One version of the stock service, named by its argument. While /run/failing is there, which is the pod's own, it answers 503.
import { existsSync } from "node:fs";
import { createServer } from "node:http";

const FAILING = "/run/failing";
const [version = ""] = process.argv.slice(2);

createServer((_req, res) => {
  const status = existsSync(FAILING) ? 503 : 200;
  res.writeHead(status, { "content-type": "application/json" }).end(`${JSON.stringify({ version, left: 12 })}\n`);
}).listen(8080, "::");
