package hostd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/journal"
	"github.com/gpuaas/gpuaas/hostd/machine"
)

// What can be wrong with a slot, as a reason of a refusal.
const (
	reasonUnknownSlot = "slot.unknown"        // the approved map has no such slot
	reasonMissing     = "slot.device_missing" // a device of the slot is not there, by its serial
	reasonFirmware    = "slot.firmware_changed"
	reasonChanged     = "slot.device_changed" // another board, size, or block size under the same serial
)

// look is what one look at the hardware found.
type look struct {
	found *domain.SlotMap
	err   error
}

// lookPause is the least time from one look at the hardware to the next that something
// asks for.
const lookPause = 5 * time.Second

// LookAgain has the host look at its hardware as soon as may be, for an operator who
// changed it. It may be called from anywhere, as often as one likes.
func (a *Agent) LookAgain() {
	select {
	case a.again <- struct{}{}:
	default: // it will anyway
	}
}

// lookSoon has the next look come as soon as may be.
func (a *Agent) lookSoon() {
	at := a.lookedAt.Add(lookPause)
	if now := a.o.Clock(); at.Before(now) {
		at = now
	}
	if at.Before(a.lookAt) {
		a.lookAt = at
	}
}

// inventory begins a look at the hardware when it is time to, and proposes what was
// found if that is not what was approved. It proposes a map once an epoch. Looks take
// long and are made beside the loop, one at a time: nothing waits for them but what
// needs the first.
func (a *Agent) inventory(ctx context.Context) error {
	now := a.o.Clock()
	if !a.looking && !now.Before(a.lookAt) {
		a.looking, a.lookedAt, a.lookAt = true, now, now.Add(a.o.Limits.Discover)
		a.o.Log.Debug("looking at the hardware")
		a.working.Go(func() {
			looking, cancel := context.WithTimeout(ctx, discoverTimeout)
			defer cancel()
			found, err := a.o.Machine.Discover(looking)
			a.looks <- look{found, err} // has room for the one
		})
	}
	if a.discovered == nil || !a.fence.Seen().Conflict.IsZero() {
		return nil
	}
	if a.desired == nil && (a.fence.Seen() != journal.Seen{} || now.Before(a.began.Add(firstWord))) {
		return nil // its placement will come, and say what is approved
	}
	compared := [2]*domain.SlotMap{a.approved, a.discovered}
	if a.approved != nil && (a.same == compared || sameHardware(a.approved, a.discovered)) {
		a.same = compared
		return nil
	}
	return a.propose()
}

// saw takes the end of a look.
func (a *Agent) saw(l look) {
	a.looking, a.looked = false, true
	if l.err != nil {
		a.o.Log.Warn("cannot discover the hardware", "err", l.err)
		a.lookAt = a.o.Clock().Add(a.o.Limits.Replan)
		return
	}
	a.believe(l.found)
}

// How often a look that breaks a whole slot is not believed. A drive that is being
// written or erased may show anything, for as long as that takes.
const (
	doubtsMax     = 1
	doubtsMaxBusy = 40 // every Limits.Replan
)

// believe takes a look at the hardware for true: at once, unless it breaks an
// approved slot that was whole. One bad look may be a device in the middle of
// something; the next, which comes soon, counts whatever it says.
func (a *Agent) believe(found *domain.SlotMap) {
	if a.approved != nil {
		_, was := resolve(a.approved, a.discovered)
		_, is := resolve(a.approved, found)
		most, wait := 0, a.o.Limits.Backoff
		for slot, d := range is {
			if _, already := was[slot]; already {
				continue
			}
			a.o.Log.Warn("a slot is not as approved", "slot", slot, "component", d.component, "reason", d.reason)
			most = max(most, doubtsMax)
			if a.busy(&chain{slots: []uint32{slot}}) {
				most, wait = doubtsMaxBusy, a.o.Limits.Replan
			}
		}
		if a.doubts < most {
			a.doubts++
			a.lookAt = a.o.Clock().Add(wait)
			return
		}
	}
	a.discovered, a.doubts = found, 0
}

// reportBroken says which slots are not what was approved, so that they are taken
// out of service. A slot whose id was never placed is nobody's yet.
func (a *Agent) reportBroken(broken map[uint32]defect) error {
	for slot, d := range broken {
		if _, known := a.journal.Fact(slotIDKey(slot)); !known {
			continue
		}
		if err := a.reportFault(machine.Event{Slot: slot, Component: d.component, Scope: "device", Code: d.reason}); err != nil {
			return err
		}
	}
	return nil
}

