// What the guest does, in order.
#include "guest.h"

static int words(const char *s, const char *w) {
  while (*w) if (*s++ != *w++) return 0;
  return 1;
}

static void obey(char *s) {
  if (words(s, "off")) power_off();
  if (words(s, "reboot")) restart();
  if (words(s, "find")) drives(0);
  if (words(s, "secret ")) {
    u32 n = 0;
    for (s += 7; s[n] > ' ' && n < sizeof options.secret - 1; n++) options.secret[n] = s[n];
    options.secret[n] = 0;
    drives(1);
  }
}

// The two starts call it, with a command line or without.
void begin(const char *how, const char *commands) {
  put("BARE up "), put(how), put("\n");
  interrupts();
  pci_walk();
  if (!commands || !options_line(commands)) options_seed(); // QEMU puts the kernel's name on every line
  int devices = gpus();
  net_start();
  devices += drives(1);
  port_start(devices);
  put("BARE ready devices="), dec((u64)devices), put("\n");
  if (options.off) power_off();
  power_button();
  for (;;) { // ends by the button or a word
    char s[96];
    idle();
    net_poll();
    port_poll();
    if (power_pressed()) put("BARE power button\n"), power_off();
    if (line(s, sizeof s)) obey(s);
  }
}
