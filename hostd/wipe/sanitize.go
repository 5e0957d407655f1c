package wipe

import (
	"context"
	"fmt"
	"time"

	"github.com/gpuaas/gpuaas/hostd/nvme"
)

// A sanitize runs by itself: over a reset, a power cut, the death of the host. It
// is watched through its log page, and may take as long as the drive estimated,
// within bounds: a drive that estimates nothing, or a year, is not waited for.
const (
	sanitizeSlack    = 10 * time.Minute
	sanitizeFactor   = 4
	sanitizeMost     = 2 * time.Hour  // crypto and block erase: the deadline of the fast policies
	overwriteMost    = 24 * time.Hour // the deadline of the slow ones
	pollFirst        = 200 * time.Millisecond
	pollMost         = 10 * time.Second
	formatStandstill = 10 * time.Minute
)

// patience is how long an action may take, and how long its progress may stand still.
func patience(st *nvme.SanitizeStatus) (all, standstill time.Duration) {
	estimate, most := time.Duration(0), sanitizeMost
	switch nvme.SanitizeAction(st.CDW10 & 7) {
	case nvme.SanitizeKeysGone:
		estimate = st.Crypto
	case nvme.SanitizeBlocks:
		estimate = st.Block
	case nvme.SanitizeRewrite:
		estimate, most = st.Overwrite, overwriteMost
	}
	estimate = min(estimate, most)
	return min(sanitizeFactor*estimate+sanitizeSlack, most), min(max(estimate, sanitizeSlack), most/2)
}

// sanitize starts a sanitize and follows it to its end.
func (e *eraser) sanitize(ctx context.Context, a nvme.SanitizeAction) error {
	r := &erasing{Serial: e.serial, Lease: leaseDigest(e.wipe), Method: e.method.name, Action: a.CDW10(), Canaries: e.planted, At: time.Now().UTC()}
	if _, err := e.store.save(kindErasing, e.serial, r); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	if err := nvme.StartSanitize(ctx, e.ctl, a); err != nil {
		return err
	}
	return e.follow(ctx, a.CDW10())
}

// follow polls the log until the sanitize with this CDW10 is over.
func (e *eraser) follow(ctx context.Context, cdw10 uint32) error {
	began, moved, pause := time.Now(), time.Now(), pollFirst
	progress, backwards := uint16(0), false
	for {
		st, err := nvme.ReadSanitizeStatus(ctx, e.ctl)
		if err != nil {
			return err
		}
		if st.State != nvme.NeverSanitized && st.CDW10 != cdw10 {
			return refuse(SanitizeOther, "%v; awaited is scdw10 0x%x", st, cdw10)
		}
		switch st.State {
		case nvme.Sanitized, nvme.SanitizedDeallocated:
			e.say("%v, after %v", st, time.Since(began).Round(time.Millisecond))
			if backwards {
				return refuse(SanitizeBackwards, "its progress went backwards, to %d of 65536", progress)
			}
			return nil
		case nvme.SanitizeHasFailed:
			e.say("%v", st)
			return refuse(SanitizeFailed, "%v", st)
		case nvme.NeverSanitized:
			return refuse(SanitizeNotStarted, "the command completed, and the log says that no sanitize ever began")
		}
		if st.Progress < progress {
			backwards = true
		}
		if st.Progress != progress {
			progress, moved = st.Progress, time.Now()
		}
		all, standstill := patience(st)
		switch {
		case time.Since(began) > all:
			return refuse(SanitizeLate, "%v after %v: it goes on, the next attempt follows it", st, time.Since(began).Round(time.Second))
		case time.Since(moved) > standstill:
			return refuse(SanitizeStuck, "%v: it has not moved for %v", st, time.Since(moved).Round(time.Second))
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
		pause = min(2*pause, pollMost)
	}
}

// settle waits for what earlier runs or the tenant left under way. It reports
// whether that was the sanitize of this very wipe, with all canaries planted before
// it: then only the proof is left to do.
func (e *eraser) settle(ctx context.Context) (ours bool, err error) {
	if e.id.Sanitizes() {
		if ours, err = e.settleSanitize(ctx); err != nil {
			return false, err
		}
	}
	ids, err := nvme.ActiveNamespaces(ctx, e.ctl)
	if err != nil {
		return false, err
	}
	for _, nsid := range ids[:min(len(ids), maxNamespaces)] {
		if err := e.settleFormat(ctx, nsid); err != nil {
			return false, err
		}
	}
	return ours, nil
}

func (e *eraser) settleSanitize(ctx context.Context) (ours bool, err error) {
	st, err := nvme.ReadSanitizeStatus(ctx, e.ctl)
	if err != nil {
		return false, err
	}
	switch st.State {
	case nvme.Sanitizing:
		r, err := e.store.erasing(e.serial, e.wipe)
		if err != nil {
			return false, err
		}
		e.say("%v: found in progress", st)
		if err := e.follow(ctx, st.CDW10); err != nil {
			return false, err
		}
		if r == nil || r.Action != st.CDW10 || byName(r.Method) == nil {
			return false, nil
		}
		e.method, e.planted = byName(r.Method), r.Canaries
		e.ev.Method = e.method.name
		return true, nil
	case nvme.SanitizeHasFailed:
		e.say("%v: found", st)
		return false, e.recover(ctx)
	}
	return false, nil
}

// recover leads a drive out of the failure mode of an earlier sanitize, in which no
// block can be reached: by leaving it where that is allowed, or by a sanitize that
// succeeds. Neither is the erasure; that follows.
func (e *eraser) recover(ctx context.Context) error {
	if err := nvme.StartSanitize(ctx, e.ctl, nvme.ExitFailureMode); err == nil {
		e.say("left the failure mode of an earlier sanitize")
		return nil
	}
	for _, m := range []struct {
		can    bool
		action nvme.SanitizeAction
	}{{e.id.SanitizeCrypto(), nvme.SanitizeKeysGone}, {e.id.SanitizeBlock(), nvme.SanitizeBlocks}, {e.id.SanitizeOver(), nvme.SanitizeRewrite}} {
		if !m.can {
			continue
		}
		if err := nvme.StartSanitize(ctx, e.ctl, m.action); err != nil {
			return fmt.Errorf("recovery from a failed sanitize: %w", err)
		}
		return e.follow(ctx, m.action.CDW10())
	}
	return refuse(SanitizeFailed, "an earlier sanitize failed, and the drive cannot do another")
}

// settleFormat waits for a format that a power cut or a crash left running.
func (e *eraser) settleFormat(ctx context.Context, nsid uint32) error {
	left, moved := uint8(0), time.Now()
	for began := time.Now(); ; {
		n, err := nvme.IdentifyNamespace(ctx, e.ctl, nsid)
		if err != nil {
			return err
		}
		if n.Formatting == 0 {
			return nil
		}
		if n.Formatting != left {
			left, moved = n.Formatting, time.Now()
		}
		if time.Since(moved) > formatStandstill || time.Since(began) > nvme.FormatTimeout {
			return refuse(FormatStuck, "namespace %d: %d%% of a format are left", nsid, left)
		}
		if err := sleep(ctx, pollMost); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