// A VM that was here before is not given up because its devices are not all there:
// a host that has just booted shows them one after the other, and what is given up may
// cost the tenant its data. It waits for Limits.Patience, and so often is looked.
const brokenLook = 15 * time.Second

// awaitWhole remembers since when slots are broken, and has them looked at again.
func (a *Agent) awaitWhole(broken map[uint32]defect) {
	now := a.o.Clock()
	maps.DeleteFunc(a.broken, func(slot uint32, _ time.Time) bool { _, still := broken[slot]; return !still })
	for slot := range broken {
		since, known := a.broken[slot]
		if !known {
			since = now
			a.broken[slot] = now
		}
		if at := a.lookedAt.Add(brokenLook); now.Sub(since) < a.o.Limits.Patience && at.Before(a.lookAt) {
			a.lookAt = at
		}
	}
}

// patient says whether the chain refuses a VM that was here, for a slot that may be
// whole again soon.
func (a *Agent) patient(c *chain) bool {
	now := a.o.Clock()
	return !c.was.VM.IsZero() && slices.ContainsFunc(c.slots, func(slot uint32) bool {
		since, broken := a.broken[slot]
		return broken && now.Sub(since) < a.o.Limits.Patience
	})
}

func (a *Agent) propose() error {
	digest := a.discovered.Digest()
	key := fmt.Sprintf("inventory/%d/%s/", a.fence.Seen().Epoch, digest)
	if _, said := a.journal.Fact(key); said && a.maps.load(digest) != nil {
		return nil
	}
	inForce := digest
	if a.desired != nil {
		inForce = a.desired.SlotMap
	}
	if err := a.maps.save(a.discovered, inForce); err != nil {
		return err
	}
	a.o.Log.Info("slot map proposed", "digest", digest, "slots", len(a.discovered.Slots))
	if err := a.report(domain.Report{Kind: domain.ReportInventory, Inventory: a.discovered}, journal.Change{Drop: []string{"inventory/"}, Set: map[string]string{key: ""}}); err != nil {
		return err
	}
	if a.desired != nil && a.approved == nil {
		a.approve(a.maps.load(a.desired.SlotMap))
	}
	return nil
}

// sameHardware compares two maps by what an operator approves, leaving out what
// moves by itself: addresses and numbers, what is on the drives, what was set in
// virtual functions, and the kernel.
func sameHardware(a, b *domain.SlotMap) bool {
	return reflect.DeepEqual(settled(a), settled(b))
}

func settled(m *domain.SlotMap) domain.SlotMap {
	out := *m
	out.Slots = slices.Clone(m.Slots)
	for i := range out.Slots {
		s := &out.Slots[i]
		s.OnDisk, s.Why, s.IOMMUGroups = "", "", nil
		s.GPU, s.NVMe, s.IBVF = settledDevice(s.GPU), settledDevice(s.NVMe), settledDevice(s.IBVF)
	}
	out.Spares = slices.Clone(m.Spares)
	for i := range out.Spares {
		s := &out.Spares[i]
		s.OnDisk, s.Why, s.Device = "", "", settledDevice(s.Device)
	}
	out.Unsafe = nil // addresses and reasons: nothing of it can be rented
	out.Kernel = ""
	return out
}

func settledDevice(d domain.Device) domain.Device {
	d.Address, d.IOMMUGroup, d.Root, d.Switch, d.PF = "", 0, "", "", ""
	d.GUID, d.MAC, d.PKeys = "", "", nil
	d.Functions = slices.Clone(d.Functions)
	for i := range d.Functions {
		d.Functions[i].Address, d.Functions[i].IOMMUGroup = "", 0
	}
	return d
}

// defect is why a slot is not as approved.
type defect struct{ component, reason string }

