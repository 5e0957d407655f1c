package linux

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/discovery"
	"github.com/gpuaas/gpuaas/hostd/pci"
)

// udevRules is the file of deploy/hostd that keeps udev, and what it starts, away from
// the slots' drives.
const udevRules = "/etc/udev/rules.d/10-hostd-drives.rules"

// Blind looks for what of the host's user space reads tenants' drives: each finding
// says what it is and what to do. None means that nothing was found, by the settings
// that are there and by what udev remembers of the drives it sees.
func (m *Machine) Blind(ctx context.Context) []string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	has := func(path string) bool { _, err := os.Stat(filepath.Join(m.root, path)); return err == nil }
	if has("/run/udev") && !has(udevRules) {
		say("%s is not installed: udev reads partition tables and labels of tenants' drives; copy it from deploy/hostd", udevRules)
	}
	if has("/etc/lvm/lvm.conf") && !m.lvmBlind() {
		say("LVM looks for volumes on every disk: install deploy/hostd/lvmlocal.conf as /etc/lvm/lvmlocal.conf")
	}
	if has("/sbin/mdadm") && !m.mentions("/etc/mdadm/mdadm.conf", "AUTO", "-all") {
		say("mdadm assembles arrays that it finds: put the line of deploy/hostd/mdadm.conf into /etc/mdadm/mdadm.conf")
	}
	if has("/sbin/multipathd") && !m.multipathBlind() {
		say("multipathd takes disks: install deploy/hostd/multipath.conf as /etc/multipath/conf.d/hostd.conf")
	}
	if has("/usr/bin/os-prober") && !m.mentions("/etc/default/grub", "GRUB_DISABLE_OS_PROBER=true") {
		say("os-prober mounts every file system it finds when grub is updated: remove it, or set GRUB_DISABLE_OS_PROBER=true in /etc/default/grub")
	}
	if ctx.Err() == nil {
		out = append(out, m.probed()...)
	}
	return out
}

// lvmBlind: LVM reads only the disks that its devices file lists, or rejects all
// NVMe namespaces.
func (m *Machine) lvmBlind() bool {
	if _, err := os.Stat(filepath.Join(m.root, "/etc/lvm/devices/system.devices")); err == nil {
		return true // only what is listed there
	}
	return m.mentions("/etc/lvm/lvmlocal.conf", "global_filter", "r|/dev/nvme") || m.mentions("/etc/lvm/lvm.conf", "global_filter", "r|/dev/nvme")
}

func (m *Machine) multipathBlind() bool {
	files, _ := filepath.Glob(filepath.Join(m.root, "/etc/multipath/conf.d/*.conf"))
	for i, f := range files {
		files[i] = strings.TrimPrefix(f, m.root)
	}
	return slices.ContainsFunc(append(files, "/etc/multipath.conf"), func(f string) bool {
		return m.mentions(f, "devnode", "nvme")
	})
}

// mentions says whether a line of the file that is no comment has all of the words.
func (m *Machine) mentions(path string, words ...string) bool {
	b, err := os.ReadFile(filepath.Join(m.root, path))
	if err != nil {
		return false
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			return true
		}
	}
	return false
}

// probed looks into udev's memory: what it knows of a drive's content it has read.
func (m *Machine) probed() []string {
	m.mu.Lock()
	found := m.found
	m.mu.Unlock()
	if found == nil {
		return nil
	}
	ours := map[string]bool{}
	for _, s := range found.Slots {
		ours[s.NVMe.Serial] = true
	}
	names, err := m.sys.Tree.List("class/block")
	if err != nil {
		return nil
	}
	var out []string
	for _, name := range names {
		serial, err := m.sys.Tree.Text("class/block/" + name + "/device/serial")
		if err != nil || !ours[serial] {
			continue
		}
		dev, err := m.sys.Tree.Text("class/block/" + name + "/dev")
		if err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join(m.root, "/run/udev/data/b"+dev))
		if err == nil && (bytes.Contains(b, []byte("E:ID_FS_TYPE=")) || bytes.Contains(b, []byte("E:ID_PART_TABLE_TYPE="))) {
			out = append(out, fmt.Sprintf("udev has read drive %s (%s): its rules do not leave it out", serial, name))
		}
	}
	return out
}

// Check looks at a host on which hostd may run or not, and binds and writes nothing: what it
// would propose, and the findings of [Machine.Blind].
func Check(ctx context.Context, o Options) (*domain.SlotMap, []string, error) {
	if o.Uplink == "" {
		o.Uplink = "lo" // not asked here
	}
	o, err := o.withDefaults()
	if err != nil {
		return nil, nil, err
	}
	if o.Discovery.Host == "" {
		o.Discovery.Host = "check"
	}
	o.Discovery.Prove, o.Discovery.ReadOnly = nil, true
	sys, err := pci.Open(o.Discovery.Sys)
	if err != nil {
		return nil, nil, err
	}
	defer sys.Close()
	d, err := discovery.New(o.Discovery)
	if err != nil {
		return nil, nil, err
	}
	found, err := d.Discover(ctx)
	if err != nil {
		return nil, nil, err
	}
	m := &Machine{o: o, sys: sys, found: found}
	return found, m.Blind(ctx), nil
}
