package vfio

import (
	"errors"
	"fmt"
	"slices"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/pci"
)

// Set is the functions that an operator approved for one VM or one slot, each with
// the further functions of its device (a GPU's audio and USB).
type Set struct {
	GPUs   []pci.Address
	Drives []pci.Address
	VFs    []pci.Address
	Others []pci.Address
}

// SetOf reads the addresses of slots. One that is given twice is an error.
func SetOf(slots ...domain.SlotSpec) (Set, error) {
	var s Set
	if len(slots) == 0 {
		return s, errors.New("vfio: no slots")
	}
	seen := map[pci.Address]bool{}
	one := func(to *[]pci.Address, address string) error {
		a, err := pci.Parse(address)
		switch {
		case err != nil:
			return err
		case seen[a]:
			return fmt.Errorf("%s is given twice", a)
		}
		seen[a] = true
		*to = append(*to, a)
		return nil
	}
	for _, spec := range slots {
		for _, part := range []struct {
			to     *[]pci.Address
			name   string
			device *domain.Device
		}{{&s.GPUs, "gpu", &spec.GPU}, {&s.Drives, "nvme", &spec.NVMe}, {&s.VFs, "ib_vf", &spec.IBVF}} {
			if part.name == "ib_vf" && part.device.Address == "" && part.device.Serial == "" {
				continue // a map without VFs
			}
			err := one(part.to, part.device.Address)
			for _, f := range part.device.Functions {
				err = errors.Join(err, one(&s.Others, f.Address))
			}
			if err != nil {
				return Set{}, fmt.Errorf("vfio: slot %d: %s: %w", spec.Index, part.name, err)
			}
		}
	}
	return s, nil
}

// functions are the approved functions.
func (s Set) functions() []pci.Address { return slices.Concat(s.GPUs, s.Drives, s.VFs, s.Others) }

// owns says whether the function is approved.
func (s Set) owns(a pci.Address) bool { return slices.Contains(s.functions(), a) }

// Foreign is a function that is in one IOMMU group with an approved one and is not
// approved itself.
type Foreign struct {
	Address pci.Address
	With    pci.Address
	Group   uint32
}

func (f *Foreign) Error() string {
	return fmt.Sprintf("vfio: %s is in IOMMU group %d with %s and is not approved with it: nothing was touched", f.Address, f.Group, f.With)
}
