// The command line under test, as a user runs it against the cluster.
import { join } from "node:path";
import { imageName } from "../../daemonset/image/trackbed.ts";
import { ROOT, type Settings } from "./settings.ts";

/** What these machines take for a command that waits for a rollout of everything. */
export const trackbed = {
  image: imageName(),
  argv: (...args: readonly string[]): string[] => [join(ROOT, "bin/trackbed"), ...args],
  env: (settings: Settings): NodeJS.ProcessEnv => ({ ...process.env, KUBECONFIG: settings.kubeconfig }),
};
