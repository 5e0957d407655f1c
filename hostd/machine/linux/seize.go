package linux

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/pci"
	"github.com/gpuaas/gpuaas/hostd/vfio"
)

// seizeWait bounds handing all slots' functions over, of which each takes moments.
const seizeWait = 5 * time.Minute

// seize hands the functions of approved slots to vfio-pci, whatever they are used for
// now: after a boot of the host its drivers have them, and a stopped VM's data is on
// such a drive. A slot whose functions are there, or are worked on, is left alone.
func (m *Machine) seize(ctx context.Context, slots []domain.SlotSpec) {
	ctx, cancel := context.WithTimeout(ctx, seizeWait)
	defer cancel()
	var all sync.WaitGroup
	for _, slot := range slots { // side by side: one that is wiped for hours holds up no other
		all.Go(func() {
			if err := m.seizeOne(ctx, slot); err != nil && ctx.Err() == nil {
				m.o.Log.Warn("an approved slot's functions are not with vfio-pci", "slot", slot.Index, "err", err)
			}
		})
	}
	all.Wait()
}

// earlyWait bounds what is seized before the first look, which has a bound of its own.
const earlyWait = 15 * time.Second

// seizeEarly hands over, before anything is looked at, the functions of approved slots
// that are still where they were when they were approved. A drive is known by its serial
// as ever, other functions by what they are; where anything differs, the look finds out
// what is where.
func (m *Machine) seizeEarly(ctx context.Context) {
	if m.o.Discovery.Approved == nil {
		return
	}
	approved := m.o.Discovery.Approved()
	if approved == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, earlyWait)
	defer cancel()
	var all sync.WaitGroup
	for _, slot := range approved.Slots {
		if why := m.moved(slot); why != "" {
			m.o.Log.Info("an approved slot is not taken before the first look", "slot", slot.Index, "because", why)
			continue
		}
		all.Go(func() {
			if err := m.seizeOne(ctx, slot); err != nil {
				m.o.Log.Warn("an approved slot's functions are not with vfio-pci before the first look", "slot", slot.Index, "err", err)
			}
		})
	}
	all.Wait()
}

// moved says why the functions at a slot's approved addresses are not the slot's, ""
// if they look like it.
func (m *Machine) moved(slot domain.SlotSpec) string {
	if g := slot.GPU; g.SerialFrom == domain.SerialOfDevice && g.PCISerial == "" {
		return "only its GPU's own driver says who it is, and has to be asked first"
	}
	for _, c := range devices(slot) {
		ids := map[string]string{c.Address: c.PCIID}
		for _, f := range c.Functions {
			ids[f.Address] = f.PCIID
		}
		for address, id := range ids {
			a, err := pci.Parse(address)
			if err != nil {
				return err.Error()
			}
			d, err := m.sys.Device(a)
			switch {
			case err != nil:
				return err.Error()
			case id == "" || d.IDs() != id:
				return fmt.Sprintf("at %s is %s, approved was %q", address, d.IDs(), id)
			}
		}
	}
	return ""
}

func (m *Machine) seizeOne(ctx context.Context, slot domain.SlotSpec) error {
	set, err := vfio.SetOf(slot)
	if err != nil {
		return err
	}
	release, err := m.turns.take(ctx, set.Drives...)
	if err != nil {
		return err
	}
	defer release()
	if m.bind.Bound(set) == nil {
		return nil
	}
	return m.hold(ctx, []domain.SlotSpec{slot})
}

// approvedOf are those of the found slots whose devices an operator approved together,
// as they are addressed now.
func (m *Machine) approvedOf(found *domain.SlotMap) []domain.SlotSpec {
	if m.o.Discovery.Approved == nil {
		return nil
	}
	approved := m.o.Discovery.Approved()
	if approved == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(found.Slots), func(s domain.SlotSpec) bool {
		return !slices.ContainsFunc(approved.Slots, func(a domain.SlotSpec) bool {
			return a.GPU.Serial == s.GPU.Serial && a.NVMe.Serial == s.NVMe.Serial && a.IBVF.Serial == s.IBVF.Serial
		})
	})
}
