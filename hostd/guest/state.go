package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/durable"
)

// State is what is remembered of one VM.
type State struct {
	VM       domain.VMID       `json:"vm_id"`
	Slots    []uint32          `json:"slots"`
	Drives   []string          `json:"drives"`            // serials, the boot drive first
	Devices  []domain.SlotSpec `json:"devices,omitempty"` // the slots as they were found at the last claim
	Prepared bool              `json:"prepared"`          // the image is on the boot drive
	Boot     uint32            `json:"boot"`
	Starting uint32            `json:"starting,omitempty"` // a start into this boot was begun and its end not seen
	Running  bool              `json:"running"`
	Since    domain.Time       `json:"since,omitempty"`
	Alive    domain.Time       `json:"alive,omitempty"`
	Ready    domain.Time       `json:"ready,omitempty"`
	Address  string            `json:"address,omitempty"`
	MAC      string            `json:"mac,omitempty"`
	HostBoot string            `json:"host_boot,omitempty"` // the boot of the host in which it was last seen running
	Cause    string            `json:"cause,omitempty"`     // why it is off, if neither the guest nor we meant it
	Lost     bool              `json:"lost,omitempty"`      // and is to be started into the same boot again
	Doubts   []string          `json:"doubts,omitempty"`    // why its guest was not believed to be ready in this boot: stable codes
	Crashes  []domain.Time     `json:"crashes,omitempty"`   // losses while the host ran on, of the last hour

	ours      bool   // a stop of ours is in progress: its end is no news
	rebooting bool   // a reboot of ours is in progress: the next reset ends it
	changed   uint64 // Guests.changes at the last update
}

// Dir is the VM's own folder.
func (g *Guests) Dir(id domain.VMID) string { return filepath.Join(g.o.Dir, id.String()) }

// File is a file in the VM's own folder.
func (g *Guests) File(id domain.VMID, name string) string { return filepath.Join(g.Dir(id), name) }

// save writes the state down. The caller holds g.mu.
func (g *Guests) save(s *State) error {
	if err := os.MkdirAll(g.Dir(s.VM), g.o.DirMode); err != nil {
		return fmt.Errorf("guest: %w", err)
	}
	if err := durable.WriteJSON(g.File(s.VM, "state.json"), s); err != nil {
		return fmt.Errorf("guest: %w", err)
	}
	return nil
}

// load reads all VMs; a folder without a state is the rest of a removal and goes.
func (g *Guests) load() error {
	entries, err := os.ReadDir(g.o.Dir)
	if err != nil {
		return fmt.Errorf("guest: %w", err)
	}
	for _, e := range entries {
		var id domain.VMID
		if id.UnmarshalText([]byte(e.Name())) != nil || id.IsZero() {
			continue // not ours
		}
		s := new(State)
		err := durable.ReadJSON(g.File(id, "state.json"), s)
		if errors.Is(err, os.ErrNotExist) {
			err = os.RemoveAll(g.Dir(id))
			s = nil
		}
		if err != nil {
			return fmt.Errorf("guest: %w", err)
		}
		if s != nil {
			g.vms[id] = s
		}
	}
	return nil
}

func now() domain.Time { return domain.TimeOf(time.Now()) }
