package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/gpuaas/gpuaas/domain"
)

// disk is the state file: what a power cycle of the daemon leaves on a real host.
type disk struct {
	VMs    map[domain.VMID]*vm    `json:"vms"`
	Drives map[uint32]domain.VMID `json:"drives"`
}

func (m *Machine) load() error {
	if m.o.State == "" {
		return nil
	}
	b, err := os.ReadFile(m.o.State)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	d := disk{VMs: m.vms, Drives: m.drives}
	if err == nil {
		err = json.Unmarshal(b, &d)
	}
	if err != nil {
		return fmt.Errorf("read simulated host: %w", err)
	}
	return nil
}

// save writes the state file. It has to outlive the process, not the power: no sync.
func (m *Machine) save() error {
	if m.o.State == "" {
		return nil
	}
	b, err := json.Marshal(disk{VMs: m.vms, Drives: m.drives})
	if err == nil {
		err = os.WriteFile(m.o.State+".tmp", b, 0o600)
	}
	if err == nil {
		err = os.Rename(m.o.State+".tmp", m.o.State)
	}
	if err != nil {
		return fmt.Errorf("write simulated host: %w", err)
	}
	return nil
}
