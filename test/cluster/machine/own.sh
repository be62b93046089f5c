# shellcheck shell=bash
# What every node has to itself, whatever runs on it: /etc, /opt, /var (its disk), /run and /sys. Sourced by node.sh and churn.sh.

# /sys shows the network of whoever mounts it, so it is mounted again, below the same cgroups.
mkdir -p "$DISK/cgroup"
mount --rbind /sys/fs/cgroup "$DISK/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$DISK/cgroup" /sys/fs/cgroup
umount -l "$DISK/cgroup"
mount --bind "$DISK/etc" /etc
mount --bind "$DISK/opt" /opt
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/netns

# Last, with the logs taken along: the new /var may hide the folder of the cluster.
mkdir -p "$DISK/var/lib/cluster-log"
mount --bind "$LOGS" "$DISK/var/lib/cluster-log"
mount --rbind "$DISK/var" /var
LOGS=/var/lib/cluster-log
mount --make-rshared / # pods may ask for mount propagation; nothing leaves this mount namespace
