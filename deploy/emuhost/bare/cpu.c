// The processor and the board: ports, the timer interrupt, power.
#include "guest.h"

void outb(u16 port, u8 v) { __asm__ volatile("outb %0,%1" ::"a"(v), "Nd"(port)); }
void outw(u16 port, u16 v) { __asm__ volatile("outw %0,%1" ::"a"(v), "Nd"(port)); }
u8 inb(u16 port) { u8 v; __asm__ volatile("inb %1,%0" : "=a"(v) : "Nd"(port)); return v; }
u16 inw(u16 port) { u16 v; __asm__ volatile("inw %1,%0" : "=a"(v) : "Nd"(port)); return v; }
void fence(void) { __asm__ volatile("mfence" ::: "memory"); }

void *memset(void *p, int c, __SIZE_TYPE__ n) {
  void *d = p;
  __asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(c) : "memory");
  return p;
}
void *memcpy(void *to, const void *from, __SIZE_TYPE__ n) {
  void *d = to;
  __asm__ volatile("rep movsb" : "+D"(d), "+S"(from), "+c"(n)::"memory");
  return to;
}
int same(const void *a, const void *b, u32 n) {
  const u8 *x = a, *y = b;
  while (n--) if (*x++ != *y++) return 0;
  return 1;
}

// Interrupts: the local APIC's timer at vector 0x40 (Intel SDM volume 3, chapter 11),
// the board's old timer at 0x30, and what is unexpected. Two timers, because an emulated one
// was seen to stop, and a guest that sleeps for ever looks like a host that lost it.
#define APIC(reg) (*(volatile u32 *)(uptr)(0xfee00000u + (reg)))
extern void entry_timer(void), entry_beat(void), entry_ignore(void), entry_fault(void);
static struct { u16 low, selector, flags, middle;
#ifdef __x86_64__
  u32 high, zero;
#endif
} idt[256] __attribute__((aligned(16)));
static volatile u32 count, beats; // of 100 ms; of 55 ms

void tick(void) { count++; APIC(0xb0) = 0; }
void beat(void) { beats++; outb(0x20, 0x20); }
void fault(void) { put("BARE fault\n"); for (;;) __asm__ volatile("cli; hlt"); }
u32 ticks(void) {
  u32 a = count, b = beats / 20 * 11;
  return a > b ? a : b;
}
void idle(void) { __asm__ volatile("sti; hlt; cli" ::: "memory"); }

static void gate(int i, void (*entry)(void)) {
  u16 cs;
  uptr p = (uptr)entry;
  __asm__("mov %%cs,%0" : "=r"(cs));
  idt[i].low = (u16)p, idt[i].selector = cs, idt[i].flags = 0x8e00, idt[i].middle = (u16)(p >> 16);
#ifdef __x86_64__
  idt[i].high = (u32)(p >> 32);
#endif
}

void interrupts(void) {
  struct { u16 limit; uptr base; } __attribute__((packed)) where = {sizeof idt - 1, (uptr)idt};
  for (int i = 0; i < 256; i++) gate(i, i < 32 ? entry_fault : entry_ignore);
  gate(0x40, entry_timer), gate(0x30, entry_beat);
  __asm__ volatile("lidt %0" ::"m"(where));
  // The old controllers (Intel 8259A) at 0x30 and 0x38, all silent but the timer (8254) at 18.2 Hz.
  outb(0x20, 0x11), outb(0x21, 0x30), outb(0x21, 4), outb(0x21, 1), outb(0x21, 0xfe);
  outb(0xa0, 0x11), outb(0xa1, 0x38), outb(0xa1, 2), outb(0xa1, 1), outb(0xa1, 0xff);
  outb(0x43, 0x34), outb(0x40, 0), outb(0x40, 0);
  APIC(0x350) = 0x700;                // they come through
  APIC(0xf0) = 0x1ff;                 // on; spurious at 0xff
  APIC(0x3e0) = 3;                    // 1 GHz in QEMU, divided by 16
  APIC(0x320) = 0x20040;              // periodic
  APIC(0x380) = 1000000000 / 16 / 10;
}

// The ICH9's power management block; where it is says the LPC bridge, 00:1f.0.
static u16 pm(void) { return pci_read(0x1f << 11, 0x40) & 0xff80; }
void power_button(void) { outw(pm(), 0x100), outw(pm() + 2, 0x100); }
int power_pressed(void) { return inw(pm()) & 0x100; }
void power_off(void) { put("BARE off\n"); for (;;) outw(pm() + 4, 0x2000); }
void restart(void) { put("BARE reboot\n"); for (;;) outb(0xcf9, 6); }
