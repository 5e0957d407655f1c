package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/disk"
	"github.com/gpuaas/gpuaas/hostd/durable"
)

// identity is what makes this lab host the same host tomorrow: made once, kept in
// DIR/host.json.
type identity struct {
	Serial     string `json:"serial"` // 12 hex digits; every device's serial ends in it and the slot
	Slots      int    `json:"slots"`
	DriveBytes uint64 `json:"drive_bytes"`
}

// loadIdentity reads the identity, or makes one; an existing one wins over the
// options, because drives and approved slot maps depend on it.
func loadIdentity(dir string, o Options) (identity, error) {
	path := filepath.Join(dir, "host.json")
	var id identity
	err := durable.ReadJSON(path, &id)
	if errors.Is(err, os.ErrNotExist) {
		b := make([]byte, 6)
		if _, err := rand.Read(b); err != nil {
			return id, fmt.Errorf("lab: %w", err)
		}
		id = identity{Serial: hex.EncodeToString(b), Slots: o.Slots, DriveBytes: o.DriveBytes}
		err = durable.WriteJSON(path, id)
	}
	if err != nil {
		return id, err
	}
	if id.Slots < 1 || id.Slots > maxSlots || len(id.Serial) != 12 {
		return id, fmt.Errorf("lab: %s makes no sense", path)
	}
	return id, nil
}

func (id identity) nvme(slot int) string { return fmt.Sprintf("LABNVME%s%d", id.Serial, slot) } // 20 characters
func (id identity) gpu(slot int) string  { return fmt.Sprintf("LABGPU%s%d", id.Serial, slot) }
func (id identity) ibvf(slot int) string { return fmt.Sprintf("LABIB%s%d", id.Serial, slot) }

// drive is the file of the drive with that serial.
func (m *Machine) drive(serial string) (string, error) {
	for i := range m.id.Slots {
		if m.id.nvme(i) == serial {
			return filepath.Join(m.o.Dir, "drives", fmt.Sprintf("slot%d.raw", i)), nil
		}
	}
	return "", fmt.Errorf("lab: no drive %q on this host", serial)
}

// Discover proposes the stand-in host's slot map: two NUMA nodes, each slot with
// one core of two threads, and a core and 1 GiB of each node left for the host.
// Cores, groups and addresses are invented; serials, drive sizes and what is on
// the drives are not.
func (m *Machine) Discover(ctx context.Context) (*domain.SlotMap, error) {
	sm := &domain.SlotMap{GPUClass: m.o.GPUClass}
	perNode := (m.id.Slots + 1) / 2
	threads := uint16(2 * (perNode + 1))
	for n := range 2 {
		node := domain.NUMANode{Node: uint8(n), MemoryMiB: uint64(perNode)*m.o.MemoryMiB + 1024}
		for t := range threads {
			node.Threads = append(node.Threads, uint16(n)*threads+t)
		}
		sm.Nodes = append(sm.Nodes, node)
	}
	for i := range m.id.Slots {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		path, err := m.drive(m.id.nvme(i))
		if err != nil {
			return nil, err
		}
		onDisk, err := disk.Identify(path)
		if err != nil {
			return nil, err
		}
		n := i / perNode
		core := sm.Nodes[n].Threads[2*(1+i%perNode):] // the node's first core is the host's
		bus := 0x10*(n+1) + i
		sm.Slots = append(sm.Slots, domain.SlotSpec{
			Index:       uint32(i),
			GPU:         domain.Device{Address: fmt.Sprintf("0000:%02x:00.0", bus), Serial: m.id.gpu(i), Model: "stand-in GPU (QEMU edu)"},
			NVMe:        domain.Device{Address: fmt.Sprintf("0000:%02x:01.0", bus), Serial: m.id.nvme(i), Model: "stand-in NVMe (file)", SizeBytes: m.id.DriveBytes},
			IBVF:        domain.Device{Address: fmt.Sprintf("0000:%02x:02.1", bus), Serial: m.id.ibvf(i), Model: "stand-in InfiniBand VF (nothing)"},
			NUMANode:    uint8(n),
			IOMMUGroups: []uint32{uint32(3*i + 1), uint32(3*i + 2), uint32(3*i + 3)},
			Threads:     []uint16{core[0], core[1]},
			MemoryMiB:   m.o.MemoryMiB,
			OnDisk:      onDisk,
		})
	}
	return sm, nil
}
