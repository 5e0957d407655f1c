package plan_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/plan"
)

// A host is the dumbest machine and journal there can be: it does what a step says
// and objects to what must never happen.
type host struct {
	t        *rapid.T
	vms      map[domain.VMID]*machine.Observed
	prepared map[domain.VMID]plan.Op
	data     map[uint32]domain.VMID // whose bytes are on the drive, really
	state    plan.State
}

func newHost(t *rapid.T) *host {
	return &host{
		t: t, vms: map[domain.VMID]*machine.Observed{}, prepared: map[domain.VMID]plan.Op{}, data: map[uint32]domain.VMID{},
		state: plan.State{
			Known: map[domain.VMID][]uint32{}, GivenUp: map[domain.VMID]uint32{}, Wiped: map[plan.WipeKey]bool{},
			Dirty: map[uint32]domain.VMID{}, Broken: map[uint32]string{},
		},
	}
}

func (h *host) observe() plan.State {
	s := h.state
	s.VMs = nil
	for _, v := range h.vms {
		s.VMs = append(s.VMs, *v)
	}
	return s
}

// accept does what the agent does with a new placement.
func (h *host) accept(d *domain.Desired) {
	for i := range d.VMs {
		v := &d.VMs[i]
		for _, l := range v.Leases {
			h.state.Known[v.VM] = append(h.state.Known[v.VM], l.Index)
		}
	}
}

// carryOut runs a plan, up to the first n steps (a crash, or a newer plan).
func (h *host) carryOut(steps []plan.Step, n int) {
	for i, s := range steps {
		for _, a := range s.After {
			if a >= i {
				h.t.Fatalf("step %d comes after step %d, and before it in the list", i, a)
			}
		}
		if i < n {
			h.do(s)
		}
	}
}

func (h *host) do(s plan.Step) {
	v := h.vms[s.VM]
	switch s.Op {
	case plan.Disk:
		for _, slot := range s.Slots {
			h.mine(s.VM, slot)
			h.state.Dirty[slot], h.data[slot] = s.VM, s.VM
		}
	case plan.Seed, plan.Network:
	case plan.Start:
		for _, slot := range s.Slots {
			h.mine(s.VM, slot)
			if h.data[slot] != s.VM {
				h.t.Fatalf("%s starts on slot %d, whose drive it never got", s.VM, slot)
			}
		}
		if v != nil && (v.Running || v.Boot >= s.Boot) {
			h.t.Fatalf("%s started again: %+v", s.VM, v)
		}
		h.vms[s.VM] = &machine.Observed{VM: s.VM, Running: true, Boot: s.Boot, Slots: s.Slots}
	case plan.Reboot:
		if !v.Running || v.Boot >= s.Boot {
			h.t.Fatalf("reboot of %+v into boot %d", v, s.Boot)
		}
		v.Boot = s.Boot
	case plan.Stop:
		v.Running = false
	case plan.Remove:
		delete(h.vms, s.VM)
		delete(h.state.Known, s.VM)
		delete(h.state.GivenUp, s.VM)
	case plan.Wipe:
		slot := s.Slots[0]
		for _, other := range h.vms {
			for _, held := range other.Slots {
				if held == slot {
					h.t.Fatalf("slot %d wiped while %s holds it", slot, other.VM)
				}
			}
		}
		delete(h.data, slot)
		delete(h.state.Dirty, slot)
		h.state.Wiped[plan.KeyOf(s.Wipe)] = true
	case plan.Refuse:
		h.state.GivenUp[s.VM] = max(s.Boot, h.state.GivenUp[s.VM])
	}
}

// mine objects if another VM stands on the slot or left its data there.
func (h *host) mine(id domain.VMID, slot uint32) {
	if by, ok := h.data[slot]; ok && by != id {
		h.t.Fatalf("%s gets slot %d with the data of %s", id, slot, by)
	}
	for _, other := range h.vms {
		for _, held := range other.Slots {
			if held == slot && other.VM != id {
				h.t.Fatalf("%s gets slot %d, which %s holds", id, slot, other.VM)
			}
		}
	}
}

const (
	vmCount   = 6
	slotCount = 4
)

// anything draws a placement that no sane control plane would send, as often as one
// that it would.
func anything(rt *rapid.T, generation uint64) *domain.Desired {
	d := &domain.Desired{Site: "s", Epoch: 1, Generation: generation, SlotMap: domain.Digest{1}}
	for range rapid.IntRange(0, 4).Draw(rt, "vms") {
		v := domain.PlacedVM{
			VM:    domain.VMID{rapid.ByteRange(1, vmCount).Draw(rt, "vm")},
			Power: domain.Power(rapid.IntRange(1, 2).Draw(rt, "power")),
			Boot:  rapid.Uint32Range(1, 3).Draw(rt, "boot"),
		}
		// A VM's slots never change in its life: here they follow from its id.
		for i := range rapid.IntRange(0, 2).Draw(rt, "slots") {
			v.Leases = append(v.Leases, lease(uint32(int(v.VM[0])+i)%slotCount, 1))
		}
		d.VMs = append(d.VMs, v)
	}
	for range rapid.IntRange(0, 3).Draw(rt, "wipes") {
		d.Wipes = append(d.Wipes, domain.PlacedWipe{
			Lease:   lease(rapid.Uint32Range(0, slotCount-1).Draw(rt, "slot"), rapid.Uint32Range(0, 2).Draw(rt, "generation")),
			Attempt: rapid.Uint32Range(1, 2).Draw(rt, "attempt"),
		})
	}
	return d
}

