package emuhost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gpuaas/gpuaas/hostd/emuhost/wire"
)

// Host is an emulated host, switched on or off. Its methods are for one goroutine, but
// [Host.Run], [Host.Start] and [Host.Console], which are for any number.
type Host struct {
	o       Options
	sockets string
	machine *machine // nil: off
}

// Boot makes the host's drives, unless they are there, and switches it on. It
// returns when commands can be run, some 15 s later. [Host.Close] has to be called in the end.
func Boot(ctx context.Context, o Options) (*Host, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	sockets, err := os.MkdirTemp("", "emuhost-") // Dir can be too long for a socket's path
	if err != nil {
		return nil, err
	}
	h := &Host{o: o, sockets: sockets}
	if err := h.PowerOn(ctx); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// Close shuts the host down, by force if it takes longer than 20 s. Its drives stay.
func (h *Host) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err := h.Shutdown(ctx)
	return errors.Join(err, os.RemoveAll(h.sockets))
}

// PowerOn switches the host on, if it is off, and waits until commands can be run.
func (h *Host) PowerOn(ctx context.Context) error {
	if h.On() {
		return nil
	}
	h.PowerCut()
	if err := h.disks(ctx); err != nil {
		return err
	}
	args, err := h.arguments()
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		if h.machine, err = launch(ctx, h, args); err != nil {
			return err
		}
		within, cancel := context.WithTimeout(ctx, bootLimit)
		err = h.booted(within, "")
		cancel()
		if err == nil || ctx.Err() != nil || try == bootTries {
			return err
		}
		h.PowerCut()
	}
}

// A processor that QEMU 10 emulated stood still now and then: in one of some fifty
// boots, on cores with four times as much to do as they can. A host that has not come up
// within bootLimit is switched off and on again, after a restart too.
const (
	bootLimit = 2 * time.Minute
	bootTries = 3
)

// On says whether the host is switched on.
func (h *Host) On() bool {
	if h.machine == nil {
		return false
	}
	select {
	case <-h.machine.ended:
		return false
	default:
		return true
	}
}

// PowerCut takes the power away: what the host has not flushed to a drive is lost.
func (h *Host) PowerCut() {
	if h.machine != nil {
		h.machine.kill()
		h.machine = nil
	}
}

// Shutdown stops all processes, writes everything and switches the host off. When ctx
// ends first it takes the power away.
func (h *Host) Shutdown(ctx context.Context) error {
	if !h.On() {
		h.PowerCut()
		return nil
	}
	defer h.PowerCut()
	if err := h.machine.agent.power(wire.PowerOff); err != nil {
		return err
	}
	select {
	case <-h.machine.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("emuhost: the host did not shut down, its power was taken away: %w", ctx.Err())
	}
}

// Reboot is a clean restart, as by an operator's command.
func (h *Host) Reboot(ctx context.Context) error {
	return h.restart(ctx, func() error { return h.machine.agent.power(wire.Reboot) })
}

// Reset is the reset button: nothing is flushed, but the devices keep their power.
func (h *Host) Reset(ctx context.Context) error {
	return h.restart(ctx, func() error { _, err := h.machine.monitor.execute(ctx, "system_reset", nil); return err })
}

func (h *Host) restart(ctx context.Context, act func() error) error {
	if !h.On() {
		return ErrOff
	}
	before := h.machine.agent.boot()
	if err := act(); err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	err := h.booted(within, before)
	if err == nil || ctx.Err() != nil {
		return err
	}
	h.PowerCut() // see bootLimit
	return h.PowerOn(ctx)
}

// booted waits until the agent says hello in another boot than before.
func (h *Host) booted(ctx context.Context, before string) error {
	err := h.machine.agent.await(ctx, before)
	if err == nil {
		return nil
	}
	return fmt.Errorf("emuhost: the host did not come up: %w; QEMU said %q; console:\n%s", err, h.machine.said(), tail(h.Console(), 2000))
}

// Unplug pulls a device out of its port, by the name of its [Port], and waits until
// the host has let go of it.
func (h *Host) Unplug(ctx context.Context, name string) error {
	if !h.On() {
		return ErrOff
	}
	if _, err := h.machine.monitor.execute(ctx, "device_del", map[string]string{"id": name}); err != nil {
		return err
	}
	for {
		select {
		case e, ok := <-h.machine.monitor.events:
			if !ok {
				return ErrOff
			}
			if e == "DEVICE_DELETED "+name {
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("emuhost: the host does not let go of %s: %w", name, ctx.Err())
		}
	}
}

// Monitor gives QEMU a command of its machine protocol.
func (h *Host) Monitor(ctx context.Context, command string, arguments any) (json.RawMessage, error) {
	if !h.On() {
		return nil, ErrOff
	}
	return h.machine.monitor.execute(ctx, command, arguments)
}

// Console is all that the host's kernel and its first process have said, in all boots.
func (h *Host) Console() string {
	b, _ := os.ReadFile(h.path("console.log"))
	return string(b)
}

// EmulatorSaid is the last of what QEMU itself has printed since power on: why it
// ended, if it did not end well.
func (h *Host) EmulatorSaid() string {
	if h.machine == nil {
		return ""
	}
	return h.machine.said()
}

// CopyIn copies a file of this machine into the host, with its mode. The path is
// absolute; its folder is made.
func (h *Host) CopyIn(ctx context.Context, from, to string) error {
	out, err := os.CreateTemp(h.o.Share, "copy-")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	if err := errors.Join(out.Close(), copyFile(from, out.Name())); err != nil {
		return err
	}
	name := filepath.Join(SharePoint, filepath.Base(out.Name()))
	_, err = h.Run(ctx, "sh", "-c", `mkdir -p "${2%/*}" && cp --preserve=mode "$1" "$2"`, "copy", name, to)
	return err
}

// Services of [Host.Service].
const (
	Libvirt     = "libvirt"
	OpenVSwitch = "openvswitch"
)

// Service starts a service of the host, unless it runs: at boot none does, as there is
// no systemd. It returns when the service answers.
func (h *Host) Service(ctx context.Context, name string) error {
	_, err := h.Run(ctx, "/run/emuhost/service", name)
	return err
}

// Share is the folder of this machine that the host has at [SharePoint].
func (h *Host) Share() string { return h.o.Share }

func (h *Host) path(name string) string   { return filepath.Join(h.o.Dir, name) }
func (h *Host) socket(name string) string { return filepath.Join(h.sockets, name) }

func tail(s string, n int) string { return strings.TrimSpace(s[max(0, len(s)-n):]) }
