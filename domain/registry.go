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

// eventTypes lists the events, as structs of their present version (version.go), and
// eventSlabs how a Buffer makes many of them.
var eventTypes, eventSlabs = events(
	event[WriterStarted],
	event[OperatorSet],
	event[TimerParked],
	event[TenantCreated],
	event[TenantMemberSet],
	event[TenantStateChanged],
	event[APIKeyCreated],
	event[APIKeyRevoked],
	event[ProjectCreated],
	event[ProjectMemberSet],
	event[PolicySet],
	event[SKUCreated],
	event[PricePublished],
	event[CalendarPublished],
	event[CreditGranted],
	event[RunwayPlanned],
	event[LedgerPosted],
	event[HostEnrolled],
	event[HostAdmitted],
	event[HostReported],
	event[HostCordoned],
	event[HostUncordoned],
	event[HostDraining],
	event[HostWentSilent],
	event[HostReturned],
	event[HostPowerOff],
	event[MapProposed],
	event[HostRemoved],
	event[MapApproved],
	event[MapAmended],
	event[SlotWipeStarted],
	event[SlotWiped],
	event[SlotQuarantined],
	event[SlotCondemned],
	event[SlotRetired],
	event[WipeOwed],
	event[WipeDischarged],
	event[DestructionReported],
	event[DeviceDestroyed],
	event[SlotReserved],
	event[SlotActivated],
	event[AllocationPlaced],
	event[AllocationStopRequested],
	event[AllocationStartRequested],
	event[AllocationRebootRequested],
	event[AllocationReleasing],
	event[AllocationReleased],
	event[VMStarted],
	event[VMBillable],
	event[VMAlive],
	event[VMRunning],
	event[VMStopped],
	event[VMLost],
	event[VMRemoved],
	event[VMOverdue],
	event[ImageRegistered],
	event[ImageRetired],
	event[EpochOpened],
	event[HostReconciled],
	event[HostAhead],
	event[UnknownVMDestroyed],
	event[CorrectionProposed],
	event[WorldCorrected],
	event[CorrectionWithdrawn],
)

func registry(news ...func() CommandBody) map[string]func() CommandBody {
	m := make(map[string]func() CommandBody, len(news))
	for _, f := range news {
		enter(m, f().CommandType(), f)
	}
	return m
}

func events(types ...func() (func() EventBody, func() eventSlab)) (map[string]func() EventBody, map[string]func() eventSlab) {
	news, slabs := map[string]func() EventBody{}, map[string]func() eventSlab{}
	for _, t := range types {
		one, many := t()
		typ := one().EventType()
		enter(news, typ, one)
		slabs[typ] = many
	}
	return news, slabs
}

// event is one type of event: how to make one, and how to make many.
func event[T any, P interface {
	*T
	EventBody
}]() (func() EventBody, func() eventSlab) {
	return func() EventBody { return P(new(T)) }, func() eventSlab { return new(slabOf[T, P]) }
}

func enter[T any](m map[string]T, name string, v T) {
	if _, twice := m[name]; twice {
		panic("registered twice: " + name)
	}
	m[name] = v
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
