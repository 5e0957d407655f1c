package projections

import "github.com/gpuaas/gpuaas/domain"

// project makes one event part of the batch. The list is complete: an event type
// that is not here stops the projector, because rows built without it would not be
// the fold of the log.
func (b *batch) project(x *at, e domain.EventBody) {
	switch e := e.(type) {
	case *domain.WriterStarted: // the checkpoint names the site
	case *domain.TimerParked: // an alarm; the audit shows it
	case *domain.OperatorSet:
		b.operatorSet(x, e)
	case *domain.TenantCreated:
		b.tenantCreated(x, e)
	case *domain.TenantMemberSet:
		b.tenantMemberSet(x, e)
	case *domain.TenantStateChanged:
		b.tenantStateChanged(e)
	case *domain.RunwayPlanned:
		b.runwayPlanned(e)
	case *domain.APIKeyCreated:
		b.apiKeyCreated(x, e)
	case *domain.APIKeyRevoked:
		b.apiKeyRevoked(x, e)
	case *domain.ProjectCreated:
		b.projectCreated(x, e)
	case *domain.ProjectMemberSet:
		b.projectMemberSet(x, e)
	case *domain.PolicySet:
		b.policySet(x, e)
	case *domain.SKUCreated:
		b.skuCreated(x, e)
	case *domain.PricePublished:
		b.pricePublished(x, e)
	case *domain.CalendarPublished: // tenants' periods are computed by the world
	case *domain.CreditGranted:
		b.creditGranted(x, e)
	case *domain.LedgerPosted:
		b.ledgerPosted(x, e)
	case *domain.HostEnrolled:
		b.hostEnrolled(x, e)
	case *domain.HostAdmitted:
		b.hostAdmitted(x, e)
	case *domain.HostReported:
		b.hostReported(x, e)
	case *domain.HostCordoned:
		b.hostChanged(e.ID, "cordoned = true")
	case *domain.HostUncordoned:
		b.hostChanged(e.ID, "cordoned = false, draining = false, faulted = false")
	case *domain.HostDraining:
		b.hostChanged(e.ID, "draining = true")
	case *domain.HostWentSilent:
		b.hostSilent(e.ID, e.Since)
	case *domain.HostReturned:
		b.hostSilent(e.ID, 0)
	case *domain.HostPowerOff:
		b.hostChanged(e.ID, "faulted = true")
	case *domain.MapProposed:
		b.mapProposed(x, e)
	case *domain.MapApproved:
		b.mapApproved(x, e)
	case *domain.MapAmended:
		b.mapAmended(x, e)
	case *domain.HostRemoved:
		b.exec(1, `UPDATE hosts SET removed_at = $2, proposal_digest = '', proposal = NULL, proposed_at = NULL WHERE id = $1`, e.ID.String(), timestamp(x.At))
	case *domain.SlotRetired:
		b.slotRetired(x, e)
	case *domain.WipeOwed:
		b.wipeOwed(x, e)
	case *domain.WipeDischarged:
		b.wipeDischarged(x, e)
	case *domain.DestructionReported:
		b.destructionReported(x, e)
	case *domain.DeviceDestroyed:
		b.deviceDestroyed(x, e)
	case *domain.SlotWipeStarted:
		b.slotWipeStarted(x, e)
	case *domain.SlotWiped:
		b.slotWiped(x, e)
	case *domain.SlotQuarantined:
		b.slotQuarantined(x, e)
	case *domain.SlotCondemned:
		b.slotCondemned(x, e)
	case *domain.SlotReserved, *domain.SlotActivated: // said by allocation.placed and vm_started too
	case *domain.AllocationPlaced:
		b.allocationPlaced(x, e)
	case *domain.AllocationStopRequested:
		b.stopRequested(x, e)
	case *domain.AllocationStartRequested:
		b.startRequested(x, e)
	case *domain.AllocationRebootRequested:
		b.rebootRequested(x, e)
	case *domain.AllocationReleasing:
		b.allocationReleasing(x, e)
	case *domain.AllocationReleased:
		b.allocationReleased(x, e)
	case *domain.VMStarted:
		b.vmStarted(x, e)
	case *domain.VMBillable:
		b.vmBillable(x, e)
	case *domain.VMAlive:
		b.vmAlive(x, e)
	case *domain.VMRunning:
		b.vmRunning(x, e)
	case *domain.VMStopped:
		b.vmStopped(x, e)
	case *domain.VMLost:
		b.vmLost(x, e)
	case *domain.VMRemoved:
		b.vmRemoved(x, e)
	case *domain.VMOverdue:
		b.vmOverdue(x, e)
	case *domain.ImageRegistered:
		b.imageRegistered(x, e)
	case *domain.ImageRetired:
		b.imageRetired(x, e)
	case *domain.EpochOpened, *domain.HostAhead, *domain.UnknownVMDestroyed: // GET /v1/epoch asks the world
	case *domain.CorrectionProposed, *domain.WorldCorrected, *domain.CorrectionWithdrawn: // what follows stands beside them
	case *domain.HostReconciled:
		b.hostReconciled(x, e)
	default:
		b.fail("event %d is a %s, which this build does not project: upgrade it", x.Number, e.EventType())
	}
}
