package linux

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/gpuaas/gpuaas/domain"
)

// traces are where libvirt and QEMU keep what a VM leaves behind, besides what
// undefining its domain takes with it.
func traces(id domain.VMID) []string {
	name := id.String()
	return []string{
		"/var/log/libvirt/qemu/" + name + ".log*",
		"/var/log/swtpm/libvirt/qemu/" + name + "-swtpm.log",
		"/var/lib/libvirt/swtpm/" + uuid.UUID(id).String(),
		"/var/lib/libvirt/qemu/nvram/" + name + "_VARS.fd",
		"/var/lib/libvirt/qemu/save/" + name + ".save",
		"/var/lib/libvirt/qemu/dump/*" + name + "*",
		"/var/lib/libvirt/qemu/ram/*" + name + "*",
		"/var/lib/libvirt/qemu/domain-*-" + name[:min(len(name), 20)] + "*",
		"/run/libvirt/qemu/" + name + ".*",
		"/run/libvirt/qemu/swtpm/*" + name + "*",
	}
}

// forget removes what of a VM lies outside its own folder. It is called when the
// domain is gone. What is absent is left alone.
func (m *Machine) forget(id domain.VMID) error {
	for _, pattern := range traces(id) {
		paths, err := filepath.Glob(filepath.Join(m.root, pattern))
		if err != nil {
			return fmt.Errorf("linux: %w", err)
		}
		for _, p := range paths {
			if err := os.RemoveAll(p); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("linux: %w", err)
			}
		}
	}
	return nil
}

// Remnants lists what of a VM is still on the host: none after Remove.
func (m *Machine) Remnants(id domain.VMID) ([]string, error) {
	var left []string
	for _, pattern := range traces(id) {
		paths, err := filepath.Glob(filepath.Join(m.root, pattern))
		if err != nil {
			return nil, fmt.Errorf("linux: %w", err)
		}
		left = append(left, paths...)
	}
	if _, err := os.Lstat(m.guests.Dir(id)); err == nil {
		left = append(left, m.guests.Dir(id))
	}
	return left, nil
}
