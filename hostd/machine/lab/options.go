package lab

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gpuaas/gpuaas/hostd/program"
)

// maxSlots is what the serials' single digit and a guest's bus have room for.
const maxSlots = 8

// Options describe a lab host. Only Dir is required.
type Options struct {
	Dir        string        // everything of this host; made if absent; not below /run
	Slots      int           // 0: 2; a host that exists keeps its number
	GPUClass   string        // "": "lab"
	MemoryMiB  uint64        // of a guest, for each of its slots; 0: 256
	DriveBytes uint64        // size of each drive; 0: 1 GiB; a host that exists keeps its size
	Accel      string        // "": try KVM, else emulate; "kvm", "tcg": no trial
	RebootWait time.Duration // how long a guest may take to go down for a reboot; 0: 30 s

	Log *slog.Logger // nil: none
	Run program.Run  // nil: run programs of this host
}

func (o Options) withDefaults() (Options, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil || o.Dir == "" {
		return o, errors.New("lab: no folder")
	}
	o.Dir = dir
	if strings.HasPrefix(dir+"/", "/run/") || strings.HasPrefix(dir+"/", "/var/run/") {
		return o, fmt.Errorf("lab: %s is below /run, which the lab's namespace replaces", dir)
	}
	set := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	set(&o.GPUClass, "lab")
	if o.Slots == 0 {
		o.Slots = 2
	}
	if o.MemoryMiB == 0 {
		o.MemoryMiB = 256
	}
	if o.DriveBytes == 0 {
		o.DriveBytes = 1 << 30
	}
	if o.RebootWait == 0 {
		o.RebootWait = 30 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Run == nil {
		o.Run = program.Execute
	}
	switch {
	case o.Slots < 1 || o.Slots > maxSlots:
		return o, fmt.Errorf("lab: %d slots, want 1 to %d", o.Slots, maxSlots)
	case o.DriveBytes%(1<<20) != 0 || o.DriveBytes < 64<<20:
		return o, fmt.Errorf("lab: drives of %d bytes, want whole MiB and at least 64", o.DriveBytes)
	case o.MemoryMiB < 64:
		return o, fmt.Errorf("lab: %d MiB for a guest, want at least 64", o.MemoryMiB)
	}
	return o, nil
}

// The firmware, as Debian's ovmf package has it.
const (
	firmware     = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	firmwareVars = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

// Missing says why a lab cannot run on this machine, "" if it can.
func Missing() string {
	if os.Geteuid() != 0 {
		return "the lab needs root: it makes namespaces and network interfaces"
	}
	missing := program.Missing("dnsmasq", "env", "ip", "libvirtd", "nft", "nsenter", "qemu-img", "qemu-system-x86_64", "setsid", "sysctl", "unshare", "virtlogd")
	for _, f := range []string{firmware, firmwareVars} {
		if _, err := os.Stat(f); err != nil {
			missing = append(missing, f)
		}
	}
	if len(missing) == 0 {
		return ""
	}
	return "the lab misses " + strings.Join(missing, ", ") + ": install the packages of deploy/lab/packages.txt"
}
