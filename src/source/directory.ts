// Desired state from a directory of YAML: the same documents that a cluster would hold, watched for changes.
import { meshError } from "#mesh/error.ts";
import type { Source } from "./source.ts";

export type DirectoryOptions = {
  /** For the default DNS search list of pods, "cluster.local". */
  readonly clusterDomain: string;
  /** Quiet time after a change before the directory is read again, and the age at which a file counts as written. Default 20. */
  readonly debounceMilliseconds?: number;
  /** Longest time that a change goes unnoticed when the kernel does not tell of it. Default 5000; 250 where watching is impossible. */
  readonly sweepMilliseconds?: number;
};

/** Every *.yaml, *.yml and *.json below `dir`. The first batch comes when all of it was read; rejects when `dir` cannot be read then. */
export function directorySource(dir: string, _options: DirectoryOptions): Source {
  return () => {
    throw meshError("E_SOURCE_INVALID", `reading ${dir} is not implemented yet`);
  };
}
