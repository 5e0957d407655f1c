#!/bin/sh
# Runs once, at the end of the image's build, inside the emulated host. It has libvirt
# look at what its QEMU can do and keep that, which takes half a minute each time
# otherwise; and makes what earlier owners leave on drives, vdb to vdd, by the real tools.
set -ex
# However it ends, it ends switched off and with nothing unwritten: by force (u) where something is busy.
off() { set +e; sync; mount -o remount,ro / || { echo u > /proc/sysrq-trigger; sleep 2; }; echo o > /proc/sysrq-trigger; sleep 10; }
trap off EXIT

leave() { # DEVICE: a file system with a secret
  mkfs.ext4 -q "$1"; mount "$1" /mnt
  echo 'secret of an earlier owner' > /mnt/secret
  umount /mnt
}
printf 'label: gpt\nstart=1MiB, name=data\n' | sfdisk -q /dev/vdb
udevadm settle; leave /dev/vdb1
vgcreate -q tenantvg /dev/vdc
lvcreate -q -n data -l 100%FREE tenantvg
udevadm settle; leave /dev/tenantvg/data
vgchange -q -an tenantvg
yes | mdadm --create /dev/md/tenantmd --name=tenantmd --homehost=any --metadata=1.2 --level=1 --raid-devices=1 --force /dev/vdd
udevadm settle; leave /dev/md/tenantmd
mdadm --stop /dev/md/tenantmd

/run/emuhost/service libvirt
virsh -c qemu:///system domcapabilities --virttype qemu --machine q35 > /dev/null
daemons="$(cat /run/libvirtd.pid) $(cat /run/virtlogd.pid)"
kill $daemons
for p in $daemons; do # until they are gone they have files open
  for i in $(seq 300); do kill -0 "$p" 2>/dev/null || break; sleep 0.1; done
done
# Nothing else of this stays on the host.
rm -rf /var/log/libvirt /etc/lvm/archive/* /etc/lvm/backup/*
echo "EMUHOST primed"
