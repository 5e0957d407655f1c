#!/bin/sh
# The lab's own network and mount namespaces, held open by this process until it
# is killed: everything in them (bridges, rules, mounts) goes with the last
# process inside. Run as: unshare --net --mount --propagation private \
#   setsid --fork sh namespace.sh STATE_DIR
# libvirt's compiled-in folders are STATE_DIR's here, and /run is new, so that
# neither a system libvirtd nor its D-Bus is seen or disturbed.
exec < /dev/null > "$1/namespace.log" 2>&1
set -e
mount -t tmpfs -o mode=0755 tmpfs /run
for d in etc:/etc/libvirt run:/run/libvirt lib:/var/lib/libvirt log:/var/log/libvirt cache:/var/cache/libvirt; do
  mkdir -p "$1/${d%%:*}" "${d#*:}"
  mount --bind "$1/${d%%:*}" "${d#*:}"
done
mount -t sysfs sysfs /sys # so that /sys/class/net is this namespace's
ip link set lo up
echo $$ > "$1/namespace.pid.tmp"
mv "$1/namespace.pid.tmp" "$1/namespace.pid"
exec sleep infinity
