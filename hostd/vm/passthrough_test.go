package vm

import (
	"strings"
	"testing"

	"github.com/gpuaas/gpuaas/domain"
)

func TestPassthroughRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		edit func(*Spec, *Passthrough)
		want string
	}{
		"nothing changed":        {func(*Spec, *Passthrough) {}, ""},
		"no slot":                {func(_ *Spec, p *Passthrough) { p.Slots = nil }, "0 slots"},
		"too many slots":         {func(_ *Spec, p *Passthrough) { p.Slots = make([]domain.SlotSpec, 17) }, "17 slots"},
		"an address twice":       {func(_ *Spec, p *Passthrough) { p.Slots[1].NVMe.Address = p.Slots[0].NVMe.Address }, "is slot 0's already"},
		"a GPU as its own VF":    {func(_ *Spec, p *Passthrough) { p.Slots[1].IBVF.Address = p.Slots[1].GPU.Address }, "is slot 1's already"},
		"address without domain": {func(_ *Spec, p *Passthrough) { p.Slots[0].GPU.Address = "10:00.0" }, "is no address"},
		"no drive":               {func(_ *Spec, p *Passthrough) { p.Slots[1].NVMe.Address = "" }, "is no address"},
		"a crooked BAR":          {func(_ *Spec, p *Passthrough) { p.Slots[0].GPU.BARs = wide(3 << 20) }, "a BAR of"},
		"a bigger GPU":           {func(_ *Spec, p *Passthrough) { p.Slots[0].GPU.BARs = wide(1 << 40) }, "other devices than at its first start"},
		"no memory":              {func(_ *Spec, p *Passthrough) { p.Slots[1].MemoryMiB = 0 }, "slot 1: no memory"},
		"no threads":             {func(_ *Spec, p *Passthrough) { p.Slots[1].Threads = nil }, "no hardware threads"},
		"a thread twice":         {func(_ *Spec, p *Passthrough) { p.Slots[1].Threads[0] = p.Slots[0].Threads[0] }, "is slot 0's already"},
		"a thread of the host":   {func(_ *Spec, p *Passthrough) { p.HostThreads = append(p.HostThreads, 1) }, "is the host's"},
		"no thread for QEMU":     {func(_ *Spec, p *Passthrough) { p.HostThreads = nil }, "left for QEMU"},
		"half a core":            {func(_ *Spec, p *Passthrough) { p.Slots[0].Threads = p.Slots[0].Threads[:3] }, "siblings"},
		"a core shared by slots": {func(_ *Spec, p *Passthrough) {
			a, b := p.Slots[0].Threads, p.Slots[1].Threads
			a[1], b[1] = b[1], a[1]
		}, "siblings"},
		"a thread of no core": {func(_ *Spec, p *Passthrough) { p.Cores = p.Cores[1:] }, "in no core"},
		"cores that differ": {func(_ *Spec, p *Passthrough) {
			p.Cores[0] = p.Cores[0][:1]
			p.Slots[0].Threads = append(p.Slots[0].Threads[:1], p.Slots[0].Threads[2:]...)
		}, "others have"},
		"an alias as machine":    {func(_ *Spec, p *Passthrough) { p.Pins.Machine = "q35" }, "machine type"},
		"pins of the future":     {func(_ *Spec, p *Passthrough) { p.Pins.Layout++ }, "a newer one made this VM"},
		"no pins":                {func(_ *Spec, p *Passthrough) { p.Pins = Pins{} }, "layout 0"},
		"memory beside slots":    {func(s *Spec, _ *Passthrough) { s.MemoryMiB = 1 }, "are its slots'"},
		"drives beside slots":    {func(s *Spec, _ *Passthrough) { s.Drives = []Drive{{"/a", "A"}} }, "are its slots'"},
		"root's group":           {func(_ *Spec, p *Passthrough) { p.User.GID = 0 }, "with group 0"},
		"confidential under TCG": {func(s *Spec, p *Passthrough) { s.KVM = false; p.Confidential = SEVSNP }, "needs KVM"},
		"confidential somehow":   {func(_ *Spec, p *Passthrough) { p.Confidential = "sgx" }, "no kind of"},
		"nothing to boot":        {func(s *Spec, _ *Passthrough) { s.Firmware = "" }, "nothing to boot by"},
		"secure direct boot":     {func(s *Spec, _ *Passthrough) { s.Kernel, s.SecureBoot = "/k", true }, "Secure Boot"},
	} {
		s := realHost(2, 1)
		c.edit(s, s.Passthrough)
		xml, err := s.XML()
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q\n%s", name, err, c.want, xml)
		}
	}
}

// TestAddressesStay: what a guest sees does not depend on where the host finds the
// devices today, only on the order of the slots.
func TestAddressesStay(t *testing.T) {
	t.Parallel()
	guest := func(s *Spec) string {
		b := s.Passthrough.lay()
		var text strings.Builder
		for _, h := range b.hostdevs {
			a := h.Address.PCI
			text.WriteString(strings.Join([]string{h.Managed, string(rune('a' + *a.Bus)), string(rune('0' + *a.Slot))}, " ") + "\n")
		}
		return text.String()
	}
	a, b := realHost(8, 2), realHost(8, 2)
	for i := range b.Passthrough.Slots {
		s := &b.Passthrough.Slots[i]
		s.GPU.Address = strings.Replace(s.GPU.Address, "0000:", "0001:", 1)
		s.Index += 8
	}
	if x, y := guest(a), guest(b); x != y {
		t.Errorf("the guest's devices moved:\n%s\n%s", x, y)
	}
}

func TestUsers(t *testing.T) {
	t.Parallel()
	u := Users{First: 70000, Count: 8}
	if got, err := u.Of(7); err != nil || got != (User{70007, 70007}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []Users{{70000, 7}, {0, 8}, {}} {
		if got, err := bad.Of(7); err == nil {
			t.Errorf("%v gave %v", bad, got)
		}
	}
}

func TestMMIO64(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		slots int
		gpu   []uint64
		want  uint64 // MiB
	}{
		"no BARs: what the firmware does by itself": {8, nil, 32 << 10},
		"one small":      {1, []uint64{256 << 20}, 32 << 10},
		"one H100":       {1, []uint64{16 << 20, 128 << 30, 32 << 20}, 256 << 10},
		"eight H100":     {8, []uint64{16 << 20, 128 << 30, 32 << 20}, 2 << 20},
		"eight of 256 G": {8, []uint64{64 << 20, 256 << 30, 32 << 20}, 4 << 20},
	} {
		var slots []domain.SlotSpec
		for range c.slots {
			slots = append(slots, domain.SlotSpec{GPU: domain.Device{BARs: wide(c.gpu...)}})
		}
		if got := MMIO64MiB(slots); got != c.want {
			t.Errorf("%s: %d MiB, want %d", name, got, c.want)
		}
	}
}
