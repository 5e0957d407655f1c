package sim

import (
	"slices"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/plan"
)

// The machine is what really happens, whatever anybody believes: whose data is on a
// drive, which VM runs. It objects to what must never be done.

// drive is one NVMe drive, wherever it is.
type drive struct {
	serial string
	data   domain.VMID // whose bytes are on it
}

// wipeOf names one asked-for wipe of a slot.
type wipeOf struct {
	slot       domain.SlotID
	generation uint32
	attempt    uint32
	nonce      domain.Digest // generations come again when the log has lost its end
}

func placedWipe(w *domain.PlacedWipe) wipeOf {
	return wipeOf{w.Lease.Slot, w.Lease.Generation, w.Attempt, w.Lease.Nonce}
}

type machineState struct {
	hardware *domain.SlotMap
	vms      []*vm
}

// vm exists on a machine; it outlives the daemon.
type vm struct {
	machine.Observed
}

func (m *machineState) observe() []machine.Observed {
	out := make([]machine.Observed, 0, len(m.vms)+1)
	for _, v := range m.vms {
		out = append(out, v.Observed)
	}
	return out
}

func (m *machineState) vm(id domain.VMID) *vm {
	for _, v := range m.vms {
		if v.VM == id {
			return v
		}
	}
	return nil
}

// powerLoss stops every VM, and nobody asked for it.
func (m *machineState) powerLoss(now domain.Time) {
	for _, v := range m.vms {
		if v.Running {
			v.Running, v.Since, v.Alive, v.Ready = false, now, 0, 0
			v.Lost, v.Cause = true, "host.rebooted"
		}
	}
}

func (h *host) driveAt(slot uint32) *drive {
	return h.s.drives[h.machine.hardware.Slots[slot].NVMe.Serial]
}

// takes is how long a step takes.
func (h *host) takes(c *chain, step plan.Step) domain.Duration {
	d := h.s.dice
	slow := domain.Duration(1)
	if d.happens(HostSlow) {
		slow = 40
		h.well = h.s.now.Add(domain.Day)
	}
	ranges := map[plan.Op][2]domain.Duration{
		plan.Disk: {domain.Second, 90 * domain.Second}, plan.Seed: {100, domain.Second}, plan.Network: {100, domain.Second}, plan.Start: {domain.Second, 5 * domain.Second},
		plan.Reboot: {domain.Second, 5 * domain.Second}, plan.Stop: {domain.Second, domain.Minute}, plan.Remove: {domain.Second, 20 * domain.Second},
		plan.Wipe: {5 * domain.Second, 10 * domain.Minute}, plan.Refuse: {1, 10},
	}
	r := ranges[step.Op]
	slowOne := slices.ContainsFunc(h.chains, func(c *chain) bool { return c.slow }) // the others go on beside it
	if step.Op == plan.Wipe && !slowOne && d.happens(WipeSlow) {
		c.slow = true
		return 26 * domain.Hour
	}
	return slow * between(d.work, r[0], r[1])
}

// do is the effect of one step.
func (h *host) do(c *chain, step plan.Step) stepResult {
	switch step.Op {
	case plan.Refuse:
		if step.Reason == plan.ReasonNotWiped && h.wrote(step) && h.machine.vm(step.VM) != nil && !h.forged {
			h.s.fail("host %s: %s is not started on its own drives: %v", h.name, step.VM, h.mem.dirty)
		}
		return stepResult{code: step.Reason}
	case plan.Wipe:
		return h.wipe(c, step.Wipe)
	case plan.Disk, plan.Seed, plan.Network, plan.Start, plan.Reboot:
		if h.s.dice.happens(StartFails) {
			return stepResult{code: "domain.start_failed", theirs: h.s.dice.work.IntN(4) == 0}
		}
	}
	if v := h.machine.vm(step.VM); v != nil && (step.Op == plan.Start || step.Op == plan.Reboot) && !slices.Equal(v.Slots, step.Slots) {
		h.s.fail("host %s: %s on slots %v is to be on slots %v: %s", h.name, step.VM, v.Slots, step.Slots, step.Op)
	}
	switch step.Op {
	case plan.Disk:
		h.prepareDisk(step)
	case plan.Start:
		h.startVM(c, step)
	case plan.Reboot:
		if v := h.machine.vm(step.VM); v != nil && v.Running {
			h.ordered(c, step, "rebooted")
			h.bootGuest(v)
		}
	case plan.Stop:
		if v := h.machine.vm(step.VM); v != nil && v.Running {
			h.ordered(c, step, "stopped")
			v.Running, v.Since, v.Alive, v.Ready = false, h.clock(), 0, 0
		}
	case plan.Remove:
		if h.machine.vm(step.VM) != nil {
			h.ordered(c, step, "removed")
			h.machine.vms = slices.DeleteFunc(h.machine.vms, func(v *vm) bool { return v.VM == step.VM })
		}
	}
	return stepResult{}
}

