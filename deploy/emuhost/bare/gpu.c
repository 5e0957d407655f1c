// The stand-ins for GPUs: QEMU's edu and ivshmem.
#include "guest.h"

// edu: register 4 answers with the inverse of what is written
// (docs/specs/edu.rst of QEMU).
static void edu(u32 at) {
  volatile u32 *r = pci_bar(at, 0);
  pci_enable(at);
  if (!r) { put(" out of reach\n"); return; }
  r[1] = 0x12345678;
  put(" id "), hex(r[0], 8), put(r[1] == ~0x12345678u ? " answers\n" : " does not answer\n");
}

// ivshmem: BAR 2 is memory, and keeps what the last tenant left.
static void memory(u32 at) {
  u64 size = pci_bar_size(at, 2);
  u8 *m = pci_bar(at, 2);
  pci_enable(at);
  put(" memory "), dec(size >> 20), put(" MiB ");
  if (!m) { put("out of reach\n"); return; }
  if (same(m, "secret=", 7)) put("found "), putn(m, 64), put("\n");
  else put("found no secret\n");
  if (options.secret[0] == '-') return;
  memset(m, 0, 512), memcpy(m, "secret=", 7), memcpy(m + 7, options.secret, sizeof options.secret);
}

int gpus(void) {
  int n = 0;
  for (int i = 0; i < function_count; i++) {
    struct function *f = &functions[i];
    int is_edu = f->vendor == 0x1234 && f->device == 0x11e8;
    if (!is_edu && !(f->vendor == 0x1af4 && f->device == 0x1110)) continue;
    put("BARE gpu "), pci_name(f->at);
    if (is_edu) edu(f->at); else memory(f->at);
    n++;
  }
  return n;
}
