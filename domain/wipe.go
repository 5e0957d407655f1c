package domain

import (
	"slices"
	"strings"
)

// A wipe stands between two tenants of a slot: it is ordered, reported with
// evidence, and judged. Only verified evidence frees the slot.

// How long a wipe may take before the slot is quarantined. An overwrite of a
// large drive takes hours; a crypto erase or a format seconds to minutes.
const (
	wipeDeadlineFast = 2 * Hour
	wipeDeadlineSlow = 24 * Hour
)

func wipeDeadline(p WipePolicy) Duration {
	if p == WipeOverwrite || p == WipeAuto {
		return wipeDeadlineSlow
	}
	return wipeDeadlineFast
}

// WipingSlot is one slot of a SlotWipeStarted.
type WipingSlot struct {
	Slot       SlotID `json:"slot_id"`
	Generation uint32 `json:"generation"` // of the ended lease; 0: the first wipe
	Attempt    uint32 `json:"attempt"`
	Deadline   Time   `json:"deadline"`
}

func (s *WipingSlot) wire(c *coder) {
	idField(c, 1, &s.Slot)
	uintField(c, 2, &s.Generation)
	uintField(c, 3, &s.Attempt)
	c.time(4, &s.Deadline)
}

// SlotWipeStarted sends slots of one host to be erased. A seed is given when the
// lease had none (the first wipe).
type SlotWipeStarted struct {
	Host  HostID       `json:"host_id"`
	Cause string       `json:"cause"` // "approved", "released", "rewipe", "epoch"
	Slots []WipingSlot `json:"slots"`
	Seed  [16]byte     `json:"-"`
}

// EventType implements EventBody.
func (*SlotWipeStarted) EventType() string { return "slot.wipe_started" }

// Owner implements EventBody.
func (e *SlotWipeStarted) Owner() string { return e.Host.String() }

// Resource implements EventBody.
func (e *SlotWipeStarted) Resource() string {
	if len(e.Slots) == 0 {
		return ""
	}
	return e.Slots[0].Slot.String()
}

func (e *SlotWipeStarted) wire(c *coder) {
	idField(c, 1, &e.Host)
	c.str(2, &e.Cause)
	msgs(c, 3, &e.Slots)
	c.fixedBytes(4, e.Seed[:])
}

func (e *SlotWipeStarted) apply(w *World, _ *Applied) {
	for _, ws := range e.Slots {
		row := w.slots.find(ws.Slot)
		s := w.slots.row(row)
		// A slot that was released keeps its VM's row until that is gone.
		s.State, s.Attempt, s.Deadline = SlotIsWiping, ws.Attempt, ws.Deadline
		if e.Seed != [16]byte{} {
			s.seed = e.Seed
		}
		w.timers.add(ws.Deadline, timerWipe, row)
	}
	w.touchHostSlots(e.Host)
}

// SlotWiped frees a slot: every device's erasure was proven.
type SlotWiped struct {
	Host       HostID       `json:"host_id"`
	Slot       SlotID       `json:"slot_id"`
	Generation uint32       `json:"generation"`
	Nonce      Digest       `json:"nonce"`
	StartedAt  Time         `json:"started_at"`
	EndedAt    Time         `json:"ended_at"`
	Devices    []DeviceWipe `json:"devices"`
}

// EventType implements EventBody.
func (*SlotWiped) EventType() string { return "slot.wiped" }

// Owner implements EventBody.
func (e *SlotWiped) Owner() string { return e.Host.String() }

// Resource implements EventBody.
func (e *SlotWiped) Resource() string { return e.Slot.String() }

func (e *SlotWiped) wire(c *coder) {
	idField(c, 1, &e.Host)
	idField(c, 2, &e.Slot)
	uintField(c, 3, &e.Generation)
	c.digest(4, &e.Nonce)
	c.time(5, &e.StartedAt)
	c.time(6, &e.EndedAt)
	msgs(c, 7, &e.Devices)
}

func (e *SlotWiped) apply(w *World, _ *Applied) {
	s := w.slots.get(e.Slot)
	s.State, s.Deadline, s.Attempt, s.Dirty = SlotIsAvailable, 0, 0, false
	w.touchHostSlots(e.Host)
}

// RewipeSlot sends a quarantined slot through another wipe.
type RewipeSlot struct {
	Slot SlotID `json:"slot_id"`
}

// CommandType implements CommandBody.
func (*RewipeSlot) CommandType() string { return "slot.rewipe" }

func (m *RewipeSlot) wire(c *coder) { idField(c, 1, &m.Slot) }

func (m *RewipeSlot) decide(w *World, x *Context) ([]EventBody, *Error) {
	if err := w.requirePlatform(x, RoleOperator); err != nil {
		return nil, err
	}
	s := w.slots.get(m.Slot)
	if s == nil {
		return nil, notFound("slot")
	}
	if s.State == SlotIsWiping {
		return nil, nil
	}
	if s.State != SlotIsQuarantined {
		return nil, Errorf(Conflict, "slot.not_quarantined", "the slot is %s: only a quarantined slot is wiped again", s.State)
	}
	if w.unknownOn(w.slots.find(m.Slot), VMID{}) {
		return nil, errUnknownVM()
	}
	return []EventBody{&SlotWipeStarted{Host: w.hosts.row(s.host).ID, Cause: "rewipe", Slots: []WipingSlot{
		{Slot: s.ID, Generation: s.Generation, Attempt: s.Attempt + 1, Deadline: x.At.Add(wipeDeadline(s.Policy))},
	}}}, nil
}

