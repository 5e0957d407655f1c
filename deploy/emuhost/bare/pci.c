// PCI configuration space through ports cf8 and cfc, which reach all of a PCI root's
// first segment. An address is bus << 16 | device << 11 | function << 8.
#include "guest.h"

struct function functions[64];
int function_count;

static void outl(u16 port, u32 v) { __asm__ volatile("outl %0,%1" ::"a"(v), "Nd"(port)); }
static u32 inl(u16 port) { u32 v; __asm__ volatile("inl %1,%0" : "=a"(v) : "Nd"(port)); return v; }

u32 pci_read(u32 at, u32 reg) { outl(0xcf8, 0x80000000u | at | (reg & 0xfc)); return inl(0xcfc); }
void pci_write(u32 at, u32 reg, u32 v) { outl(0xcf8, 0x80000000u | at | (reg & 0xfc)); outl(0xcfc, v); }
void pci_enable(u32 at) { pci_write(at, 4, pci_read(at, 4) | 6); }

void pci_name(u32 at) {
  hex(at >> 16, 2), put(":"), hex(at >> 11 & 31, 2), put("."), hex(at >> 8 & 7, 1);
}

void pci_walk(void) {
  for (u32 device = 0; device < 256 * 32; device++)
    for (u32 f = 0; f < 8; f++) {
      u32 at = device << 11 | f << 8, id = pci_read(at, 0);
      if ((id & 0xffff) != 0xffff) {
        struct function p = {at, (u16)id, (u16)(id >> 16), pci_read(at, 8) >> 8};
        put("BARE pci "), pci_name(at), put(" "), hex(p.vendor, 4), put(":"), hex(p.device, 4), put(" class "), hex(p.class, 6), put("\n");
        if (function_count < 64) functions[function_count++] = p;
      }
      if (f == 0 && ((id & 0xffff) == 0xffff || !(pci_read(at, 12) >> 16 & 0x80))) break;
    }
}

void *pci_bar(u32 at, int i) {
  u32 low = pci_read(at, 0x10 + 4 * (u32)i);
  u64 base = low & ~0xfu;
  if (low & 1) return 0;
  if ((low & 6) == 4) base |= (u64)pci_read(at, 0x14 + 4 * (u32)i) << 32;
  return base == (uptr)base ? (void *)(uptr)base : 0;
}

u64 pci_bar_size(u32 at, int i) {
  u32 reg = 0x10 + 4 * (u32)i, command = pci_read(at, 4), low = pci_read(at, reg), high = pci_read(at, reg + 4);
  pci_write(at, 4, command & ~2u);
  pci_write(at, reg, ~0u);
  u64 mask = (pci_read(at, reg) & ~0xfu) | 0xffffffff00000000ull;
  if ((low & 6) == 4) {
    pci_write(at, reg + 4, ~0u);
    mask = (mask & 0xffffffff) | (u64)pci_read(at, reg + 4) << 32;
    pci_write(at, reg + 4, high);
  }
  pci_write(at, reg, low);
  pci_write(at, 4, command);
  return ~mask + 1;
}
