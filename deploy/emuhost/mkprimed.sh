#!/bin/bash
# Boots the emulated host once, so that its libvirt remembers what its QEMU can do.
# Some 20 s, saved by every test that starts libvirt there. And makes used drives.
#
# usage: mkprimed.sh BASE_DIR QEMU_DIR START_DIR OUTPUT_DIR      writes root.ext4 and used-*.raw
set -euo pipefail
base=$1 qemu=$2/qemu start=$3 out=$4
cp --sparse=always "$base/root.ext4" "$out/root.ext4"
mkdir "$out/share"
drives=()
for kind in gpt lvm md; do # vdb, vdc, vdd
  truncate -s 64M "$out/used-$kind.raw"
  drives+=(-drive "file=$out/used-$kind.raw,if=none,id=$kind,format=raw,discard=unmap,detect-zeroes=unmap,cache=unsafe" -device "virtio-blk-pci,drive=$kind")
done
libraries=$qemu/lib/x86_64-linux-gnu:$qemu/usr/lib/x86_64-linux-gnu
QEMU_MODULE_DIR=$qemu/usr/lib/x86_64-linux-gnu/qemu timeout 300 \
  "$qemu/lib64/ld-linux-x86-64.so.2" --library-path "$libraries" "$qemu/usr/bin/qemu-system-x86_64" \
  -L "$qemu/usr/share/qemu" -L "$qemu/usr/share/seabios" \
  -machine q35 -accel tcg,thread=multi -cpu max,la57=off,smap=off,smep=off,pku=off,umip=off,erms=off,fsrm=off -smp 2 -m 1024 -nodefaults -display none -no-reboot \
  -device intel-iommu,intremap=on,device-iotlb=on \
  -kernel "$start/vmlinux" -initrd "$start/initrd" \
  -append "console=ttyS0 loglevel=4 panic=1 mitigations=off intel_iommu=on random.trust_cpu=on no_timer_check emuhost.prime" \
  -drive "file=$out/root.ext4,if=none,id=root,format=raw,cache=unsafe" -device virtio-blk-pci,drive=root "${drives[@]}" \
  -virtfs "local,path=$out/share,mount_tag=share,security_model=none" \
  -serial "file:$out/console.log"
grep -q '^EMUHOST primed' "$out/console.log" || { tail -20 "$out/console.log"; exit 1; }
rmdir "$out/share"
