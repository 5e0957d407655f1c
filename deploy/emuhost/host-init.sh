#!/bin/sh
# Process 1 of the emulated host: what systemd would do on a real one, as far as
# hostd or a test depends on it. The agent stays in the foreground and comes back when it dies.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C
mount -t tmpfs tmp /tmp; chmod 1777 /tmp
mkdir -p /dev/pts /dev/shm /dev/hugepages /run/lock /run/udev
mount -t devpts -o gid=5,mode=620 pts /dev/pts; mount -t tmpfs shm /dev/shm; mount -t hugetlbfs huge /dev/hugepages
mount -t cgroup2 cgroup /sys/fs/cgroup; mount -t securityfs sec /sys/kernel/security 2>/dev/null
hostname emuhost
echo '127.0.0.1 localhost emuhost' > /etc/hosts

# Nodes whose modules are loaded when somebody opens them, /dev/net/tun and /dev/vfio/vfio among them.
sed -n 's/^[^#].* \(.*\) \([bc]\)\([0-9]*\):\([0-9]*\)$/\1 \2 \3 \4/p' "/lib/modules/$(uname -r)/modules.devname" |
  while read -r n type major minor; do
    case $n in */*) mkdir -p "/dev/${n%/*}";; esac
    [ -e "/dev/$n" ] || mknod "/dev/$n" "$type" "$major" "$minor"
  done

modprobe 9pnet_virtio; modprobe 9p
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 share /mnt/share || echo "EMUHOST no share"
[ ! -d /mnt/share/before-udev ] || cp -r --preserve=mode /mnt/share/before-udev/. /

/lib/systemd/systemd-udevd --daemon
udevadm trigger --type=subsystems --action=add; udevadm trigger --type=devices --action=add
udevadm settle --timeout=20 || echo "EMUHOST udev did not settle"

ip link set lo up
for n in /sys/class/net/*; do # the way out: QEMU's user network, where 10.0.2.2 is the machine outside
  case $(readlink "$n/device/driver") in
    */virtio_net) ip link set "${n##*/}" name uplink; ip link set uplink up
      ip address add 10.0.2.15/24 dev uplink; ip route add default via 10.0.2.2;;
  esac
done
echo "EMUHOST up $(cut -d' ' -f1 /proc/uptime)"
if grep -q emuhost.prime /proc/cmdline; then /run/emuhost/prime; sleep 60; fi
while :; do /run/emuhost/agent; echo "EMUHOST the agent ended: $?"; sleep 1; done
