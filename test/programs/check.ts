// External authorization over HTTP: lets in whoever says the word, and tells the backend who it was. PORT.
import { createServer } from "node:http";

const [port = "0"] = process.argv.slice(2);

createServer((request, response) => {
  const allowed = request.headers["x-word"] === "sesame";
  response.writeHead(allowed ? 200 : 418, allowed ? { "x-user": "ali" } : { "x-reason": "no word" }).end(allowed ? "" : "say the word");
}).listen(Number(port), "::", () => console.log("listening"));
