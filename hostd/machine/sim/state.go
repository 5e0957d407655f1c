package sim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/durable"
)

// disk is the state file: what a power cycle of the daemon leaves on a real host.
type disk struct {
	VMs    map[domain.VMID]*vm    `json:"vms"`
	Drives map[uint32]domain.VMID `json:"drives"`
}

// The file is a list of states, a line each, of which the last whole one counts: a
// save is one write to an open file. It is begun anew when it has grown.
const stateMaxBytes = 256 << 10

func (m *Machine) load() error {
	if m.o.State == "" {
		return nil
	}
	b, err := os.ReadFile(m.o.State)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read simulated host: %w", err)
	}
	b = b[:bytes.LastIndexByte(b, '\n')+1] // a line cut short was never answered
	if last := bytes.TrimSpace(b); len(last) > 0 {
		last = last[bytes.LastIndexByte(last, '\n')+1:]
		if err := json.Unmarshal(last, &disk{VMs: m.vms, Drives: m.drives}); err != nil {
			return fmt.Errorf("read simulated host: %w", err)
		}
	}
	return m.restate()
}

// restate begins the file anew, with what is now.
func (m *Machine) restate() error {
	b, err := m.line()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(m.o.State+".tmp", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.Write(b)
	}
	if err == nil && m.o.Sync {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(f.Name(), m.o.State)
	}
	if err == nil && m.o.Sync {
		err = durable.SyncDir(filepath.Dir(m.o.State))
	}
	if err != nil {
		return fmt.Errorf("write simulated host: %w", err)
	}
	if m.state != nil {
		_ = m.state.Close() // its file has no name any more
	}
	m.state, m.stateSize = f, len(b)
	return nil
}

func (m *Machine) line() ([]byte, error) {
	b, err := json.Marshal(disk{VMs: m.vms, Drives: m.drives})
	return append(b, '\n'), err
}

// save writes what is now. It has to outlive the process; the power only if asked.
func (m *Machine) save() error {
	if m.o.State == "" || m.closed {
		return nil
	}
	if m.stateSize > stateMaxBytes {
		return m.restate()
	}
	b, err := m.line()
	if err == nil {
		m.stateSize += len(b)
		_, err = m.state.Write(b)
	}
	if err == nil && m.o.Sync {
		err = m.state.Sync()
	}
	if err != nil {
		return fmt.Errorf("write simulated host: %w", err)
	}
	return nil
}
