# shellcheck shell=bash
# A node without containers: engine and daemon as on any node, and a kubelet of ours whose pods are processes. Sourced by boot.sh.
. "$here/own.sh"
mkdir -m 700 /run/trackbed
root=$(readlink -f "$here/../../..")

# called NAME FILE ARGUMENTS...: a program of ours in TypeScript under its name, by which program.ts finds it
called() { (exec -a "$1" "$root/node_modules/.bin/node" "${@:2}"); }

keep trackbed-engine "$ENGINE" --run=/run/trackbed --metrics=127.0.0.1:15020 &

# What the kubelet would mount into the daemon's pod is put there by churn/up.ts.
given=/etc/kubernetes/trackbed
until [[ -e $given/made ]]; do sleep 0.2; done
keep trackbed-daemon called trackbed-daemon --max-semi-space-size=1 "$DAEMON/src/daemon/main.ts" --kubernetes --kubeconfig="$given/kubeconfig" \
  --node="$MACHINE" --run=/run/trackbed --control="https://$API_IP:15012" --root="$given/root-cert.pem" --token="$given/token" --health=127.0.0.1:15021 &
keep kubelet called kubelet "$root/test/cluster/churn/kubelet.ts" &
