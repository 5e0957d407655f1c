#!/bin/bash
# Builds the bare guest in both forms, and the disk with the UEFI one. Needs no root.
#
# usage: build.sh OUTPUT_DIR      writes bare.elf, BOOTX64.EFI, bare.img and bare.qcow2
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C MTOOLS_SKIP_CHECK=1
here=$(cd "$(dirname "$0")" && pwd) out=${1:?usage: build.sh OUTPUT_DIR}
flags="-std=gnu11 -O2 -Wall -Wextra -Werror -ffreestanding -nostdlib -fno-stack-protector -fcf-protection=none
  -fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns -mgeneral-regs-only -static -Wl,--build-id=none -Wl,--no-warn-rwx-segments"
common=("$here"/{main,cpu,serial,pci,options,gpu,nvme,virtio,net,port}.c)

gcc $flags -m32 -march=i686 -fno-pic -no-pie -T "$here/start32.ld" -o "$out/bare.elf" "$here/start32.S" "${common[@]}"

gcc $flags -m64 -mno-red-zone -fpie -no-pie -Wl,--emit-relocs -T "$here/start64.ld" -o "$out/bare64" \
  "$here/start64.S" "$here/efi.c" "${common[@]}"
# The header says that there is nothing to relocate: so it has to be.
if readelf -rW "$out/bare64" | awk '/^Relocation section .\.rela\.all/{on=1;next} /^Relocation section/{on=0} on' | grep -E 'R_X86_64_(64|32|32S) '; then
  echo "bare: an absolute address in the UEFI form" >&2; exit 1
fi
objcopy -O binary -j .head -j .all "$out/bare64" "$out/BOOTX64.EFI"
rm "$out/bare64"

# A GPT with the EFI system partition and 1 MiB of data.
truncate -s 8M "$out/bare.img"
sfdisk -q "$out/bare.img" <<S
label: gpt
label-id: 0b6a7e00-0000-4000-8000-000000000001
start=1MiB, size=4MiB, type=U, name=esp
start=5MiB, size=1MiB, type=L, name=data
S
mformat -i "$out/bare.img@@1M" -T 8192 -h 64 -s 32 -v BARE ::
mmd -i "$out/bare.img@@1M" ::/EFI ::/EFI/BOOT
mcopy -i "$out/bare.img@@1M" "$out/BOOTX64.EFI" ::/EFI/BOOT/BOOTX64.EFI
qemu-img convert -c -O qcow2 "$out/bare.img" "$out/bare.qcow2"
