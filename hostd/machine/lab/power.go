package lab

import (
	"context"
	"fmt"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/machine"
)

// Stop presses the power button, again every 5 s, and pulls the plug when grace
// has passed or ctx is nearly over. A VM that is off or absent is left alone.
func (m *Machine) Stop(ctx context.Context, id domain.VMID, grace domain.Duration) error {
	release, err := m.act(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	running, err := m.host.Running(ctx, id.String())
	if err != nil || !running || !m.exists(id) {
		return err
	}
	m.setOurs(id, true)
	defer m.setOurs(id, false)
	polite, cancel := context.WithTimeout(ctx, grace.Std())
	defer cancel()
	if end, ok := ctx.Deadline(); ok {
		polite, cancel = context.WithDeadline(polite, end.Add(-plugTime))
		defer cancel()
	}
	if !m.powerOff(polite, id) {
		if err := m.host.Destroy(ctx, id.String()); err != nil {
			return err
		}
	}
	return m.update(id, func(s *vmState) { s.Running, s.Since = false, now() })
}

// plugTime is kept of a deadline for pulling the plug: libvirt takes 2 s for it.
const plugTime = 5 * time.Second

func (m *Machine) setOurs(id domain.VMID, ours bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.vms[id]; s != nil {
		s.ours = ours
	}
}

// powerOff asks the guest to go down until it has or ctx is over.
func (m *Machine) powerOff(ctx context.Context, id domain.VMID) bool {
	for i := 0; ; i++ { // ends with ctx at the latest
		if i%20 == 0 {
			_ = m.host.PowerButton(ctx, id.String()) // it may just have gone down: what counts is the state
		}
		if running, err := m.host.Running(ctx, id.String()); err == nil && !running {
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
func (m *Machine) Reboot(ctx context.Context, id domain.VMID) error {
	release, err := m.act(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	running, err := m.host.Running(ctx, id.String())
	if err != nil {
		return err
	}
	if !running || !m.exists(id) {
		return &machine.Fault{Code: "domain.not_running", Err: fmt.Errorf("%s is not running", id)}
	}
	m.setRebooting(id, true)
	defer m.setRebooting(id, false)
	seen := func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		s := m.vms[id]
		return s == nil || !s.rebooting // the reset that ends a reboot of ours clears it
	}
	polite := m.o.RebootWait
	if end, ok := ctx.Deadline(); ok {
		polite = min(polite, time.Until(end)-plugTime)
	}
	if err := m.host.Reboot(ctx, id.String()); err == nil && wait(ctx, polite, seen) == nil {
		return nil
	}
	if err := m.host.Reset(ctx, id.String()); err != nil {
		return err
	}
	if wait(ctx, 2*time.Second, seen) != nil {
		m.reset(id) // the event is lost, the reset is not
	}
	return ctx.Err()
}

func (m *Machine) setRebooting(id domain.VMID, rebooting bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.vms[id]; s != nil {
		s.rebooting = rebooting
	}
}
