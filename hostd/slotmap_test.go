package hostd_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/machine/sim"
)

// A drive was replaced: the host says what it has now, keeps what runs, and starts
// nothing on a slot that is not what was approved.
func TestReplacedDriveIsAnotherSlot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRack(t, sim.Options{Slots: 2})
		r.firstVM()
		before := r.site.proposal().Digest()
		r.stop()
		r.rewire = func(m *domain.SlotMap) { m.Slots[1].NVMe.Serial = "REPLACED" }
		r.start()
		r.await("another proposal", func() bool { return r.site.proposal().Digest() != before })
		r.site.place(func(d *domain.Desired) { d.VMs = append(d.VMs, vm(2, 1)) })
		r.awaitSaid("failed 2 boot 1 slot.device_missing by the nvme of slot 1")
		if o, _ := r.machine.Observe(t.Context()); len(o) != 1 || !o[0].Running {
			t.Errorf("what ran does not run on: %+v", o)
		}
		r.stop()
		r.start()
		time.Sleep(time.Minute)
		if n := r.site.count("inventory"); n != 2 {
			t.Errorf("%d proposals for two states of the hardware", n)
		}
		now := r.site.proposal().Digest()
		r.site.place(func(d *domain.Desired) { d.SlotMap = now; d.VMs = append(d.VMs[:1], vm(4, 1)) })
		r.awaitSaid("failed 4 boot 1 slot.not_wiped") // nobody knows what is on it
	})
}

// Addresses change between boots of the host. The devices are the same, and are
// found where they are now.
func TestRenumberedDevicesAreFound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRack(t, sim.Options{Slots: 2})
		r.start()
		r.approve()
		r.stop()
		r.rewire = func(m *domain.SlotMap) {
			a, b := &m.Slots[0], &m.Slots[1]
			a.GPU.Address, b.GPU.Address = b.GPU.Address, a.GPU.Address
			a.OnDisk = "a file system of a former tenant"
		}
		r.start()
		r.site.place(func(d *domain.Desired) { d.VMs = append(d.VMs, vm(1, 0)) })
		r.awaitSaid("ready 1 boot 1")
		if n := r.site.count("inventory"); n != 1 {
			t.Errorf("%d proposals for the same devices", n)
		}
		m := r.site.proposal()
		if got := r.body.given[0].Slots[0].GPU; got.Address != m.Slots[1].GPU.Address || got.Serial != m.Slots[0].GPU.Serial {
			t.Errorf("given to the machine: %+v", got)
		}
	})
}

// A drive keeps its history when it moves to another slot of the host.
func TestDirtMovesWithTheDrive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRack(t, sim.Options{Slots: 2})
		r.firstVM()
		r.site.place(func(d *domain.Desired) { d.VMs = nil }) // a site that forgets the wipe
		r.awaitSaid("removed 1 boot 0")
		r.stop()
		before := r.site.proposal().Digest()
		r.rewire = func(m *domain.SlotMap) {
			m.Slots[0].NVMe, m.Slots[1].NVMe = m.Slots[1].NVMe, m.Slots[0].NVMe
		}
		r.start()
		r.await("another proposal", func() bool { return r.site.proposal().Digest() != before })
		now := r.site.proposal().Digest()
		r.site.place(func(d *domain.Desired) { d.SlotMap = now; d.VMs = append(d.VMs, vm(2, 1)) })
		r.awaitSaid("failed 2 boot 1 slot.not_wiped")
	})
}

// A release in the middle of a long preparation does not wait for its end.
func TestReleaseWhilePreparing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRack(t, sim.Options{Slots: 2, Faults: faults(t, "disk slot=0 slow=25m")})
		r.start()
		r.approve()
		r.site.place(func(d *domain.Desired) { d.VMs = append(d.VMs, vm(1, 0), vm(2, 1)) })
		r.awaitSaid("ready 2 boot 1") // not held up by its neighbour
		r.site.place(func(d *domain.Desired) { release(d, 1) })
		r.awaitSaid("removed 1 boot 0", "wiped 0 gen 1 attempt 1 verified")
		if r.site.count("failed") != 0 {
			t.Error("a release is not a failure")
		}
	})
}

func TestTwoEndedLeasesOfOneSlot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRack(t, sim.Options{Slots: 1})
		r.start()
		r.approve()
		r.site.place(func(d *domain.Desired) {
			d.Wipes = []domain.PlacedWipe{{Lease: lease(0, 1), Attempt: 1, Policy: domain.WipeAuto}, {Lease: lease(0, 2), Attempt: 1, Policy: domain.WipeAuto}}
		})
		r.awaitSaid("wiped 0 gen 1 attempt 1 verified", "wiped 0 gen 2 attempt 1 verified")
	})
}

