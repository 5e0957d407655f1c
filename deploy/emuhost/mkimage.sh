#!/bin/bash
# Builds the emulated GPU host (hostd/emuhost) into the cache and prints the folder:
#
#   kernel, initrd, root.ext4    the host
#   used-*.raw                   what earlier owners leave on drives
#   qemu/                        the QEMU that emulates it
#   bare.elf, bare.img, bare.qcow2    the small guest, for a direct start and as a UEFI disk
#
# Each layer's name carries the digest of everything that goes in, so that a change
# builds what depends on it and nothing else. From nothing it takes a few minutes and
# needs root; when all is there, a moment and none.
#
# usage: mkimage.sh    env: GPUAAS_CACHE
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C
here=$(cd "$(dirname "$0")" && pwd) project=$(cd "$(dirname "$0")/../.." && pwd)
cache=${GPUAAS_CACHE:-$HOME/.cache/gpuaas}/emuhost
mkdir -p "$cache"
exec 9> "$cache/lock"; flock 9 # one build at a time

say() { echo "emuhost: $*" >&2; }
missing=
for t in mmdebstrap mke2fs dpkg-deb depmod modprobe cpio busybox xz gcc ld objcopy qemu-img sfdisk mformat mcopy mmd go; do
  command -v $t > /dev/null || missing="$missing $t"
done
[ -z "$missing" ] || { say "missing:$missing (scripts/setup.sh lab installs what deploy/lab/packages.txt lists)"; exit 1; }

digest() { # FILE...: of names and contents, directories with all that is in them
  (cd "$project" && find "$@" -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-12)
}
# layer NAME DIGEST COMMAND...: runs the command with a folder to fill, unless that
# was done before; sets $made to the folder.
layer() {
  local name=$1 key=$2; shift 2
  made=$cache/$name-$key
  if [ -d "$made" ]; then touch "$made"; return; fi
  local began=$SECONDS new
  new=$(mktemp -d "$cache/new.XXXXXX")
  chmod 755 "$new"
  "$@" "$new" >&2 || { say "building $name failed; what there is stays in $new"; exit 1; }
  mv "$new" "$made"
  say "built $name in $((SECONDS - began)) s"
}
need_root() { [ "$(id -u)" = 0 ] || { say "building the $1 needs root"; return 1; }; }

make_qemu() { need_root "root file systems" && "$here/mkqemu.sh" "$1"; }
make_root() { need_root "root file systems" && "$here/mkroot.sh" "$1"; }
make_prime() { "$here/mkprimed.sh" "$root" "$qemu" "$start" "$1"; }
d=deploy/emuhost
layer qemu "$(digest $d/mkqemu.sh $d/mirror.sh)" make_qemu; qemu=$made
layer base "$(digest $d/mkroot.sh $d/mirror.sh $d/packages.txt $d/modules.txt $d/root)" make_root; root=$made
layer start "$(digest $d/mkstart.sh $d/init.sh $d/host-init.sh $d/prime.sh $d/service.sh hostd/emuhost/agent hostd/emuhost/wire)-${root##*-}" "$here/mkstart.sh" "$root"; start=$made
layer primed "$(digest $d/mkprimed.sh $d/prime.sh $d/service.sh)-${root##*-}-${qemu##*-}" make_prime; primed=$made
layer bare "$(digest $d/bare)" "$here/bare/build.sh"; bare=$made

# The image is a folder of links to its layers, and "current" is the last one made.
image=$cache/image-$(printf '%s\n' "$qemu" "$primed" "$start" "$bare" | sha256sum | cut -c1-12)
if [ ! -d "$image" ]; then
  new=$(mktemp -d "$cache/new.XXXXXX"); chmod 755 "$new"
  ln -s "$qemu/qemu" "$new/qemu"; ln -s "$primed/root.ext4" "$new/root.ext4"
  ln -s "$start/vmlinux" "$new/kernel"; ln -s "$start/initrd" "$new/initrd"
  for f in "$primed"/used-*.raw; do ln -s "$f" "$new/${f##*/}"; done
  for f in bare.elf bare.img bare.qcow2; do ln -s "$bare/$f" "$new/$f"; done
  mv "$new" "$image"
fi
touch "$image"; ln -sfn "$image" "$cache/current"
# What nothing used for a week goes.
find "$cache" -mindepth 1 -maxdepth 1 -type d -mtime +7 -exec rm -rf {} +
echo "$image"
