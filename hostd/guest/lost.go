package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/vm"
)

// Why a VM can be off though neither its guest nor we meant it, as stable codes.
const (
	CauseRebooted  = "host.rebooted"    // it ran in another boot of the host
	CausePowerCut  = "host.power_cut"   // see Guests.CutPower
	CauseCrashed   = "domain.crashed"   // QEMU went away without a word
	CauseDestroyed = "domain.destroyed" // somebody pulled the plug past us
	CauseGone      = "domain.gone"      // libvirt does not know it any more
)

// A VM that is lost while the host runs on is started again by itself so often in
// an hour; then it stays off: a guest that can bring its QEMU down must not keep the
// host busy.
const (
	crashesMax   = 3
	crashesCount = domain.Hour
)

// BootID is the id of the host's boot, of which proc is the /proc.
func BootID(proc string) (string, error) {
	b, err := os.ReadFile(filepath.Join(proc, "sys/kernel/random/boot_id"))
	if err != nil {
		return "", fmt.Errorf("guest: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// runs notes that the VM runs since then: what was said of its last end is over.
func (s *State) runs(since domain.Time, hostBoot string) {
	s.Starting, s.Running, s.Since, s.HostBoot = 0, true, since, hostBoot
	s.Cause, s.Lost, s.Doubts = "", false, nil
}

// lose notes that the VM ended and nobody meant it to: it is to be started into the
// same boot again.
func (s *State) lose(cause string, at domain.Time) {
	s.Running, s.Since, s.Cause, s.Lost = false, at, cause, true
}

// ended notes that a VM that ran is off. The caller holds g.mu and saves.
func (g *Guests) ended(s *State, d *vm.State) {
	at := now()
	s.Running, s.Since = false, at
	if s.ours {
		return
	}
	switch cause := g.cause(s, d); {
	case cause == "":
	case cause == CauseRebooted:
		s.lose(cause, at)
	default:
		s.Cause = cause
		s.Crashes = slices.DeleteFunc(slices.Clone(s.Crashes), func(t domain.Time) bool { return at.Sub(t) >= crashesCount })
		if len(s.Crashes) < crashesMax {
			s.Crashes = append(s.Crashes, at)
			s.lose(cause, at)
		}
		g.o.Log.Warn("a VM ended and nobody meant it to", "vm", s.VM, "cause", cause, "started_again", s.Lost)
	}
	g.emit(machine.Event{Kind: machine.GuestStopped, VM: s.VM, At: at})
}

// cause is why a VM that ran is off, "" if by its guest. A host that booted since
// took it along, whatever libvirt, which forgot, makes of it; in the same boot an end
// that libvirt does not explain is taken for the guest's, so that nothing is started
// that a tenant may have stopped.
func (g *Guests) cause(s *State, d *vm.State) string {
	switch {
	case s.HostBoot != "" && s.HostBoot != g.o.HostBoot:
		return CauseRebooted
	case d == nil:
		return CauseGone
	case d.End == vm.EndCrashed:
		return CauseCrashed
	case d.End == vm.EndDestroyed:
		return CauseDestroyed
	}
	return ""
}

// seeded says whether the VM's seed is made: it is written whole or not at all.
func (g *Guests) seeded(id domain.VMID) bool {
	_, err := os.Stat(g.File(id, "seed.iso"))
	return err == nil
}
