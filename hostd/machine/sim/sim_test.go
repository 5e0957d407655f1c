package sim_test

import (
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/machine/sim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, o sim.Options) *sim.Machine {
	t.Helper()
	m, err := sim.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func guest(n byte, slots ...uint32) *machine.VM {
	v := &machine.VM{PlacedVM: domain.PlacedVM{VM: domain.VMID{n}, Hostname: "h", Power: domain.PowerOn, Boot: 1, MAC: "52:54:00:01:02:03"}}
	for _, s := range slots {
		v.Leases = append(v.Leases, domain.Lease{Slot: domain.SlotID{byte(s + 1)}, Index: s, Generation: 1})
	}
	return v
}

func bringUp(t *testing.T, m *sim.Machine, v *machine.VM) error {
	t.Helper()
	for _, step := range []func() error{
		func() error { return m.PrepareDisk(t.Context(), v) }, func() error { return m.PrepareSeed(t.Context(), v) },
		func() error { return m.AttachNetwork(t.Context(), v) }, func() error { return m.Start(t.Context(), v) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func TestIdentityFollowsFromTheSeed(t *testing.T) {
	t.Parallel()
	a, _ := open(t, sim.Options{Seed: "a"}).Discover(t.Context())
	again, _ := open(t, sim.Options{Seed: "a"}).Discover(t.Context())
	b, _ := open(t, sim.Options{Seed: "b"}).Discover(t.Context())
	if !reflect.DeepEqual(a, again) || a.Digest() == b.Digest() {
		t.Error("same seed, other host; or other seed, same host")
	}
	serials, threads := map[string]bool{}, map[uint16]bool{}
	perNode := map[uint8]uint64{}
	for _, m := range []*domain.SlotMap{a, b} {
		clear(threads)
		clear(perNode)
		for _, s := range m.Slots {
			for _, d := range []domain.Device{s.GPU, s.NVMe, s.IBVF} {
				if serials[d.Serial] || d.Serial == "" {
					t.Errorf("serial %q twice", d.Serial)
				}
				serials[d.Serial] = true
			}
			for _, th := range s.Threads {
				if threads[th] {
					t.Errorf("thread %d belongs to two slots", th)
				}
				threads[th] = true
			}
			perNode[s.NUMANode] += s.MemoryMiB
		}
		for _, n := range m.Nodes {
			if perNode[n.Node] >= n.MemoryMiB {
				t.Errorf("node %d leaves the host no memory", n.Node)
			}
			spare := 0
			for _, th := range n.Threads {
				if !threads[th] {
					spare++
				}
			}
			if spare < 4 {
				t.Errorf("node %d leaves the host %d threads", n.Node, spare)
			}
		}
	}
	if len(a.Slots) != 8 || a.Slots[3].NUMANode != 0 || a.Slots[4].NUMANode != 1 {
		t.Error("want two nodes with four GPUs each")
	}
}

func TestVMsOutliveTheProcess(t *testing.T) {
	t.Parallel()
	state := t.TempDir() + "/sim.json"
	synctest.Test(t, func(t *testing.T) {
		m := open(t, sim.Options{Seed: "a", State: state})
		if err := bringUp(t, m, guest(1, 0)); err != nil {
			t.Fatal(err)
		}
		m = open(t, sim.Options{Seed: "a", State: state}) // kill -9: the first was never closed
		e := <-m.Events()
		if e.Kind != machine.GuestAlive || e.Address != "10.1.2.3" {
			t.Errorf("event %+v", e)
		}
		if e = <-m.Events(); e.Kind != machine.GuestReady {
			t.Errorf("event %+v", e)
		}
		o, err := m.Observe(t.Context())
		if err != nil || len(o) != 1 || !o[0].Running || o[0].Boot != 1 || o[0].Ready == 0 {
			t.Errorf("observed %+v %v", o, err)
		}
	})
}

func TestItObjects(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := open(t, sim.Options{Seed: "a"})
		slots, _ := m.Discover(t.Context())
		if err := m.Start(t.Context(), guest(1, 0)); err == nil {
			t.Error("an unprepared VM started")
		}
		if err := bringUp(t, m, guest(1, 0)); err != nil {
			t.Fatal(err)
		}
		if err := bringUp(t, m, guest(2, 0)); err == nil {
			t.Error("two VMs on one slot")
		}
		if _, err := m.Wipe(t.Context(), slots.Slots[0], domain.PlacedWipe{}); err == nil {
			t.Error("wiped under a running VM")
		}
		if err := m.Remove(t.Context(), domain.VMID{1}); err != nil {
			t.Fatal(err)
		}
		if err := bringUp(t, m, guest(2, 0)); err == nil {
			t.Error("a VM on another's data")
		}
		if n := len(m.Violations()); n != 4 {
			t.Errorf("%d violations: %v", n, m.Violations())
		}
		if _, err := m.Wipe(t.Context(), slots.Slots[0], domain.PlacedWipe{}); err != nil {
			t.Fatal(err)
		}
		if err := bringUp(t, m, guest(2, 0)); err != nil {
			t.Errorf("after the wipe: %v", err)
		}
	})
}

func TestSilence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, err := sim.ParseFaults(strings.NewReader("host silent after=2s for=3s # gone\n\n# nothing\n"))
		if err != nil {
			t.Fatal(err)
		}
		m := open(t, sim.Options{Seed: "a", Faults: f})
		for _, want := range []bool{false, false, true, true, true, false} {
			if m.Silent() != want {
				t.Errorf("silent %v", !want)
			}
			time.Sleep(time.Second)
		}
	})
}

func TestBadFaultScripts(t *testing.T) {
	t.Parallel()
	for _, script := range []string{"nowhere fail=x", "start slot=x", "start what", "wipe result=splendid", "any slow=fast"} {
		if _, err := sim.ParseFaults(strings.NewReader(script)); err == nil || !strings.Contains(err.Error(), "line 1") {
			t.Errorf("%q: err %v", script, err)
		}
	}
}
