package wipe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/nvme"
	"github.com/gpuaas/gpuaas/hostd/wipe/proof"
)

const (
	readBytes  = 4 << 20 // of one read or write; the kernel splits it, so the drive always has work queued
	logMax     = 24      // lines of a device's log in the evidence
	logLineMax = 240
	detailMax  = 600
)

// eraser is one run over one drive.
type eraser struct {
	ctl     nvme.Controller
	store   *Store
	serial  string
	wipe    *domain.PlacedWipe
	ev      domain.DeviceWipe
	id      *nvme.Identity
	base    *Survey // the baseline; from inspect on the drive is equal to it
	method  *method
	planted []uint32 // canaries on each namespace
	health  *nvme.SMART
}

// Drive erases the NVMe drive behind ctl, which must have this serial, and says
// what is proven. An error means that ctx ended: nothing is known, and the next
// call goes on from what it finds.
func Drive(ctx context.Context, ctl nvme.Controller, store *Store, serial string, w *domain.PlacedWipe) (domain.DeviceWipe, error) {
	e := &eraser{ctl: ctl, store: store, serial: serial, wipe: w}
	e.ev = domain.DeviceWipe{Component: "nvme", Serial: serial, Method: "none", Result: domain.WipeFailed, StartedAt: domain.TimeOf(time.Now())}
	err := e.run(ctx)
	if err != nil && ctx.Err() != nil {
		return e.ev, fmt.Errorf("wipe: drive %s: %w", serial, errors.Join(ctx.Err(), err))
	}
	if err != nil {
		e.lastErrors(ctx)
		blame(&e.ev, err)
	} else {
		e.ev.Result = domain.WipeVerified
	}
	e.ev.EndedAt = domain.TimeOf(time.Now())
	return e.ev, nil
}

// run is the whole sequence. Every step that fails ends it.
func (e *eraser) run(ctx context.Context) (err error) {
	if len(ladders[e.wipe.Policy]) == 0 {
		return refuse(UnknownPolicy, "policy %s", e.wipe.Policy)
	}
	if e.id, err = identify(ctx, e.ctl, e.serial); err != nil {
		return err
	}
	if err := e.free(ctx); err != nil {
		return err
	}
	ours, err := e.settle(ctx)
	if err != nil {
		return err
	}
	restored, err := e.inspect(ctx)
	if err != nil {
		return err
	}
	if err := e.measureHealth(ctx); err != nil {
		return err
	}
	if !ours || restored {
		if err := e.plant(ctx); err != nil {
			return err
		}
		if err := e.same(ctx); err != nil {
			return err
		}
		if err := e.erase(ctx); err != nil {
			return err
		}
	}
	if err := e.same(ctx); err != nil {
		return err
	}
	// A reset empties what the controller may have cached, and shows what the next
	// start of the drive will be.
	if err := e.ctl.Reset(ctx); err != nil {
		return err
	}
	if err := e.unchanged(ctx); err != nil {
		return err
	}
	if err := e.verify(ctx); err != nil {
		return err
	}
	if err := e.measureHealth(ctx); err != nil {
		return err
	}
	if err := e.unchanged(ctx); err != nil {
		return err
	}
	return errors.Join(e.store.remove(kindErasing, e.serial), e.store.settled(e.serial, e.wipe))
}

// free refuses a drive that something on the host holds (a file system, LVM, md, a
// VM), before the first command that changes anything: the admin queue asks nobody.
func (e *eraser) free(ctx context.Context) error {
	ids, err := nvme.ActiveNamespaces(ctx, e.ctl)
	if err != nil {
		return err
	}
	for _, nsid := range ids[:min(len(ids), maxNamespaces)] {
		b, err := e.ctl.Namespace(ctx, nsid)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the kernel shows no disk of it, as for some LBA formats: nothing holds it
		}
		if err == nil {
			err = b.Close()
		}
		if err != nil {
			return fmt.Errorf("namespace %d: %w", nsid, err)
		}
	}
	return nil
}

