// Virtio over PCI, version 1, split queues (Virtual I/O Device specification 1.2,
// sections 2.7 and 4.1). Queues have eight descriptors in one page, and are polled.
#include "guest.h"

enum { SIZE = 8, AVAILABLE = 512, USED = 1024 };
struct descriptor { u64 at; u32 bytes; u16 flags, next; };

struct function *virtio_find(int nth, u16 type) {
  for (int i = 0; i < function_count; i++) {
    struct function *f = &functions[i];
    // Devices that also speak the old dialect have other numbers.
    u16 old = type == 1 ? 0x1000 : type == 2 ? 0x1001 : type == 3 ? 0x1003 : 0;
    if (f->vendor == 0x1af4 && (f->device == 0x1040 + type || f->device == old) && nth-- == 0) return f;
  }
  return 0;
}

static void set32(volatile u8 *p, u32 at, u32 v) { *(volatile u32 *)(p + at) = v; }
static void set16(volatile u8 *p, u32 at, u16 v) { *(volatile u16 *)(p + at) = v; }
static void set64(volatile u8 *p, u32 at, u64 v) { set32(p, at, (u32)v), set32(p, at + 4, (u32)(v >> 32)); }

int virtio_open(struct virtio *v, u32 at, u32 features) {
  memset(v, 0, sizeof *v);
  v->at = at;
  pci_enable(at);
  for (u32 cap = pci_read(at, 0x34) & 0xfc; cap; cap = pci_read(at, cap) >> 8 & 0xfc) {
    u32 head = pci_read(at, cap);
    u8 *bar;
    if ((head & 0xff) != 9) continue;
    u32 kind = head >> 24, number = pci_read(at, cap + 4) & 0xff;
    if (kind < 1 || kind > 4 || number > 5 || !(bar = pci_bar(at, (int)number))) continue;
    bar += pci_read(at, cap + 8);
    if (kind == 1) v->common = bar;
    if (kind == 2) v->notify = bar, v->notify_step = pci_read(at, cap + 16);
    if (kind == 4) v->device = bar;
  }
  if (!v->common || !v->notify || !v->device) {
    put("BARE virtio "), pci_name(at), put(" is out of reach\n");
    return 0;
  }
  v->common[20] = 0;
  while (v->common[20]);
  v->common[20] = 3; // seen, and driven
  set32(v->common, 8, 0), set32(v->common, 12, features);
  set32(v->common, 8, 1), set32(v->common, 12, 1); // version 1
  v->common[20] = 11;
  if (v->common[20] & 8) return 1;
  put("BARE virtio "), pci_name(at), put(" refuses\n");
  return 0;
}

int virtio_queue(struct virtio *v, struct queue *q, u16 index, void *ring) {
  memset(ring, 0, PAGE);
  memset(q, 0, sizeof *q);
  set16(v->common, 22, index);
  if (*(volatile u16 *)(v->common + 24) < SIZE) return 0;
  set16(v->common, 24, SIZE);
  set16(v->common, 26, 0xffff);
  q->ring = ring, q->index = index;
  q->notify = (volatile u16 *)(v->notify + *(volatile u16 *)(v->common + 30) * v->notify_step);
  set64(v->common, 32, (uptr)ring), set64(v->common, 40, (uptr)ring + AVAILABLE), set64(v->common, 48, (uptr)ring + USED);
  *(volatile u16 *)(q->ring + AVAILABLE) = 1; // no interrupts
  set16(v->common, 28, 1);
  return 1;
}

void virtio_go(struct virtio *v) { v->common[20] = 15; }

// virtio_offer gives the device a chain; the caller keeps count of descriptors.
void virtio_offer(struct queue *q, const struct part *parts, int n) {
  volatile struct descriptor *d = (volatile struct descriptor *)q->ring;
  volatile u16 *index = (volatile u16 *)(q->ring + AVAILABLE + 2), first = q->next;
  for (int i = 0; i < n; i++) {
    u16 k = q->next;
    q->next = (u16)((q->next + 1) % SIZE);
    d[k].at = (uptr)parts[i].p, d[k].bytes = parts[i].bytes, d[k].next = q->next;
    d[k].flags = (u16)((parts[i].in ? 2 : 0) | (i + 1 < n ? 1 : 0));
  }
  ((volatile u16 *)(q->ring + AVAILABLE + 4))[*index % SIZE] = first;
  fence();
  ++*index;
  fence();
  *q->notify = q->index;
}

int virtio_taken(struct queue *q, u32 *head, u32 *bytes) {
  volatile u16 *index = (volatile u16 *)(q->ring + USED + 2);
  fence();
  if (*index == q->used) return 0;
  volatile u32 *e = (volatile u32 *)(q->ring + USED + 4) + 2 * (q->used++ % SIZE);
  *head = e[0], *bytes = e[1];
  return 1;
}
