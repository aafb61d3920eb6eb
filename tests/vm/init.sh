#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# The guest's first process, in its initramfs. The kernel's command line says which kind of file system its root is, and where the host's
# checkout is to be, if it is not in that root.

fail() {
  echo "vm: $*"
  poweroff -f
}

/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
for module in /modules/*; do
  insmod "$module" || fail "cannot load $module"
done

# A security module that is not there ignores its parameter.
lockdown=$(sed -n 's/.* lockdown=\([a-z]*\).*/\1/p' /proc/cmdline)
if [ -n "$lockdown" ]; then
  mount -t securityfs security /sys/kernel/security
  grep -q "\[$lockdown\]" /sys/kernel/security/lockdown || fail "not locked down for $lockdown"
fi

# The root, and above it a memory of what the guest writes there.
case $root_kind in
  virtiofs) mount -t virtiofs root /lower || fail "cannot mount virtiofs" ;;
  hostfs) mount -t hostfs -o / none /lower || fail "cannot mount hostfs" ;;
esac
mount -t tmpfs -o size=90% upper /upper
mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work root /root || fail "cannot mount overlay"

if [ -n "$checkout" ]; then
  mkdir -p /checkout /upper/checkout /upper/checkout-work "/root$checkout"
  mount -t virtiofs checkout /checkout || fail "cannot mount the checkout"
  mount -t overlay -o lowerdir=/checkout,upperdir=/upper/checkout,workdir=/upper/checkout-work checkout "/root$checkout" ||
    fail "cannot mount an overlay of the checkout"
fi

mount -t proc proc /root/proc
mount -t sysfs sys /root/sys
mount --move /dev /root/dev
mkdir -p /root/dev/pts /root/dev/shm
mount -t devpts pts /root/dev/pts
mount -t tmpfs shm /root/dev/shm
ln -sf /proc/self/fd /root/dev/fd
mount -t tmpfs -o mode=755 run /root/run
mount -t cgroup2 cgroup2 /root/sys/fs/cgroup || fail "no cgroup2"
mount -t bpf bpf /root/sys/fs/bpf || fail "no bpffs"
ip link set lo up
hostname vm
cp /command /root/run/command
exec switch_root /root /bin/bash /run/command
