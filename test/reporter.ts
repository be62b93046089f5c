// A reporter of the Node test runner that writes the total as JSON: what `make test` adds to the Rust one.
import type { TestEvent } from "node:test/reporters";
import { nothing } from "./total.ts";

// biome-ignore lint/style/noDefaultExport: the runner takes a reporter by its default export
export default async function* report(events: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  const total = nothing();
  for await (const { type, data } of events) {
    // A file is told of as a test as well: it counts only when it fails as a whole, outside of its tests.
    if (type === "test:fail" && !(data.details.type === "suite")) total.failed++;
    if (type !== "test:pass" || data.details.type === "suite") continue;
    if (data.skip === undefined || data.skip === false) total.passed++;
    else total.skipped.push(`${data.name}${typeof data.skip === "string" ? `: ${data.skip}` : ""}`);
  }
  yield JSON.stringify(total);
}