// Whatever is placed and wherever it is cut off: no VM ever gets another's drive
// or another's data, no wipe hits a VM, and every plan comes to rest.
func TestNothingPlacedCanBreakAHost(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		h := newHost(rt)
		var d *domain.Desired
		for g := range rapid.IntRange(1, 12).Draw(rt, "generations") {
			d = anything(rt, uint64(g+1))
			h.accept(d)
			h.carryOut(plan.Diff(d, h.observe()), rapid.IntRange(0, 12).Draw(rt, "cut"))
			if id := (domain.VMID{rapid.ByteRange(1, vmCount).Draw(rt, "off")}); h.vms[id] != nil {
				h.vms[id].Running = false // the guest switches itself off, or the host crashed
			}
		}
		settle(rt, h, d)
	})
}

func settle(rt *rapid.T, h *host, d *domain.Desired) {
	for range 4 {
		steps := plan.Diff(d, h.observe())
		if len(steps) == 0 {
			return
		}
		h.carryOut(steps, len(steps))
	}
	rt.Fatalf("still not at rest: %+v", plan.Diff(d, h.observe()))
}

// A placement that does not contradict itself is reached, and in one plan if
// nothing stands in its way.
func TestASanePlacementIsReached(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		h := newHost(rt)
		was := &domain.Desired{SlotMap: domain.Digest{1}}
		for g := uint64(1); g <= uint64(rapid.IntRange(1, 10).Draw(rt, "generations")); g++ {
			was = sane(rt, was, h, g)
			h.accept(was)
			h.carryOut(plan.Diff(was, h.observe()), rapid.IntRange(0, 12).Draw(rt, "cut"))
		}
		settle(rt, h, was)
		if len(h.vms) > len(was.VMs) {
			rt.Fatalf("%d VMs exist, %d are placed", len(h.vms), len(was.VMs))
		}
		for i := range was.VMs {
			want, got := &was.VMs[i], h.vms[was.VMs[i].VM]
			if want.Power == domain.PowerOn && (got == nil || got.Boot != want.Boot || !got.Running) {
				rt.Fatalf("placed %+v, is %+v", want, got)
			}
			if want.Power == domain.PowerOff && got != nil && got.Running {
				rt.Fatalf("placed off, is %+v", got)
			}
		}
		for i := range was.Wipes {
			if !h.state.Wiped[plan.KeyOf(&was.Wipes[i])] {
				rt.Fatalf("not wiped: %+v", was.Wipes[i])
			}
		}
	})
}

// sane follows the rules of the control plane: a slot that a VM leaves is wiped,
// and given to another only after the evidence came.
func sane(rt *rapid.T, was *domain.Desired, h *host, g uint64) *domain.Desired {
	d := &domain.Desired{Site: "s", Epoch: 1, Generation: g, SlotMap: was.SlotMap}
	free := map[uint32]bool{0: true, 1: true, 2: true, 3: true}
	for _, w := range was.Wipes {
		if !h.state.Wiped[plan.KeyOf(&w)] {
			d.Wipes = append(d.Wipes, w)
			free[w.Lease.Index] = false
		}
	}
	for _, v := range was.VMs {
		o := h.vms[v.VM]
		switch rapid.SampledFrom([]string{"keep", "stop", "boot", "release"}).Draw(rt, "change") {
		case "stop":
			v.Power = domain.PowerOff
		case "boot":
			// Only what was seen to be off, or to run, gets another boot.
			if o != nil && (o.Running || v.Power == domain.PowerOff) {
				v.Power, v.Boot = domain.PowerOn, v.Boot+1
			}
		case "release":
			for _, l := range v.Leases {
				d.Wipes = append(d.Wipes, domain.PlacedWipe{Lease: l, Attempt: 1})
				free[l.Index] = false
			}
			continue
		}
		for _, l := range v.Leases {
			free[l.Index] = false
		}
		d.VMs = append(d.VMs, v)
	}
	for slot := range uint32(slotCount) {
		if free[slot] && rapid.Bool().Draw(rt, "new") {
			d.VMs = append(d.VMs, domain.PlacedVM{VM: domain.VMID{byte(g), byte(slot)}, Power: domain.PowerOn, Boot: 1, Leases: []domain.Lease{lease(slot, uint32(g))}})
		}
	}
	return d
}
