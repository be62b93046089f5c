// What a node holds while no pod of the churn is on it: whatever is there more than before is a leak.
import type { Cluster } from "../cluster.ts";
import type { State } from "../node-state.ts";

/** What the engine leaves with its keeper: settings, a base, and as many changes of the mesh's state as it keeps before it merges them. */
const MOST_KEPT = 67;
/** One line for each descriptor by its kind, numbered among its like, so that growth shows as lines that are new. */
const DESCRIPTORS = (pid: string): string =>
  `ls -l /proc/${pid}/fd | sed -n 's/.* -> //p' | sed -E 's/(socket|pipe|net|mnt):\\[[0-9]+\\]/\\1/; s/[0-9]+/N/g' | sort | awk '{ n = ++seen[$0]; if (!/^.memfd:trackbed/ || n > ${MOST_KEPT}) print $0, n }'`;

const COMMANDS: Readonly<Record<string, string>> = {
  keeper: DESCRIPTORS("$(pgrep -ox trackbed-engine)"),
  worker: DESCRIPTORS("$(pgrep -nx trackbed-engine)"),
  // Its connections to the API server come and go by themselves.
  daemon: `${DESCRIPTORS("$(pidof trackbed-daemon)")} | grep -v '^socket'`,
  listeners: "ss -Hltn | awk '{print $4}' | sort",
  "unix listeners": "ss -Hlxn | awk '{print $5}' | grep -v '^@' | sed -E 's/[0-9]+/N/g' | sort",
  namespaces: "ls /run/netns; for p in /proc/[0-9]*; do readlink $p/ns/net; done 2>/dev/null | sort -u",
  processes:
    "for p in /proc/[0-9]*; do readlink $p/exe; done 2>/dev/null | grep -vE '/(bash|sleep|nsenter|ls|sed|awk|readlink|sort|grep)$' | sort | awk '{print $0, ++seen[$0]}'",
  mounts: "cut -d' ' -f2 /proc/1/mounts | sort | awk '{print $0, ++seen[$0]}'",
  links: "ip -o link | awk -F': ' '{print $2}' | sed 's/@.*//' | grep -v '^cni0$' | sort",
  rules: "nft list tables | sort",
  "pods of the daemon":
    "curl -s --unix-socket /run/trackbed/admin.sock http://daemon/v1/status | jq -r '.pods[] | select(.namespace == \"churn\").name'",
  "promised pods": "jq -r '.pods[].name' /run/trackbed/captured.json",
};

export async function holdings(c: Cluster): Promise<State> {
  const state: Record<string, readonly string[]> = {};
  for (const node of c.nodes)
    for (const [what, command] of Object.entries(COMMANDS))
      state[`${node} ${what}`] = (await c.onNode(node, `set -o pipefail; ${command}`)).split("\n").filter((line) => line !== "");
  return state;
}
