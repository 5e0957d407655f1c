// NVMe, as far as identify, read and write need it (NVM Express Base Specification
// 1.4): one admin queue, one pair of queues, polled.
#include "guest.h"

enum { DEPTH = 16, CHUNK = 128 << 10 };
struct completion { u32 result, zero; u16 head, queue, id, status; };
static u8 submit[2][PAGE] PAGED, complete[2][PAGE] PAGED, buffer[CHUNK] PAGED;
static u64 pages[CHUNK / PAGE] PAGED;
static volatile u8 *registers;
static u32 tail[2], head[2], phase[2], stride;
static u16 id;
static u32 block, shift; // bytes, and the power of two that is
static u64 blocks;

static volatile u32 *reg(u32 at) { return (volatile u32 *)(registers + at); }

// command runs one command to its end: its status, or -1 after 30 s.
static int command(int q, u8 op, u32 space, u64 first, u64 second, u32 d10, u32 d11, u32 d12) {
  u32 *s = (u32 *)(submit[q] + tail[q] * 64);
  memset(s, 0, 64);
  s[0] = op | (u32)++id << 16, s[1] = space;
  s[6] = (u32)first, s[7] = (u32)(first >> 32), s[8] = (u32)second, s[9] = (u32)(second >> 32);
  s[10] = d10, s[11] = d11, s[12] = d12;
  tail[q] = (tail[q] + 1) % DEPTH;
  fence();
  *reg(0x1000 + (2 * (u32)q) * stride) = tail[q];
  volatile struct completion *c = (volatile struct completion *)complete[q] + head[q];
  for (u32 began = ticks(); (c->status & 1) != phase[q];) {
    __asm__ volatile("sti; pause; cli" ::: "memory");
    if (ticks() - began > 300) return -1;
  }
  int status = c->status >> 1;
  if (++head[q] == DEPTH) head[q] = 0, phase[q] ^= 1;
  *reg(0x1000 + (2 * (u32)q + 1) * stride) = head[q];
  return status & 0x7ff;
}

static int move(u8 op, u64 at, u32 count) { // blocks to or from the buffer
  u64 second = 0;
  if (count * block > 2 * PAGE) second = (uptr)pages;
  else if (count * block > PAGE) second = (uptr)buffer + PAGE;
  return command(1, op, 1, (uptr)buffer, second, (u32)at, (u32)(at >> 32), count - 1);
}

static int wait_ready(u32 want) {
  for (u32 began = ticks(); (*reg(0x1c) & 1) != want;) {
    __asm__ volatile("sti; pause; cli" ::: "memory");
    if (ticks() - began > 300) return 0;
  }
  return 1;
}

// open resets the controller and makes its queues.
static int open(u32 at) {
  pci_enable(at);
  if (!(registers = pci_bar(at, 0))) { put(" out of reach\n"); return 0; }
  stride = 4u << (*reg(4) & 15);
  *reg(0x14) = 0;
  if (!wait_ready(0)) { put(" does not stop\n"); return 0; }
  memset(submit, 0, sizeof submit), memset(complete, 0, sizeof complete);
  for (int q = 0; q < 2; q++) tail[q] = head[q] = 0, phase[q] = 1;
  for (u32 i = 0; i < CHUNK / PAGE - 1; i++) pages[i] = (uptr)buffer + (i + 1) * PAGE;
  *reg(0x24) = (DEPTH - 1) << 16 | (DEPTH - 1);
  *reg(0x28) = (u32)(uptr)submit[0], *reg(0x2c) = (u32)((u64)(uptr)submit[0] >> 32);
  *reg(0x30) = (u32)(uptr)complete[0], *reg(0x34) = (u32)((u64)(uptr)complete[0] >> 32);
  *reg(0x14) = 0x00460001;
  if (!wait_ready(1)) { put(" does not start\n"); return 0; }
  if (command(0, 6, 0, (uptr)buffer, 0, 1, 0, 0)) { put(" cannot be identified\n"); return 0; }
  u32 n = 20;
  while (n && buffer[3 + n] == ' ') n--;
  put(" serial "), putn(buffer + 4, n);
  if (command(0, 6, 1, (uptr)buffer, 0, 0, 0, 0)) { put(" has no namespace 1\n"); return 0; }
  blocks = *(u64 *)buffer;
  shift = buffer[128 + 4 * (buffer[26] & 15) + 2] & 31, block = 1u << shift;
  put(" blocks "), dec(blocks), put(" of "), dec(block), put("\n");
  if (block < 512 || block > PAGE) { put("BARE drive block size is not for me\n"); return 0; }
  int a = command(0, 5, 0, (uptr)complete[1], 0, (DEPTH - 1) << 16 | 1, 1, 0);
  int b = command(0, 1, 0, (uptr)submit[1], 0, (DEPTH - 1) << 16 | 1, 1 << 16 | 1, 0);
  if (a || b) { put("BARE drive gives no queues\n"); return 0; }
  return 1;
}

