package linux

import (
	"context"
	"slices"
	"time"

	"github.com/gpuaas/gpuaas/domain"
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
	for _, slot := range slots {
		if err := m.seizeOne(ctx, slot); err != nil && ctx.Err() == nil {
			m.o.Log.Warn("an approved slot's functions are not with vfio-pci", "slot", slot.Index, "err", err)
		}
	}
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
