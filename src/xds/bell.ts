// Wakes the one loop that waits for something to do.

export type Bell = {
  ring(): void;
  /** Resolves now when it rang since the last wait, otherwise when it rings: rings are not counted and not lost. */
  wait(): Promise<void>;
};

export function createBell(): Bell {
  let rung = false;
  let wake: (() => void) | null = null;
  return {
    ring: () => {
      rung = true;
      wake?.();
      wake = null;
    },
    wait: async () => {
      if (!rung) await new Promise<void>((resolve) => (wake = resolve));
      rung = false;
    },
  };
}
