// Latencies as a picture: one curve a variant, on a logarithmic axis, all rounds together.
import type { Histogram } from "./measure.ts";

/** Buckets are an eighth of an octave wide, as the load generator makes them. */
const BUCKETS_PER_OCTAVE = 8;
const WIDTH = 800;
const HEIGHT = 360;
const MARGIN = { left: 20, right: 20, top: 30, bottom: 40 } as const;
/** Told apart also by who sees red and green alike (Okabe and Ito), and by their order in the legend. */
const COLOURS = ["#000000", "#999999", "#e69f00", "#d55e00", "#cc79a7", "#56b4e9", "#009e73"] as const;
/** Of all requests: what is rarer is in the table's p99. */
const SHOWN = 0.9995;

const bucketOf = (edge: number): number => Math.round(Math.log2(edge) * BUCKETS_PER_OCTAVE);
const edgeOf = (bucket: number): number => 2 ** (bucket / BUCKETS_PER_OCTAVE);

/** Counts of several runs by bucket number. */
export function merge(histograms: readonly Histogram[]): ReadonlyMap<number, number> {
  const counts = new Map<number, number>();
  for (const [edge, count] of histograms.flat()) counts.set(bucketOf(edge), (counts.get(bucketOf(edge)) ?? 0) + count);
  return new Map([...counts].sort(([a], [b]) => a - b));
}

/** Upper edge of the bucket that holds the quantile, in buckets. */
export function quantile(counts: ReadonlyMap<number, number>, share: number): number {
  const total = [...counts.values()].reduce((a, b) => a + b, 0);
  let seen = 0;
  for (const [bucket, count] of counts) {
    seen += count;
    if (seen >= share * total) return bucket + 1;
  }
  return 0;
}

const escaped = (text: string): string => text.replace(/[&<>]/g, (letter) => `&#${letter.charCodeAt(0)};`);
const duration = (micros: number): string =>
  micros >= 1000 ? `${Number((micros / 1000).toPrecision(2))} ms` : `${Number(micros.toPrecision(2))} µs`;

export function svg(title: string, curves: readonly (readonly [name: string, counts: ReadonlyMap<number, number>])[]): string {
  const first = Math.min(...curves.flatMap(([, counts]) => [...counts.keys()])) - 1;
  const last = Math.max(...curves.map(([, counts]) => quantile(counts, SHOWN))) + 1;
  const shares = curves.map(([name, counts]) => {
    const total = [...counts.values()].reduce((a, b) => a + b, 0);
    return { name, counts, share: (bucket: number): number => (counts.get(bucket) ?? 0) / total };
  });
  const top = Math.max(...shares.flatMap(({ counts, share }) => [...counts.keys()].map(share)));
  const x = (bucket: number): number => MARGIN.left + ((bucket - first) / (last - first)) * (WIDTH - MARGIN.left - MARGIN.right);
  const y = (share: number): number => HEIGHT - MARGIN.bottom - (share / top) * (HEIGHT - MARGIN.top - MARGIN.bottom);
  const text = (left: number, height: number, words: string, more = ""): string =>
    `<text x="${left.toFixed(1)}" y="${height.toFixed(1)}" ${more}>${escaped(words)}</text>`;
  const octaves = Array.from({ length: Math.floor((last - first) / BUCKETS_PER_OCTAVE) + 1 }, (_, n) => {
    const bucket = Math.ceil(first / BUCKETS_PER_OCTAVE) * BUCKETS_PER_OCTAVE + n * BUCKETS_PER_OCTAVE;
    const line = `<path d="M${x(bucket).toFixed(1)} ${MARGIN.top}V${HEIGHT - MARGIN.bottom}" stroke="#e5e5e5"/>`;
    return bucket > last ? "" : line + text(x(bucket), HEIGHT - MARGIN.bottom + 16, duration(edgeOf(bucket)), 'text-anchor="middle"');
  });
  const drawn = shares.map(({ name, counts, share }, index) => {
    const colour = COLOURS[index % COLOURS.length];
    const points = Array.from({ length: last - first }, (_, n) => `${x(first + n + 0.5).toFixed(1)},${y(share(first + n)).toFixed(1)}`);
    const own = name === "trackbed" ? 2.5 : 1.5;
    const legend = `${name}  p50 ${duration(edgeOf(quantile(counts, 0.5)))}, p99 ${duration(edgeOf(quantile(counts, 0.99)))}`;
    return `<polyline points="${points.join(" ")}" fill="none" stroke="${colour}" stroke-width="${own}"/>
${text(WIDTH - MARGIN.right - 230, MARGIN.top + 16 * (index + 1), legend, `fill="${colour}"`)}`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="11">
<rect width="100%" height="100%" fill="white"/>
${text(MARGIN.left, 18, title, 'font-size="13"')}
${octaves.join("\n")}
${drawn.join("\n")}
${text(WIDTH / 2, HEIGHT - 8, "latency; height: share of the requests per eighth of an octave", 'text-anchor="middle" fill="#666"')}
</svg>
`;
}
