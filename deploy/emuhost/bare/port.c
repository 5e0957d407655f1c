// The virtio-serial port on which a guest says ready (specification 1.2, section 5.3).
#include "guest.h"

static const char name[] = "org.gpuaas.ready.0";
enum { READY = 0, ADD = 1, PORT_READY = 3, OPEN = 6, NAME = 7 };
struct control { u32 port; u16 event, value; };

// The host says a port's name and that it is open in one breath; what finds no buffer
// is lost.
enum { BUFFERS = 4 };
static struct virtio v;
static struct queue from, to, out; // control from and to the host, and the port's own
static u8 rings[3][PAGE] PAGED, answers[BUFFERS][256], word[64];
static struct control request[4];
static u32 mine, words, sent;
static int there;

static void ask(u32 port, u16 event, u16 value) {
  struct control *c = &request[to.next % 4];
  u32 head, bytes;
  c->port = port, c->event = event, c->value = value;
  virtio_offer(&to, &(struct part){c, sizeof *c, 0}, 1);
  while (!virtio_taken(&to, &head, &bytes));
}
static void listen(int i) { virtio_offer(&from, &(struct part){answers[i], sizeof answers[i], 1}, 1); }

void port_start(int devices) {
  struct function *f = virtio_find(0, 3);
  if (!f || !virtio_open(&v, f->at, 1 << 1)) return; // with several ports
  if (!virtio_queue(&v, &from, 2, rings[0]) || !virtio_queue(&v, &to, 3, rings[1])) return;
  // Queues have to be there before the devices starts: port 1 is the first that libvirt hands out.
  if (!virtio_queue(&v, &out, 5, rings[2])) return;
  for (const char *s = "ready devices="; *s; s++) word[words++] = (u8)*s;
  if (devices > 9) word[words++] = (u8)('0' + devices / 10);
  word[words++] = (u8)('0' + devices % 10), word[words++] = '\n';
  virtio_go(&v);
  there = 1;
  for (int i = 0; i < BUFFERS; i++) listen(i);
  ask(0, READY, 1);
}

// port_poll answers the host, and says ready when somebody listens at the port.
void port_poll(void) {
  u32 head, bytes;
  while (there && virtio_taken(&from, &head, &bytes)) {
    struct control c;
    u8 *a = answers[head % BUFFERS];
    memcpy(&c, a, sizeof c);
    if (c.event == ADD) ask(c.port, PORT_READY, 1);
    if (c.event == NAME && c.port == 1 && same(a + sizeof c, name, sizeof name - 1)) mine = 1, ask(1, OPEN, 1);
    if (c.event == OPEN && mine && c.port == 1 && c.value == 1 && !sent) {
      sent = 1;
      virtio_offer(&out, &(struct part){word, words, 0}, 1);
      put("BARE said "), putn(word, words), put("\n");
    }
    listen((int)(head % BUFFERS));
  }
}
