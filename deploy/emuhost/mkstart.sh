#!/bin/bash
# What the emulated host starts from: its kernel, unpacked here, because that takes five
# seconds of every boot there; and its initramfs: modules for its root disk, process 1, and the
# agent of hostd/emuhost/agent. Rebuilt in seconds, so that these are quick to change.
#
# usage: mkstart.sh BASE_DIR OUTPUT_DIR      BASE_DIR has early.tar and kernel; writes initrd and vmlinux
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd) base=$1 out=$2
work=$(mktemp -d "$out/work.XXXXXX"); trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{bin,dev,proc,sys,run,root,host}
cp "$(command -v busybox)" "$work/bin/busybox"
for a in sh mount mkdir cp insmod switch_root; do ln -s busybox "$work/bin/$a"; done
tar -C "$work" -xf "$base/early.tar"
install -m 755 "$here/init.sh" "$work/init"
install -m 755 "$here/host-init.sh" "$work/host/init"
install -m 755 "$here/prime.sh" "$work/host/prime"
install -m 755 "$here/service.sh" "$work/host/service"
(cd "$here/../.." && CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o "$work/host/agent" ./hostd/emuhost/agent)
(cd "$work" && find . -print0 | sort -z | cpio --null -o -H newc -R 0:0 --quiet) > "$out/initrd"

field() { od -An -v -t "u$2" -j "$1" -N "$2" "$base/kernel" | tr -d ' '; } # OFFSET BYTES, of Documentation/x86/boot.rst
dd if="$base/kernel" bs=1M iflag=skip_bytes,count_bytes skip=$(((1 + $(field 0x1f1 1)) * 512 + $(field 0x248 4))) \
  count="$(field 0x24c 4)" status=none | xz -dcq --single-stream > "$out/vmlinux"
