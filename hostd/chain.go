package hostd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/journal"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/plan"
)

// A chain is the steps of one VM, or one wipe: done one after the other, beside
// other chains. While it runs its VM and its slots are its own.
type chain struct {
	key    string // of the VM or the slot
	steps  []plan.Step
	slots  []uint32
	vm     *machine.VM      // to bring up; nil otherwise
	was    machine.Observed // of that VM; zero: it did not exist
	spec   domain.SlotSpec
	cancel context.CancelFunc
}

// result is how a chain ended. step is the one that failed, or the last.
type result struct {
	chain    *chain
	step     plan.Step
	err      error
	evidence []domain.DeviceWipe
	began    time.Time
	ended    time.Time
}

// chainsOf cuts a plan into chains and leaves out those that wait for another
// chain: they come with a later plan.
func chainsOf(steps []plan.Step) []*chain {
	var out []*chain
	of := make([]*chain, len(steps))
	waits := map[*chain]bool{}
	for i, s := range steps {
		key := chainKey(s)
		at := slices.IndexFunc(out, func(c *chain) bool { return c.key == key && s.Op != plan.Wipe })
		if at < 0 {
			at = len(out)
			out = append(out, &chain{key: key})
		}
		c := out[at]
		of[i] = c
		c.steps = append(c.steps, s)
		for _, slot := range s.Slots {
			if !slices.Contains(c.slots, slot) {
				c.slots = append(c.slots, slot)
			}
		}
		for _, before := range s.After {
			waits[c] = waits[c] || of[before] != c
		}
	}
	return slices.DeleteFunc(out, func(c *chain) bool { return waits[c] })
}

func chainKey(s plan.Step) string {
	if s.Op == plan.Wipe {
		return fmt.Sprintf("slot %d", s.Slots[0])
	}
	return s.VM.String()
}

// wanted reports whether d still asks for what the chain does. A wipe that runs is
// let finish: erased is never wrong, and half erased is nothing.
func (c *chain) wanted(d *domain.Desired) bool {
	first := c.steps[0]
	if first.Op == plan.Wipe || first.Op == plan.Remove {
		return true
	}
	for i := range d.Wipes {
		if slices.Contains(c.slots, d.Wipes[i].Lease.Index) {
			return false
		}
	}
	for i := range d.VMs {
		v := &d.VMs[i]
		if v.VM == first.VM {
			return v.Power == first.Placed.Power && v.Boot == first.Boot
		}
	}
	return false
}

func (a *Agent) cancelChains(which func(*chain) bool) {
	for c := range a.chains {
		if which(c) {
			c.cancel()
		}
	}
}

// begin starts the chains that are free to run.
func (a *Agent) begin(ctx context.Context, steps []plan.Step, specs map[uint32]domain.SlotSpec, observed []machine.Observed) {
	now := a.o.Clock()
	for _, c := range chainsOf(steps) {
		if len(a.chains) >= a.o.Limits.Parallel {
			return // the end of any of them looks again
		}
		if at, held := a.holdOff[c.key]; held && now.Before(at) || a.busy(c) {
			continue
		}
		if op := c.steps[0].Op; !a.looked && (op == plan.Disk || op == plan.Wipe) {
			continue // the end of the first look at the hardware looks again
		}
		if at := slices.IndexFunc(observed, func(o machine.Observed) bool { return o.VM == c.steps[0].VM }); at >= 0 {
			c.was = observed[at]
		}
		if c.steps[0].Op == plan.Refuse && a.patient(c) {
			continue
		}
		if err := a.equip(c, specs); err != nil {
			a.o.Log.Warn("chain not begun", "of", c.key, "err", err)
			a.holdOff[c.key] = now.Add(a.o.Limits.Replan)
			continue
		}
		running, cancel := context.WithCancel(ctx)
		c.cancel = cancel
		a.chains[c] = struct{}{}
		a.working.Go(func() {
			defer cancel()
			a.done <- a.run(running, c) // has room for every chain
		})
	}
}

func (a *Agent) busy(c *chain) bool {
	for other := range a.chains {
		if other.key == c.key || slices.ContainsFunc(c.slots, func(s uint32) bool { return slices.Contains(other.slots, s) }) {
			return true
		}
	}
	return false
}

// equip gives a chain what it needs to run, and makes durable what must be known
// after a crash in it: which drives it may have written.
func (a *Agent) equip(c *chain, specs map[uint32]domain.SlotSpec) error {
	first := c.steps[0]
	switch first.Op {
	case plan.Wipe:
		spec := specAt(a.approved, c.slots[0])
		if spec == nil {
			return fmt.Errorf("slot %d is not in the approved map", c.slots[0])
		}
		c.spec = *spec
		if found, ok := specs[c.slots[0]]; ok {
			c.spec = found
		}
		// Whoever asks for a wipe knows of data, also where this host does not.
		if _, known := a.journal.Fact(dirtyKey(&c.spec)); known {
			return nil
		}
		return a.journal.Note(journal.Change{Set: map[string]string{dirtyKey(&c.spec): ""}})
	case plan.Disk:
		if a.discovered == nil {
			return errors.New("the hardware was not discovered yet")
		}
		c.vm = &machine.VM{PlacedVM: *first.Placed}
		dirty := journal.Change{Set: map[string]string{}}
		for _, l := range first.Placed.Leases {
			spec := specs[l.Index]
			c.vm.Slots = append(c.vm.Slots, spec)
			dirty.Set[dirtyKey(&spec)] = first.VM.String()
		}
		return a.journal.Note(dirty)
	}
	return nil
}

