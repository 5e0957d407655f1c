package linux

import (
	"errors"
	"fmt"
	"testing"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/pci/pcitest"
	"github.com/gpuaas/gpuaas/hostd/vfio"
)

// links are the virtual functions of physical ones, by interface and number.
type links map[string]vfio.VFConfig

var errSilent = errors.New("the kernel does not say")

func (l links) SetVF(ifname string, index int, c vfio.VFConfig) error {
	l[fmt.Sprint(ifname, index)] = c
	return nil
}

func (l links) VF(ifname string, index int) (vfio.VFConfig, error) {
	c, ok := l[fmt.Sprint(ifname, index)]
	if !ok {
		return c, errSilent
	}
	return c, nil
}

// withVF gives slot 0 a virtual function.
func (w *world) withVF() domain.SlotSpec {
	const pf, vf = "0000:60:00.0", "0000:60:00.1"
	w.tree.Add(pcitest.Function{Address: pf, IDs: "15b3:1021", Class: pcitest.ClassNIC, Group: 600, TotalVFs: 4, Driver: "mlx5_core"})
	w.tree.AddVF(pf, pcitest.Function{Address: vf, Class: pcitest.ClassNIC, Group: 601, Resets: "flr"})
	w.tree.Mkdir(w.tree.Path(pf) + "/net/ib0")
	s := w.slots[0]
	s.IBVF = domain.Device{Address: vf, Serial: "b8ce:f603:0000:0001/vf0"}
	return s
}

// What an InfiniBand physical function keeps of a virtual one is given back, and a
// host that cannot say it verifies nothing.
func TestInfiniBandFunction(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	spec := w.withVF()
	l := links{}
	w.m.o.Links = l
	set, err := vfio.SetOf(spec)
	if err != nil {
		t.Fatal(err)
	}
	f := functions{w.m, set}
	if _, err := f.State(t.Context(), spec.IBVF.Address); !errors.Is(err, errSilent) {
		t.Errorf("nothing is known: %v", err)
	}
	l["ib00"] = vfio.VFConfig{InfiniBand: true, NodeGUID: "a", PortGUID: "b", Link: vfio.LinkAuto}
	was, err := f.State(t.Context(), spec.IBVF.Address)
	if err != nil || was.NodeGUID != "a" || was.PortGUID != "b" || was.Link != "auto" {
		t.Errorf("%+v, %v", was, err)
	}
	if err := w.m.guardVFs([]domain.SlotSpec{spec}); err != nil || l["ib00"].SpoofCheck || l["ib00"].Link != vfio.LinkAuto {
		t.Errorf("guarded as an Ethernet function: %+v, %v", l["ib00"], err)
	}
	l["ib00"] = vfio.VFConfig{InfiniBand: true, NodeGUID: "x", PortGUID: "y", Link: vfio.LinkUp}
	if err := f.Restore(t.Context(), spec.IBVF.Address, was); err != nil || l["ib00"] != (vfio.VFConfig{InfiniBand: true, NodeGUID: "a", PortGUID: "b", Link: vfio.LinkAuto}) {
		t.Errorf("restored: %+v, %v", l["ib00"], err)
	}
	approved := domain.SlotMap{Slots: []domain.SlotSpec{{IBVF: domain.Device{Serial: spec.IBVF.Serial, GUID: "a"}}}}
	if got := w.m.approvedGUID(spec.IBVF.Serial); got != "" {
		t.Errorf("no map is known, approved is %q", got)
	}
	w.m.o.Discovery.Approved = func() *domain.SlotMap { return &approved }
	if got := w.m.approvedGUID(spec.IBVF.Serial) + w.m.approvedGUID("") + w.m.approvedGUID("other"); got != "a" {
		t.Errorf("approved %q", got)
	}
}
