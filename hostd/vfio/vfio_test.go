package vfio

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/pci"
	"github.com/gpuaas/gpuaas/hostd/pci/pcitest"
	"github.com/gpuaas/gpuaas/hostd/vfio/vfiotest"
)

const (
	gpu, audio = "0000:01:00.0", "0000:01:00.1"
	drive      = "0000:02:00.0"
	pf, vf     = "0000:03:00.0", "0000:03:00.1"
	neighbour  = "0000:04:00.0"
)

// host is one slot (a GPU with audio, a drive, a VF) and a neighbour's GPU.
type host struct {
	tree *pcitest.Tree
	k    *vfiotest.Kernel
	b    *Binder
	spec domain.SlotSpec
	set  Set
}

func newHost(t *testing.T) *host {
	t.Helper()
	tree := pcitest.New(t)
	for i, bridge := range []string{"0000:00:01.0", "0000:00:02.0", "0000:00:03.0", "0000:00:04.0"} {
		tree.Add(pcitest.Function{Address: bridge, Class: pcitest.ClassBridge, Group: 1 + i, Driver: "pcieport", Type: pci.RootPort})
	}
	tree.Add(pcitest.Function{Address: gpu, Parent: "0000:00:01.0", IDs: "10de:2330", Class: pcitest.Class3D, Group: 10, Driver: "nouveau", Resets: "flr bus", Multi: true})
	tree.Add(pcitest.Function{Address: audio, Parent: "0000:00:01.0", IDs: "10de:22ba", Class: pcitest.ClassAudio, Group: 10, Driver: "snd_hda_intel", Multi: true})
	tree.SetGroup("0000:00:01.0", 10) // the bridge is in the group, too
	tree.Add(pcitest.Function{Address: drive, Parent: "0000:00:02.0", Class: pcitest.ClassNVMe, Group: 11, Resets: "flr bus"})
	tree.Add(pcitest.Function{Address: pf, Parent: "0000:00:03.0", Class: pcitest.ClassNIC, Group: 12, Driver: "igb", TotalVFs: 4})
	tree.AddVF(pf, pcitest.Function{Address: vf, Class: pcitest.ClassNIC, Group: 13})
	tree.Mkdir(tree.Path(pf) + "/net/eth0")
	tree.Add(pcitest.Function{Address: neighbour, Parent: "0000:00:04.0", Class: pcitest.Class3D, Group: 14, Driver: "nouveau", Resets: "bus"})
	h := &host{tree: tree, k: vfiotest.New(t, tree)}
	h.k.AddDrive(drive, vfiotest.Drive{Serial: "S1", Bytes: 1 << 20})
	h.k.Default[gpu], h.k.Default[audio], h.k.Default[neighbour] = "nouveau", "snd_hda_intel", "nouveau"
	h.b = New(tree.Open(), h.k)
	h.spec = domain.SlotSpec{
		GPU:  domain.Device{Address: gpu, Serial: "G1", Functions: []domain.DeviceFunction{{Address: audio}}},
		NVMe: domain.Device{Address: drive, Serial: "S1"}, IBVF: domain.Device{Address: vf, Serial: "V1"},
	}
	var err error
	if h.set, err = SetOf(h.spec); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *host) drivers() string {
	var out []string
	for _, a := range []string{gpu, audio, drive, vf, neighbour} {
		out = append(out, h.k.Driver(a))
	}
	return strings.Join(out, " ")
}

const given = "vfio-pci vfio-pci vfio-pci vfio-pci nouveau"

