package linux

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/wipe"
)

// trace is a place where the host keeps something of a VM. In pattern VM stands for
// the VM's id and UUID for its UUID.
type trace struct{ kind, pattern string }

// ownerless: the name does not say whose it is.
func (t trace) ownerless() bool {
	return !strings.Contains(strings.ReplaceAll(t.pattern, "VMS", ""), "VM") && !t.byUUID()
}

func (t trace) byUUID() bool { return strings.Contains(t.pattern, "UUID") }

// traces are all such places; those below VMS are in the VM's own folder. Kinds are
// those of wipe.RemnantKinds. The cache of images holds what the catalog offers to
// everybody, by digest; a tenant's own image leaves it before a wipe begins
// (hostd.ImageCache, Keep).
var traces = []trace{
	{"seed", "VMS/VM/seed.iso*"}, {"seed", "VMS/VM/seed-*"},
	{"user-data", "VMS/VM/guest.json*"},
	{"nvram", "VMS/VM/nvram.fd*"}, {"nvram", "/var/lib/libvirt/qemu/nvram/VM_VARS.fd"},
	{"vtpm", "/var/lib/libvirt/swtpm/UUID"}, {"vtpm", "/var/log/swtpm/libvirt/qemu/VM-swtpm.log"}, {"vtpm", "/run/libvirt/qemu/swtpm/*VM*"},
	{"console-log-key", "VMS/VM/console.*"}, {"console-log-key", "/var/log/libvirt/qemu/VM.log*"},
	{"dumps", "/var/lib/libvirt/qemu/dump/*VM*"}, {"dumps", "/var/lib/libvirt/qemu/save/VM.save"},
	{"dumps", "/var/lib/libvirt/qemu/ram/*VM*"}, {"dumps", "/run/libvirt/qemu/VM.*"},
	{"dumps", "/var/lib/systemd/coredump/core.qemu-system-*"}, {"dumps", "/var/crash/*qemu-system-*"},
}

// at are the paths of a trace that are the VM's; id may be a pattern.
func (m *Machine) at(t trace, id, uuid string) ([]string, error) {
	p := strings.NewReplacer("VMS", filepath.Join(m.o.Dir, "vms"), "UUID", uuid).Replace(t.pattern)
	p = strings.ReplaceAll(p, "VM", id)
	if !strings.HasPrefix(t.pattern, "VMS") {
		p = filepath.Join(m.root, p)
	}
	paths, err := filepath.Glob(p)
	if err != nil {
		return nil, fmt.Errorf("linux: %w", err)
	}
	return paths, nil
}

// forget removes everything that the host keeps of a VM but its state. It is called
// when the domain is gone. What is absent is left alone.
func (m *Machine) forget(id domain.VMID) error {
	left, err := m.traces(id)
	if err != nil {
		return err
	}
	for _, p := range left {
		if err := os.RemoveAll(p); err != nil {
			return fmt.Errorf("linux: %w", err)
		}
	}
	return nil
}

// traces lists what the host keeps of a VM: nothing after Remove.
func (m *Machine) traces(id domain.VMID) (all []string, err error) {
	for _, t := range traces {
		if t.ownerless() {
			continue // see Clear
		}
		paths, err := m.at(t, id.String(), uuid.UUID(id).String())
		if err != nil {
			return nil, err
		}
		all = append(all, paths...)
	}
	return all, nil
}

// Clear implements wipe.Remnants: what is on the host of no VM that exists is the
// rest of one that does not, and goes. A core dump does not say whose memory is in
// it, so it always goes.
func (m *Machine) Clear(ctx context.Context, _ domain.Lease) ([]wipe.Remnant, error) {
	dead := func(path string) bool { // asked of each path when it is seen: a VM has its state before its files
		for _, s := range m.guests.States() {
			if strings.Contains(path, s.VM.String()) {
				return false
			}
		}
		return true
	}
	found := map[string]*wipe.Remnant{}
	for _, kind := range wipe.RemnantKinds {
		found[kind] = &wipe.Remnant{Kind: kind}
	}
	for _, again := range []bool{false, true} {
		for _, t := range traces {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if t.byUUID() {
				continue // may be a domain's that is not ours; undefining ours took it
			}
			paths, err := m.at(t, "*vm_*", "")
			if err != nil {
				return nil, err
			}
			r := found[t.kind]
			for _, p := range paths {
				switch {
				case !dead(p):
				case again:
					r.Left = append(r.Left, p)
				default:
					if err := os.RemoveAll(p); err == nil || errors.Is(err, os.ErrNotExist) {
						r.Removed++
					}
				}
			}
		}
	}
	out := make([]wipe.Remnant, 0, len(found))
	for _, kind := range wipe.RemnantKinds {
		out = append(out, *found[kind])
	}
	return out, nil
}
