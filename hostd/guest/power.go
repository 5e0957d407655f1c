package guest

import (
	"context"
	"fmt"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/machine"
)

// Stop presses the power button, again every 5 s, and pulls the plug when grace
// has passed or ctx is nearly over. A VM that is off or absent is left alone.
func (g *Guests) Stop(ctx context.Context, id domain.VMID, grace domain.Duration) error {
	release, err := g.Act(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	running, err := g.o.Host.Running(ctx, id.String())
	if err != nil || !running || !g.known(id) {
		return err
	}
	g.setOurs(id, true)
	defer g.setOurs(id, false)
	polite, cancel := context.WithTimeout(ctx, grace.Std())
	defer cancel()
	if end, ok := ctx.Deadline(); ok {
		polite, cancel = context.WithDeadline(polite, end.Add(-plugTime))
		defer cancel()
	}
	if !g.powerOff(polite, id) {
		if err := g.o.Host.Destroy(ctx, id.String()); err != nil {
			return err
		}
	}
	return g.Update(id, func(s *State) { s.Running, s.Since = false, now() })
}

// plugTime is kept of a deadline for pulling the plug: libvirt takes 2 s for it.
const plugTime = 5 * time.Second

func (g *Guests) setOurs(id domain.VMID, ours bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s := g.vms[id]; s != nil {
		s.ours = ours
	}
}

// powerOff asks the guest to go down until it has or ctx is over.
func (g *Guests) powerOff(ctx context.Context, id domain.VMID) bool {
	for i := 0; ; i++ { // ends with ctx at the latest
		if i%20 == 0 {
			_ = g.o.Host.PowerButton(ctx, id.String()) // it may just have gone down: what counts is the state
		}
		if running, err := g.o.Host.Running(ctx, id.String()); err == nil && !running {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// Reboot has the guest go down and come up again in the same domain, with the next
// boot number; one that does not go down in time is reset. Fault:
// domain.not_running.
func (g *Guests) Reboot(ctx context.Context, id domain.VMID) error {
	release, err := g.Act(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	running, err := g.o.Host.Running(ctx, id.String())
	if err != nil {
		return err
	}
	if !running || !g.known(id) {
		return &machine.Fault{Code: "domain.not_running", Err: fmt.Errorf("%s is not running", id)}
	}
	g.setRebooting(id, true)
	defer g.setRebooting(id, false)
	seen := func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		s := g.vms[id]
		return s == nil || !s.rebooting // the reset that ends a reboot of ours clears it
	}
	polite := g.o.RebootWait
	if end, ok := ctx.Deadline(); ok {
		polite = min(polite, time.Until(end)-plugTime)
	}
	if err := g.o.Host.Reboot(ctx, id.String()); err == nil && wait(ctx, polite, seen) == nil {
		return nil
	}
	if err := g.o.Host.Reset(ctx, id.String()); err != nil {
		return err
	}
	if wait(ctx, 2*time.Second, seen) != nil {
		g.reset(id) // the event is lost, the reset is not
	}
	return nil // also when ctx has just ended: asked again, the guest would be reset again
}

func (g *Guests) setRebooting(id domain.VMID, rebooting bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s := g.vms[id]; s != nil {
		s.rebooting = rebooting
	}
}

// known says whether anything is remembered of the VM.
func (g *Guests) known(id domain.VMID) bool {
	_, ok := g.State(id)
	return ok
}

// wait looks every 20 ms until ok, at most for limit.
func wait(ctx context.Context, limit time.Duration, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for !ok() { // ends with ctx
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}
