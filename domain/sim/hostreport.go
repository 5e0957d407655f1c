package sim

import (
	"fmt"
	"slices"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/machine"
)

// inventory proposes the slot map that was found, once.
func (h *host) inventory() {
	m := h.machine.hardware
	d := m.Digest()
	h.maps[d] = m
	if h.mem.proposed == d && h.mem.proposedIn == h.fence.Epoch {
		return
	}
	old, in := h.mem.proposed, h.mem.proposedIn
	h.mem.proposed, h.mem.proposedIn = d, h.fence.Epoch
	h.report(&domain.Report{Kind: domain.ReportInventory, Inventory: m}, func() { h.mem.proposed, h.mem.proposedIn = old, in })
}

// broken are the slots whose drive is not the approved one.
func (h *host) broken() map[uint32]string {
	var out map[uint32]string
	for i := range h.approved.Slots {
		if found := &h.machine.hardware.Slots[i]; found.NVMe.Serial != h.approved.Slots[i].NVMe.Serial {
			if out == nil {
				out = map[uint32]string{}
			}
			out[uint32(i)] = "slot.device_missing"
		}
	}
	return out
}

// reportBroken says once of each slot that its drive is not the approved one.
func (h *host) reportBroken(broken map[uint32]string) {
	for i := range h.machine.hardware.Slots {
		if why := broken[uint32(i)]; why != "" {
			f := &domain.FaultReport{Slot: h.mem.slotID[uint32(i)], Component: "nvme", Scope: "device", Reason: why}
			if !f.Slot.IsZero() {
				h.once(fmt.Sprintf("slot/%d/%s/%s", i, why, h.machine.hardware.Slots[i].NVMe.Serial), f)
			}
		}
	}
}

// once reports a fault that was not reported under this key.
func (h *host) once(key string, f *domain.FaultReport) {
	if slices.Contains(h.mem.faults, key) {
		return
	}
	h.mem.faults = append(h.mem.faults, key)
	h.report(&domain.Report{Kind: domain.ReportFaulted, Fault: f}, func() {
		h.mem.faults = slices.DeleteFunc(h.mem.faults, func(k string) bool { return k == key })
	})
}

// reportVMs says what is new of the VMs that are placed: each fact once a boot.
func (h *host) reportVMs(observed []machine.Observed) {
	for i := range h.desired.VMs {
		v := &h.desired.VMs[i]
		at := slices.IndexFunc(observed, func(o machine.Observed) bool { return o.VM == v.VM })
		var o machine.Observed
		if at >= 0 {
			o = observed[at]
		}
		h.reportVM(v, o, at >= 0)
	}
}

func (h *host) reportVM(v *domain.PlacedVM, o machine.Observed, exists bool) {
	say := func(kind domain.ReportKind, boot uint32, at domain.Time) {
		key := saidKey{v.VM, boot, kind}
		h.s.shadow.told[key] = true
		if h.mem.said[key] {
			return
		}
		if at == 0 {
			at = h.clock()
		}
		h.mem.said[key] = true
		h.report(&domain.Report{Kind: kind, VM: &domain.VMReport{VM: v.VM, Boot: boot, At: at, Address: o.Address}}, func() { delete(h.mem.said, key) })
	}
	lost := exists && o.Lost && o.Boot == v.Boot && v.Power == domain.PowerOn
	if exists && o.Boot > 0 && !(lost && h.saidLost(&o)) {
		since := o.Since
		if !o.Running {
			since = 0
		}
		say(domain.ReportStarted, o.Boot, since)
		if o.Alive != 0 {
			say(domain.ReportAlive, o.Boot, o.Alive)
		}
		if o.Ready != 0 {
			say(domain.ReportReady, o.Boot, o.Ready)
		}
	}
	if lost {
		h.reportLost(&o)
		return
	}
	if h.inChain(v.VM) || exists && o.Running {
		return
	}
	switch {
	case exists && o.Boot >= v.Boot:
		say(domain.ReportStopped, o.Boot, o.Since)
	case v.Power == domain.PowerOff:
		say(domain.ReportStopped, v.Boot, 0)
	}
}

// reportLost says that a VM went down and nobody meant it to; what is said once a boot
// is then said again of the same one.
func (h *host) reportLost(o *machine.Observed) {
	if h.saidLost(o) {
		return
	}
	h.s.seen.mark(LostVM)
	for _, kind := range []domain.ReportKind{domain.ReportStarted, domain.ReportAlive, domain.ReportReady, domain.ReportStopped} {
		delete(h.mem.said, saidKey{o.VM, o.Boot, kind})
	}
	before := h.mem.lost[o.VM]
	h.mem.lost[o.VM] = lostAt{o.Boot, o.Since}
	h.s.shadow.told[saidKey{o.VM, o.Boot, toldLost}] = true
	h.report(&domain.Report{Kind: domain.ReportStopped, VM: &domain.VMReport{VM: o.VM, Boot: o.Boot, At: o.Since, Reason: o.Cause, Lost: true}}, func() { h.mem.lost[o.VM] = before })
}

// toldLost is what the shadow remembers of a stop that is a loss.
const toldLost domain.ReportKind = "lost"

func (h *host) saidLost(o *machine.Observed) bool { return h.mem.lost[o.VM] == lostAt{o.Boot, o.Since} }
