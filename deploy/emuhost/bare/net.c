// A virtio network card: a DHCP lease (RFC 2131), ARP and ping.
#include "guest.h"

struct frame { u8 virtio[12], data[1514]; };
static struct virtio v;
static struct queue in, out;
static u8 rings[2][PAGE] PAGED;
static struct frame received[4], sent;
static u8 mac[6], address[4], server[4];
static u32 asked, renew;
static int there, bound;

static void set16(u8 *p, u32 x) { p[0] = (u8)(x >> 8), p[1] = (u8)x; }
static u32 get16(const u8 *p) { return (u32)p[0] << 8 | p[1]; }
static u32 sum(const u8 *p, u32 n) {
  u32 s = 0;
  for (u32 i = 0; i < n; i += 2) s += (u32)p[i] << 8 | (i + 1 < n ? p[i + 1] : 0);
  while (s >> 16) s = (s & 0xffff) + (s >> 16);
  return ~s & 0xffff;
}
static void send(u32 n) {
  u32 head, bytes;
  memset(sent.virtio, 0, 12);
  virtio_offer(&out, &(struct part){&sent, n + 12, 0}, 1);
  while (!virtio_taken(&out, &head, &bytes));
}

// ask broadcasts a discover (1) or a request (3) for the address that was offered.
static void ask(u8 kind) {
  u8 *e = sent.data, *ip = e + 14, *udp = ip + 20, *d = udp + 8, *o = d + 240;
  memset(e, 0, 400);
  memset(e, 0xff, 6), memcpy(e + 6, mac, 6), set16(e + 12, 0x800);
  *o++ = 53, *o++ = 1, *o++ = kind;
  if (kind == 3) {
    *o++ = 50, *o++ = 4, memcpy(o, address, 4), o += 4;
    *o++ = 54, *o++ = 4, memcpy(o, server, 4), o += 4;
  }
  *o++ = 55, *o++ = 2, *o++ = 1, *o++ = 3, *o++ = 255;
  u32 n = 300; // the least that a BOOTP relay takes
  d[0] = d[1] = 1, d[2] = 6, memcpy(d + 4, mac + 2, 4), d[10] = 0x80; // answers by broadcast
  memcpy(d + 28, mac, 6), d[236] = 99, d[237] = 130, d[238] = 83, d[239] = 99;
  set16(udp, 68), set16(udp + 2, 67), set16(udp + 4, n + 8);
  ip[0] = 0x45, set16(ip + 2, n + 28), ip[8] = 64, ip[9] = 17, memset(ip + 16, 0xff, 4), set16(ip + 10, sum(ip, 20));
  send(14 + 28 + n);
  asked = ticks();
}

static void dhcp(const u8 *d, const u8 *end) {
  u8 kind = 0;
  if (end - d < 240 || d[0] != 2 || !same(d + 28, mac, 6)) return;
  for (const u8 *o = d + 240; o + 1 < end && *o != 255;) {
    if (*o == 0) { o++; continue; }
    if (o + 2 + o[1] > end) return;
    if (*o == 53) kind = o[2];
    if (*o == 54) memcpy(server, o + 2, 4);
    o += 2 + o[1];
  }
  if (kind == 2 && !bound) memcpy(address, d + 16, 4), ask(3);
  if (kind != 5) return;
  memcpy(address, d + 16, 4);
  renew = ticks() + 1200; // every two minutes
  if (bound++) return;
  put("BARE address ");
  for (int i = 0; i < 4; i++) { if (i) put("."); dec(address[i]); }
  put("\n");
}

static void take(const u8 *e, u32 n) {
  if (n < 34) return;
  u8 *r = sent.data;
  if (get16(e + 12) == 0x806 && n >= 42 && bound && get16(e + 20) == 1 && same(e + 38, address, 4)) { // who has
    memcpy(r, e + 6, 6), memcpy(r + 6, mac, 6), memcpy(r + 12, e + 12, 8);
    set16(r + 20, 2), memcpy(r + 22, mac, 6), memcpy(r + 28, address, 4), memcpy(r + 32, e + 22, 10);
    send(42);
  }
  if (get16(e + 12) != 0x800 || e[14] != 0x45) return;
  u32 length = get16(e + 16);
  if (length + 14 > n || length < 28) return;
  if (e[23] == 17 && get16(e + 36) == 68) dhcp(e + 42, e + 14 + length);
  if (e[23] == 1 && e[34] == 8 && bound && same(e + 30, address, 4)) { // ping
    memcpy(r, e, length + 14), memcpy(r, e + 6, 6), memcpy(r + 6, mac, 6);
    memcpy(r + 26, e + 30, 4), memcpy(r + 30, e + 26, 4);
    r[34] = 0, set16(r + 36, 0), set16(r + 36, sum(r + 34, length - 20));
    send(length + 14);
  }
}

static void listen(u32 i) { virtio_offer(&in, &(struct part){&received[i], sizeof received[i], 1}, 1); }

void net_start(void) {
  struct function *f = virtio_find(0, 1);
  if (!f || !virtio_open(&v, f->at, 1 << 5)) return; // with a MAC of its own
  if (!virtio_queue(&v, &in, 0, rings[0]) || !virtio_queue(&v, &out, 1, rings[1])) return;
  for (int i = 0; i < 6; i++) mac[i] = v.device[i];
  virtio_go(&v);
  there = 1;
  put("BARE net ");
  for (int i = 0; i < 6; i++) { if (i) put(":"); hex(mac[i], 2); }
  put("\n");
  for (u32 i = 0; i < 4; i++) listen(i);
  ask(1);
}

void net_poll(void) {
  u32 head, bytes;
  while (there && virtio_taken(&in, &head, &bytes)) {
    if (bytes > 12) take(received[head % 4].data, bytes - 12);
    listen(head % 4);
  }
  if (there && !bound && ticks() - asked > 20) ask(1);
  if (there && bound && (int)(ticks() - renew) > 0) renew = ticks() + 100, ask(3);
}
