package hostd

import (
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gpuaas/gpuaas/domain"
	"github.com/gpuaas/gpuaas/hostd/journal"
	"github.com/gpuaas/gpuaas/hostd/machine"
	"github.com/gpuaas/gpuaas/hostd/plan"
)

const detailMax = 1024 // bytes of an error that travel

func (a *Agent) now() domain.Time { return domain.TimeOf(a.o.Clock()) }

func (a *Agent) sign(report []byte) ([]byte, error) {
	return a.o.Signer.Sign(rand.Reader, report, crypto.Hash(0))
}

// report makes evidence durable, together with the facts that it was given.
func (a *Agent) report(r domain.Report, c journal.Change) error {
	seen := a.fence.Seen()
	r.Host, r.At, r.Epoch, r.Generation = a.o.Host, a.now(), seen.Epoch, seen.Generation
	if a.desired != nil {
		r.Epoch, r.Generation = a.desired.Epoch, a.desired.Generation
	}
	if err := a.journal.Append(&r, c); err != nil {
		return err
	}
	a.o.Log.Info("report", "kind", r.Kind, "number", r.Number)
	return nil
}

// reportVMs says what is new of the VMs that the placement has: each fact once a
// boot.
func (a *Agent) reportVMs(s plan.State) error {
	observed := map[domain.VMID]machine.Observed{}
	for _, o := range s.VMs {
		observed[o.VM] = o
	}
	for i := range a.desired.VMs {
		v := &a.desired.VMs[i]
		o, exists := observed[v.VM]
		if err := a.reportVM(v, o, exists); err != nil {
			return err
		}
	}
	return nil
}

func (a *Agent) reportVM(v *domain.PlacedVM, o machine.Observed, exists bool) error {
	say := func(kind domain.ReportKind, boot uint32, at domain.Time) error {
		key := bootKey(v.VM, boot, kind)
		if _, said := a.journal.Fact(key); said {
			return nil
		}
		if at == 0 {
			at = a.now()
		}
		r := &domain.VMReport{VM: v.VM, Boot: boot, At: at, Address: o.Address}
		c := journal.Change{Set: map[string]string{key: ""}}
		switch {
		case kind == domain.ReportStarted:
			c.Drop = a.olderBoots(v.VM, boot)
		case kind == domain.ReportStopped && v.Power == domain.PowerOn:
			r.Reason = o.Cause
		}
		return a.report(domain.Report{Kind: kind, VM: r}, c)
	}
	lost := exists && o.Lost && o.Boot == v.Boot && v.Power == domain.PowerOn
	var errs []error
	if exists && o.Boot > 0 && !(lost && a.saidLost(&o)) {
		since := o.Since
		if !o.Running {
			since = 0
		}
		errs = append(errs, say(domain.ReportStarted, o.Boot, since))
		if o.Alive != 0 {
			errs = append(errs, say(domain.ReportAlive, o.Boot, o.Alive))
		}
		if o.Ready != 0 {
			errs = append(errs, say(domain.ReportReady, o.Boot, o.Ready))
		} else {
			errs = append(errs, a.reportDoubts(&o))
		}
	}
	if lost {
		return errors.Join(append(errs, a.reportLost(&o))...)
	}
	if a.inChain(v.VM) || exists && o.Running {
		return errors.Join(errs...)
	}
	switch {
	case exists && o.Boot >= v.Boot:
		errs = append(errs, say(domain.ReportStopped, o.Boot, o.Since))
	case v.Power == domain.PowerOff:
		errs = append(errs, say(domain.ReportStopped, v.Boot, 0))
	}
	return errors.Join(errs...)
}

// reportLost says that a VM went down and nobody meant it to. What is said once a boot
// is then said again of the same one.
func (a *Agent) reportLost(o *machine.Observed) error {
	if a.saidLost(o) {
		return nil
	}
	c := journal.Change{
		Set:  map[string]string{bootKey(o.VM, o.Boot, lostFact): o.Since.String()},
		Drop: []string{fmt.Sprintf("%sboot/%d/", vmKey(o.VM), o.Boot)},
	}
	return a.report(domain.Report{Kind: domain.ReportStopped, VM: &domain.VMReport{VM: o.VM, Boot: o.Boot, At: o.Since, Reason: o.Cause, Lost: true}}, c)
}

