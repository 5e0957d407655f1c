package sim

import (
	"slices"
	"strings"

	"github.com/gpuaas/gpuaas/domain"
)

// What may follow from a host's word, and what has to.

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