// look reads a range: how many blocks are not zero, and every secret that begins one.
static int look(u64 from, u64 to, u64 *used, int *found) {
  u32 per = CHUNK / block;
  for (u64 at = from; at < to; at += per) {
    u32 n = to - at < per ? (u32)(to - at) : per;
    int status = move(2, at, n);
    if (status) { put("BARE drive read of "), dec(at), put(" status "), hex((u32)status, 4), put("\n"); return 0; }
    for (u32 i = 0; i < n; i++) {
      u64 *w = (u64 *)(buffer + i * block), any = 0;
      for (u32 k = 0; k < block / 8 && !any; k++) any = w[k];
      if (!any) continue;
      ++*used;
      if (!same(w, "secret=", 7)) continue;
      if (++*found <= 8) put("BARE drive found "), putn(w, 64), put(" at "), dec(at + i), put("\n");
    }
  }
  return 1;
}

static int store(u64 at, const char *name, const char *value) {
  memset(buffer, 0, block);
  u32 n = 0;
  for (; *name; name++) buffer[n++] = (u8)*name;
  for (; *value; value++) buffer[n++] = (u8)*value;
  buffer[n] = '\n';
  int status = move(1, at, 1);
  if (status) put("BARE drive write of "), dec(at), put(" status "), hex((u32)status, 4), put("\n");
  return !status;
}

// home is where the guest's own data begin: the second partition, or block 0.
static u64 home(void) {
  if (move(2, 1, 1) || !same(buffer, "EFI PART", 8)) return 0;
  u64 table = *(u64 *)(buffer + 72);
  if (move(2, table, 1)) return 0;
  u64 first = *(u64 *)(buffer + 128 + 32);
  return first && first < blocks ? first : 0;
}

static void count_boot(u64 at) {
  char number[12];
  u32 n = 0, i = sizeof number - 1;
  if (move(2, at, 1)) return;
  if (same(buffer, "boots=", 6)) for (u8 *p = buffer + 6; *p >= '0' && *p <= '9' && n < 1000000; p++) n = n * 10 + *p - '0';
  put("BARE drive boots "), dec(++n), put("\n");
  for (number[i] = 0; n && i; n /= 10) number[--i] = (char)('0' + n % 10);
  store(at, "boots=", number + i);
}

static void drive(int write) {
  u64 n = ((u64)options.scan << 20) >> shift, used = 0;
  int found = 0, whole = 3 * n >= blocks;
  int ok = whole ? look(0, blocks, &used, &found)
                 : look(0, n, &used, &found) && look(blocks / 2 - n / 2, blocks / 2 + n / 2, &used, &found) && look(blocks - n, blocks, &used, &found);
  if (!ok) return;
  put("BARE drive looked at "), dec(whole ? blocks : 3 * n), put(" blocks, not zero "), dec(used), put(", secrets "), dec((u64)found), put("\n");
  if (!found) put("BARE drive found no secret\n");
  if (!write || options.secret[0] == '-') return;
  u64 own = home();
  count_boot(own);
  if (store(own + 1, "secret=", options.secret) && store(blocks / 2, "secret=", options.secret) && store(blocks - 40, "secret=", options.secret) &&
      !command(1, 0, 1, 0, 0, 0, 0, 0)) // flush
    put("BARE drive wrote secret="), put(options.secret), put("\n");
}

int drives(int write) {
  int n = 0;
  for (int i = 0; i < function_count; i++) {
    if (functions[i].class != 0x010802) continue;
    put("BARE drive "), pci_name(functions[i].at);
    n++;
    if (open(functions[i].at)) drive(write);
  }
  return n;
}
