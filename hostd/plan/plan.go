package plan

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/machine"
)

// Op is what a step does.
type Op string

// The operations, in the order in which one VM goes through them.
const (
	Disk    Op = "disk"    // write the image onto the slots' drives
	Seed    Op = "seed"    // make the cloud-init seed
	Network Op = "network" // port, lease, NAT
	Start   Op = "start"   // start the domain with the boot number
	Reboot  Op = "reboot"  // reset the running guest into the boot number
	Stop    Op = "stop"    // power off
	Remove  Op = "remove"  // nothing of the VM stays but the data on the drives
	Wipe    Op = "wipe"    // erase a slot and prove it
	Refuse  Op = "refuse"  // do nothing and say why: Reason
)

// The reasons of a refusal: stable codes, reported as the VM's failure.
const (
	ReasonNoSlots   = "placement.no_slots"      // a VM without a lease
	ReasonTwice     = "placement.vm_twice"      // one VM placed twice
	ReasonConflict  = "placement.slot_conflict" // two VMs placed on one slot
	ReasonNotWiped  = "slot.not_wiped"          // another VM wrote the drive, or nobody here knows who did, and no verified wipe followed
	ReasonSlotsGone = "vm.slots_differ"         // the VM exists, but on other slots
)

// Step is one thing to do. The pointers lead into the desired state.
type Step struct {
	Op     Op
	VM     domain.VMID        // zero for a wipe
	Boot   uint32             // start, reboot, refuse: of which boot
	Slots  []uint32           // indexes of the slots it touches
	Placed *domain.PlacedVM   // the VM as desired; nil for a removal or a wipe
	Wipe   *domain.PlacedWipe // for a wipe
	Reason string             // for a refusal
	After  []int              // positions of the steps that must be done first
}

// WipeKey names one asked-for wipe: the ended lease and the attempt.
type WipeKey struct {
	Lease   domain.Digest
	Attempt uint32
}

// KeyOf is the key of w.
func KeyOf(w *domain.PlacedWipe) WipeKey {
	return WipeKey{Lease: w.Lease.Digest(), Attempt: w.Attempt}
}

// State is what a host is: what the machine shows, and what the journal remembers.
type State struct {
	VMs     []machine.Observed
	Known   map[domain.VMID][]uint32 // VMs taken on and not yet reported removed, with their slots
	GivenUp map[domain.VMID]uint32   // boots that were reported as failed
	Wiped   map[WipeKey]bool         // wipes whose evidence, good or bad, is in the journal
	Dirty   map[uint32]domain.VMID   // slots whose drive a VM wrote, with no verified wipe since
	Broken  map[uint32]string        // slots that are not as approved: why, a stable code
}

// Diff lists the steps from s to d, in an order that respects every After. No
// steps means that there is nothing to do now.
func Diff(d *domain.Desired, s State) []Step {
	if d == nil || d.SlotMap.IsZero() || d.Account {
		return nil // no approved map: nothing is ours to touch; nor while the site asks what there is
	}
	p := newPlanner(d, s)
	p.removals()
	for i := range d.VMs {
		p.vm(&d.VMs[i])
	}
	for i := range d.Wipes {
		p.wipe(&d.Wipes[i])
	}
	return p.steps
}

type planner struct {
	d        *domain.Desired
	s        State
	observed map[domain.VMID]machine.Observed
	placed   map[domain.VMID]int // how many times
	kept     map[domain.VMID]bool
	claims   map[uint32]int  // desired VMs per slot
	erase    map[uint32]bool // slots with a wipe in the placement, done or not
	holders  map[uint32][]domain.VMID
	removing map[domain.VMID]int // VM -> position of its removal
	lastWipe map[uint32]int
	steps    []Step
}

func newPlanner(d *domain.Desired, s State) *planner {
	p := &planner{
		d: d, s: s,
		observed: map[domain.VMID]machine.Observed{},
		placed:   map[domain.VMID]int{},
		kept:     map[domain.VMID]bool{},
		claims:   map[uint32]int{},
		erase:    map[uint32]bool{},
		holders:  map[uint32][]domain.VMID{},
		removing: map[domain.VMID]int{},
		lastWipe: map[uint32]int{},
	}
	for _, v := range s.VMs {
		p.observed[v.VM] = v
		for _, slot := range v.Slots {
			p.holders[slot] = append(p.holders[slot], v.VM)
		}
	}
	for i := range d.VMs {
		p.placed[d.VMs[i].VM]++
		for _, l := range d.VMs[i].Leases {
			p.claims[l.Index]++
		}
	}
	for _, id := range d.Keep {
		p.kept[id] = true
	}
	for i := range d.Wipes {
		p.erase[d.Wipes[i].Lease.Index] = true
	}
	return p
}

func (p *planner) add(s Step) int {
	p.steps = append(p.steps, s)
	return len(p.steps) - 1
}

// removals takes away every VM that exists, or was begun, and is not desired. One that
// is kept holds its slots.
func (p *planner) removals() {
	gone := map[domain.VMID][]uint32{}
	for id, slots := range p.s.Known {
		if p.placed[id] == 0 {
			gone[id] = append(gone[id], slots...)
		}
	}
	for id, v := range p.observed {
		if p.placed[id] == 0 {
			gone[id] = append(gone[id], v.Slots...)
		}
	}
	for _, id := range sortedIDs(gone) {
		slots := gone[id]
		slices.Sort(slots)
		slots = slices.Compact(slots)
		if !p.kept[id] {
			p.removing[id] = p.add(Step{Op: Remove, VM: id, Slots: slots})
		}
		for _, slot := range slots {
			if !slices.Contains(p.holders[slot], id) {
				p.holders[slot] = append(p.holders[slot], id)
			}
		}
	}
}

