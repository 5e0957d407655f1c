package guest

import (
	"errors"
	"fmt"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/machine"
)

// Claim makes the VM's state if there is none and gives it the drives of its slots.
// It returns a copy. Fault: slot.in_use when another VM or a wipe has one of them.
func (g *Guests) Claim(v *machine.VM) (State, error) {
	if v.VM.IsZero() || len(v.Slots) == 0 {
		return State{}, fmt.Errorf("guest: VM %q with %d slots", v.VM, len(v.Slots))
	}
	s := &State{VM: v.VM, MAC: v.MAC}
	for _, slot := range v.Slots {
		if slot.NVMe.Serial == "" {
			return State{}, fmt.Errorf("guest: slot %d has no drive", slot.Index)
		}
		s.Slots = append(s.Slots, slot.Index)
		s.Drives = append(s.Drives, slot.NVMe.Serial)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, d := range s.Drives {
		if by, held := g.holder(d); held && by != v.VM {
			return State{}, &machine.Fault{Code: "slot.in_use", Err: fmt.Errorf("drive %s is held by %s", d, by)}
		}
		if g.erasing[d] {
			return State{}, &machine.Fault{Code: "slot.in_use", Err: fmt.Errorf("drive %s is being wiped", d)}
		}
	}
	if have := g.vms[v.VM]; have != nil {
		return *have, nil
	}
	if err := g.save(s); err != nil {
		return State{}, err
	}
	g.vms[v.VM] = s
	return *s, nil
}

// Erase takes a drive for a wipe. Fault: slot.in_use while any VM has it, or
// another wipe.
func (g *Guests) Erase(serial string) (release func(), err error) {
	if serial == "" {
		return nil, errors.New("guest: a drive without a serial")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if by, held := g.holder(serial); held {
		return nil, &machine.Fault{Code: "slot.in_use", Err: fmt.Errorf("drive %s is held by %s", serial, by)}
	}
	if g.erasing[serial] {
		return nil, &machine.Fault{Code: "slot.in_use", Err: fmt.Errorf("drive %s is being wiped", serial)}
	}
	g.erasing[serial] = true
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.erasing, serial)
	}, nil
}

// holder is the VM that holds the drive, if one does. The caller holds g.mu.
func (g *Guests) holder(serial string) (domain.VMID, bool) {
	for id, s := range g.vms {
		for _, d := range s.Drives {
			if d == serial {
				return id, true
			}
		}
	}
	return domain.VMID{}, false
}
