package domain

import (
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// The registry: every command and every event there is, in one place.

// commandTypes lists the commands.
var commandTypes = registry(
	func() CommandBody { return new(StartWriter) },
	func() CommandBody { return new(Tick) },
	func() CommandBody { return new(CreateTenant) },
	func() CommandBody { return new(SetTenantMember) },
	func() CommandBody { return new(SetOperator) },
	func() CommandBody { return new(CreateAPIKey) },
	func() CommandBody { return new(RevokeAPIKey) },
	func() CommandBody { return new(CreateProject) },
	func() CommandBody { return new(SetProjectMember) },
	func() CommandBody { return new(SetPolicy) },
	func() CommandBody { return new(CreateSKU) },
	func() CommandBody { return new(PublishPrice) },
	func() CommandBody { return new(GrantCredit) },
	func() CommandBody { return new(EnrollHost) },
	func() CommandBody { return new(AdmitHost) },
	func() CommandBody { return new(ActOnHost) },
	func() CommandBody { return new(RecordReport) },
	func() CommandBody { return new(ApproveMap) },
	func() CommandBody { return new(QuarantineSlot) },
	func() CommandBody { return new(RewipeSlot) },
	func() CommandBody { return new(RetireSlot) },
	func() CommandBody { return new(ReportDestroyed) },
	func() CommandBody { return new(RemoveHost) },
	func() CommandBody { return new(CreateAllocation) },
	func() CommandBody { return new(ActOnAllocation) },
	func() CommandBody { return new(RegisterImage) },
	func() CommandBody { return new(RetireImage) },
	func() CommandBody { return new(OpenEpoch) },
	func() CommandBody { return new(NoteHostAhead) },
	func() CommandBody { return new(DestroyUnknownVM) },
	func() CommandBody { return new(ProposeCorrection) },
	func() CommandBody { return new(ApproveCorrection) },
)

// eventTypes lists the events, as structs of their present version (version.go).
var eventTypes = registry(
	func() EventBody { return new(WriterStarted) },
	func() EventBody { return new(OperatorSet) },
	func() EventBody { return new(TimerParked) },
	func() EventBody { return new(TenantCreated) },
	func() EventBody { return new(TenantMemberSet) },
	func() EventBody { return new(TenantStateChanged) },
	func() EventBody { return new(APIKeyCreated) },
	func() EventBody { return new(APIKeyRevoked) },
	func() EventBody { return new(ProjectCreated) },
	func() EventBody { return new(ProjectMemberSet) },
	func() EventBody { return new(PolicySet) },
	func() EventBody { return new(SKUCreated) },
	func() EventBody { return new(PricePublished) },
	func() EventBody { return new(CalendarPublished) },
	func() EventBody { return new(CreditGranted) },
	func() EventBody { return new(RunwayPlanned) },
	func() EventBody { return new(LedgerPosted) },
	func() EventBody { return new(HostEnrolled) },
	func() EventBody { return new(HostAdmitted) },
	func() EventBody { return new(HostReported) },
	func() EventBody { return new(HostCordoned) },
	func() EventBody { return new(HostUncordoned) },
	func() EventBody { return new(HostDraining) },
	func() EventBody { return new(HostWentSilent) },
	func() EventBody { return new(HostReturned) },
	func() EventBody { return new(HostPowerOff) },
	func() EventBody { return new(MapProposed) },
	func() EventBody { return new(HostRemoved) },
	func() EventBody { return new(MapApproved) },
	func() EventBody { return new(MapAmended) },
	func() EventBody { return new(SlotWipeStarted) },
	func() EventBody { return new(SlotWiped) },
	func() EventBody { return new(SlotQuarantined) },
	func() EventBody { return new(SlotCondemned) },
	func() EventBody { return new(SlotRetired) },
	func() EventBody { return new(WipeOwed) },
	func() EventBody { return new(WipeDischarged) },
	func() EventBody { return new(DestructionReported) },
	func() EventBody { return new(DeviceDestroyed) },
	func() EventBody { return new(SlotReserved) },
	func() EventBody { return new(SlotActivated) },
	func() EventBody { return new(AllocationPlaced) },
	func() EventBody { return new(AllocationStopRequested) },
	func() EventBody { return new(AllocationStartRequested) },
	func() EventBody { return new(AllocationRebootRequested) },
	func() EventBody { return new(AllocationReleasing) },
	func() EventBody { return new(AllocationReleased) },
	func() EventBody { return new(VMStarted) },
	func() EventBody { return new(VMBillable) },
	func() EventBody { return new(VMAlive) },
	func() EventBody { return new(VMRunning) },
	func() EventBody { return new(VMStopped) },
	func() EventBody { return new(VMLost) },
	func() EventBody { return new(VMRemoved) },
	func() EventBody { return new(VMOverdue) },
	func() EventBody { return new(ImageRegistered) },
	func() EventBody { return new(ImageRetired) },
	func() EventBody { return new(EpochOpened) },
	func() EventBody { return new(HostReconciled) },
	func() EventBody { return new(HostAhead) },
	func() EventBody { return new(UnknownVMDestroyed) },
	func() EventBody { return new(CorrectionProposed) },
	func() EventBody { return new(WorldCorrected) },
	func() EventBody { return new(CorrectionWithdrawn) },
)

func registry[T any](news ...func() T) map[string]func() T {
	m := make(map[string]func() T, len(news))
	for _, f := range news {
		name := ""
		switch b := any(f()).(type) {
		case CommandBody:
			name = b.CommandType()
		case EventBody:
			name = b.EventType()
		}
		if _, twice := m[name]; twice {
			panic("registered twice: " + name)
		}
		m[name] = f
	}
	return m
}

// wireBody writes m as a sub-message, also when it is empty.
func wireBody(c *coder, n protowire.Number, m message) {
	c.tag(n, protowire.BytesType)
	at := len(c.b)
	m.wire(c)
	c.insertLength(at, len(c.b)-at)
}

func decodeCommandBody(typ string, raw []byte) (CommandBody, error) {
	make, ok := commandTypes[typ]
	if !ok {
		return nil, fmt.Errorf("unknown command type %q: this build is older than the log", clip(typ, 64))
	}
	body := make()
	if err := decodeMessage(raw, body); err != nil {
		return nil, fmt.Errorf("command %s: %w", typ, err)
	}
	return body, nil
}

// EventSubject is the event's subject in the feed:
// ev.<site>.<family>[.<owner>].<event>.
func EventSubject(site string, e EventBody) string {
	typ := e.EventType()
	family, name := typ, ""
	for i := range typ {
		if typ[i] == '.' {
			family, name = typ[:i], typ[i+1:]
			break
		}
	}
	if o := e.Owner(); o != "" {
		return "ev." + site + "." + family + "." + o + "." + name
	}
	return "ev." + site + "." + family + "." + name
}

// EventTypes are the names of all event types, for tests and documentation.
func EventTypes() []string { return sortedKeys(eventTypes) }

// CommandTypes are the names of all command types.
func CommandTypes() []string { return sortedKeys(commandTypes) }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