// inspect surveys the drive, restores what commands can restore, and compares it
// with its baseline, which the first wipe of a device takes. It reports whether something had
// to be restored.
func (e *eraser) inspect(ctx context.Context) (restored bool, err error) {
	s, id, err := look(ctx, e.ctl, e.serial)
	if err != nil {
		return false, err
	}
	e.id = id
	for i := range s.Namespaces {
		if n := &s.Namespaces[i]; n.Writes == nvme.ProtectedUntilTold {
			if err := nvme.AllowWrites(ctx, e.ctl, n.ID); err != nil {
				return false, refuse(ProtectedWrites, "namespace %d: write protection %d cannot be taken away: %v", n.ID, n.Writes, err)
			}
			e.say("took the write protection of namespace %d away", n.ID)
			restored = true
		}
	}
	if restored {
		if s, _, err = look(ctx, e.ctl, e.serial); err != nil {
			return true, err
		}
	}
	if err := s.fit(); err != nil {
		return restored, err
	}
	err = e.loadBaseline(s)
	if err == nil {
		err = s.differs(e.base)
	}
	var f *failure
	if errors.As(err, &f) && f.code == FormatChanged {
		restored = true
		if err = e.restoreFormats(ctx, s); err == nil {
			return true, e.unchanged(ctx)
		}
	}
	if err != nil {
		if serr := e.store.refused(&Refused{Serial: e.serial, Component: "nvme", Drive: s}, err); serr != nil {
			e.say("what it is now is not kept for an operator: %v", serr)
		}
	}
	return restored, err
}

func (e *eraser) loadBaseline(s *Survey) (err error) {
	e.ev.Firmware = s.Firmware
	if err := e.takeAccepted(s); err != nil {
		return err
	}
	if e.base, e.ev.Baseline, err = e.store.baseline(e.serial); err != nil {
		return err
	}
	if e.base == nil {
		fresh, err := e.store.fresh(e.wipe, "nvme", e.serial)
		if err != nil {
			return err
		}
		if !fresh {
			return refuse(BaselineMissing, "this host knows no baseline of the drive, and a tenant has had it: look at the drive, then have it accepted")
		}
		if err := e.store.take(e.serial, e.wipe); err != nil {
			return fmt.Errorf("baseline: %w", err)
		}
		if e.ev.Baseline, err = e.store.save(kindBaseline, e.serial, s); err != nil {
			return fmt.Errorf("baseline: %w", err)
		}
		e.base = s
		e.say("baseline taken: this host had never seen the drive")
	}
	if e.ev.Fresh, err = e.store.taken(e.serial, e.wipe); err != nil {
		return err
	}
	e.ev.Approved = e.base.Firmware
	if err := e.store.hold(e.wipe, "nvme", e.serial); err != nil {
		return fmt.Errorf("baseline: %w", err)
	}
	return nil
}

// takeAccepted makes the drive its own baseline if an operator accepted exactly what it
// is. The record stays until a wipe is verified, so that every evidence says it.
func (e *eraser) takeAccepted(s *Survey) error {
	a, err := e.store.accepted(e.serial, e.wipe)
	if err != nil || a == nil || a.Drive == nil {
		return err
	}
	if err := s.differs(a.Drive); err != nil {
		e.say("an operator accepted another state (%s) than it has: %v", a.Why, err)
		return nil
	}
	if _, err := e.store.save(kindBaseline, e.serial, s); err != nil {
		return fmt.Errorf("baseline: %w", err)
	}
	for _, line := range a.lines(s.brief()) {
		e.say("%s", line)
	}
	return nil
}

// restoreFormats formats what has another LBA format than in the baseline.
func (e *eraser) restoreFormats(ctx context.Context, s *Survey) error {
	for i := range e.base.Namespaces {
		n, b := &s.Namespaces[i], &e.base.Namespaces[i]
		if sameFormat(n, b) {
			continue
		}
		if err := nvme.FormatNamespace(ctx, e.ctl, &b.Namespace, nvme.EraseNothing); err != nil {
			return refuse(FormatChanged, "namespace %d has %s, and cannot be given back %s: %v", n.ID, formatOf(n), formatOf(b), err)
		}
		e.say("namespace %d: %s restored to %s", n.ID, formatOf(n), formatOf(b))
	}
	return e.ctl.Reset(ctx) // the kernel looks at the new format
}

