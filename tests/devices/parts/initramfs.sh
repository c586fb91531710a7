#!/bin/busybox sh
# The first process of the machine: its root is that of the machine that it runs on, which it only reads.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for module in /modules/*; do $b insmod "$module"; done
$b mount -t virtiofs root /below || { echo "no root: it is not shared"; $b poweroff -f; }
$b mount -t tmpfs -o size=700m above /above
$b mkdir /above/files /above/work
$b mount -t overlay overlay -o lowerdir=/below,upperdir=/above/files,workdir=/above/work /root ||
    { echo "no root: nothing can be laid over it"; $b poweroff -f; }
$b cp /host.sh /root/host.sh
for place in dev proc sys; do $b mount --move /$place /root/$place; done
exec $b switch_root /root /bin/bash /host.sh
