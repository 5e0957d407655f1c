#!/bin/sh
# Process 1 of the tiny guest image: a whole "cloud image" in one script. It does
# what a real image's cloud-init does, and no more: reads the NoCloud seed, takes
# a DHCP lease, runs a user-data script, says ready, and then stays up. Every
# line for a test or a person to see begins with TINY.
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev; mkdir -p /run /seed
. /load.sh
say() { echo "TINY $*"; }
# Devices show up a moment after their drivers: look for up to 5 s.
find_now() { # COMMAND...: repeats until it prints something
  for i in $(seq 50); do "$@" 2>/dev/null | grep . && return; sleep 0.1; done
}
say "up $(cut -d' ' -f1 /proc/uptime)"
# Under Secure Boot the kernel lets not even root change it.
mount -t securityfs sec /sys/kernel/security && say "lockdown $(sed 's/.*\[\(.*\)\].*/\1/' /sys/kernel/security/lockdown)"
[ -e /sys/class/tpm/tpm0 ] && say "tpm $(cat /sys/class/tpm/tpm0/tpm_version_major)"

# The drives: our own data partition is number 2 of the drive we booted from.
data=$(find_now sh -c 'for p in /sys/block/nvme*/nvme*p2 /sys/block/vd*/vd*2; do [ -e $p ] && echo /dev/${p##*/}; done' | head -1)
for d in /sys/block/nvme* /sys/block/vd*; do
  [ -e $d ] && say "drive ${d##*/} $(cat $d/size) serial $(cat $d/device/serial $d/serial 2>/dev/null | tr -d ' ')"
done
for d in /sys/bus/pci/devices/*; do
  case $(cat $d/class) in 0x03*|0x00ff*|0x12*) say "accelerator ${d##*/} $(cat $d/vendor)";; esac
done

# The seed: the disk whose ISO 9660 volume is called cidata.
seed=$(find_now sh -c 'for d in /dev/vd? /dev/sr0 /dev/sd?; do [ -b $d ] && dd if=$d bs=32k skip=1 count=1 2>/dev/null | head -c 72 | grep -qi cidata && echo $d; done' | head -1)
if [ -n "$seed" ] && mount -t iso9660 -o ro "$seed" /seed; then
  say "seed $seed"
  for f in meta-data user-data vendor-data; do
    [ -f /seed/$f ] && while IFS= read -r l || [ -n "$l" ]; do say "$f: $l"; done < /seed/$f
  done
  name=$(sed -n 's/^local-hostname: *"\{0,1\}\([a-zA-Z0-9.-]*\).*/\1/p' /seed/meta-data)
  [ -n "$name" ] && hostname "$name"
else
  say "no seed"
fi
say "hostname $(hostname)"

# The drive remembers: a boot counter, and a secret if the user data has one.
if [ -n "$data" ]; then
  n=$(dd if=$data bs=512 count=1 2>/dev/null | sed -n 's/^boots=\([0-9]*\)$/\1/p'); n=$((${n:-0} + 1))
  secret=$(sed -n 's/^#* *secret: *//p' /seed/user-data 2>/dev/null | head -1)
  say "found $(dd if=$data bs=512 skip=1 count=1 2>/dev/null | grep -a '^secret=' || echo 'no secret')"
  printf 'boots=%s\n' $n | dd of=$data bs=512 conv=sync,notrunc 2>/dev/null
  if [ -n "$secret" ]; then
    printf 'secret=%s\n' "$secret" | dd of=$data bs=512 seek=1 conv=sync,notrunc 2>/dev/null
    disk=${data%p2}; end=$(cat /sys/class/block/${disk##*/}/size) # and in the drive's last sector
    printf 'secret=%s\n' "$secret" | dd of=$disk bs=512 seek=$((end - 40)) conv=sync,notrunc 2>/dev/null
  fi
  sync
  say "boots $n"
fi

ip link set lo up
nic=$(find_now sh -c 'ls /sys/class/net | grep -v lo' | head -1)
if [ -n "$nic" ]; then
  ip link set $nic up
  udhcpc -i $nic -t 20 -T 1 -A 1 -n -q -S -x hostname:$(hostname) -s /dhcp.sh >/dev/null 2>&1
  # Stays in the background to renew what was leased.
  udhcpc -i $nic -b -S -x hostname:$(hostname) -s /dhcp.sh >/dev/null 2>&1 &
  say "address $(ip -4 -o addr show dev $nic | awk '{print $4}')"
fi
mkdir -p /www && echo "$(hostname) is up" > /www/index.html && httpd -h /www

if [ "$(head -c 2 /seed/user-data 2>/dev/null)" = '#!' ]; then
  cp /seed/user-data /run/user-data; chmod +x /run/user-data
  /run/user-data > /run/user-data.log 2>&1; rc=$?
  while IFS= read -r l; do say "out: $l"; done < /run/user-data.log
  say "user-data rc $rc"
fi

acpid -f -c /acpi -l /run/acpid.log -p /run/acpid.pid &  # power button: /acpi/PWRF/00000080

# Ready: one line on the virtio-serial port the host listens on, at every boot.
for p in /sys/class/virtio-ports/*; do
  [ "$(cat $p/name 2>/dev/null)" = org.gpuaas.ready.0 ] && { # blocks until the host listens
    (printf 'ready\n' > /dev/${p##*/}; say "ready $(cut -d' ' -f1 /proc/uptime)") &
  }
done

while :; do setsid cttyhack sh -l < /dev/ttyS0 > /dev/ttyS0 2>&1; sleep 1; done
