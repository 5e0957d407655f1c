#!/bin/bash
# The emulated host's root file system and kernel: Debian 12 with packages.txt.
# Needs root (a chroot), mmdebstrap and a Debian mirror. One to two minutes.
#
# usage: mkroot.sh OUTPUT_DIR      writes root.ext4, kernel and modules.tar there
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C
here=$(cd "$(dirname "$0")" && pwd) out=${1:?usage: mkroot.sh OUTPUT_DIR}
mirror=$("$here/mirror.sh")
work=$(mktemp -d "$out/root.XXXXXX"); trap 'rm -rf "$work"' EXIT
packages=$(sed 's/#.*//' "$here/packages.txt" | xargs | tr ' ' ,)

# apt's own user cannot write everywhere that a build runs; manuals only cost room.
mmdebstrap --mode=root --variant=minbase --include="$packages" \
  --aptopt='APT::Sandbox::User "root"' --aptopt='APT::Install-Recommends "false"' \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/qemu/edk2-*' \
  --customize-hook='chroot "$1" sh -ec "cd /root && apt-get -qq -o APT::Sandbox::User=root download \$(apt-cache depends linux-image-amd64 | sed -n \"s/.*Depends: //p\" | grep -m1 ^linux-image)"' \
  --quiet bookworm "$work/root" "deb $mirror bookworm main"

# The kernel package is unpacked, never installed: no initramfs, no boot loader.
dpkg-deb -x "$work"/root/root/linux-image-*.deb "$work/kernel"
rm "$work"/root/root/linux-image-*.deb
version=$(ls "$work/kernel/lib/modules")
depmod -b "$work/kernel" "$version"
modules=$work/root/lib/modules/$version
mkdir -p "$modules"
closure() { # MODULE...: the files of these modules and of what they need
  for m in "$@"; do modprobe -d "$work/kernel" -S "$version" --show-depends "$m" | awk '/^insmod/{print $2}'; done | awk '!seen[$0]++'
}
closure $(sed 's/#.*//' "$here/modules.txt") | while read -r f; do
  install -D -m 644 "$f" "$modules/${f#"$work/kernel/lib/modules/$version/"}"
done
cp "$work/kernel/lib/modules/$version"/modules.{order,builtin,builtin.modinfo} "$modules/"
depmod -b "$work/root" "$version"
cp "$work"/kernel/boot/vmlinuz-* "$out/kernel"
# What the initramfs needs to find the root, in the order of loading.
mkdir "$work/early"
closure virtio_pci virtio_blk ext4 | while read -r f; do cp "$f" "$work/early/"; echo "${f##*/}"; done > "$work/order"
mv "$work/order" "$work/early/order"
tar -C "$work" -cf "$out/early.tar" early

# Services are started by hand, and nothing names this machine.
rm -f "$work/root/etc/resolv.conf" "$work/root/etc/hostname" "$work/root/etc/machine-id"
rm -rf "$work"/root/var/cache/apt/* "$work"/root/var/lib/apt/lists/*
echo 6d756f6830000000000000000000e001 > "$work/root/etc/machine-id" # the same at every boot, as on a real host
mkdir -p "$work/root/mnt/share"
cp -a "$here/root/." "$work/root/"
truncate -s 4G "$work/root.ext4"
mke2fs -q -t ext4 -E lazy_itable_init=1,lazy_journal_init=1 -d "$work/root" "$work/root.ext4"
mv "$work/root.ext4" "$out/root.ext4"