// wrote reports whether the data on all the drives is the VM's.
func (h *host) wrote(step plan.Step) bool {
	return !slices.ContainsFunc(step.Slots, func(slot uint32) bool { return h.driveAt(slot).data != step.VM })
}

// ordered objects to anything done to a VM that the log did not ask for: losing the
// control plane, or believing a forger, stops no VM.
func (h *host) ordered(c *chain, step plan.Step, what string) {
	followed := c.passed && step.Op == plan.Remove && h.s.shadow.vms[step.VM] == nil // the lost tail's
	if why := h.s.shadow.mayDo(h, c, step); why != "" && !h.forged && !followed {
		h.s.fail("host %s: %s is %s, asked for in epoch %d of %d: %s; %s", h.name, step.VM, what, c.epoch, h.s.epoch, why, h.s.whereIs(h))
	}
}

// prepareDisk writes a tenant's image. Nobody else's data may be below it.
func (h *host) prepareDisk(step plan.Step) {
	h.alone(step)
	for _, slot := range step.Slots {
		d := h.driveAt(slot)
		if !d.data.IsZero() && d.data != step.VM {
			h.s.fail("host %s, slot %d: %s gets drive %s with the data of %s", h.name, slot, step.VM, d.serial, d.data)
		}
		d.data = step.VM
	}
}

// alone objects to a slot that another VM stands on.
func (h *host) alone(step plan.Step) {
	for _, v := range h.machine.vms {
		for _, slot := range step.Slots {
			if v.VM != step.VM && slices.Contains(v.Slots, slot) {
				h.s.fail("host %s, slot %d: %s while %s stands on it (%s)", h.name, slot, step.Op, v.VM, step.VM)
			}
		}
	}
}

func (h *host) startVM(c *chain, step plan.Step) {
	h.alone(step)
	h.ordered(c, step, "started")
	if h.mem.failed[step.VM] >= step.Boot {
		h.s.fail("host %s: boot %d of %s was given up, and is started", h.name, step.Boot, step.VM)
	}
	v := h.machine.vm(step.VM)
	for _, slot := range step.Slots {
		if d := h.driveAt(slot); d.data != step.VM {
			h.s.fail("host %s, slot %d: %s starts on drive %s with the data of %q", h.name, slot, step.VM, d.serial, d.data)
		}
	}
	if v == nil {
		v = &vm{Observed: machine.Observed{VM: step.VM, Slots: step.Slots}}
		h.machine.vms = append(h.machine.vms, v)
	}
	if v.Running {
		return
	}
	v.Running, v.Boot, v.Lost, v.Cause = true, step.Boot, false, ""
	h.bootGuest(v)
}

// bootGuest lets a guest come up: it shows life, then it is ready, unless it is mute.
func (h *host) bootGuest(v *vm) {
	s := h.s
	v.Since, v.Alive, v.Ready = h.clock(), 0, 0
	since := v.Since
	mute := s.dice.happens(GuestMute)
	silent := mute && s.dice.guests.IntN(2) == 0
	at := between(s.dice.guests, 10*domain.Second, domain.Minute)
	still := func() bool { return v.Running && v.Since == since && h.machine.vm(v.VM) == v }
	if !silent {
		s.after(at, "guest alive", h.n, func() {
			if still() {
				v.Alive, v.Address = h.clock(), "10.0.0.7"
				h.reconcile()
			}
		})
	}
	if !mute {
		s.after(at+between(s.dice.guests, domain.Second, 2*domain.Minute), "guest ready", h.n, func() {
			if still() {
				v.Ready = h.clock()
				h.reconcile()
			}
		})
	}
}