func (a *Agent) saidLost(o *machine.Observed) bool {
	at, said := a.journal.Fact(bootKey(o.VM, o.Boot, lostFact))
	return said && at == o.Since.String()
}

// reportDoubts says why a guest that says ready is not believed: it is alive, and
// something is wrong with it.
func (a *Agent) reportDoubts(o *machine.Observed) error {
	var errs []error
	for _, why := range o.Doubts {
		key := bootKey(o.VM, o.Boot, doubtFact) + "/" + why
		if _, said := a.journal.Fact(key); said {
			continue
		}
		v := &domain.VMReport{VM: o.VM, Boot: o.Boot, At: a.now(), Address: o.Address, Reason: why}
		errs = append(errs, a.report(domain.Report{Kind: domain.ReportAlive, VM: v}, journal.Change{Set: map[string]string{key: ""}}))
	}
	return errors.Join(errs...)
}

// inChain reports whether a chain of the VM runs: what is seen in the middle of it
// is not yet a fact.
func (a *Agent) inChain(id domain.VMID) bool {
	for c := range a.chains {
		if c.key == id.String() {
			return true
		}
	}
	return false
}

// olderBoots are the facts of boots before this one: nobody asks for them again.
func (a *Agent) olderBoots(id domain.VMID, boot uint32) []string {
	prefix := vmKey(id) + "boot/"
	var out []string
	for key := range a.journal.Facts(prefix) {
		word, _, _ := strings.Cut(strings.TrimPrefix(key, prefix), "/")
		if n, ok := parseBoot(word); ok && n < boot {
			out = append(out, fmt.Sprintf("%s%d/", prefix, n))
		}
	}
	return out
}

// reportFailed gives a boot up.
func (a *Agent) reportFailed(r result) error {
	v := &domain.VMReport{VM: r.step.VM, Boot: r.step.Boot, At: domain.TimeOf(r.ended), Reason: "machine.error", Detail: clip(r.err.Error())}
	var fault *machine.Fault
	if errors.As(r.err, &fault) {
		v.Reason, v.Theirs = fault.Code, fault.Theirs
		a.blame(v, r.step.Slots, fault)
	}
	return a.report(domain.Report{Kind: domain.ReportFailed, VM: v},
		journal.Change{Set: map[string]string{vmKey(r.step.VM) + "failed": formatBoot(r.step.Boot)}})
}

// blame names the slot and component that a failure is due to, if it is one's: by the
// machine's word, or because the slot is not as approved.
func (a *Agent) blame(v *domain.VMReport, slots []uint32, fault *machine.Fault) {
	index, component, scope := fault.Slot, fault.Component, fault.Scope
	if component == "" && a.approved != nil {
		_, broken := resolve(a.approved, a.discovered)
		for _, slot := range slots {
			if d, is := broken[slot]; is && d.reason == fault.Code {
				index, component, scope = slot, d.component, "device"
			}
		}
	}
	id, known := a.journal.Fact(slotIDKey(index))
	if component == "" || !known || v.Slot.UnmarshalText([]byte(id)) != nil {
		return
	}
	v.Component, v.Scope = component, scope
}

// reportRemoved ends what is remembered of a VM; whose data is on the drives stays.
func (a *Agent) reportRemoved(id domain.VMID) error {
	v := &domain.VMReport{VM: id, At: a.now()}
	return a.report(domain.Report{Kind: domain.ReportRemoved, VM: v}, journal.Change{Drop: []string{vmKey(id)}})
}

