// A customer: orders from web for ever, a new connection each time, and prints what happened once a second.
import { setTimeout as pause } from "node:timers/promises";

const EVERY_MS = 250;
const ANSWER_MS = 5000;
let [served, failed, told] = [0, 0, performance.now()];

for (;;) {
  try {
    const response = await fetch("http://web/order?note=daily", {
      headers: { connection: "close" },
      signal: AbortSignal.timeout(ANSWER_MS),
    });
    await response.text();
    if (response.ok) served++;
    else failed++;
  } catch (error) {
    failed++;
    console.log(error instanceof Error ? `${error.message}: ${String(error.cause)}` : String(error));
  }
  if (performance.now() - told > 1000) {
    told = performance.now();
    console.log(`served ${served}, failed ${failed}`);
  }
  await pause(EVERY_MS);
}