// run does the steps of a chain up to the first that fails.
func (a *Agent) run(ctx context.Context, c *chain) result {
	r := result{chain: c, began: a.o.Clock()}
	for _, s := range c.steps {
		r.step = s
		r.err = a.attempt(ctx, s.Op, func(ctx context.Context) (err error) {
			r.evidence, err = a.do(ctx, c, s)
			return err
		})
		if r.err != nil {
			break
		}
	}
	r.ended = a.o.Clock()
	return r
}

// attempt tries a step a bounded number of times, each under its deadline.
func (a *Agent) attempt(ctx context.Context, op plan.Op, do func(context.Context) error) (err error) {
	backoff := a.o.Limits.Backoff
	for try := 1; ; try++ {
		step, cancel := context.WithTimeout(ctx, a.o.Limits.deadline(op))
		err = do(step)
		late := step.Err() != nil
		cancel()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case late:
			err = &machine.Fault{Code: string(op) + ".timeout", Err: err}
		}
		var fault *machine.Fault
		if errors.As(err, &fault) && fault.Theirs || op == plan.Refuse || try == a.o.Limits.Tries {
			return err
		}
		a.o.Log.Warn("step failed, will be tried again", "op", op, "try", try, "err", err)
		if sleep(ctx, backoff) != nil {
			return ctx.Err()
		}
		backoff *= 2
	}
}

// do is one step on the machine.
func (a *Agent) do(ctx context.Context, c *chain, s plan.Step) ([]domain.DeviceWipe, error) {
	m := a.o.Machine
	//exhaustive:enforce
	switch s.Op {
	case plan.Disk:
		// What was made for an earlier boot stays: it comes back also when the image was
		// evicted meanwhile, or the site is away.
		if a.o.Images != nil && !c.was.Prepared {
			path, err := a.o.Images(ctx, c.vm.ImageHash)
			if err != nil {
				return nil, err
			}
			c.vm.ImagePath = path
		}
		// Keys and user data that cannot be right are refused before a device is touched.
		if !c.was.Seeded {
			if err := a.fetchSeed(ctx, c.vm); err != nil {
				return nil, err
			}
		}
		return nil, m.PrepareDisk(ctx, c.vm)
	case plan.Seed:
		if c.was.Seeded {
			return nil, nil
		}
		return nil, m.PrepareSeed(ctx, c.vm)
	case plan.Network:
		return nil, m.AttachNetwork(ctx, c.vm)
	case plan.Start:
		return nil, m.Start(ctx, c.vm)
	case plan.Reboot:
		return nil, m.Reboot(ctx, s.VM)
	case plan.Stop:
		return nil, m.Stop(ctx, s.VM, domain.Duration(a.o.Limits.Grace/time.Millisecond))
	case plan.Remove:
		return nil, m.Remove(ctx, s.VM)
	case plan.Wipe:
		evidence, err := m.Wipe(ctx, c.spec, *s.Wipe)
		if err == nil && len(evidence) == 0 {
			err = errors.New("the machine gave no evidence")
		}
		return evidence, err
	case plan.Refuse:
		return nil, &machine.Fault{Code: s.Reason, Err: errors.New("refused by this host")}
	}
	return nil, fmt.Errorf("unknown step %q", s.Op)
}

// finish says what came of a chain.
func (a *Agent) finish(ctx context.Context, r result) error {
	delete(a.chains, r.chain)
	if r.err != nil && (ctx.Err() != nil || errors.Is(r.err, context.Canceled)) {
		return nil //nolint:nilerr // cut short: the next plan knows what is left to do
	}
	var err error
	switch r.step.Op {
	case plan.Wipe:
		err = a.reportWipe(r)
	case plan.Remove:
		if r.err == nil {
			err = a.reportRemoved(r.step.VM)
		}
	case plan.Stop:
	case plan.Reboot:
		if r.err == nil {
			err = a.journal.Note(journal.Change{Set: map[string]string{vmKey(r.step.VM) + "rebooted": formatBoot(r.step.Boot)}})
			break
		}
		err = a.reportFailed(r)
	default:
		if r.err != nil {
			err = a.reportFailed(r)
		}
	}
	if r.err != nil {
		a.o.Log.Error("chain failed", "of", r.chain.key, "op", r.step.Op, "err", r.err)
		a.holdOff[r.chain.key] = a.o.Clock().Add(a.o.Limits.Replan)
	} else {
		delete(a.holdOff, r.chain.key)
	}
	return full(err)
}

// finishLast says what came of the chains that ended with the agent: one that was done
// by then may have taken a day.
func (a *Agent) finishLast(ctx context.Context) error {
	var errs []error
	for len(a.done) > 0 { // nobody sends any more
		errs = append(errs, a.finish(ctx, <-a.done))
	}
	return errors.Join(errs...)
}
