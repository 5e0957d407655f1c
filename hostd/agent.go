package hostd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/journal"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/plan"
)

// chainReportBytes is room for what one chain may have to say at its end. A chain
// that could not say so would be done again and again.
const chainReportBytes = 8 << 10

// firstWord is how long a host that never saw a placement waits for one before it
// proposes its slot map unasked.
const firstWord = 5 * time.Second

// Agent makes one host be what its placements say. See the package comment.
type Agent struct {
	o       Options
	journal *journal.Journal
	fence   *journal.Fence
	maps    mapStore

	inbox mailbox       // the latest placement, from the line
	done  chan result   // of chains
	looks chan look     // at the hardware
	again chan struct{} // somebody wants a look, see LookAgain

	// What follows belongs to the loop.
	desired    *domain.Desired // admitted by the fence; nil: none
	fresh      bool            // desired came from the site in this life
	approved   *domain.SlotMap // the map that desired names, if it is one of ours
	discovered *domain.SlotMap
	looking    bool                 // a look is under way
	looked     bool                 // the first one has ended
	lookedAt   time.Time            // when the last one began
	lookAt     time.Time            // when to look again
	doubts     int                  // the last looks were bad, and are not believed yet
	broken     map[uint32]time.Time // slots that are not as approved, since when
	same       [2]*domain.SlotMap   // the last two maps that were found to be the same
	began      time.Time
	chains     map[*chain]struct{}
	holdOff    map[string]time.Time // chains that failed and are not given up: when to try again
	unheard    unheard
	working    sync.WaitGroup

	status  status                         // for heartbeats
	inForce atomic.Pointer[domain.SlotMap] // the last map known to be approved, for others to read
}

// Approved is the last slot map known to be approved, nil if there never was one: what
// is in it is tenants'. It is known before Run, and may be called from anywhere.
func (a *Agent) Approved() *domain.SlotMap { return a.inForce.Load() }

// New opens the directory of an agent. Run it, or its files stay open.
func New(o Options) (*Agent, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	fence, err := journal.OpenFence(o.Dir, o.NoSync)
	if err != nil {
		return nil, err
	}
	a := &Agent{
		o: o, fence: fence, maps: mapStore{dir: o.Dir}, began: o.Clock(),
		inbox:  mailbox{wake: make(chan struct{}, 1)},
		done:   make(chan result, o.Limits.Parallel),
		looks:  make(chan look, 1),
		again:  make(chan struct{}, 1),
		chains: map[*chain]struct{}{}, holdOff: map[string]time.Time{}, broken: map[uint32]time.Time{},
	}
	a.journal, err = journal.Open(journal.Options{Dir: o.Dir, Sign: a.sign, MaxBytes: o.Limits.Journal, NoSync: o.NoSync, Log: o.Log, Doubt: []string{metPrefix}})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(a.markNew(), a.restore()); err != nil {
		return nil, errors.Join(err, a.journal.Close())
	}
	return a, nil
}

// Run works until ctx ends; then it lets go of everything and stops no VM. It
// returns nil, or why it could not go on: the process should then be restarted.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, f := range []func(context.Context){a.listen, a.publish, a.beat, a.serveConsole} {
		wg.Go(func() { f(ctx) })
	}
	err := a.loop(ctx)
	cancel(err)
	wg.Wait()
	return errors.Join(err, a.journal.Close())
}

// loop is the one owner of the agent's state. It ends with ctx.
func (a *Agent) loop(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		a.working.Wait() // chains and looks honour ctx
		err = errors.Join(err, a.finishLast(ctx))
	}()
	events := a.o.Machine.Events()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.inbox.wake:
			if p := a.inbox.take(); p != nil {
				if err := a.accept(p); err != nil {
					return err
				}
			}
		case e, open := <-events:
			if !open {
				events = nil
				continue
			}
			if err := a.news(e); err != nil {
				return err
			}
		case r := <-a.done:
			if err := a.finish(ctx, r); err != nil {
				return err
			}
		case l := <-a.looks:
			a.saw(l)
		case <-a.again:
			a.lookSoon()
		case <-timer.C:
		}
		wait, err := a.reconcile(ctx)
		if err != nil && ctx.Err() == nil {
			return err
		}
		timer.Reset(wait)
	}
}

