package linux

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/vm"
)

// processors adds what the VM has to know of the host's processors and memory: cores
// with their siblings, the threads that are nobody's, the size of hugepages.
func (m *Machine) processors(ctx context.Context, p *vm.Passthrough) error {
	found, err := m.lastMap(ctx)
	if err != nil {
		return err
	}
	taken := map[uint16]bool{}
	for _, slots := range [][]domain.SlotSpec{found.Slots, p.Slots} {
		for _, s := range slots {
			for _, t := range s.Threads {
				taken[t] = true
			}
		}
	}
	for _, s := range m.guests.States() { // also of VMs whose slots are cut otherwise by now
		for _, d := range s.Devices {
			for _, t := range d.Threads {
				taken[t] = true
			}
		}
	}
	p.HugepageKiB = map[uint8]uint32{}
	seen := map[uint16]bool{}
	for _, n := range found.Nodes {
		if n.HugepageKiB != 0 && n.Hugepages > 0 {
			p.HugepageKiB[n.Node] = n.HugepageKiB
		}
		for _, t := range n.Threads {
			if !taken[t] {
				p.HostThreads = append(p.HostThreads, t)
			}
			if seen[t] {
				continue
			}
			core, err := m.siblings(t)
			if err != nil {
				return err
			}
			for _, sibling := range core {
				seen[sibling] = true
			}
			p.Cores = append(p.Cores, core)
		}
	}
	slices.Sort(p.HostThreads)
	p.AMD, err = m.amd()
	return err
}

// lastMap is what the last look at the hardware found, or a look's.
func (m *Machine) lastMap(ctx context.Context) (*domain.SlotMap, error) {
	m.mu.Lock()
	found := m.found
	m.mu.Unlock()
	if found != nil {
		return found, nil
	}
	return m.Discover(ctx)
}

// siblings are the hardware threads of a thread's core, in order.
func (m *Machine) siblings(thread uint16) ([]uint16, error) {
	name := path.Join("devices/system/cpu", fmt.Sprintf("cpu%d", thread), "topology/thread_siblings_list")
	text, err := m.sys.Tree.Text(name)
	if err != nil {
		return nil, fmt.Errorf("linux: %w", err)
	}
	var out []uint16
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(part, "-")
		a, err := strconv.ParseUint(from, 10, 13)
		b := a
		if err == nil && isRange {
			b, err = strconv.ParseUint(to, 10, 13)
		}
		if err != nil || b < a {
			return nil, fmt.Errorf("linux: %s is %q, want a list of processors", name, text)
		}
		for n := a; n <= b; n++ {
			out = append(out, uint16(n))
		}
	}
	if !slices.Contains(out, thread) {
		return nil, fmt.Errorf("linux: %s is %q, without itself", name, text)
	}
	return out, nil
}

// amd says whether the processors are AMD's, by the first of them.
func (m *Machine) amd() (bool, error) {
	f, err := os.Open(filepath.Join(m.o.Discovery.Proc, "cpuinfo"))
	if err != nil {
		return false, fmt.Errorf("linux: %w", err)
	}
	defer f.Close()
	head := make([]byte, 4096)
	n, err := f.Read(head)
	if err != nil {
		return false, fmt.Errorf("linux: %s: %w", f.Name(), err)
	}
	return strings.Contains(string(head[:n]), "AuthenticAMD"), nil
}
