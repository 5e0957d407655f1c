package sim

import (
	"fmt"
	"slices"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/plan"
)

// wipe erases a slot and gives its evidence; or does not, and says so; or does not,
// and lies in one place.
func (h *host) wipe(c *chain, w *domain.PlacedWipe) stepResult {
	s, slot := h.s, c.slots[0]
	for _, v := range h.machine.vms {
		if slices.Contains(v.Slots, slot) {
			s.fail("host %s, slot %d: wiped under the feet of %s", h.name, slot, v.VM)
		}
	}
	if h.mem.wiped[plan.KeyOf(w)] {
		s.fail("host %s, slot %d: a wipe is done again whose evidence is in the journal", h.name, slot)
	}
	if why := s.shadow.mayWipe(h, c); why != "" && !h.forged {
		s.fail("host %s, slot %d: the disk of %s is wiped: %s", h.name, slot, h.driveAt(slot).data, why)
	}
	good := evidence(c.spec, w, h.clock())
	if h.machine.hardware.Slots[slot].NVMe.Serial != c.spec.NVMe.Serial {
		for i := range good {
			good[i] = domain.DeviceWipe{Component: good[i].Component, Serial: good[i].Serial, Result: domain.WipeFailed, Detail: "not found"}
		}
		return stepResult{code: "machine.error", evidence: good}
	}
	switch {
	case s.dice.happens(WipeFails):
		d := &good[s.dice.work.IntN(len(good))]
		d.Result = pick(s.dice.work, []domain.WipeResult{domain.WipeFailed, domain.WipeUnknown, domain.WipeSkipped, domain.WipePartial})
		if s.dice.work.IntN(2) == 0 {
			d.Reason, d.Scope = "wipe.media_error", pick(s.dice.work, []string{"", "device", "baseboard", "host", "moon"})
		}
		return stepResult{evidence: good}
	case s.dice.happens(WipeLies):
		r := stepResult{evidence: good, report: &domain.WipeReport{Slot: w.Lease.Slot, Generation: w.Lease.Generation, Nonce: w.Lease.Nonce, Attempt: w.Attempt}}
		h.lie(&r, w)
		return r
	}
	h.driveAt(slot).data = domain.VMID{}
	good[1].Detail = done
	s.shadow.erased[placedWipe(w)] = true
	return stepResult{evidence: good, whole: true}
}

var methods = [...]string{domain.WipeAuto: "sanitize-crypto", domain.WipeSanitize: "sanitize-block", domain.WipeFormat: "format-ses1", domain.WipeOverwrite: "overwrite"}

// evidence is what a host says after a wipe that was done.
func evidence(spec *domain.SlotSpec, w *domain.PlacedWipe, now domain.Time) []domain.DeviceWipe {
	out := []domain.DeviceWipe{
		{Component: "gpu", Serial: spec.GPU.Serial, Method: "flr", Result: domain.WipeVerified, StartedAt: now, EndedAt: now},
		{
			Component: "nvme", Serial: spec.NVMe.Serial, Method: methods[w.Policy], Result: domain.WipeVerified, BytesRead: spec.NVMe.SizeBytes, SizeBytes: spec.NVMe.SizeBytes,
			Coverage: domain.CoverageAll, Planted: 256, Gone: 256, Firmware: "1.0", Approved: "1.0", Baseline: domain.Digest{1}, StartedAt: now.Add(-domain.Second), EndedAt: now,
		},
		{Component: "ib_vf", Serial: spec.IBVF.Serial, Method: "reset", Result: domain.WipeVerified},
	}
	if spec.GPU.PCIID != "" { // of real devices more is asked
		out[2].Baseline = domain.Digest{2}
		out = append(out, domain.DeviceWipe{Component: "host", Method: "looked", Result: domain.WipeVerified})
	}
	return out
}

// done is what only evidence of a wipe that was done says.
const done = "done"