func address(t *testing.T, s string) pci.Address {
	t.Helper()
	a, err := pci.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestGiveAndTake(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	var wrote []string
	h.k.After = func(name, value string) error {
		wrote = append(wrote, name[strings.LastIndex(name, "/")+1:]+" "+strings.TrimSpace(value))
		return nil
	}
	if err := h.b.Prove(t.Context(), h.set); err == nil {
		t.Error("functions of the host were proved")
	}
	if err := h.b.Give(t.Context(), h.set); err != nil {
		t.Fatal(err)
	}
	if got := h.drivers(); got != given {
		t.Errorf("drivers: %s", got)
	}
	// Overrides first; then what depends on others leaves first, and comes last.
	want := []string{
		"driver_override vfio-pci", "driver_override vfio-pci", "driver_override vfio-pci", "driver_override vfio-pci",
		"unbind " + audio, "unbind " + gpu, "unbind " + drive,
		"drivers_probe " + drive, "drivers_probe " + gpu, "drivers_probe " + audio, "drivers_probe " + vf,
	}
	if !slices.Equal(wrote, want) {
		t.Errorf("wrote %q\nwant  %q", wrote, want)
	}
	wrote = nil
	if err := h.b.Give(t.Context(), h.set); err != nil || len(wrote) != 0 {
		t.Errorf("again: %v, wrote %q", err, wrote)
	}
	for range 2 {
		if err := h.b.Take(t.Context(), h.set, address(t, drive), DriverNVMe); err != nil {
			t.Fatal(err)
		}
		n, err := h.b.Namespace(t.Context(), address(t, drive), "S1")
		if err != nil || n.SizeBytes != 1<<20 || n.LBABytes != 512 || n.Block == "nvme0n1" {
			t.Fatalf("%+v, %v", n, err)
		}
		if got := h.drivers(); got != "vfio-pci vfio-pci nvme vfio-pci nouveau" {
			t.Errorf("drivers: %s", got)
		}
	}
	if err := h.b.Prove(t.Context(), h.set); err == nil {
		t.Error("a drive at the host's driver was proved")
	}
	// The host goes through a reboot: nothing is as it was, and giving works again.
	h.k.Reboot()
	if err := h.b.Prove(t.Context(), h.set); err == nil {
		t.Error("proved after a reboot")
	}
	if err := h.b.Give(t.Context(), h.set); err != nil || h.drivers() != given {
		t.Errorf("after a reboot: %v, %s", err, h.drivers())
	}
}

func TestRefusedBeforeAnythingIsTouched(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(t *testing.T, h *host){
		"a neighbour in the group": func(_ *testing.T, h *host) { h.tree.SetGroup(neighbour, 10) },
		"a function that is not approved": func(t *testing.T, h *host) {
			h.spec.GPU.Functions = nil
			var err error
			if h.set, err = SetOf(h.spec); err != nil {
				t.Fatal(err)
			}
		},
		"no IOMMU":         func(_ *testing.T, h *host) { h.tree.Remove(h.tree.Path(drive) + "/iommu_group") },
		"a device is gone": func(_ *testing.T, h *host) { h.k.Unplug(gpu) },
		"a PF with VFs": func(_ *testing.T, h *host) {
			h.set.GPUs = append(h.set.GPUs, pci.Address{Bus: 3})
		},
		"a broken tree": func(_ *testing.T, h *host) { h.tree.Write(h.tree.Path(vf)+"/class", "nonsense\n") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			spoil(t, h)
			wrote := 0
			h.k.Before = func(string, string) error { wrote++; return nil }
			err := h.b.Give(t.Context(), h.set)
			if err == nil || wrote != 0 {
				t.Errorf("%v, %d writes", err, wrote)
			}
			var f *Foreign
			if name == "a neighbour in the group" && (!errors.As(err, &f) || f.Address.String() != neighbour) {
				t.Errorf("err %v", err)
			}
		})
	}
}

