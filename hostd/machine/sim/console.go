package sim

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/gpuaas/gpuaas/domain"
)

// Console reads the boot log of the VM's present boot, as far as it has got.
func (m *Machine) Console(ctx context.Context, id domain.VMID, offset int64, max int) ([]byte, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.vms[id]
	if v == nil || !v.Defined {
		return nil, offset, ctx.Err()
	}
	log := bootLog(v, domain.TimeOf(time.Now()))
	if offset < 0 || offset >= int64(len(log)) {
		return nil, offset, ctx.Err()
	}
	b := log[offset:min(int64(len(log)), offset+int64(max))]
	return []byte(b), offset + int64(len(b)), ctx.Err()
}

// bootLog follows from the VM alone, so that it need not be kept: a later read
// only finds it longer.
func bootLog(v *vm, now domain.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "[    0.000000] Linux version 6.8.0-gpu (boot %d) on %s\n", v.Boot, v.Image)
	b.WriteString("[    0.812345] pci 0000:05:00.0: [10de:2330] type 00 class 0x030200\n")
	for i, slot := range v.Slots {
		fmt.Fprintf(&b, "[    1.%06d] nvme nvme%d: 16/0/0 default/read/poll queues (slot %d)\n", 100+i, i, slot)
	}
	if v.AliveAt != 0 && now >= v.AliveAt {
		fmt.Fprintf(&b, "[    4.201177] cloud-init[712]: DHCP lease %s for %s\n", addressOf(v.MAC), v.MAC)
		fmt.Fprintf(&b, "[    4.377310] cloud-init[712]: set hostname %s\n", v.Hostname)
		for _, k := range v.Keys {
			fmt.Fprintf(&b, "ci-info: authorized key: %s\n", k)
		}
		if len(v.UserData) > 0 {
			fmt.Fprintf(&b, "ci-info: user data, %d bytes:\n%s\n", len(v.UserData), v.UserData)
		}
	}
	if v.ReadyAt != 0 && now >= v.ReadyAt {
		fmt.Fprintf(&b, "[    9.998244] cloud-init[712]: finished\n\n%s login: \n", v.Hostname)
	}
	return b.String()
}
