// The way out of UEFI: the firmware stops using the devices, and everything is ours
// (UEFI Specification 2.10, sections 4.3 and 7.4).
#include "guest.h"

#define CALL __attribute__((ms_abi))
typedef u64 CALL (*get_memory_map)(u64 *bytes, void *map, u64 *key, u64 *entry, u32 *version);
typedef u64 CALL (*exit_boot_services)(void *image, u64 key);

void begin(const char *how, const char *commands);
void on_own_stack(void (*f)(void));
static u8 map[65536];

static void go(void) { begin("uefi", 0); }

void leave_firmware(void *image, u8 *system) {
  u8 *boot = *(u8 **)(system + 96);
  get_memory_map look = *(get_memory_map *)(boot + 56);
  exit_boot_services leave = *(exit_boot_services *)(boot + 232);
  for (int i = 0; i < 8; i++) { // the map can change between the two calls
    u64 bytes = sizeof map, key, entry;
    u32 version;
    if (look(&bytes, map, &key, &entry, &version)) break;
    if (!leave(image, key)) on_own_stack(go);
  }
  put("BARE cannot leave the firmware\n");
  for (;;);
}
