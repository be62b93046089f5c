// The shop's API: counts orders in the cache and mails a receipt for each. GET /order?note=TEXT, GET /ready.
import { createServer } from "node:http";
import { connect, type Socket } from "node:net";

const CACHE = { host: "cache", port: 6379 };
const RECEIPTS = { host: "receipts", port: 25 };
const ANSWER_MS = 3000;

/** The next line that `test` accepts; an error when the peer closes or is silent for too long. */
function line(socket: Socket, test: RegExp): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = "";
    const fail = (why: string) => (): void => {
      socket.destroy();
      reject(new Error(why));
    };
    const silent = setTimeout(fail("no answer"), ANSWER_MS);
    const closed = fail("closed early");
    const take = (chunk: Buffer): void => {
      text += chunk.toString("utf8");
      const found = text
        .split("\r\n")
        .slice(0, -1)
        .find((candidate) => test.test(candidate));
      if (found === undefined) return;
      clearTimeout(silent);
      socket.off("data", take).off("close", closed);
      resolve(found);
    };
    socket.on("data", take).once("close", closed);
  });
}

/** One command on a Redis connection that is kept; a broken one is replaced by the next call. */
let cache: Socket | undefined;
let last: Promise<unknown> = Promise.resolve();
function redis(...words: string[]): Promise<string> {
  const answer = last.then(() => {
    if (cache === undefined || cache.destroyed) cache = connect(CACHE).on("error", (error) => console.error("cache:", error.message));
    const parts = words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`);
    cache.write(`*${words.length}\r\n${parts.join("")}`);
    return line(cache, /^[+:$-]/);
  });
  last = answer.catch(() => undefined); // the caller of this command gets the error, the next command a new chance
  return answer;
}

async function mail(order: string, note: string): Promise<string> {
  const socket = connect(RECEIPTS).on("error", (error) => console.error("receipts:", error.message));
  try {
    await line(socket, /^220 /);
    for (const [command, expected] of [
      ["HELO api", /^250 /],
      ["MAIL FROM:<api@shop.example>", /^250 /],
      ["RCPT TO:<customer@shop.example>", /^250 /],
      ["DATA", /^354 /],
    ] as const) {
      socket.write(`${command}\r\n`);
      await line(socket, expected);
    }
    socket.write(`Subject: order ${order}\r\n\r\n${note}\r\n.\r\n`);
    return await line(socket, /^250 /);
  } finally {
    socket.end("QUIT\r\n");
  }
}

async function order(note: string): Promise<object> {
  const number = (await redis("INCR", "orders")).slice(1);
  await redis("SET", "note", note);
  return { order: Number(number), note, receipt: await mail(number, note) };
}

createServer(async (req, res) => {
  const url = new URL(req.url ?? "/", "http://api");
  try {
    const body = url.pathname === "/ready" ? { ready: await redis("PING") } : await order(url.searchParams.get("note") ?? "");
    res.writeHead(200, { "content-type": "application/json" }).end(`${JSON.stringify(body)}\n`);
  } catch (error) {
    res.writeHead(503).end(`${error instanceof Error ? error.message : String(error)}\n`);
  }
}).listen(8080, "::");
