#!/bin/bash
# Builds the tiny guest image of the lab and prints its path: a qcow2 with a GPT,
# one EFI system partition holding one unified kernel image (Debian's cloud kernel
# and guest-init.sh in an initramfs with busybox), and a 1 MiB data partition.
# Boots by UEFI from any disk. Needs no root. Cached: the name carries the digest
# of everything that goes in.
#
# With --signed the same guest also starts under Secure Boot, where nobody's keys but
# Microsoft's are enrolled: Debian's shim, GRUB and kernel, as Debian signed them.
#
# usage: mkimage.sh [--signed] [OUTPUT.qcow2]    env: GPUAAS_CACHE, KERNEL_DEB
set -euo pipefail
signed=; if [ "${1:-}" = --signed ]; then signed=-signed; shift; fi
export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C MTOOLS_SKIP_CHECK=1
here=$(cd "$(dirname "$0")" && pwd)
cache=${GPUAAS_CACHE:-$HOME/.cache/gpuaas}
stub=/usr/lib/systemd/boot/efi/linuxx64.efi.stub
busybox=$(command -v busybox || true)

missing=
for t in cpio dpkg-deb depmod modprobe mformat mcopy mmd objcopy qemu-img sfdisk; do
  command -v $t > /dev/null || missing="$missing $t"
done
[ -f $stub ] || missing="$missing systemd-boot-efi"
[ -n "$busybox" ] || missing="$missing busybox-static"
[ -z "$missing" ] || { echo "mkimage: missing:$missing (see $here/packages.txt)" >&2; exit 1; }

mkdir -p "$cache"
work=$(mktemp -d "$cache/mkimage.XXXXXX"); trap 'rm -rf "$work"' EXIT

# Packages are downloaded once and unpacked, never installed.
download() { # PACKAGE: prints the path of its file
  local f; f=$(ls -t "$cache/debs/$1"_*.deb 2>/dev/null | head -1 || true)
  if [ -z "$f" ]; then
    mkdir -p "$cache/debs" && (cd "$cache/debs" && apt-get download -qq "$1" >&2) ||
      { echo "mkimage: apt cannot download $1: run apt-get update" >&2; return 1; }
    f=$(ls -t "$cache/debs/$1"_*.deb | head -1)
  fi
  echo "$f"
}
deb=${KERNEL_DEB:-}
if [ -z "$deb" ]; then
  pkg=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends: linux-image/{print $2; exit}')
  if [ -n "$pkg" ]; then deb=$(download "$pkg"); else deb=$(ls -t "$cache"/debs/linux-image-*cloud-amd64_*.deb 2>/dev/null | head -1 || true); fi
  [ -n "$deb" ] || { echo "mkimage: apt knows no linux-image-cloud-amd64: run apt-get update, or set KERNEL_DEB" >&2; exit 1; }
fi
shim= grub=
if [ -n "$signed" ]; then shim=$(download shim-signed); grub=$(download grub-efi-amd64-signed); fi
key=$(cat "$0" "$here/guest-init.sh" "$busybox" "$stub" "$deb" $shim $grub | sha256sum | cut -c1-16)
out=${1:-$cache/tiny$signed-$key.qcow2}
if [ -z "${1:-}" ] && [ -f "$out" ]; then echo "$out"; exit; fi

dpkg-deb -x "$deb" "$work/k"
version=$(ls "$work/k/lib/modules")
depmod -b "$work/k" "$version"

# The initramfs, not compressed: unpacking is what costs time in emulation.
root=$work/root
mkdir -p "$root"/{bin,proc,sys,dev,etc,lib/modules,acpi/PWRF,acpi/PWRB}
cp "$busybox" "$root/bin/busybox"
for a in $("$busybox" --list); do [ "$a" = busybox ] || ln -s busybox "$root/bin/$a"; done
for m in virtio_pci virtio_blk virtio_console virtio_net button evdev isofs; do
  modprobe -d "$work/k" -S "$version" --show-depends $m | awk '/^insmod/{print $2}'
done | awk '!seen[$0]++' | while read -r f; do
  cp "$f" "$root/lib/modules/"; echo "insmod /lib/modules/${f##*/}"
done > "$root/load.sh"
cp "$here/guest-init.sh" "$root/init"
cat > "$root/dhcp.sh" <<'S'
#!/bin/sh
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip addr replace $ip/${mask:-24} dev $interface
[ -n "$router" ] && ip route replace default via ${router%% *}
exit 0
S
printf '#!/bin/sh\necho "TINY power button" > /dev/console\nsync; poweroff -f\n' > "$root/acpi/PWRF/00000080"
cp "$root/acpi/PWRF/00000080" "$root/acpi/PWRB/00000080"
echo 'root::0:0:root:/:/bin/sh' > "$root/etc/passwd"
chmod +x "$root/init" "$root/dhcp.sh" "$root"/acpi/*/*
(cd "$root" && find . -print0 | sort -z | cpio --null -o -H newc -R 0:0 --quiet) > "$work/initrd"

cmdline="console=ttyS0 quiet loglevel=3 panic=5 mitigations=off random.trust_cpu=on no_timer_check tsc=reliable"

esp_mib=40
truncate -s $((esp_mib + 3))M "$work/raw"
sfdisk -q "$work/raw" <<S
label: gpt
start=1MiB, size=${esp_mib}MiB, type=U, name=esp
start=$((esp_mib + 1))MiB, size=1MiB, type=L, name=data
S
mformat -i "$work/raw@@1M" -T $((esp_mib * 2048)) -h 64 -s 32 -v TINY ::
mmd -i "$work/raw@@1M" ::/EFI ::/EFI/BOOT
if [ -z "$signed" ]; then # one file, for the firmware
  echo -n "$cmdline" > "$work/cmdline"
  printf 'ID=tiny\nNAME="GPUaaS tiny guest"\n' > "$work/osrel"
  objcopy --add-section .osrel="$work/osrel" --change-section-vma .osrel=0x20000 \
    --add-section .cmdline="$work/cmdline" --change-section-vma .cmdline=0x30000 \
    --add-section .linux="$(ls "$work"/k/boot/vmlinuz-*)" --change-section-vma .linux=0x2000000 \
    --add-section .initrd="$work/initrd" --change-section-vma .initrd=0x4000000 "$stub" "$work/uki.efi"
  mcopy -i "$work/raw@@1M" "$work/uki.efi" ::/EFI/BOOT/BOOTX64.EFI
else # the firmware trusts the shim, the shim GRUB, GRUB the kernel
  dpkg-deb -x "$shim" "$work/k"; dpkg-deb -x "$grub" "$work/k"
  printf 'linux /vmlinuz %s\ninitrd /initrd\nboot\n' "$cmdline" > "$work/grub.cfg"
  mmd -i "$work/raw@@1M" ::/EFI/debian
  mcopy -i "$work/raw@@1M" "$work"/k/usr/lib/shim/shimx64.efi.signed ::/EFI/BOOT/BOOTX64.EFI
  mcopy -i "$work/raw@@1M" "$work"/k/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed ::/EFI/BOOT/grubx64.efi
  mcopy -i "$work/raw@@1M" "$work/grub.cfg" ::/EFI/debian/grub.cfg
  mcopy -i "$work/raw@@1M" "$work"/k/boot/vmlinuz-* ::/vmlinuz
  mcopy -i "$work/raw@@1M" "$work/initrd" ::/initrd
fi
qemu-img convert -c -O qcow2 "$work/raw" "$work/out.qcow2"
mv "$work/out.qcow2" "$out"
echo "$out"
