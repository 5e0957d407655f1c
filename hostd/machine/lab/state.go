package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/gpuaas/gpuaas/domain"
)

// vmState is what the lab remembers of one VM, in DIR/vms/<id>/state.json. It is
// written before and after the acts it speaks of, so that a crash between the two
// is seen at the next start.
type vmState struct {
	VM       domain.VMID `json:"vm_id"`
	Slots    []uint32    `json:"slots"`
	Drives   []string    `json:"drives"`   // serials, the boot drive first
	Prepared bool        `json:"prepared"` // the image is on the boot drive
	Boot     uint32      `json:"boot"`
	Starting uint32      `json:"starting,omitempty"` // a start into this boot was begun and its end not seen
	Running  bool        `json:"running"`
	Since    domain.Time `json:"since,omitempty"`
	Alive    domain.Time `json:"alive,omitempty"`
	Ready    domain.Time `json:"ready,omitempty"`
	Address  string      `json:"address,omitempty"`
	MAC      string      `json:"mac,omitempty"`

	ours      bool   // a stop of ours is in progress: its end is no news
	rebooting bool   // a reboot of ours is in progress: the next reset ends it
	changed   uint64 // Machine.changes at the last update
}

func (m *Machine) vmDir(id domain.VMID) string {
	return filepath.Join(m.o.Dir, "vms", id.String())
}

func (m *Machine) vmFile(id domain.VMID, name string) string {
	return filepath.Join(m.vmDir(id), name)
}

// save writes the state down. The caller holds m.mu.
func (m *Machine) save(s *vmState) error {
	if err := os.MkdirAll(m.vmDir(s.VM), 0o700); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	return writeJSON(m.vmFile(s.VM, "state.json"), s)
}

// loadStates reads all VMs; a folder without a state is the rest of a removal and
// goes.
func (m *Machine) loadStates() error {
	entries, err := os.ReadDir(filepath.Join(m.o.Dir, "vms"))
	if err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	for _, e := range entries {
		var id domain.VMID
		if id.UnmarshalText([]byte(e.Name())) != nil || id.IsZero() {
			continue // not ours
		}
		s := new(vmState)
		err := readJSON(m.vmFile(id, "state.json"), s)
		if errors.Is(err, os.ErrNotExist) {
			err = os.RemoveAll(m.vmDir(id))
			s = nil
		}
		if err != nil {
			return fmt.Errorf("lab: %w", err)
		}
		if s != nil {
			m.vms[id] = s
		}
	}
	return nil
}

// holder is the VM that holds the drive, if one does. The caller holds m.mu.
func (m *Machine) holder(serial string) (domain.VMID, bool) {
	for id, s := range m.vms {
		for _, d := range s.Drives {
			if d == serial {
				return id, true
			}
		}
	}
	return domain.VMID{}, false
}
