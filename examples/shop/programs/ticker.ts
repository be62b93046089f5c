// Server-sent events without an end: each connection gets its own name and numbers without gaps, so that a lost or reopened one shows.
// GET /ready answers and ends.
import { randomUUID } from "node:crypto";
import { createServer } from "node:http";

const TICK_MS = 50;

createServer((req, res) => {
  if (req.url === "/ready") return res.end("ready\n");
  const name = randomUUID().slice(0, 8);
  let number = 0;
  res.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
  const timer = setInterval(() => res.write(`data: ${name} ${number++}\n\n`), TICK_MS);
  res.once("close", () => clearInterval(timer));
}).listen(8080, "::");
