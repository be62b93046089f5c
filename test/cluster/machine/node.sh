# shellcheck shell=bash
# A node: its own /etc, /opt, /var (its disk), /run and /sys; then containerd, kubelet and kube-proxy. Sourced by boot.sh.

# /sys shows the network of whoever mounts it, so it is mounted again, below the same cgroups.
mkdir -p "$DISK/cgroup"
mount --rbind /sys/fs/cgroup "$DISK/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$DISK/cgroup" /sys/fs/cgroup
umount -l "$DISK/cgroup"
mount --bind "$DISK/etc" /etc
mount --bind "$DISK/opt" /opt
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/netns /run/sysctl

# The kubelet insists on these, which are the whole host's: it finds files that say so instead.
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
  kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
  file=/run/sysctl/$(basename "${setting%=*}")
  echo "${setting#*=}" >"$file"
  mount --bind "$file" "/proc/sys/${setting%=*}"
done

# Last, with the logs taken along: the new /var may hide the folder of the cluster.
mkdir -p "$DISK/var/lib/cluster-log"
mount --bind "$LOGS" "$DISK/var/lib/cluster-log"
mount --rbind "$DISK/var" /var
LOGS=/var/lib/cluster-log
mount --make-rshared / # pods may ask for mount propagation; nothing leaves this mount namespace
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
