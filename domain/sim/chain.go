package sim

import (
	"slices"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/plan"
)

// chain is the steps of one VM, or one wipe: hostd/chain.go.
type chain struct {
	h         *host
	key       string
	steps     []plan.Step
	slots     []uint32
	at        int // the step that runs
	cancelled bool
	slow      bool             // a wipe that is later than its deadline
	spec      *domain.SlotSpec // of a wipe
	epoch     uint32           // in which it was asked for
	passed    bool             // by a log that had lost its end, and that the host followed
}

// parallel is how many chains a host runs at once.
const parallel = 16

func chainKey(s plan.Step) string {
	if s.Op == plan.Wipe {
		return "slot " + string(rune('0'+s.Slots[0]))
	}
	return string(s.VM[:])
}

// chainsOf cuts a plan into chains, without those that wait for another.
func chainsOf(steps []plan.Step) []*chain {
	var out []*chain
	of := make([]*chain, len(steps))
	var waits []*chain
	for i, s := range steps {
		key := chainKey(s)
		at := slices.IndexFunc(out, func(c *chain) bool { return c.key == key && s.Op != plan.Wipe })
		if at < 0 {
			at = len(out)
			out = append(out, &chain{key: key})
		}
		c := out[at]
		of[i] = c
		c.steps = append(c.steps, s)
		c.slots = append(c.slots, s.Slots...)
		for _, before := range s.After {
			if of[before] != c {
				waits = append(waits, c)
			}
		}
	}
	return slices.DeleteFunc(out, func(c *chain) bool { return slices.Contains(waits, c) })
}

// wanted reports whether d still asks for what the chain does.
func (c *chain) wanted(d *domain.Desired) bool {
	first := c.steps[0]
	if first.Op == plan.Wipe || first.Op == plan.Remove {
		return true
	}
	for i := range d.Wipes {
		if slices.Contains(c.slots, d.Wipes[i].Lease.Index) {
			return false
		}
	}
	for i := range d.VMs {
		if v := &d.VMs[i]; v.VM == first.VM {
			return v.Power == first.Placed.Power && v.Boot == first.Boot
		}
	}
	return false
}

func (h *host) cancel(which func(*chain) bool) {
	for _, c := range h.chains {
		c.cancelled = c.cancelled || which(c)
	}
}

func (h *host) inChain(id domain.VMID) bool {
	return slices.ContainsFunc(h.chains, func(c *chain) bool { return c.key == string(id[:]) })
}

// wipesUnder reports whether a drive of the VM is being wiped: again, by a host that did
// not remember that it had reported it. Until that ends the VM is not touched.
func (h *host) wipesUnder(id domain.VMID) bool {
	return slices.ContainsFunc(h.chains, func(c *chain) bool {
		w := c.steps[0].Wipe
		return w != nil && slices.Contains(h.mem.known[id], c.slots[0]) && h.s.shadow.erased[placedWipe(w)]
	})
}

// begin starts the chains that are free to run.
func (h *host) begin(steps []plan.Step) {
	for _, c := range chainsOf(steps) {
		if len(h.chains) >= parallel {
			return
		}
		if h.s.now < h.holdOff[c.key] || h.busy(c) {
			continue
		}
		c.h, c.epoch, c.passed = h, h.desired.Epoch, h.passed
		switch first := c.steps[0]; first.Op {
		case plan.Wipe:
			c.spec = &h.approved.Slots[c.slots[0]]
			for i := range h.desired.VMs {
				if v, d := &h.desired.VMs[i], h.driveAt(c.slots[0]); v.VM == d.data && d.serial == c.spec.NVMe.Serial && h.machine.vm(v.VM) != nil { // another drive is not touched
					h.s.fail("host %s: a wipe of slot %d is begun, with the data of %s, which is placed", h.name, c.slots[0], v.VM)
				}
			}
			if _, known := h.mem.dirty[c.spec.NVMe.Serial]; !known { // who asks for a wipe knows of data
				h.mem.dirty[c.spec.NVMe.Serial] = domain.VMID{}
			}
		case plan.Disk:
			h.claimedOnce(first)
			for _, l := range first.Placed.Leases { // known before it is done
				h.mem.dirty[h.approved.Slots[l.Index].NVMe.Serial] = first.VM
			}
		}
		h.chains = append(h.chains, c)
		c.next()
	}
}

