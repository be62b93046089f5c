# shellcheck shell=bash
# A node: containerd, kubelet and kube-proxy. Sourced by boot.sh.
. "$here/own.sh"

# The kubelet insists on these, which are the whole host's: it finds files that say so instead.
mkdir -p /run/sysctl
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
  kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
  file=/run/sysctl/$(basename "${setting%=*}")
  echo "${setting#*=}" >"$file"
  mount --bind "$file" "/proc/sys/${setting%=*}"
done

for file in /proc/sys/net/bridge/bridge-nf-call-ip{,6}tables; do [[ ! -e $file ]] || echo 1 >"$file"; done

keep containerd containerd &
until [[ -S /run/containerd/containerd.sock ]] && (: <"/dev/tcp/$API_IP/6443") 2>/dev/null; do sleep 0.1; done

# A v2 group of the kubelet's own, as systemd would give it: rules that let its probes pass can match it.
in_kubelet_group() {
  local group=/sys/fs/cgroup/unified/$CLUSTER/$MACHINE/kubelet
  [[ ! -e $group ]] || echo "$BASHPID" >"$group/cgroup.procs"
  exec kubelet "$@"
}
run_kubelet() { (in_kubelet_group "$@"); }
keep kubelet run_kubelet --config=/etc/kubernetes/kubelet.yaml --kubeconfig="/etc/kubernetes/$MACHINE.kubeconfig" \
  --hostname-override="$MACHINE" --node-ip="$NODE_IPS" &
keep kube-proxy kube-proxy --config=/etc/kubernetes/kube-proxy.yaml &