// vm brings one desired VM to its power state and boot.
func (p *planner) vm(v *domain.PlacedVM) {
	o, exists := p.observed[v.VM]
	step := Step{VM: v.VM, Boot: v.Boot, Slots: slotsOf(v), Placed: v}
	reason := p.contradiction(v, o, exists)
	switch {
	case v.Power == domain.PowerOff:
		if exists && o.Running {
			step.Op = Stop
			p.add(step)
		}
	case v.Power != domain.PowerOn: // from the future: not ours to guess
	case exists && o.Boot >= v.Boot && !(o.Lost && o.Boot == v.Boot): // as desired; or off by itself; or ahead of us: never move backwards
	case p.s.GivenUp[v.VM] >= v.Boot && v.Boot > 0:
	case reason != "":
		step.Op, step.Reason = Refuse, reason
		p.add(step)
	case exists && o.Running:
		step.Op = Reboot
		p.add(step)
	case p.mayTake(v):
		p.bringUp(step)
	}
}

// bringUp is the whole chain; its early links leave alone what is already there.
func (p *planner) bringUp(step Step) {
	for _, op := range []Op{Disk, Seed, Network, Start} {
		step.Op = op
		at := p.add(step)
		step.After = []int{at}
	}
}

// contradiction says why a VM can never be brought up as placed, or "".
func (p *planner) contradiction(v *domain.PlacedVM, o machine.Observed, exists bool) string {
	if p.placed[v.VM] > 1 {
		return ReasonTwice
	}
	if len(v.Leases) == 0 {
		return ReasonNoSlots
	}
	if exists && !sameSlots(o.Slots, slotsOf(v)) {
		return ReasonSlotsGone
	}
	for _, l := range v.Leases {
		if why := p.s.Broken[l.Index]; why != "" {
			return why
		}
		if p.claims[l.Index] > 1 {
			return ReasonConflict
		}
		if by, dirty := p.s.Dirty[l.Index]; dirty && by != v.VM && !p.erase[l.Index] {
			return ReasonNotWiped
		}
	}
	return ""
}

// mayTake reports whether nothing stands on the VM's slots now: no wipe asked for
// (done or not: the placement has to say that it counts) and no other VM.
func (p *planner) mayTake(v *domain.PlacedVM) bool {
	for _, l := range v.Leases {
		if p.erase[l.Index] {
			return false
		}
		for _, holder := range p.holders[l.Index] {
			if holder != v.VM {
				return false
			}
		}
	}
	return true
}

// wipe erases one slot, once nothing holds it.
func (p *planner) wipe(w *domain.PlacedWipe) {
	if p.s.Wiped[KeyOf(w)] {
		return
	}
	slot := w.Lease.Index
	if by, dirty := p.s.Dirty[slot]; dirty && p.placed[by] > 0 {
		return // the placement keeps the VM whose data this is
	}
	step := Step{Op: Wipe, Slots: []uint32{slot}, Wipe: w}
	for _, holder := range p.holders[slot] {
		at, leaving := p.removing[holder]
		if !leaving {
			return // a VM that stays holds it: never under its feet
		}
		step.After = append(step.After, at)
	}
	if at, again := p.lastWipe[slot]; again {
		step.After = append(step.After, at)
	}
	p.lastWipe[slot] = p.add(step)
}

// Drift says in a line what is observed and not desired, "" if nothing.
func Drift(d *domain.Desired, s State) string {
	if d == nil || d.SlotMap.IsZero() || d.Account {
		return ""
	}
	p := newPlanner(d, s)
	var out []string
	for _, v := range s.VMs {
		switch {
		case p.kept[v.VM]:
			out = append(out, fmt.Sprintf("%s is unknown to the log, and kept", v.VM))
		case p.placed[v.VM] == 0:
			out = append(out, fmt.Sprintf("%s exists and is not placed", v.VM))
		}
	}
	for i := range d.VMs {
		v := &d.VMs[i]
		o, exists := p.observed[v.VM]
		if exists && o.Boot > v.Boot {
			out = append(out, fmt.Sprintf("%s is in boot %d, placed is boot %d", v.VM, o.Boot, v.Boot))
		}
		if exists && !sameSlots(o.Slots, slotsOf(v)) {
			out = append(out, fmt.Sprintf("%s holds slots %v, placed are %v", v.VM, o.Slots, slotsOf(v)))
		}
		if exists && v.Power == domain.PowerOn && !o.Running && o.Boot == v.Boot {
			out = append(out, fmt.Sprintf("%s is off", v.VM))
		}
	}
	for slot, why := range sortedBroken(s.Broken) {
		out = append(out, fmt.Sprintf("slot %d: %s", slot, why))
	}
	return strings.Join(out, "; ")
}

func slotsOf(v *domain.PlacedVM) []uint32 {
	out := make([]uint32, len(v.Leases))
	for i, l := range v.Leases {
		out[i] = l.Index
	}
	return out
}

func sameSlots(a, b []uint32) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

func sortedIDs[V any](m map[domain.VMID]V) []domain.VMID {
	ids := make([]domain.VMID, 0, len(m))
	for id := range m {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b domain.VMID) int { return bytes.Compare(a[:], b[:]) })
	return ids
}

func sortedBroken(m map[uint32]string) func(func(uint32, string) bool) {
	return func(yield func(uint32, string) bool) {
		slots := make([]uint32, 0, len(m))
		for slot := range m {
			slots = append(slots, slot)
		}
		slices.Sort(slots)
		for _, slot := range slots {
			if !yield(slot, m[slot]) {
				return
			}
		}
	}
}