// TestEveryWrite fails before, fails after and hangs at each write of giving and
// taking back; each time the repeat comes to the same end, and no function is ever
// at a driver that is neither the host's own nor vfio-pci.
func TestEveryWrite(t *testing.T) {
	t.Parallel()
	errInjected := errors.New("injected")
	round := func(ctx context.Context, t *testing.T, h *host) error {
		if err := h.b.Give(ctx, h.set); err != nil {
			return err
		}
		if err := h.b.Take(ctx, h.set, address(t, drive), DriverNVMe); err != nil {
			return err
		}
		if _, err := h.b.Namespace(ctx, address(t, drive), "S1"); err != nil {
			return err
		}
		return h.b.Give(ctx, h.set)
	}
	total := 0
	h := newHost(t)
	h.k.Before = func(string, string) error { total++; return nil }
	if err := round(t.Context(), t, h); err != nil || total < 15 {
		t.Fatalf("%v after %d writes", err, total)
	}
	for _, how := range []string{"before", "after", "hangs"} {
		for at := range total {
			t.Run(fmt.Sprintf("%s %d", how, at), func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				n, release := 0, make(chan struct{})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				inject := func(string, string) error {
					if n++; n-1 != at {
						return nil
					}
					if how == "hangs" {
						cancel()
						<-release
						return nil
					}
					return errInjected
				}
				if how == "after" {
					h.k.After = inject
				} else {
					h.k.Before = inject
				}
				err := round(ctx, t, h)
				if how == "hangs" {
					if !errors.Is(err, context.Canceled) {
						t.Fatalf("a write that hangs: %v", err)
					}
					// What hangs is not written again: the repeat says so, or has no need to.
					if err := round(t.Context(), t, h); !errors.Is(err, ErrStuck) {
						t.Fatalf("beside a write that hangs: %v", err)
					}
					close(release)
				} else if !errors.Is(err, errInjected) && (how == "before" || err != nil) {
					// An unbind that says it failed and did not, is done.
					t.Fatalf("err %v", err)
				}
				if d := h.k.Driver(neighbour); d != "nouveau" {
					t.Errorf("the neighbour's function is at %q", d)
				}
				for late := time.Now().Add(time.Minute); ; { // the write that hung may still be on its way
					err := round(t.Context(), t, h)
					if err == nil {
						break
					}
					if time.Now().After(late) || !errors.Is(err, ErrStuck) {
						t.Fatalf("the repeat: %v", err)
					}
					time.Sleep(time.Millisecond)
				}
				if got := h.drivers(); got != given {
					t.Errorf("drivers: %s", got)
				}
			})
		}
	}
}

func TestDriverDoesNotTake(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.k.Refuses["vfio-pci "+gpu] = true
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // for the writes before it
	defer cancel()
	if err := h.b.Give(ctx, h.set); err == nil || !strings.Contains(err.Error(), "module") {
		t.Errorf("err %v", err)
	}
	if d := h.k.Driver(gpu); d != "" {
		t.Errorf("the GPU is at %s", d)
	}
	// Somebody else changes the override in between.
	h = newHost(t)
	h.k.After = func(name, _ string) error {
		if strings.HasSuffix(name, "unbind") {
			h.tree.Write(h.tree.Path(gpu)+"/driver_override", "nouveau\n")
		}
		return nil
	}
	if err := h.b.Give(t.Context(), h.set); err == nil || !strings.Contains(err.Error(), "something else") {
		t.Errorf("err %v", err)
	}
}

func TestProveSees(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(h *host){
		"a neighbour in the group": func(h *host) { h.tree.SetGroup(neighbour, 10) },
		"another driver":           func(h *host) { h.tree.Bind(audio, "snd_hda_intel") },
		"no driver":                func(h *host) { h.tree.Bind(drive, "") },
		"another override":         func(h *host) { h.tree.Write(h.tree.Path(drive)+"/driver_override", "nvme\n") },
		"a device gone":            func(h *host) { h.k.Unplug(vf) },
		"a group in use":           func(h *host) { h.k.Open(11, true) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			if err := h.b.Give(t.Context(), h.set); err != nil {
				t.Fatal(err)
			}
			if err := h.b.Prove(t.Context(), h.set); err != nil {
				t.Fatal(err)
			}
			spoil(h)
			if err := h.b.Prove(t.Context(), h.set); err == nil {
				t.Error("proved")
			}
			if err := h.b.Bound(h.set); (err == nil) != (name == "a group in use") {
				t.Errorf("bound: %v", err)
			}
		})
	}
}