// unchanged takes the whole survey again and wants the baseline.
func (e *eraser) unchanged(ctx context.Context) error {
	s, _, err := look(ctx, e.ctl, e.serial)
	if err != nil {
		return e.swapped(err)
	}
	e.ev.Firmware = s.Firmware
	if err := s.fit(); err != nil {
		return err
	}
	return s.differs(e.base)
}

// same asks who the drive is: cheap, between any two steps.
func (e *eraser) same(ctx context.Context) error {
	id, err := identify(ctx, e.ctl, e.serial)
	if err != nil {
		return e.swapped(err)
	}
	e.ev.Firmware = id.Firmware
	if id.Firmware != e.base.Firmware || id.Model != e.base.Model || id.Subnqn != e.base.Subnqn || id.Controller != e.base.Controller {
		return refuse(DeviceSwapped, "%s with firmware %s, controller %d; it was %s with %s, controller %d", id.Model, id.Firmware, id.Controller, e.base.Model, e.base.Firmware, e.base.Controller)
	}
	return nil
}

// swapped says that a wrong serial in the middle is another thing than one at the
// beginning.
func (e *eraser) swapped(err error) error {
	var f *failure
	if errors.As(err, &f) && f.code == WrongSerial {
		f.code = DeviceSwapped
	}
	return err
}

// measureHealth reads the drive's health. Errors of its media while it was erased
// leave blocks of which nothing is known.
func (e *eraser) measureHealth(ctx context.Context) error {
	h, err := nvme.ReadSMART(ctx, e.ctl)
	if err != nil {
		return err
	}
	e.say("%v", h)
	if h.Degraded() {
		return refuse(Degraded, "%v", h)
	}
	if e.health != nil && h.MediaErrors != e.health.MediaErrors {
		return refuse(MediaError, "%d media errors before, %d after", e.health.MediaErrors, h.MediaErrors)
	}
	e.health = h
	return nil
}

// plant puts the canaries on every namespace and proves that they are there: they
// outlive a reset of the controller, so no cache that a reset empties pretends them.
func (e *eraser) plant(ctx context.Context) error {
	e.planted = nil
	err := e.each(ctx, func(n *namespace, b nvme.Blocks) error {
		c, err := e.canaries(n)
		if err != nil {
			return err
		}
		return c.Plant(ctx, b)
	})
	if err != nil {
		return err
	}
	if err := e.ctl.Reset(ctx); err != nil {
		return err
	}
	return e.each(ctx, func(n *namespace, b nvme.Blocks) error {
		c, err := e.canaries(n)
		if err != nil {
			return err
		}
		missing, err := c.Landed(ctx, b)
		if err != nil {
			return err
		}
		if missing >= 0 {
			return refuse(CanaryNotLanded, "the canary written at byte %d does not read back", missing)
		}
		e.planted = append(e.planted, uint32(c.Len()))
		return nil
	})
}

func (e *eraser) canaries(n *namespace) (*proof.Canaries, error) {
	c, err := proof.NewCanaries(e.wipe.Lease.Nonce, e.wipe.Attempt, fmt.Sprintf("%s/%d", e.serial, n.ID), n.Bytes(), nvme.Buffer(proof.CanaryBytes))
	if err != nil {
		return nil, refuse(SizeMismatch, "%v", err)
	}
	return c, nil
}

// say adds a line to the evidence.
func (e *eraser) say(format string, args ...any) {
	if len(e.ev.Log) < logMax {
		e.ev.Log = append(e.ev.Log, clip(fmt.Sprintf(format, args...), logLineMax))
	}
}

// lastErrors adds what the drive's error log says, if it still speaks.
func (e *eraser) lastErrors(ctx context.Context) {
	entries, err := nvme.ReadErrors(ctx, e.ctl)
	if err != nil {
		return // the failure itself has been said
	}
	for i := range entries {
		e.say("%v", &entries[i])
	}
}

// blame makes evidence of a failure.
func blame(ev *domain.DeviceWipe, err error) {
	f := explain(err)
	ev.Result, ev.Reason, ev.Scope, ev.Detail = domain.WipeFailed, f.code, f.scope, clip(err.Error(), detailMax)
	if ev.Scope == "" {
		ev.Scope = "device"
	}
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n] + "..."
	}
	return s
}
