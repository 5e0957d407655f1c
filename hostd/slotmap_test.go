package hostd_test

import (
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
		r.start()
		r.approve()
		r.site.place(func(d *domain.Desired) { d.VMs = append(d.VMs, vm(1, 0)) })
		r.awaitSaid("ready 1 boot 1")
		before := r.site.proposal().Digest()
		r.stop()
		r.rewire = func(m *domain.SlotMap) { m.Slots[1].NVMe.Serial = "REPLACED" }
		r.start()
		r.await("another proposal", func() bool { return r.site.proposal().Digest() != before })
		r.site.place(func(d *domain.Desired) { d.VMs = append(d.VMs, vm(2, 1)) })
		r.awaitSaid("failed 2 boot 1 slot.device_missing")
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
		r.awaitSaid("ready 4 boot 1")
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
		r.start()
		r.approve()
		r.site.place(func(d *domain.Desired) { d.VMs = append(d.VMs, vm(1, 0)) })
		r.awaitSaid("ready 1 boot 1")
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