func TestNamespace(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	a := address(t, drive)
	h.k.Swap(drive, "OTHER")
	h.k.Reboot()
	if _, err := h.b.Namespace(t.Context(), a, "S1"); err == nil || !strings.Contains(err.Error(), "swapped") {
		t.Errorf("a swapped drive: %v", err)
	}
	// A controller that comes up says nothing that counts, a dead one nothing more.
	h = newHost(t)
	up := h.tree.Path(drive) + "/nvme/nvme0/"
	h.tree.Write(up+"state", "connecting\n")
	h.tree.Write(up+"serial", "(efault)\n")
	time.AfterFunc(30*time.Millisecond, func() {
		h.tree.Write(up+"serial", "S1\n")
		h.tree.Write(up+"state", "live\n")
	})
	if _, err := h.b.Namespace(t.Context(), a, "S1"); err != nil {
		t.Errorf("a controller that comes up: %v", err)
	}
	h.tree.Write(up+"state", "dead\n")
	if _, err := h.b.Namespace(t.Context(), a, "S1"); err == nil || !strings.Contains(err.Error(), "dead") {
		t.Errorf("a dead controller: %v", err)
	}
	// The namespace comes late, under a name of a subsystem.
	h = newHost(t)
	dir := h.tree.Path(drive) + "/nvme/nvme0"
	h.tree.Remove(dir + "/nvme0n1")
	for name, value := range map[string]string{"dev": "259:0", "size": "2048", "queue/logical_block_size": "4096"} {
		h.tree.Write("devices/virtual/nvme-subsystem/nvme0n1/"+name, value+"\n")
	}
	h.tree.Link("class/block/nvme0n1", "devices/virtual/nvme-subsystem/nvme0n1")
	time.AfterFunc(30*time.Millisecond, func() { h.tree.Mkdir(dir + "/nvme0c0n1") })
	if n, err := h.b.Namespace(t.Context(), a, "S1"); err != nil || n.Block != "nvme0n1" {
		t.Errorf("%+v, %v", n, err)
	}
	h.tree.Mkdir(dir + "/nvme0c0n2")
	if _, err := h.b.Namespace(t.Context(), a, "S1"); err == nil || !strings.Contains(err.Error(), "want one") {
		t.Errorf("two namespaces: %v", err)
	}
	h.tree.Remove(dir + "/nvme0c0n1")
	h.tree.Remove(dir + "/nvme0c0n2")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := h.b.Namespace(ctx, a, "S1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no namespace: %v", err)
	}
	if err := h.b.Give(t.Context(), h.set); err != nil {
		t.Fatal(err)
	}
	if _, err := h.b.Namespace(t.Context(), a, "S1"); err == nil {
		t.Error("a namespace of a drive at vfio-pci")
	}
}

