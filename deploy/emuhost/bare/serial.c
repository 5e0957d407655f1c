// The console: COM1, polled.
#include "guest.h"

#define COM1 0x3f8

static void putc(char c) {
  while (!(inb(COM1 + 5) & 0x20));
  outb(COM1, (u8)c);
}
void put(const char *s) { while (*s) putc(*s++); }
void putn(const void *s, u32 n) {
  for (const u8 *p = s; n--; p++) if (*p >= 32 && *p < 127) putc((char)*p);
}
void hex(u64 v, int digits) { while (digits--) putc("0123456789abcdef"[(v >> (digits * 4)) & 15]); }
void dec(u64 v) { // 64-bit division would need a library where pointers have 32 bits
  static const u64 powers[] = {
    1000000000000000ull, 100000000000000ull, 10000000000000ull, 1000000000000ull, 100000000000ull, 10000000000ull,
    1000000000ull, 100000000ull, 10000000ull, 1000000ull, 100000ull, 10000ull, 1000ull, 100ull, 10ull, 1ull};
  int begun = 0;
  for (int i = 0; i < 16; i++) {
    int d = 0;
    for (; v >= powers[i] && d < 9; d++) v -= powers[i];
    begun |= d || i == 15;
    if (begun) putc((char)('0' + d));
  }
}

int line(char *into, int size) {
  static char buffer[96];
  static int n;
  while (inb(COM1 + 5) & 1) {
    char c = (char)inb(COM1);
    if (c != '\n' && c != '\r') {
      if (n < (int)sizeof buffer - 1) buffer[n++] = c;
      continue;
    }
    if (!n) continue;
    buffer[n++] = 0;
    int m = n < size ? n : size;
    memcpy(into, buffer, (u32)m);
    into[m - 1] = 0, n = 0;
    return 1;
  }
  return 0;
}
