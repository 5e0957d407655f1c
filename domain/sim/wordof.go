package sim

import (
	"slices"
	"strings"

	"github.com/gpuaas/gpuaas/domain"
)

// What may follow from a host's word, and what has to.

// here: a host's word changes nothing on another host, its reports are recorded once
// and in order, and what follows from one was said of the present boot.
func (h *shadow) here(c *domain.Command, e domain.EventBody) {
	where := c.Actor.Host
	said := func(v domain.VMChange, kind domain.ReportKind) {
		where = h.vms[v.VM].host
		if !h.told[saidKey{v.VM, v.Boot, kind}] && v.Reason != "guest.ready_not_reported" {
			h.s.fail("boot %d of VM %s is %s, and its host never said so", v.Boot, v.VM, kind)
		}
	}
	switch e := e.(type) {
	case *domain.HostReported:
		h.heard(e)
		last := h.fleet[e.Host].report
		if h.fleet[e.Host].accounts && h.account { // it may leave a gap
			break
		}
		if h.journals[e.Journal] && e.Journal != last.journal {
			h.s.fail("report %d of host %s is of journal %s, which ended before journal %s", e.Number, e.Host, e.Journal, last.journal)
		}
		if e.Journal == last.journal && e.Number != last.number+1 || e.Journal != last.journal && e.Number != 1 {
			h.s.fail("report %d of host %s, journal %s, is recorded after %d of journal %s (%s)", e.Number, e.Host, e.Journal, last.number, last.journal, e.Refused)
		}
	case *domain.SlotQuarantined:
		where = e.Host
	case *domain.SlotWiped:
		where = e.Host
	case *domain.SlotCondemned:
		where = e.Host
	case *domain.VMStarted:
		said(e.VMChange, domain.ReportStarted)
	case *domain.VMRunning:
		said(e.VMChange, domain.ReportReady)
	case *domain.VMStopped:
		said(e.VMChange, domain.ReportStopped)
	case *domain.VMLost:
		said(e.VMChange, toldLost)
	case *domain.VMRemoved:
		where = h.vms[e.VM].host
	}
	if where != c.Actor.Host {
		h.s.fail("host %s reports, and %s follows on host %s", c.Actor.Host, e.EventType(), where)
	}
}

// heard notes what a host's report says that is being recorded; nil if it is refused.
func (h *shadow) heard(e *domain.HostReported) {
	if h.word = nil; e.Refused == "" {
		h.word = h.said[recorded{e.Journal, e.Number}]
	}
}

// checkFault: what a host says is broken is not for rent when that is recorded.
func (h *shadow) checkFault() {
	if h.word == nil || h.word.Fault == nil {
		return
	}
	f := h.word.Fault
	all := f.Component == "host" || f.Scope == "host"
	for _, v := range h.slotList {
		if v.host != h.word.Host || !all && v.id != f.Slot || v.state == domain.SlotIsProposed {
			continue
		}
		if v.state != domain.SlotIsQuarantined && v.state != domain.SlotIsRetired && !v.condemned {
			h.s.fail("host %s says that %s is broken (%s), and slot %s is %s", v.host, f.Component, f.Scope, v.id, v.state)
		}
	}
}

// checkRelease: the disk of a VM that ran is the tenant's. No deadline throws it away, and
// no host's word but that a device is broken, or that the tenant's own doing failed. (A
// gang ends with a VM that never ran.)
func (h *shadow) checkRelease(e *domain.AllocationReleasing) {
	never := func(v *vmView) bool { return !v.ran }
	switch r := h.word; {
	case strings.HasPrefix(e.Reason, "epoch."):
	case r != nil && r.VM != nil && h.vms[r.VM.VM].ran && r.VM.Component == "" && !r.VM.Theirs,
		(e.Reason == "provision.timeout" || e.Reason == "guest.no_sign_of_life") && !slices.ContainsFunc(h.allocs[e.ID].vms, never):
		h.s.fail("allocation %s is released (%s), and its VM has run", e.ID, e.Reason)
	}
}
