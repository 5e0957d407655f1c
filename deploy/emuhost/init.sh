#!/bin/sh
# Process 1 in the initramfs: loads what the root disk needs and goes there. What
# runs then comes along in /run, so that a change of it does not change the root.
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev; mount -t tmpfs run /run
while read -r m; do insmod /early/$m; done < /early/order
mount -t ext4 /dev/vda /root || { echo "EMUHOST no root file system"; exec sh; }
cp -r /host /run/emuhost
for d in dev proc sys run; do mount --move /$d /root/$d; done
exec switch_root /root /run/emuhost/init