// reportWipe passes the machine's evidence on as it is. A machine that could not
// say anything becomes a failure of every device: nothing is known of any.
func (a *Agent) reportWipe(r result) error {
	w, spec := r.step.Wipe, &r.chain.spec
	evidence := r.evidence
	if r.err != nil {
		evidence = nothingKnown(spec, r.err)
	}
	c := journal.Change{Set: map[string]string{wipeKey(plan.KeyOf(w)): ""}}
	if erased(evidence, spec) {
		c.Drop = []string{dirtyKey(spec), slotFaults(spec.Index)}
	}
	return a.report(domain.Report{Kind: domain.ReportWiped, Wipe: &domain.WipeReport{
		Slot: w.Lease.Slot, Generation: w.Lease.Generation, Nonce: w.Lease.Nonce, Attempt: w.Attempt,
		StartedAt: domain.TimeOf(r.began), EndedAt: domain.TimeOf(r.ended), Devices: evidence,
	}}, c)
}

// nothingKnown is the evidence of a wipe that could not say anything: the component
// that is to blame first, with its code.
func nothingKnown(spec *domain.SlotSpec, err error) (out []domain.DeviceWipe) {
	var fault machine.Fault
	if f := (*machine.Fault)(nil); errors.As(err, &f) {
		fault = *f
	}
	devices := []struct{ component, serial string }{{"gpu", spec.GPU.Serial}, {"nvme", spec.NVMe.Serial}, {"ib_vf", spec.IBVF.Serial}, {"host", ""}}
	for _, d := range devices {
		blamed := fault.Component == d.component
		if d.component == "ib_vf" && d.serial == "" || d.component == "host" && !blamed {
			continue
		}
		e := domain.DeviceWipe{Component: d.component, Serial: d.serial, Result: domain.WipeFailed, Detail: clip(err.Error())}
		if blamed || fault.Component == "" {
			e.Reason, e.Scope = fault.Code, fault.Scope
		}
		if blamed {
			out = slices.Insert(out, 0, e)
		} else {
			out = append(out, e)
		}
	}
	return out
}

// erased reports whether the evidence is whole: every device of the slot, by its
// serial, verified, and nothing else than verified.
func erased(evidence []domain.DeviceWipe, spec *domain.SlotSpec) bool {
	want := map[string]bool{"gpu " + spec.GPU.Serial: true, "nvme " + spec.NVMe.Serial: true, "ib_vf " + spec.IBVF.Serial: true}
	delete(want, "ib_vf ") // a slot without one
	for _, d := range evidence {
		if d.Result != domain.WipeVerified {
			return false
		}
		delete(want, d.Component+" "+d.Serial)
	}
	return len(want) == 0
}

// reportFault says that a component of a slot misbehaves, once for each reason.
func (a *Agent) reportFault(e machine.Event) error {
	f := &domain.FaultReport{Component: e.Component, Scope: e.Scope, Reason: e.Code, Detail: clip(e.Detail)}
	if f.Reason == "" {
		f.Reason, f.Detail = clip(e.Detail), "" // the machine has only one word for it
	}
	if f.Component == "" {
		f.Component = "host"
	}
	if f.Scope == "" {
		f.Scope = "host"
	}
	if id, ok := a.journal.Fact(slotIDKey(e.Slot)); ok {
		_ = f.Slot.UnmarshalText([]byte(id)) // "" names the host as a whole
	}
	faults := slotFaults(e.Slot)
	key := fmt.Sprintf("%s%x/", faults, domain.DigestOf([]byte(f.Component+" "+f.Reason)))
	if known := a.journal.Facts(faults); len(known) >= faultsMax || has(known, key) {
		return nil
	}
	return a.report(domain.Report{Kind: domain.ReportFaulted, Fault: f}, journal.Change{Set: map[string]string{key: ""}})
}

// faultsMax bounds what one slot can say between two wipes.
const faultsMax = 32

func has(m map[string]string, key string) bool { _, ok := m[key]; return ok }

// reportConflict says that this host was shown two digests for one generation.
func (a *Agent) reportConflict(d *domain.Desired) error {
	key := fmt.Sprintf("conflict/%d/", d.Epoch)
	if _, said := a.journal.Fact(key); said {
		return nil
	}
	f := &domain.FaultReport{Component: "host", Scope: "host", Reason: "placement.two_digests"}
	return a.report(domain.Report{Kind: domain.ReportFaulted, Fault: f}, journal.Change{Set: map[string]string{key: ""}})
}

func clip(s string) string {
	if len(s) > detailMax {
		return s[:detailMax] + "..."
	}
	return s
}
