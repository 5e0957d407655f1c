package nvme

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// Finder knows where the kernel shows its controllers: Sys is "/sys", Dev is "/dev",
// but in tests.
type Finder struct{ Sys, Dev string }

// System is this host's.
var System = Finder{Sys: "/sys", Dev: "/dev"}

func (f Finder) dev(name string) string { return filepath.Join(f.Dev, name) }

var (
	pciAddress     = regexp.MustCompile(`^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)
	controllerName = regexp.MustCompile(`^nvme\d+$`)
	// nvme0n1 is a namespace's disk; nvme0c1n1 is one path to the disk nvme0n1,
	// where the kernel's multipath is on.
	namespaceName = regexp.MustCompile(`^(nvme\d+)(c\d+)?(n\d+)$`)
)

// Open opens the controller of a PCI function by its full domain:bus:device.function.
// It must be bound to the kernel's nvme driver.
func (f Finder) Open(ctx context.Context, address string) (*Device, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !pciAddress.MatchString(address) {
		return nil, fmt.Errorf("nvme: %q is no PCI address (want domain:bus:device.function)", address)
	}
	entries, err := os.ReadDir(filepath.Join(f.Sys, "bus/pci/devices", address, "nvme"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("nvme: %s is not there or not bound to the nvme driver: %w", address, err)
	}
	if err != nil {
		return nil, fmt.Errorf("nvme: %w", err)
	}
	name := ""
	for _, e := range entries {
		if !controllerName.MatchString(e.Name()) {
			continue
		}
		if name != "" {
			return nil, fmt.Errorf("nvme: %s has two controllers, %s and %s", address, name, e.Name())
		}
		name = e.Name()
	}
	if name == "" {
		return nil, fmt.Errorf("nvme: %s has no controller yet", address)
	}
	return f.openNamed(name)
}

// disk is the name of the block device of a controller's namespace.
func (f Finder) disk(controller string, nsid uint32) (string, error) {
	dir := filepath.Join(f.Sys, "class/nvme", controller)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("nvme: %w", err)
	}
	for _, e := range entries {
		m := namespaceName.FindStringSubmatch(e.Name())
		if m == nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name(), "nsid"))
		if err != nil {
			return "", fmt.Errorf("nvme: %w", err)
		}
		if id, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32); err != nil {
			return "", fmt.Errorf("nvme: %s: namespace id %q", e.Name(), b)
		} else if uint32(id) == nsid {
			return m[1] + m[3], nil
		}
	}
	return "", fmt.Errorf("nvme: the kernel shows no disk of namespace %d of %s: %w", nsid, controller, fs.ErrNotExist)
}