// claimedOnce: of two VMs that are placed on one slot neither is begun.
func (h *host) claimedOnce(step plan.Step) {
	for i := range h.desired.VMs {
		v := &h.desired.VMs[i]
		if v.VM != step.VM && slices.ContainsFunc(v.Leases, func(l domain.Lease) bool { return slices.Contains(step.Slots, l.Index) }) {
			h.s.fail("host %s: %s is begun, and %s is placed on its slot", h.name, step.VM, v.VM)
		}
	}
}

func (h *host) busy(c *chain) bool {
	return slices.ContainsFunc(h.chains, func(o *chain) bool {
		return o.key == c.key || slices.ContainsFunc(c.slots, func(s uint32) bool { return slices.Contains(o.slots, s) })
	})
}

// next runs the present step: it takes its time, and its effect comes at the end.
func (c *chain) next() {
	h := c.h
	step := c.steps[c.at]
	h.later(h.takes(c, step), string(step.Op), func() {
		if c.cancelled {
			c.cutShort()
			h.finish(c, step, stepResult{cancelled: true})
			return
		}
		r := h.do(c, step)
		if r.code == "" && c.at+1 < len(c.steps) {
			c.at++
			c.next()
			return
		}
		h.finish(c, step, r)
	})
}

// cutShort is a chain's end by its daemon's: the step that ran may have had its
// effect already.
func (c *chain) cutShort() {
	if c.h.s.dice.work.IntN(2) == 0 {
		c.h.do(c, c.steps[c.at])
	}
}

// stepResult is what came of a step; code "" is success.
type stepResult struct {
	cancelled bool
	code      string
	theirs    bool
	evidence  []domain.DeviceWipe
	report    *domain.WipeReport // a lie about which wipe it was; nil: the truth
	whole     bool               // every device is erased, and the host knows it
}

// finish says what came of a chain.
func (h *host) finish(c *chain, step plan.Step, r stepResult) {
	h.chains = slices.DeleteFunc(h.chains, func(o *chain) bool { return o == c })
	defer h.reconcile()
	if r.cancelled {
		return
	}
	switch {
	case step.Op == plan.Wipe:
		h.reportWipe(c, step.Wipe, r)
	case r.code != "" && step.Op != plan.Remove && step.Op != plan.Stop:
		h.reportFailed(step, r)
	case r.code == "" && step.Op == plan.Remove:
		known, had := h.mem.known[step.VM]
		h.mem.forget(step.VM)
		h.report(&domain.Report{Kind: domain.ReportRemoved, VM: &domain.VMReport{VM: step.VM, At: h.clock()}}, func() {
			if had {
				h.mem.known[step.VM] = known
			}
		})
	case r.code == "" && step.Op == plan.Reboot:
		h.mem.rebooted[step.VM] = step.Boot
	}
	if r.code != "" {
		h.holdOff[c.key] = h.s.now.Add(replan)
		h.later(domain.Millisecond, "after a failure", h.forgeWipe)
	}
}

func (h *host) reportFailed(step plan.Step, r stepResult) {
	if step.Op == plan.Refuse {
		h.s.seen.mark(RefusedByHost)
	}
	old, had := h.mem.failed[step.VM]
	h.mem.failed[step.VM] = step.Boot
	h.s.shadow.told[saidKey{step.VM, step.Boot, domain.ReportStopped}] = true // a failure may end as a stop
	v := &domain.VMReport{VM: step.VM, Boot: step.Boot, At: h.clock(), Reason: r.code, Theirs: r.theirs}
	h.report(&domain.Report{Kind: domain.ReportFailed, VM: v}, func() {
		if had {
			h.mem.failed[step.VM] = old
		} else {
			delete(h.mem.failed, step.VM)
		}
	})
}

// reportWipe passes the evidence on.
func (h *host) reportWipe(c *chain, w *domain.PlacedWipe, r stepResult) {
	key := plan.KeyOf(w)
	serial := c.spec.NVMe.Serial
	by, dirty := h.mem.dirty[serial]
	h.mem.wiped[key] = true
	if r.whole {
		delete(h.mem.dirty, serial)
	}
	report := r.report
	if report == nil {
		report = &domain.WipeReport{Slot: w.Lease.Slot, Generation: w.Lease.Generation, Nonce: w.Lease.Nonce, Attempt: w.Attempt}
	}
	report.StartedAt, report.EndedAt, report.Devices = h.clock(), h.clock(), r.evidence
	h.report(&domain.Report{Kind: domain.ReportWiped, Wipe: report}, func() {
		delete(h.mem.wiped, key)
		if dirty {
			h.mem.dirty[serial] = by
		}
	})
}