// reconcile is one turn: look, say what is new, plan, begin what can begin. It
// returns when to look again at the latest. An error means that the agent can no
// longer keep what it has to remember.
func (a *Agent) reconcile(ctx context.Context) (time.Duration, error) {
	if err := a.inventory(ctx); err != nil {
		return 0, full(err)
	}
	if a.desired != nil && a.desired.Account {
		return a.account(ctx)
	}
	if a.desired == nil || a.approved == nil {
		a.status.rest(a.idleReason())
		return min(a.nextLook(), firstWord), nil
	}
	if wait := a.began.Add(firstWord).Sub(a.o.Clock()); !a.fresh && wait > 0 {
		a.status.rest("the placement of the last life is carried out when the site does not say otherwise")
		return min(a.nextLook(), wait), nil
	}
	observing, cancel := context.WithTimeout(ctx, observeTimeout)
	observed, err := a.o.Machine.Observe(observing)
	cancel()
	if err != nil {
		a.o.Log.Warn("cannot observe the machine", "err", err)
		a.status.rest("cannot observe the machine: " + err.Error())
		return a.o.Limits.Backoff, nil
	}
	facts, err := a.adopt(observed)
	if err != nil {
		return a.o.Limits.Replan, full(err)
	}
	state := remember(facts, a.approved, observed)
	if err := a.reportVMs(state); err != nil {
		return a.o.Limits.Replan, full(err)
	}
	specs, broken := resolve(a.approved, a.discovered)
	if err := a.reportBroken(broken); err != nil {
		return a.o.Limits.Replan, full(err)
	}
	a.awaitWhole(broken)
	state.Broken = map[uint32]string{}
	for slot, d := range broken {
		state.Broken[slot] = d.reason
	}
	for i := range a.desired.VMs {
		for _, l := range a.desired.VMs[i].Leases {
			if specAt(a.approved, l.Index) == nil {
				state.Broken[l.Index] = reasonUnknownSlot
			}
		}
	}
	if a.journal.Room() < chainReportBytes*int64(a.o.Limits.Parallel) {
		a.status.rest("the journal is full: nothing new is done until the site acknowledges reports")
		return a.o.Limits.Replan, nil
	}
	if a.o.KeepImages != nil {
		if err := a.o.KeepImages(a.desired.VMs); err != nil {
			a.o.Log.Error("a tenant's own image cannot be removed: nothing new is done", "err", err)
			a.status.rest("a tenant's own image cannot be removed from this host: " + err.Error())
			return a.o.Limits.Replan, nil
		}
	}
	steps := plan.Diff(a.desired, state)
	a.begin(ctx, steps, specs, state.VMs)
	a.status.observe(a.desired, state, len(steps) == 0 && len(a.chains) == 0)
	return a.nextLook(), nil
}

// full turns a full journal into a rest: nothing new is done until the site
// acknowledged reports. Anything else ends the agent.
func full(err error) error {
	if errors.Is(err, journal.ErrFull) {
		return nil
	}
	return err
}

func (a *Agent) idleReason() string {
	switch seen := a.fence.Seen(); {
	case !seen.Conflict.IsZero():
		return fmt.Sprintf("quarantined: generation %d of epoch %d came with two digests", seen.Generation, seen.Epoch)
	case a.desired != nil && !a.desired.SlotMap.IsZero():
		return fmt.Sprintf("slot map %s was approved, but this host never proposed it", a.desired.SlotMap)
	}
	return ""
}

func (a *Agent) nextLook() time.Duration {
	wait := a.o.Limits.Replan
	now := a.o.Clock()
	for key, at := range a.holdOff {
		if at.After(now) {
			wait = min(wait, at.Sub(now))
		} else {
			delete(a.holdOff, key) // this turn was its chance
		}
	}
	if !a.looking {
		wait = min(wait, max(0, a.lookAt.Sub(now)))
	}
	return wait
}

