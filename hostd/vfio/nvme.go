package vfio

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"time"

	"github.com/gpuaas/gpuaas/hostd/pci"
)

// namespaceWait bounds how long a namespace may take to appear after the driver
// took the controller: the driver scans in the background.
const namespaceWait = 60 * time.Second

// Namespace is the one namespace of a drive that is bound to the nvme driver.
type Namespace struct {
	Controller string // "nvme3": this boot's name of the controller
	Block      string // "nvme3n1": its block device, as in /sys/block and /dev
	Dev        string // "259:4"
	SizeBytes  uint64
	LBABytes   uint32
}

var (
	controllerName = regexp.MustCompile(`^nvme[0-9]+$`)
	// With a subsystem the namespace of a controller is called nvme0c1n1 and stands for
	// the shared block device nvme0n1.
	namespaceName = regexp.MustCompile(`^(nvme[0-9]+)(?:c[0-9]+)?(n[0-9]+)$`)
)

// Namespace waits for the drive at the address to show its one namespace, and reads
// it. A drive with another serial is an error at once: the address is right, the
// drive is not. So is one with several namespaces.
func (b *Binder) Namespace(ctx context.Context, a pci.Address, serial string) (*Namespace, error) {
	var found *Namespace
	err := b.await(ctx, namespaceWait, fmt.Sprintf("vfio: drive %s at %s shows no namespace", serial, a), func() (bool, error) {
		d, err := b.sys.Device(a)
		if err != nil {
			return false, fmt.Errorf("vfio: %w", err)
		}
		if d.Driver != DriverNVMe {
			return false, fmt.Errorf("vfio: %s is bound to %q, want %s", a, d.Driver, DriverNVMe)
		}
		found, err = b.namespace(d, serial)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil // the driver is still at it
		}
		return found != nil, err
	})
	return found, err
}

// Serial waits until the drive at the address is up and reads its serial, as its
// driver shows it.
func (b *Binder) Serial(ctx context.Context, a pci.Address) (serial string, err error) {
	err = b.await(ctx, namespaceWait, fmt.Sprintf("vfio: the drive at %s does not come up", a), func() (bool, error) {
		d, err := b.sys.Device(a)
		if err != nil {
			return false, fmt.Errorf("vfio: %w", err)
		}
		_, dir, err := b.controller(d)
		if err == nil {
			serial, err = b.sys.Tree.Text(path.Join(dir, "serial"))
		}
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return true, err
	})
	return serial, err
}

// controller is the directory of a drive's controller, when it is up: until then its
// attributes say nothing. One that is not is fs.ErrNotExist.
func (b *Binder) controller(d *pci.Device) (name, dir string, err error) {
	if name, err = b.only(path.Join(d.Path, "nvme"), controllerName); err != nil {
		return "", "", err
	}
	dir = path.Join(d.Path, "nvme", name)
	switch state, err := b.sys.Tree.Text(path.Join(dir, "state")); {
	case err != nil:
		return "", "", err
	case state == "dead":
		return "", "", fmt.Errorf("vfio: the drive at %s does not answer: its controller is dead", d.Address)
	case state != "live":
		return "", "", fs.ErrNotExist
	}
	return name, dir, nil
}

func (b *Binder) namespace(d *pci.Device, serial string) (*Namespace, error) {
	t := b.sys.Tree
	name, dir, err := b.controller(d)
	if err != nil {
		return nil, err
	}
	got, err := t.Text(path.Join(dir, "serial"))
	if err != nil {
		return nil, err
	}
	if got != serial {
		return nil, fmt.Errorf("vfio: the drive at %s has serial %q, want %q: it was swapped", d.Address, got, serial)
	}
	entry, err := b.only(dir, namespaceName)
	if err != nil {
		return nil, err
	}
	m := namespaceName.FindStringSubmatch(entry)
	n := &Namespace{Controller: name, Block: m[1] + m[2]}
	block := path.Join("class/block", n.Block)
	if n.Dev, err = t.Text(path.Join(block, "dev")); err != nil {
		return nil, err
	}
	sectors, err := t.Uint(path.Join(block, "size"), 54) // units of 512 bytes, whatever the LBA size
	if err != nil {
		return nil, err
	}
	lba, err := t.Uint(path.Join(block, "queue/logical_block_size"), 32)
	if err != nil {
		return nil, err
	}
	n.SizeBytes, n.LBABytes = sectors*512, uint32(lba)
	return n, nil
}

// only is the one name in the directory that matches. None is fs.ErrNotExist.
func (b *Binder) only(dir string, want *regexp.Regexp) (string, error) {
	names, err := b.sys.Tree.List(dir)
	if err != nil {
		return "", err
	}
	found := ""
	for _, name := range names {
		if !want.MatchString(name) {
			continue
		}
		if found != "" {
			return "", fmt.Errorf("vfio: %s has both %s and %s, want one", dir, found, name)
		}
		found = name
	}
	if found == "" {
		return "", fs.ErrNotExist
	}
	return found, nil
}
