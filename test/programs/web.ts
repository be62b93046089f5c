// A web server that says who it is and what it was asked: NAME PORT. Path /fail answers 503; a header x-slow says after how many milliseconds to answer.
import { createServer } from "node:http";

const [name = "", port = ""] = process.argv.slice(2);

const server = createServer((request, response) => {
  const { method = "", url = "", headers } = request;
  let bytes = 0;
  request.on("data", (chunk: Buffer) => {
    bytes += chunk.length;
  });
  request.on("end", () => {
    const answer = (): void => {
      response.writeHead(url.startsWith("/fail") ? 503 : 200, { "content-type": "application/json", "x-served-by": name });
      response.end(JSON.stringify({ name, method, url, headers, bytes }));
    };
    setTimeout(answer, Number(headers["x-slow"] ?? 0));
  });
});
server.listen(Number(port), "::", () => console.log("listening"));