// accept takes a placement from the line: the fence first, then what it
// acknowledges, then what it asks for.
func (a *Agent) accept(p *domain.Placement) error {
	d := &p.Desired
	if d.Host != a.o.Host || d.Site != a.o.Site {
		a.o.Log.Error("a placement for another host was delivered here: ignored", "site", d.Site, "host", d.Host)
		return nil
	}
	before := a.fence.Seen()
	if id, acked := a.journal.Acked(); before.Outruns(p, a.status.following(), id, acked) {
		a.o.Log.Error("a newer placement acknowledges less than was acknowledged before: the site's log has lost its end; this host waits for a new epoch", "epoch", d.Epoch, "generation", d.Generation)
		if d.Generation != before.Generation { // of what is followed it may be an old copy
			a.status.outruns(p.From, d.Epoch)
		}
		return nil
	}
	verdict, err := a.fence.Admit(d)
	if err != nil {
		return err
	}
	switch verdict {
	case journal.Stale:
		a.o.Log.Warn("a placement older than one seen before: ignored", "epoch", d.Epoch, "generation", d.Generation)
		return nil
	case journal.Conflict:
		a.o.Log.Error("one generation, two digests: this host executes nothing until a new epoch", "epoch", d.Epoch, "generation", d.Generation)
		a.status.refuse(p.From)
		a.desired, a.approved = nil, nil // what was approved stays tenants', see Approved
		a.cancelChains(func(*chain) bool { return true })
		return full(a.reportConflict(d))
	case journal.Execute:
	}
	if a.status.follow(p.From, before.Epoch != d.Epoch || before.Generation != d.Generation) {
		if err := a.acknowledge(p); err != nil {
			return err
		}
	}
	a.fresh = true
	if a.desired != nil && a.desired.Generation == d.Generation && a.desired.Epoch == d.Epoch {
		return nil // only the acknowledgement moved
	}
	change := acceptance(d, a.journal.Facts(""))
	if d.Account {
		change = a.accounting(d, before)
	}
	if err := a.journal.Note(change); err != nil {
		return full(err) // not taken on: the next placement, or the next life, tries again
	}
	a.o.Log.Info("placement", "epoch", d.Epoch, "generation", d.Generation, "vms", len(d.VMs), "wipes", len(d.Wipes))
	if err := a.fence.Keep(p); err != nil {
		a.o.Log.Warn("the placement is not kept: after a restart this host waits for the site", "err", err)
	}
	a.takeOn(d)
	clear(a.holdOff)
	a.cancelChains(func(c *chain) bool { return !c.wanted(d) })
	return nil
}

// news is what the machine noticed by itself. All but faults and movements of the
// hardware is seen anew by observing. A guest can cause any of the others as often as it
// likes: none of them is a reason to look at the hardware.
func (a *Agent) news(e machine.Event) error {
	switch e.Kind {
	case machine.HardwareMoved:
		a.lookSoon()
	case machine.DeviceFault:
		a.lookSoon()
		return full(a.reportFault(e))
	}
	return nil
}

// listen keeps the line to the placements open. It ends with ctx.
func (a *Agent) listen(ctx context.Context) {
	backoff := a.o.Limits.Backoff
	for ctx.Err() == nil {
		err := a.o.Link.Placements(ctx, func(p *domain.Placement) error {
			a.inbox.put(p)
			backoff = a.o.Limits.Backoff
			return ctx.Err()
		})
		if ctx.Err() != nil {
			return
		}
		a.o.Log.Warn("line to the placements broke", "err", err)
		if sleep(ctx, backoff) != nil {
			return
		}
		backoff = min(2*backoff, lineBackoffMax)
	}
}

// mailbox holds the latest placement: each is the whole desired state, so one that
// nobody looked at in time is of no interest any more.
type mailbox struct {
	mu     sync.Mutex
	latest *domain.Placement
	wake   chan struct{}
}

func (m *mailbox) put(p *domain.Placement) {
	m.mu.Lock()
	m.latest = p
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *mailbox) take() *domain.Placement {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.latest
	m.latest = nil
	return p
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