// lies are the single places in which evidence of a wipe that was not done is wrong.
var lies = []func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe){
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) { d.Serial += "x" },
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) {
		r.evidence[0].Serial = d.Serial
	},
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) { r.evidence[2].Serial = "" },
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) {
		r.evidence = slices.Delete(r.evidence, 1, 2)
	},
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) {
		r.evidence = slices.Delete(r.evidence, 2, 3)
	},
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) { r.evidence = nil },
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) {
		r.evidence[2] = r.evidence[0]
	},
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) {
		r.evidence = append(r.evidence, r.evidence[1])
	},
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) {
		r.evidence = append(r.evidence, domain.DeviceWipe{Component: "dpu", Serial: "D", Result: domain.WipeVerified, Method: "reset"})
	},
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) {
		r.evidence = append(r.evidence, domain.DeviceWipe{Component: "host", Result: domain.WipeFailed, Reason: "wipe.cache_kept"})
	},
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) { // what a real device's evidence must not lack
		switch r.evidence = r.evidence[:len(r.evidence)-1]; {
		case len(r.evidence) == 2 || h.s.dice.work.IntN(2) == 0:
		default:
			r.evidence = append(r.evidence, domain.DeviceWipe{Component: "host", Result: domain.WipeVerified})
			r.evidence[2].Baseline = domain.Digest{}
		}
	},
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) { r.report.Nonce[3] ^= 1 },
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) { r.report.Generation++ },
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) { r.report.Generation-- },
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) { r.report.Attempt += 1000 },
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) { r.report.Attempt-- },
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) {
		d.Reason = "wipe.media_error"
	},
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) { d.Gone-- },
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) { d.Gone, d.Planted = 0, 0 },
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) { d.Firmware = "1.1" },
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) { d.StartedAt = d.EndedAt + 1 },
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) { d.BytesRead-- },
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) {
		d.BytesRead, d.SizeBytes = 0, 0
	},
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) {
		d.Coverage = domain.CoverageSampled
	},
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) {
		d.Coverage, d.Sample, d.BytesRead = domain.CoverageSampled, domain.Digest{1}, d.SizeBytes+1
	},
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) { d.Coverage = "" },
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) { d.Coverage = "most" },
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) { d.Method = "" },
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) {
		if d.Method = "trim"; w.Policy == domain.WipeAuto {
			d.Result = domain.WipeSkipped
		}
	},
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) {
		r.evidence[0].Result = domain.WipeSkipped
	},
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) {
		r.evidence[2].Result = domain.WipeUnknown
	},
	func(h *host, r *stepResult, d *domain.DeviceWipe, w *domain.PlacedWipe) { // another host's slot
		if other := h.s.hosts[(h.n+1)%len(h.s.hosts)]; other != h && !other.mem.slotID[0].IsZero() {
			r.report.Slot = other.mem.slotID[0]
			return
		}
		r.evidence = nil
	},
}

func (h *host) lie(r *stepResult, w *domain.PlacedWipe) {
	lies[h.s.dice.work.IntN(len(lies))](h, r, &r.evidence[1], w)
}

// machineTrouble is what hardware, guests and people with screwdrivers do.
func (h *host) machineTrouble() {
	s, d := h.s, h.s.dice
	if len(h.machine.vms) > 0 && d.happens(GuestOff) {
		if v := pick(d.guests, h.machine.vms); v.Running {
			v.Running, v.Since, v.Alive, v.Ready = false, h.clock(), 0, 0
			h.reconcile()
		}
	}
	slot := uint32(d.guests.IntN(len(h.machine.hardware.Slots)))
	if id := h.mem.slotID[slot]; h.up && !id.IsZero() && d.happens(DeviceFault) {
		f := &domain.FaultReport{Slot: id, Component: "gpu", Scope: "device", Reason: fmt.Sprintf("gpu.xid_%d", d.guests.IntN(4))}
		if d.guests.IntN(8) == 0 {
			f.Component, f.Scope = "host", "host"
		}
		h.once(fmt.Sprintf("fault/%d/%s/%s", slot, f.Component, f.Reason), f)
		h.publish()
	}
	if h.free(slot) && d.happens(DriveSwap) {
		h.swap(slot)
		s.say("drive swapped", h.n, uint64(slot))
	}
}

// free reports whether nothing stands on the slot and nothing is done to it.
func (h *host) free(slot uint32) bool {
	for _, v := range h.machine.vms {
		if slices.Contains(v.Slots, slot) {
			return false
		}
	}
	return h.up && !slices.ContainsFunc(h.chains, func(c *chain) bool { return slices.Contains(c.slots, slot) })
}

// swap puts a drive from the shelf into the slot, used or new.
func (h *host) swap(slot uint32) {
	s := h.s
	m := *h.machine.hardware
	m.Slots = slices.Clone(m.Slots)
	spec := &m.Slots[slot]
	shelf := &s.operators.shelf
	serial := fmt.Sprintf("SPARE-%d", len(s.drives))
	if n := len(*shelf); n > 0 && s.dice.guests.IntN(2) == 0 {
		at := s.dice.guests.IntN(n)
		serial = (*shelf)[at]
		*shelf = slices.Delete(*shelf, at, at+1)
	} else {
		s.drives[serial] = &drive{serial: serial}
	}
	*shelf = append(*shelf, spec.NVMe.Serial)
	spec.NVMe.Serial = serial
	h.machine.hardware = &m
	h.inventory()
	h.reconcile()
}