func TestReset(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	// A GPU with an audio function is not alone on its bus: vfio gets both, and resets it.
	for _, r := range []struct{ of, method string }{{gpu, ResetFLR}, {gpu, ResetBus}, {drive, ResetBus}} {
		if err := h.b.Reset(t.Context(), h.set, address(t, r.of), r.method); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(h.k.Resets(), ","); got != "flr "+gpu+",hot "+gpu+" of [10],bus "+drive {
		t.Errorf("resets: %s", got)
	}
	if got := h.k.Driver(gpu); got != Driver {
		t.Errorf("the GPU is with %q", got)
	}
	if d, err := h.b.sys.Device(address(t, gpu)); err != nil || strings.Join(d.Resets, " ") != "flr bus" {
		t.Errorf("methods left as %v, %v", d.Resets, err)
	}
	if err := h.b.Reset(t.Context(), h.set, address(t, gpu), "pm"); !errors.Is(err, ErrNoReset) {
		t.Errorf("a method it lacks: %v", err)
	}
	if err := h.b.Reset(t.Context(), h.set, address(t, neighbour), ResetBus); err == nil {
		t.Error("a neighbour's GPU was reset")
	}
	// Somebody else's function below the same bridge.
	h.tree.Add(pcitest.Function{Address: "0000:02:00.1", Parent: "0000:00:02.0", Class: pcitest.ClassNIC, Group: 20})
	if err := h.b.Reset(t.Context(), h.set, address(t, drive), ResetBus); err == nil || !strings.Contains(err.Error(), "0000:02:00.1") {
		t.Errorf("a bus with others on it: %v", err)
	}
	// It does not come back.
	h.k.After = func(name, _ string) error {
		if strings.HasSuffix(name, "/reset") {
			h.tree.Write(h.tree.Path(gpu)+"/config", strings.Repeat("\xff", 4096))
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // for the reset itself
	defer cancel()
	if err := h.b.Reset(ctx, h.set, address(t, gpu), ResetFLR); err == nil {
		t.Error("a device that does not answer was reset")
	}
	if n := len(h.k.Resets()); n != 4 {
		t.Errorf("%d resets", n)
	}
}

func TestMakeVFs(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.tree.Write(h.tree.Path(pf)+"/sriov_numvfs", "0\n")
	var wrote []string
	h.k.After = func(name, value string) error {
		wrote = append(wrote, name[strings.LastIndex(name, "/")+1:]+" "+strings.TrimSpace(value))
		return nil
	}
	for range 2 {
		vfs, err := h.b.MakeVFs(t.Context(), address(t, pf), 1)
		if err != nil || len(vfs) != 1 || vfs[0].String() != vf {
			t.Fatalf("%v, %v", vfs, err)
		}
	}
	if got := strings.Join(wrote, ","); got != "sriov_drivers_autoprobe 0,sriov_numvfs 1,sriov_drivers_autoprobe 0" {
		t.Errorf("wrote %s", got)
	}
	for _, n := range []uint16{0, 2, 5} {
		if _, err := h.b.MakeVFs(t.Context(), address(t, pf), n); err == nil {
			t.Errorf("%d virtual functions beside the one there is", n)
		}
	}
}

// links is a fake of the PF's driver.
type links struct {
	has  map[string]VFConfig
	fail error
	lie  bool
}

func (l *links) SetVF(ifname string, index int, c VFConfig) error {
	if l.lie {
		c.MAC = ""
	}
	l.has[fmt.Sprint(ifname, index)] = c
	return l.fail
}

func (l *links) VF(ifname string, index int) (VFConfig, error) {
	return l.has[fmt.Sprint(ifname, index)], nil
}

func TestSetVF(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	l := &links{has: map[string]VFConfig{}}
	c := VFConfig{MAC: "02:00:00:00:00:77", VLAN: 12, SpoofCheck: true, Link: LinkAuto}
	if err := h.b.SetVF(h.set, address(t, vf), l, c); err != nil || l.has["eth00"].VLAN != 12 {
		t.Errorf("%v, %+v", err, l.has)
	}
	l.lie = true
	if err := h.b.SetVF(h.set, address(t, vf), l, c); err == nil {
		t.Error("what does not read back was taken")
	}
	l.lie, l.fail = false, errors.New("no")
	if err := h.b.SetVF(h.set, address(t, vf), l, c); !errors.Is(err, l.fail) {
		t.Errorf("err %v", err)
	}
	if err := h.b.SetVF(h.set, address(t, gpu), l, c); err == nil {
		t.Error("a GPU was configured as a VF")
	}
}

func TestSetOf(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for name, change := range map[string]func(s *domain.SlotSpec){
		"no domain":        func(s *domain.SlotSpec) { s.GPU.Address = "01:00.0" },
		"no drive":         func(s *domain.SlotSpec) { s.NVMe.Address = "" },
		"twice":            func(s *domain.SlotSpec) { s.IBVF.Address = gpu },
		"function twice":   func(s *domain.SlotSpec) { s.NVMe.Functions = []domain.DeviceFunction{{Address: audio}} },
		"VF with no place": func(s *domain.SlotSpec) { s.IBVF.Address = "" },
	} {
		s := h.spec
		change(&s)
		if _, err := SetOf(s); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := SetOf(h.spec, h.spec); err == nil {
		t.Error("one slot twice: taken")
	}
	if _, err := SetOf(); err == nil {
		t.Error("no slots: taken")
	}
	none := h.spec
	none.IBVF = domain.Device{}
	if s, err := SetOf(none); err != nil || len(s.VFs) != 0 {
		t.Errorf("%+v, %v", s, err)
	}
}
