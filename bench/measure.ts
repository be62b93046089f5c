// One run of the load generator through a variant, and what everybody's CPU did meanwhile.
import { z } from "zod";
import { program } from "./peer.ts";
import { cpuSeconds, fineCpuSeconds } from "./process.ts";
import type { Variant } from "./variant.ts";

const RUN_DEADLINE_MS = 60_000;

const run = z.object({
  seconds: z.number(),
  cpu_seconds: z.number(),
  bytes: z.number(),
  operations: z.number(),
  p50: z.number(),
  p99: z.number(),
  p999: z.number(),
  max: z.number(),
  histogram: z.array(z.tuple([z.number(), z.number()])),
});
const figuresText = run.extend({ beside: run.optional() });

export type Figures = z.infer<typeof run> & { readonly beside?: z.infer<typeof run> | undefined };
/** Lower edge in microseconds and count; buckets are an eighth of an octave wide. */
export type Histogram = readonly (readonly [edge: number, count: number])[];

/** `full` for figures, `quick` to see that the bench works. */
export type Size = "full" | "quick";
/** CPU seconds that a run cost, by who spent them. */
export type Cpu = { readonly client: number; readonly server: number; readonly proxies: number; readonly beside: number };
export type Measured = { readonly metric: string; readonly unit: string; readonly value: number };
export type Outcome = { readonly measured: readonly Measured[]; readonly histogram: Histogram };

export async function runLoad(variant: Variant, args: readonly string[]): Promise<{ figures: Figures; cpu: Cpu }> {
  const [mode = "", ...flags] = args;
  const now = (): Omit<Cpu, "client"> => ({
    server: cpuSeconds(variant.server()),
    proxies: fineCpuSeconds(variant.proxies()),
    beside: cpuSeconds(variant.beside()),
  });
  const before = now();
  const output = await variant.client.run([program("load"), mode, variant.to, ...flags], { timeoutMs: RUN_DEADLINE_MS });
  const after = now();
  const figures = figuresText.parse(JSON.parse(output));
  const cpu = {
    client: figures.cpu_seconds,
    server: after.server - before.server,
    proxies: after.proxies - before.proxies,
    beside: after.beside - before.beside,
  };
  return { figures, cpu };
}

export async function answers({ client, to, carries }: Variant): Promise<boolean> {
  const question = carries === "bytes" ? ["bulk", to, "--bytes", "1000"] : ["http", to, "--connections", "1", "--seconds", "0.01"];
  const { code } = await client.exec([program("load"), ...question], { timeoutMs: 2000 });
  return code === 0;
}
