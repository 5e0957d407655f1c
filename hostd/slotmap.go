package hostd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/journal"
)

// What can be wrong with a slot, as a reason of a refusal.
const (
	reasonUnknownSlot = "slot.unknown"        // the approved map has no such slot
	reasonMissing     = "slot.device_missing" // a device of the slot is not there, by its serial
)

// inventory looks at the hardware when it is time to, and proposes what it found
// if that is not what was approved. It proposes a map once an epoch.
func (a *Agent) inventory(ctx context.Context) error {
	now := a.o.Clock()
	if now.After(a.lookAt) {
		a.lookAt = now.Add(a.o.Limits.Discover)
		looking, cancel := context.WithTimeout(ctx, discoverTimeout)
		found, err := a.o.Machine.Discover(looking)
		cancel()
		if err != nil {
			a.o.Log.Warn("cannot discover the hardware", "err", err)
			a.lookAt = now.Add(a.o.Limits.Replan)
		} else {
			a.discovered = found
		}
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
		a.approved = a.maps.load(a.desired.SlotMap)
	}
	return nil
}

// sameHardware compares two maps by what an operator approves, leaving out what
// moves by itself: addresses, and what is on the drives.
func sameHardware(a, b *domain.SlotMap) bool {
	return reflect.DeepEqual(settled(a), settled(b))
}

func settled(m *domain.SlotMap) domain.SlotMap {
	out := *m
	out.Slots = slices.Clone(m.Slots)
	for i := range out.Slots {
		s := &out.Slots[i]
		s.OnDisk, s.IOMMUGroups = "", nil
		s.GPU.Address, s.NVMe.Address, s.IBVF.Address = "", "", ""
	}
	out.Unsafe = nil // addresses and reasons: nothing of it can be rented
	return out
}

// resolve finds the approved slots in what is there now: a device is known by its
// serial, its address may have changed. A slot whose devices are not all there is
// broken. Before the first discovery nothing is known, and nothing resolved.
func resolve(approved, found *domain.SlotMap) (specs map[uint32]domain.SlotSpec, broken map[uint32]string) {
	specs, broken = map[uint32]domain.SlotSpec{}, map[uint32]string{}
	if found == nil {
		return specs, broken
	}
	devices := map[string]domain.Device{}
	groups := map[string][]uint32{}
	for i := range found.Slots {
		s := &found.Slots[i]
		devices["gpu "+s.GPU.Serial], devices["nvme "+s.NVMe.Serial], devices["ib_vf "+s.IBVF.Serial] = s.GPU, s.NVMe, s.IBVF
		groups[s.NVMe.Serial] = s.IOMMUGroups
	}
	for _, s := range approved.Slots {
		gpu, hasGPU := devices["gpu "+s.GPU.Serial]
		nvme, hasNVMe := devices["nvme "+s.NVMe.Serial]
		vf, hasVF := devices["ib_vf "+s.IBVF.Serial]
		if !hasGPU || !hasNVMe || !hasVF {
			broken[s.Index] = reasonMissing
			continue
		}
		s.GPU, s.NVMe, s.IBVF = gpu, nvme, vf
		s.IOMMUGroups = groups[nvme.Serial]
		specs[s.Index] = s
	}
	return specs, broken
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
