#!/bin/bash
# Builds the small guest.  usage: build.sh OUTPUT_DIR
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd) out=$1
gcc -m32 -ffreestanding -nostdlib -fno-pic -no-pie -static -T "$here/l.ld" -o "$out/bare.elf" "$here/start.S" "$here/bare.c"
