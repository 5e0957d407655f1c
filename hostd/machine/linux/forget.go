package linux

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
// those of wipe.RemnantKinds. The cache of images is not among them: it knows itself
// what in it is a tenant's own (Options.ClearImages).
var traces = []trace{
	{"seed", "VMS/VM/seed.iso*"},
	{"seed", "VMS/VM/seed-*"},
	{"user-data", "VMS/VM/guest.json*"},
	{"nvram", "VMS/VM/nvram.fd*"},
	{"nvram", "/var/lib/libvirt/qemu/nvram/VM_VARS.fd"},
	{"vtpm", "/var/lib/libvirt/swtpm/UUID"},
	{"vtpm", "/var/log/swtpm/libvirt/qemu/VM-swtpm.log"},
	{"vtpm", "/run/libvirt/qemu/swtpm/*VM*"},
	{"console-log-key", "VMS/VM/console.*"},
	{"console-log-key", "/var/log/libvirt/qemu/VM.log*"},
	{"dumps", "/var/lib/libvirt/qemu/dump/*VM*"},
	{"dumps", "/var/lib/libvirt/qemu/save/VM.save"},
	{"dumps", "/var/lib/libvirt/qemu/ram/*VM*"},
	{"dumps", "/run/libvirt/qemu/VM.*"},
	{"dumps", "/var/lib/systemd/coredump/core.qemu-system-*"},
	{"dumps", "/var/crash/*qemu-system-*"},
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
// it, so it always goes. A kind that this machine cannot look for is not in the answer.
func (m *Machine) Clear(ctx context.Context, _ domain.Lease) ([]wipe.Remnant, error) {
	found := map[string]*wipe.Remnant{}
	for _, again := range []bool{false, true} {
		for _, t := range traces {
			if found[t.kind] == nil {
				found[t.kind] = &wipe.Remnant{Kind: t.kind}
			}
			paths, err := m.dead(ctx, t)
			if err != nil {
				return nil, err
			}
			r := found[t.kind]
			for _, p := range paths {
				if again {
					r.Left = append(r.Left, p)
				} else if err := os.RemoveAll(p); err == nil {
					r.Removed++
				}
			}
		}
	}
	if m.o.ClearImages != nil {
		removed, left, err := m.o.ClearImages(ctx)
		if err != nil {
			return nil, fmt.Errorf("linux: %w", err)
		}
		found["image-cache"] = &wipe.Remnant{Kind: "image-cache", Removed: removed, Left: left}
	}
	out := make([]wipe.Remnant, 0, len(found))
	for _, kind := range wipe.RemnantKinds {
		if r := found[kind]; r != nil {
			out = append(out, *r)
		}
	}
	return out, nil
}

// dead are the paths of a trace that are of no VM. Who exists is asked when they were
// seen: a VM has its state, and libvirt its domain, before its files.
func (m *Machine) dead(ctx context.Context, t trace) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	paths, err := m.at(t, "*vm_*", "*")
	if err != nil || len(paths) == 0 {
		return nil, err
	}
	alive := map[string]bool{}
	if t.byUUID() { // the state of a domain that is not ours is none of our business
		domains, err := m.host.List(ctx)
		if err != nil {
			return nil, fmt.Errorf("linux: whose vTPMs there are: %w", err)
		}
		for _, d := range domains {
			alive[uuid.UUID(d.UUID).String()] = true
		}
	}
	for _, s := range m.guests.States() {
		alive[s.VM.String()], alive[uuid.UUID(s.VM).String()] = true, true
	}
	return slices.DeleteFunc(paths, func(path string) bool {
		if t.byUUID() {
			_, err := uuid.Parse(filepath.Base(path))
			return err != nil || alive[filepath.Base(path)]
		}
		for id := range alive {
			if strings.Contains(path, id) {
				return true
			}
		}
		return false
	}), nil
}