// What is not as approved is said, so that the site takes the slot out of service;
// what runs goes on, and nothing new starts there.
func TestChangedHardwareIsAFault(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(m *domain.SlotMap)
		say    string
	}{
		"a GPU is gone": {func(m *domain.SlotMap) { m.Slots[1].GPU.Serial = "OTHER" }, "faulted gpu slot.device_missing"},
		"a drive has other firmware": {
			func(m *domain.SlotMap) { m.Slots[1].NVMe.Firmware = "HACKED" }, "faulted nvme slot.firmware_changed",
		},
		"a GPU has other firmware":     {func(m *domain.SlotMap) { m.Slots[1].GPU.Firmware = "" }, "faulted gpu slot.firmware_changed"},
		"a drive is of other size":     {func(m *domain.SlotMap) { m.Slots[1].NVMe.SizeBytes /= 2 }, "faulted nvme slot.device_changed"},
		"a GPU is of another board":    {func(m *domain.SlotMap) { m.Slots[1].GPU.Subsystem = "10de:0001" }, "faulted gpu slot.device_changed"},
		"a GPU moved on the baseboard": {func(m *domain.SlotMap) { m.Slots[1].GPU.ModuleID = 7 }, "faulted gpu slot.device_changed"},
		"all of a slot is unsafe now":  {func(m *domain.SlotMap) { m.Slots = m.Slots[:1] }, "faulted gpu slot.device_missing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRack(t, sim.Options{Slots: 2})
				r.limits.Discover = 10 * time.Second
				var changed atomic.Bool
				r.rewire = func(m *domain.SlotMap) {
					realHardware(m)
					if changed.Load() {
						c.change(m)
					}
				}
				r.start()
				r.approve()
				r.site.place(func(d *domain.Desired) { d.VMs = append(d.VMs, vm(1, 0), vm(2, 1)) })
				r.awaitSaid("ready 1 boot 1", "ready 2 boot 1")
				changed.Store(true)
				r.await(c.say, func() bool { return r.site.heard(c.say) })
				if o, _ := r.machine.Observe(t.Context()); len(o) != 2 || !o[0].Running || !o[1].Running {
					t.Errorf("what ran does not run on: %+v", o)
				}
				time.Sleep(time.Hour)
				r.stop()
				r.start()
				time.Sleep(time.Hour)
				if n := r.site.count("faulted"); n != 1 {
					t.Errorf("said %d times", n)
				}
				r.site.mu.Lock()
				defer r.site.mu.Unlock()
				for _, rep := range r.site.reports {
					if rep.Fault != nil && (rep.Fault.Slot != domain.SlotID{2} || rep.Fault.Scope != "device") {
						t.Errorf("%+v", rep.Fault)
					}
				}
			})
		})
	}
}

// One look that finds less than is there is a glitch: it is looked again before
// anything follows from it. What moved, or is left over, is found.
func TestOneBadLookIsNotBelieved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRack(t, sim.Options{Slots: 2})
		r.limits.Discover = 10 * time.Second
		var looks atomic.Int32
		r.rewire = func(m *domain.SlotMap) {
			realHardware(m)
			switch n := looks.Add(1); {
			case n == 2:
				m.Slots = m.Slots[:1]
			case n > 3: // slot 1's drive and VF are left over; all is renumbered
				m.Slots[1].NVMe, m.Spares = domain.Device{Serial: "NEW", Address: "0000:ff:00.0", PCIID: "144d:a824"}, []domain.SpareDevice{{Kind: "nvme", Device: m.Slots[1].NVMe}}
				m.Spares[0].Device.Address, m.Spares[0].Device.IOMMUGroup = "0000:fe:00.0", 99
			}
		}
		r.start()
		r.approve()
		r.await("looks", func() bool { return looks.Load() > 4 })
		r.site.place(func(d *domain.Desired) { d.VMs = append(d.VMs, vm(1, 1)) })
		r.awaitSaid("ready 1 boot 1")
		if n := r.site.count("faulted"); n != 0 {
			t.Errorf("%d faults", n)
		}
		got := r.body.given[0].Slots[0]
		if got.NVMe.Address != "0000:fe:00.0" || got.NVMe.Serial == "NEW" || len(got.IOMMUGroups) != 3 || got.IOMMUGroups[2] != 99 {
			t.Errorf("given to the machine: %+v", got)
		}
	})
}

// realHardware gives simulated devices what real ones have.
func realHardware(m *domain.SlotMap) {
	for i := range m.Slots {
		s := &m.Slots[i]
		s.GPU.PCIID, s.GPU.Subsystem, s.GPU.Firmware, s.GPU.ModuleID = "10de:2330", "10de:16c1", "96.00", uint32(i+1)
		s.NVMe.PCIID, s.NVMe.Firmware, s.IBVF.PCIID = "144d:a824", "EPK9", "15b3:101e"
		s.GPU.IOMMUGroup, s.NVMe.IOMMUGroup, s.IBVF.IOMMUGroup = s.IOMMUGroups[0], s.IOMMUGroups[1], s.IOMMUGroups[2]
	}
}

// A drive that is being erased may show no capacity, for a while: no fault.
func TestDriveInTheMiddleOfAWipe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRack(t, sim.Options{Slots: 2, Faults: faults(t, "wipe slot=1 slow=5m")})
		r.limits.Discover = 10 * time.Second
		var over atomic.Bool
		r.rewire = func(m *domain.SlotMap) {
			realHardware(m)
			if r.site.heard("wiped 0 gen 0 attempt 1 verified") && !over.Load() {
				m.Slots = m.Slots[:1]
			}
		}
		r.start()
		m := r.proposed()
		r.site.place(func(d *domain.Desired) {
			d.SlotMap = m.Digest()
			for i := range uint32(2) {
				d.Wipes = append(d.Wipes, domain.PlacedWipe{Lease: lease(i, 0), Attempt: 1, Policy: domain.WipeAuto})
			}
		})
		time.Sleep(4 * time.Minute)
		over.Store(true)
		time.Sleep(2 * time.Minute)
		r.awaitSaid("wiped 1 gen 0 attempt 1 verified")
		if n := r.site.count("faulted"); n != 0 {
			t.Errorf("%d faults", n)
		}
	})
}
