// Addresses that are given out again at once: the one that came back last first, to whoever waits longest.

export type Pool = { take(): Promise<string>; give(address: string): void };

export function createPool(addresses: readonly string[]): Pool {
  const free = [...addresses].reverse();
  const waiting: ((address: string) => void)[] = [];
  return {
    take: () => {
      const address = free.pop();
      return address === undefined ? new Promise((resolve) => waiting.push(resolve)) : Promise.resolve(address);
    },
    give: (address) => {
      const next = waiting.shift();
      if (next === undefined) free.push(address);
      else next(address);
    },
  };
}
