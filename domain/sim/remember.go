package sim

import (
	"slices"

	"github.com/gpuaas/gpuaas/domain"
)

// remember takes in what only the shadow needs of an event, and marks what was seen.
func (h *shadow) remember(e domain.EventBody) {
	h.money.see(e)
	seen := h.s.seen
	switch e := e.(type) {
	case *domain.AllocationPlaced:
		if len(e.VMs) > 1 {
			seen.mark(Gang)
		}
		if e.Shape == 8 {
			seen.mark(WholeHost)
		}
	case *domain.AllocationReleasing:
		if e.Reason == "epoch.not_on_host" {
			seen.mark(NotOnHost)
		}
		for _, v := range h.allocs[e.ID].vms {
			v.releasing = h.at
			if h.checking {
				v.releasing = h.s.now
			}
		}
	case *domain.LedgerPosted:
		for _, l := range e.Legs {
			h.accounts[l.Account] += l.Amount
		}
		switch e.Kind {
		case domain.TxCapture:
			seen.mark(Captured)
		case domain.TxAccrual:
			seen.mark(Accrued)
		}
	case *domain.APIKeyCreated:
		h.owners[e.ID] = e.Tenant
	case *domain.APIKeyRevoked:
		h.revoked[e.ID] = true
		seen.mark(KeyRevoked)
	case *domain.ProjectCreated:
		h.projects[e.ID] = e.Tenant
	case *domain.SKUCreated:
		h.skus = append(h.skus, e.ID)
	case *domain.TenantCreated:
		h.tenants[e.ID] = domain.TenantActive
	case *domain.TenantStateChanged:
		h.tenants[e.Tenant] = e.State
		if e.State != domain.TenantSuspended {
			delete(h.suspended, e.Tenant)
		} else if h.suspended[e.Tenant] == 0 {
			h.suspended[e.Tenant] = h.at
		}
		switch e.State {
		case domain.TenantPastDue:
			seen.mark(PastDue)
		case domain.TenantSuspended:
			seen.mark(SuspendedTenant)
		}
	case *domain.PolicySet:
		if e.Key == "quota.gpus" {
			h.quotas[e.Scope] = e.Value.Int
			if e.Removed {
				delete(h.quotas, e.Scope)
			}
		}
	case *domain.PricePublished:
		if e.Late {
			seen.mark(LatePrice)
		}
	default:
		h.rememberHost(e)
	}
}

func (h *shadow) rememberHost(e domain.EventBody) {
	seen := h.s.seen
	switch e := e.(type) {
	case *domain.HostEnrolled:
		h.fleet[e.ID] = &hostView{}
	case *domain.HostCordoned:
		h.fleet[e.ID].cordoned = true
	case *domain.HostUncordoned:
		v := h.fleet[e.ID]
		v.cordoned, v.draining, v.faulted = false, false, false
	case *domain.HostDraining:
		h.fleet[e.ID].draining = true
	case *domain.HostWentSilent:
		h.fleet[e.ID].silent = true
		seen.mark(Unreachable)
	case *domain.HostReturned:
		h.fleet[e.ID].silent = false
	case *domain.HostPowerOff:
		h.fleet[e.ID].faulted = true
		seen.mark(PoweredOff)
	case *domain.HostAdmitted:
		h.fleet[e.ID].admitted = true
	case *domain.HostAhead:
		h.fleet[e.Host].ahead = true
		if h.checking {
			seen.mark(NotedAhead)
			if h.s.lost == nil { // of an epoch whose opening was lost
				h.s.lost = &lostTail{}
			}
			h.s.alarm()
		}
	case *domain.EpochOpened:
		h.s.epoch = e.Epoch
		seen.mark(EpochOpened)
		for _, v := range h.fleet {
			if v.admitted && !v.removed {
				v.ahead, v.accounts = false, true
			}
		}
	case *domain.HostReconciled:
		h.reconciled(e)
	case *domain.UnknownVMDestroyed:
		seen.mark(Destroyed)
		h.unknown[e.Host] = slices.DeleteFunc(h.unknown[e.Host], func(id domain.VMID) bool { return id == e.VM })
	case *domain.HostRemoved:
		h.fleet[e.ID].removed = true
	case *domain.MapProposed:
		h.fleet[e.Host].proposal = e.Digest
	case *domain.MapApproved:
		h.fleet[e.Host].approved, h.fleet[e.Host].proposal = true, domain.Digest{}
	case *domain.MapAmended:
		h.fleet[e.Host].proposal = domain.Digest{}
		seen.mark(AmendedMap)
	case *domain.HostReported:
		h.fleet[e.Host].report = recorded{e.Journal, e.Number}
		h.journals[e.Journal] = true
		if e.Refused != "" {
			seen.mark(RefusedReport)
		}
	case *domain.SlotWiped:
		seen.mark(Wiped)
	case *domain.SlotQuarantined:
		seen.mark(Quarantined)
		switch e.Reason {
		case "wipe.late":
			seen.mark(LateWipe)
		case "epoch.map_differs":
			seen.mark(MapDiffers)
		}
	case *domain.SlotCondemned:
		seen.mark(Condemned)
	case *domain.SlotWipeStarted:
		switch e.Cause {
		case "rewipe":
			seen.mark(Rewiped)
		case "epoch":
			seen.mark(UsedSince)
		}
	case *domain.SlotRetired:
		seen.mark(Retired)
	case *domain.WipeOwed:
		if e.Component == "nvme" {
			h.owed[h.slots[e.Slot].serials[1]] = true
		}
		seen.mark(Owed)
	case *domain.WipeDischarged:
		delete(h.owed, h.slots[e.Slot].serials[1])
		seen.mark(Discharged)
	case *domain.AllocationStopRequested:
		for _, v := range h.allocs[e.ID].vms {
			v.asked = h.s.now
		}
	case *domain.VMStopped:
		seen.mark(Stopped)
	case *domain.AllocationStartRequested:
		seen.mark(Restarted)
	case *domain.AllocationRebootRequested:
		seen.mark(Rebooted)
	}
}

// reconciled is a host's account of itself, as the log took it.
func (h *shadow) reconciled(e *domain.HostReconciled) {
	h.s.seen.mark(Reconciled)
	h.fleet[e.Host].accounts = false
	h.unknown[e.Host] = nil
	for _, v := range e.Unknown {
		h.s.seen.mark(UnknownVM)
		h.unknown[e.Host] = append(h.unknown[e.Host], v.VM)
	}
	if host := h.s.hostOf(e.Host); host != nil {
		host.well = max(host.well, h.s.now)
	}
}

// unknownOn are the VMs that the log does not know and that hold the slot.
func (h *shadow) unknownOn(slot *slotView) (out []domain.VMID) {
	host := h.s.hostOf(slot.host)
	for _, id := range h.unknown[slot.host] {
		if v := host.machine.vm(id); v != nil && slices.Contains(v.Slots, slot.index) {
			out = append(out, id)
		}
	}
	return out
}

// ofTenant reports whether data is a VM's that a log ever knew.
func (h *shadow) ofTenant(data domain.VMID) bool {
	return h.vms[data] != nil || slices.ContainsFunc(h.past, func(p pastView) bool { return p.vms[data] != nil })
}