// judgeWipe decides what a host's wipe evidence is worth. Everything has to be
// right; the first doubt quarantines the slot.
func (w *World) judgeWipe(x *Context, host uint32, r *WipeReport) ([]EventBody, *Error) {
	row := w.slots.find(r.Slot)
	if row == none || w.slots.row(row).host != host {
		return nil, Errorf(Invalid, "report.foreign_slot", "the slot is not on this host")
	}
	s := w.slots.row(row)
	if s.State != SlotIsWiping {
		return nil, Errorf(Conflict, "report.late", "the slot is %s: no wipe is awaited", s.State)
	}
	if r.Generation != s.Generation || r.Attempt != s.Attempt {
		return nil, Errorf(Conflict, "report.stale", "wipe of generation %d attempt %d, awaited is %d attempt %d", r.Generation, r.Attempt, s.Generation, s.Attempt)
	}
	// A host wipes a slot only when no VM holds it any more: if it never said so
	// (it may never have seen the VM), its evidence does.
	var before []EventBody
	if s.vm != none {
		before, _ = w.vmRemoved(x, s.vm, w.vms.row(s.vm))
	}
	quarantine := func(component, scope, reason string) ([]EventBody, *Error) {
		if s.Condemned && w.LogicLevel < 2 {
			return before, nil
		}
		return append(before, &SlotQuarantined{Host: w.hosts.row(host).ID, Slot: s.ID, Component: component, Scope: scope, Reason: reason, Devices: r.Devices}), nil
	}
	if r.Nonce != s.lease().Nonce {
		return quarantine("host", "device", "wipe.wrong_nonce")
	}
	whole := s.Real && w.LogicLevel >= 2
	seen, kept := [3]bool{}, false
	for i := range r.Devices {
		d := &r.Devices[i]
		k := slices.Index(deviceComponents[:], d.Component)
		switch {
		case d.Component == "host": // what the host kept: beside the devices, and no less needed
			kept = true
		case k < 0 || seen[k]:
			return quarantine("host", "device", "wipe.unknown_component")
		case deviceKey(k, d.Serial) != s.devices[k]:
			return quarantine(d.Component, "device", "wipe.wrong_serial")
		default:
			seen[k] = true
		}
		if reason := d.doubt(s.Policy, whole); reason != "" {
			return quarantine(d.Component, d.repairScope(), reason)
		}
	}
	for k, key := range s.devices {
		if key != 0 && !seen[k] {
			return quarantine(deviceComponents[k], "device", "wipe.missing_device")
		}
	}
	if whole && !kept {
		return quarantine("host", "host", "wipe.remnants")
	}
	if s.Condemned {
		return append(before, &SlotQuarantined{Host: w.hosts.row(host).ID, Slot: s.ID, Component: "", Scope: "device", Reason: "condemned", Devices: r.Devices}), nil
	}
	return append(before, &SlotWiped{Host: w.hosts.row(host).ID, Slot: s.ID, Generation: s.Generation, Nonce: r.Nonce, StartedAt: r.StartedAt, EndedAt: r.EndedAt, Devices: r.Devices}), nil
}

// doubt is the reason not to believe that the device is erased, "" if there is
// none. What the evidence says of itself has to agree, too: a host that calls a
// wipe verified and names a canary that is still there is wrong about one of them. Of
// a real device it has to be whole; that of lab and sim hosts says less.
func (d *DeviceWipe) doubt(p WipePolicy, whole bool) string {
	switch {
	case d.Result != WipeVerified:
		if checkWord("reason", d.Reason, 64, false) == nil {
			return d.Reason
		}
		return "wipe." + d.Result.String()
	case d.Reason != "":
		return "wipe.contradiction"
	case d.Gone != d.Planted:
		return "wipe.canary_survived"
	case d.Firmware != d.Approved && !d.Baseline.IsZero():
		return "wipe.firmware_changed"
	case d.EndedAt < d.StartedAt:
		return "wipe.wrong_times"
	case whole && d.Baseline.IsZero() && (d.Component == "nvme" || d.Component == "ib_vf"):
		return "wipe.no_baseline"
	case whole && (d.Method == "" || d.Method == "none"):
		return "wipe.wrong_method"
	case d.Component == "nvme":
		return d.driveDoubt(p)
	}
	return ""
}

// driveDoubt is doubt of what only a drive's evidence has. Evidence with a baseline
// has to be whole, wherever it comes from.
func (d *DeviceWipe) driveDoubt(p WipePolicy) string {
	switch d.Coverage {
	case CoverageAll:
		if d.BytesRead != d.SizeBytes || d.SizeBytes == 0 {
			return "wipe.not_all_read"
		}
	case CoverageSampled:
		if d.BytesRead == 0 || d.BytesRead > d.SizeBytes || d.Sample.IsZero() {
			return "wipe.not_sampled"
		}
	case "":
		if !d.Baseline.IsZero() {
			return "wipe.not_all_read"
		}
	default:
		return "wipe.not_all_read"
	}
	if !d.Baseline.IsZero() && d.Planted == 0 {
		return "wipe.no_canaries"
	}
	if prefix := wipeMethods[p]; d.Method == "" || !strings.HasPrefix(d.Method, prefix) {
		return "wipe.wrong_method"
	}
	return ""
}

// wipeMethods are how the methods begin that a policy allows.
var wipeMethods = [...]string{WipeUnset: "", WipeAuto: "", WipeSanitize: "sanitize-", WipeFormat: "format-", WipeOverwrite: "overwrite"}

// repairScope is the scope that the host named, if it is one.
func (d *DeviceWipe) repairScope() string {
	switch d.Scope {
	case "baseboard", "host":
		return d.Scope
	}
	return "device"
}
