package discovery

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/gpuaas/gpuaas/hostd/pci"
)

const classNVMe = 0x010802

// block is the block device of a namespace.
type block struct {
	name string // "nvme0n1", as it is called now
	dev  string // "259:0", which tells whether the name still means it
}

// drives finds the NVMe controllers with their namespaces.
func (l *look) drives() error {
	claimed, err := l.claimed()
	if err != nil {
		return err
	}
	for _, a := range l.order {
		d := l.devices[a]
		if d == nil || d.Class != classNVMe || d.VF {
			continue
		}
		c := l.candidate(kindNVMe, d)
		c.dev.Model = "NVMe drive"
		live, blocks, err := l.controller(d)
		if err != nil {
			c.against("cannot be read: %s", plain(err))
			continue
		}
		c.blocks = blocks
		if !l.identify(c, live) && len(c.bad) == 0 {
			c.against("its serial number cannot be read while it is bound to %s: bind it to nvme once", quoted(d.Driver))
			continue
		}
		if d.Driver == "nvme" {
			l.namespaces(c)
			l.inUse(c, claimed)
		}
		switch {
		case d.Driver == "nvme" && len(c.blocks) != 1: // said already
		case c.dev.SizeBytes == 0:
			c.against("it has no capacity")
		case c.dev.LBABytes != 512:
			c.against("its blocks are of %d bytes, want 512: format it to another LBA format first", c.dev.LBABytes)
		}
		l.contents(c)
	}
	return nil
}

func quoted(driver string) string {
	if driver == "" {
		return "no driver"
	}
	return driver
}

// controller reads what the nvme driver says of its drive; nothing if another has
// it.
func (l *look) controller(d *pci.Device) (Facts, []block, error) {
	if d.Driver != "nvme" {
		return Facts{}, nil, nil
	}
	dir := path.Join(d.Path, "nvme")
	names, err := l.sys.Tree.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return Facts{}, nil, nil // still coming up, or given up
	}
	if err != nil {
		return Facts{}, nil, err
	}
	if len(names) != 1 {
		return Facts{}, nil, fmt.Errorf("%d controllers on one function", len(names))
	}
	dir = path.Join(dir, names[0])
	var f Facts
	for _, read := range []struct {
		to   *string
		name string
	}{{&f.Serial, "serial"}, {&f.Model, "model"}, {&f.Firmware, "firmware_rev"}} {
		if *read.to, err = l.sys.Tree.Text(path.Join(dir, read.name)); err != nil {
			return Facts{}, nil, err
		}
	}
	if state, err := l.sys.Tree.Text(path.Join(dir, "state")); err == nil && state != "live" {
		return Facts{}, nil, fmt.Errorf("its controller is %s", state)
	}
	if others, err := l.otherControllers(names[0]); err != nil || others > 0 {
		return Facts{}, nil, errors.Join(err, fmt.Errorf("its subsystem has %d other controllers, through which others may reach it", others))
	}
	blocks, err := l.blocksOf(dir)
	if err != nil || len(blocks) != 1 {
		return f, blocks, err
	}
	sectors, err := l.sys.Tree.Uint(path.Join("class/block", blocks[0].name, "size"), 54)
	if err != nil {
		return Facts{}, nil, err
	}
	lba, err := l.sys.Tree.Uint(path.Join("class/block", blocks[0].name, "queue/logical_block_size"), 32)
	f.SizeBytes, f.LBABytes = sectors*512, uint32(lba) // the kernel's sectors have 512 bytes whatever the drive's have
	return f, blocks, err
}

// otherControllers counts those that share the controller's subsystem.
func (l *look) otherControllers(name string) (int, error) {
	const dir = "class/nvme-subsystem"
	subsystems, err := l.sys.Tree.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for _, s := range subsystems {
		if !l.sys.Tree.Exists(path.Join(dir, s, name)) {
			continue
		}
		names, err := l.sys.Tree.List(path.Join(dir, s))
		if err != nil {
			return 0, err
		}
		others := 0
		for _, n := range names {
			if _, ok := number(n, "nvme"); ok && n != name {
				others++
			}
		}
		return others, nil
	}
	return 0, nil
}

// blocksOf lists the block devices of a controller's namespaces. With native
// multipath a controller has "nvme0c1n1", which is hidden, and the block device is
// the subsystem's "nvme0n1".
func (l *look) blocksOf(controller string) ([]block, error) {
	names, err := l.sys.Tree.List(controller)
	if err != nil {
		return nil, err
	}
	var out []block
	for _, n := range names {
		head, ok := headOf(n)
		if !ok {
			continue
		}
		dev, err := l.sys.Tree.Text(path.Join("class/block", head, "dev"))
		if err != nil {
			return nil, err
		}
		out = append(out, block{head, dev})
	}
	return out, nil
}

// headOf is the block device that users of a namespace see: of "nvme0n1" itself, of
// the path "nvme0c3n1" the head "nvme0n1".
func headOf(name string) (string, bool) {
	rest, isNVMe := strings.CutPrefix(name, "nvme")
	instance, ns, ok := strings.Cut(rest, "n")
	if !isNVMe || !ok || !digits(ns) {
		return "", false
	}
	subsystem, controller, isPath := strings.Cut(instance, "c")
	if !digits(subsystem) || isPath && !digits(controller) {
		return "", false
	}
	return "nvme" + subsystem + "n" + ns, true
}

// number reads "nvme12" with the prefix "nvme".
func number(name, prefix string) (int, bool) {
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok || !digits(rest) {
		return 0, false
	}
	n, err := strconv.Atoi(rest)
	return n, err == nil
}

func digits(s string) bool {
	return s != "" && len(s) < 8 && !strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' })
}

// namespaces wants exactly one: what else is on the drive would be rented unseen.
func (l *look) namespaces(c *candidate) {
	switch n := len(c.blocks); {
	case n == 0:
		c.against("it has no namespace: create one over its whole capacity")
	case n > 1:
		c.against("it has %d namespaces: make them one", n)
	}
}
