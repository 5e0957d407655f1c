package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/durable"
	"github.com/gpuaas/gpuaas/hostd/machine"
)

// Start defines and starts the domain that render makes; one that runs is left
// alone, and then render is not called. The caller holds the VM's act. Fault:
// domain.start_failed.
func (g *Guests) Start(ctx context.Context, v *machine.VM, render func(State) (xml string, err error)) error {
	s, err := g.Claim(v)
	if err != nil {
		return err
	}
	running, err := g.o.Host.Running(ctx, v.VM.String())
	if err != nil || running {
		return err
	}
	xml, err := render(s)
	if err != nil {
		return err
	}
	// What is known of the last boot goes first, so that nothing of it is taken for
	// the new one's; the new boot's number comes last, because a start that a crash
	// cuts short has to be repeated.
	err = g.Update(v.VM, func(s *State) {
		s.Starting, s.Alive, s.Ready, s.Address, s.MAC, s.Doubts = v.Boot, 0, 0, "", v.MAC, nil
	})
	if err != nil {
		return err
	}
	began := now()
	if err = g.o.Host.Define(ctx, xml); err == nil {
		err = g.o.Host.Start(ctx, v.VM.String())
	}
	if err != nil {
		err = g.startFailed(ctx, v, err)
	}
	if err != nil {
		return err
	}
	err = g.Update(v.VM, func(s *State) {
		s.Boot, s.ours = v.Boot, false
		s.runs(began, g.o.HostBoot)
	})
	g.look()
	return err
}

// startFailed finds out whether a start that failed is one: an answer can be lost on
// its way. While that is not known the boot stays marked as starting, and whoever
// looks next finds out.
func (g *Guests) startFailed(ctx context.Context, v *machine.VM, cause error) error {
	err := &machine.Fault{Code: "domain.start_failed", Err: cause}
	asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	switch running, rerr := g.o.Host.Running(asking, v.VM.String()); {
	case rerr != nil:
		return errors.Join(err, rerr)
	case running:
		return nil
	}
	return errors.Join(err, g.Update(v.VM, func(s *State) { s.Starting = 0 }))
}

// Remove pulls the plug, undefines the domain, calls rest for what else there is of
// the VM, and forgets it. An absent VM is left alone, but for rest. The caller
// holds the VM's act.
func (g *Guests) Remove(ctx context.Context, id domain.VMID, rest func(s State) error) error {
	g.setOurs(id, true)
	if err := g.o.Host.Destroy(ctx, id.String()); err != nil {
		return err
	}
	if err := g.o.Host.Undefine(ctx, id.String()); err != nil {
		return err
	}
	s, ok := g.State(id)
	if !ok {
		s = State{VM: id}
	}
	if err := rest(s); err != nil {
		return err
	}
	// The state goes first: a folder without one is cleaned up at the next start.
	if err := os.Remove(g.File(id, "state.json")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("guest: %w", err)
	}
	if err := os.RemoveAll(g.Dir(id)); err != nil {
		return fmt.Errorf("guest: %w", err)
	}
	if err := durable.SyncDir(g.o.Dir); err != nil {
		return fmt.Errorf("guest: %w", err)
	}
	g.mu.Lock()
	delete(g.vms, id)
	g.listen(id, false)
	g.changes++
	g.mu.Unlock()
	g.look()
	return nil
}

// CutPower pulls the plug of every VM, as when the host itself loses power: nobody
// meant their boots to end.
func (g *Guests) CutPower(ctx context.Context) error {
	g.mu.Lock()
	for _, s := range g.vms {
		s.ours = true
	}
	g.mu.Unlock()
	states := g.States()
	errs := make([]error, len(states))
	done := make(chan struct{})
	for i, s := range states {
		go func() {
			defer func() { done <- struct{}{} }()
			if errs[i] = g.o.Host.Destroy(ctx, s.VM.String()); errs[i] != nil || !s.Running {
				return
			}
			errs[i] = g.Update(s.VM, func(s *State) { s.lose(CausePowerCut, now()) })
		}()
	}
	for range states {
		<-done
	}
	return errors.Join(errs...)
}
