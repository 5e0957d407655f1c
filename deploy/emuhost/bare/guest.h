// What the guest's parts share. There is no C library; pointers are 32 bits in the
// direct start and 64 under UEFI, and all memory is mapped to itself.
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef __UINTPTR_TYPE__ uptr;

#define PAGE 4096
#define PAGED __attribute__((aligned(PAGE)))

// Names stay inside: code that asks a table for their addresses could not be moved.
#pragma GCC visibility push(hidden)

// cpu.c
void outb(u16 port, u8 v);
void outw(u16 port, u16 v);
u8 inb(u16 port);
u16 inw(u16 port);
void interrupts(void);  // own handlers, and a timer that wakes idle()
void idle(void);        // sleeps until the next tick, at most 100 ms
u32 ticks(void);        // of 100 ms, since interrupts()
void power_button(void); // arms it
int power_pressed(void);
void power_off(void);
void restart(void);
void fence(void);
void *memset(void *p, int c, __SIZE_TYPE__ n);
void *memcpy(void *to, const void *from, __SIZE_TYPE__ n);
int same(const void *a, const void *b, u32 n);

// serial.c
void put(const char *s);
void putn(const void *s, u32 n); // printable characters only
void hex(u64 v, int digits);
void dec(u64 v);
int line(char *into, int size); // a whole line from the console, if there is one

// pci.c
struct function { u32 at; u16 vendor, device; u32 class; };
extern struct function functions[64];
extern int function_count;
void pci_walk(void);
u32 pci_read(u32 at, u32 reg);
void pci_write(u32 at, u32 reg, u32 v);
void pci_enable(u32 at);          // memory and bus master
void *pci_bar(u32 at, int i);     // 0: not there, or out of reach
u64 pci_bar_size(u32 at, int i);
void pci_name(u32 at);

// options.c
struct options { char secret[64]; int off; u32 scan; };
extern struct options options;
int options_line(const char *s);
void options_seed(void);

// gpu.c, nvme.c: both say how many they found
int gpus(void);
int drives(int write);

// virtio.c
struct queue { volatile u8 *ring; volatile u16 *notify; u16 index, size, used, next; };
struct virtio { u32 at; volatile u8 *common, *device, *notify; u32 notify_step; };
struct part { const void *p; u32 bytes; int in; }; // in: the device writes it
int virtio_open(struct virtio *v, u32 at, u32 features);
int virtio_queue(struct virtio *v, struct queue *q, u16 index, void *ring); // ring: a page
void virtio_go(struct virtio *v);
void virtio_offer(struct queue *q, const struct part *parts, int n);
int virtio_taken(struct queue *q, u32 *head, u32 *bytes);
struct function *virtio_find(int nth, u16 type);

// net.c, port.c
void net_start(void);
void net_poll(void);
void port_start(int devices);
void port_poll(void);