// resolve finds the approved slots in what is there now, in slots or left over: a
// device is known by its serial, its address may have changed. A slot whose devices
// are not all there, or not what they were, is broken; what is not there has no
// address. Before the first discovery nothing is known, and nothing resolved.
func resolve(approved, found *domain.SlotMap) (specs map[uint32]domain.SlotSpec, broken map[uint32]defect) {
	specs, broken = map[uint32]domain.SlotSpec{}, map[uint32]defect{}
	if found == nil {
		return specs, broken
	}
	devices := map[string]domain.Device{}
	groups := map[string][]uint32{} // of maps whose devices do not say theirs
	for i := range found.Slots {
		s := &found.Slots[i]
		devices["gpu "+s.GPU.Serial], devices["nvme "+s.NVMe.Serial], devices["ib_vf "+s.IBVF.Serial] = s.GPU, s.NVMe, s.IBVF
		groups[s.NVMe.Serial] = s.IOMMUGroups
	}
	for i := range found.Spares {
		s := &found.Spares[i]
		devices[s.Kind+" "+s.Device.Serial] = s.Device
	}
	for _, s := range approved.Slots {
		for _, c := range []struct {
			name string
			of   *domain.Device
		}{{"gpu", &s.GPU}, {"nvme", &s.NVMe}, {"ib_vf", &s.IBVF}} {
			if c.of.Serial == "" {
				continue // a slot without one
			}
			is, there := devices[c.name+" "+c.of.Serial]
			why := reasonMissing
			if there {
				why = changed(c.name, c.of, &is)
				*c.of = is
			} else {
				c.of.Address = ""
			}
			if _, already := broken[s.Index]; why != "" && !already {
				broken[s.Index] = defect{c.name, why}
			}
		}
		s.IOMMUGroups = groupsOf(&s)
		if s.IOMMUGroups == nil {
			s.IOMMUGroups = groups[s.NVMe.Serial]
		}
		specs[s.Index] = s
	}
	return specs, broken
}

// changed says how a device differs from the approved one with its serial, "" if
// not at all. A tenant had the drive's admin queue and all of the GPU: other firmware
// may be the tenant's. A virtual function has none of its own.
func changed(component string, was, is *domain.Device) string {
	differs := func(a, b string) bool { return a != "" && a != b }
	switch {
	case component != "ib_vf" && differs(was.Firmware, is.Firmware):
		return reasonFirmware
	case differs(was.PCIID, is.PCIID), differs(was.Subsystem, is.Subsystem),
		was.PCISerial != "" && differs(is.PCISerial, was.PCISerial),
		was.PCIID != "" && (was.SizeBytes != is.SizeBytes || was.LBABytes != is.LBABytes),
		was.ModuleID != 0 && is.ModuleID != 0 && was.ModuleID != is.ModuleID:
		return reasonChanged
	}
	return ""
}

// groupsOf are the IOMMU groups of a slot's devices; nil if they do not say.
func groupsOf(s *domain.SlotSpec) []uint32 {
	var out []uint32
	for _, d := range []*domain.Device{&s.GPU, &s.NVMe, &s.IBVF} {
		if d.PCIID == "" || d.Address == "" {
			continue
		}
		out = append(out, d.IOMMUGroup)
		for i := range d.Functions {
			out = append(out, d.Functions[i].IOMMUGroup)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// mapStore keeps the maps that this host proposed, by digest: only one of them can
// ever be in force.
type mapStore struct{ dir string }

const mapsMax = 16

func (m mapStore) path(d domain.Digest) string {
	return filepath.Join(m.dir, "maps", fmt.Sprintf("%x.json", d[:]))
}

func (m mapStore) save(s *domain.SlotMap, inForce domain.Digest) error {
	path := m.path(s.Digest())
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := writeFile(path, b); err != nil {
		return err
	}
	return m.trim(path, m.path(inForce))
}

// load returns nil unless this host proposed a map with the digest.
func (m mapStore) load(d domain.Digest) *domain.SlotMap {
	b, err := os.ReadFile(m.path(d))
	if err != nil {
		return nil
	}
	s := new(domain.SlotMap)
	if json.Unmarshal(b, s) != nil || s.Digest() != d {
		return nil
	}
	return s
}

// trim lets the oldest map go, but none of keep.
func (m mapStore) trim(keep ...string) error {
	dir := filepath.Dir(keep[0])
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) <= mapsMax {
		return err
	}
	oldest, at := "", int64(0)
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		info, err := e.Info()
		if err != nil || slices.Contains(keep, path) {
			continue
		}
		if t := info.ModTime().UnixNano(); oldest == "" || t < at {
			oldest, at = path, t
		}
	}
	return os.Remove(oldest)
}

// writeFile writes a private file whole or not at all.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".tmp")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already if it was renamed
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
