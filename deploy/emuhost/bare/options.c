// What the guest is asked to do: words "name=value" of the command line, or lines
// "# name: value" of the seed's user data.
#include "guest.h"

struct options options = {.secret = "tenant-secret", .scan = 8};

static u32 value(char *into, u32 size, const char *s) {
  u32 n = 0;
  for (; *s > ' ' && n < size - 1; n++) into[n] = *s++;
  into[n] = 0;
  return n;
}
static int starts(const char *s, const char *word) {
  for (; *word; s++, word++) if (*s != *word) return 0;
  return 1;
}
static int option(const char *s, char separator) { // whether it is one
  char v[sizeof options.secret];
  const char *at = s;
  while (*at > ' ' && *at != separator) at++;
  if (*at++ != separator) return 0;
  while (*at == ' ') at++;
  if (!value(v, sizeof v, at)) return 0;
  if (starts(s, "secret")) memcpy(options.secret, v, sizeof v);
  if (starts(s, "mode")) options.off = starts(v, "off");
  if (starts(s, "scan")) for (options.scan = 0, at = v; *at >= '0' && *at <= '9' && options.scan < 1000000; at++) options.scan = options.scan * 10 + (u32)(*at - '0');
  return 1;
}

int options_line(const char *s) {
  int n = 0;
  while (*s) {
    n += option(s, '=');
    while (*s > ' ') s++;
    while (*s && *s <= ' ') s++;
  }
  return n;
}

// The seed is an ISO 9660 volume called cidata on a virtio disk. Its files are
// contiguous, so lines are looked for without looking at the file system.
void options_seed(void) {
  static u8 ring[PAGE] PAGED, sector[65536 + 1] PAGED, status;
  static struct { u32 type, zero; u64 sector; } request;
  struct virtio v;
  struct queue q;
  struct function *f;
  for (int nth = 0; (f = virtio_find(nth, 2)); nth++) {
    if (!virtio_open(&v, f->at, 0) || !virtio_queue(&v, &q, 0, ring)) continue;
    virtio_go(&v);
    u64 sectors = *(volatile u64 *)v.device;
    if (sectors > 8192) sectors = 8192; // a seed has 2 MiB
    put("BARE seed "), pci_name(f->at), put(" sectors "), dec(sectors), put("\n");
    int iso = 0;
    for (u64 at = 0; at < sectors; at += 128) {
      u32 n = sectors - at < 128 ? (u32)(sectors - at) : 128, head, bytes;
      request.type = 0, request.sector = at, status = 0xff;
      struct part parts[] = {{&request, 16, 0}, {sector, n * 512, 1}, {&status, 1, 1}};
      virtio_offer(&q, parts, 3);
      while (!virtio_taken(&q, &head, &bytes));
      if (status) { put("BARE seed cannot be read\n"); break; }
      sector[n * 512] = 0;
      if (at == 0) iso = same(sector + 32769, "CD001", 5) && (same(sector + 32808, "cidata", 6) || same(sector + 32808, "CIDATA", 6));
      if (!iso) break;
      for (u32 i = 0; i + 2 < n * 512; i++)
        if (sector[i] == '#' && sector[i + 1] == ' ' && (i == 0 || sector[i - 1] == '\n' || i % 512 == 0)) option((char *)sector + i + 2, ':');
    }
  }
}
