// `trackbed demo`.
export function runDemo(_: { once: boolean; mesh: string; output: "text" | "json" }): Promise<number> {
  return Promise.reject(new Error("not yet"));
}
