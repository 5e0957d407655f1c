package domain

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// This file is what the control plane and a host say to each other: placements
// down, reports up, heartbeats beside them. Both sides import it; the bytes are
// protobuf wire format.

// WipePolicy says how a slot's drive is erased. WipeAuto takes the strongest
// method the drive advertises.
type WipePolicy uint8

// The wipe policies.
const (
	WipeUnset WipePolicy = iota
	WipeAuto
	WipeSanitize
	WipeFormat
	WipeOverwrite
)

var wipePolicyNames = [...]string{"", "auto", "sanitize", "format", "overwrite"}

func (p WipePolicy) String() string { return enumName(wipePolicyNames[:], p) }

// MarshalText implements encoding.TextMarshaler.
func (p WipePolicy) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *WipePolicy) UnmarshalText(b []byte) error {
	return enumParse(p, wipePolicyNames[:], string(b), "wipe policy")
}

// Power is what a VM should be doing.
type Power uint8

// The desired power states.
const (
	PowerOn Power = iota + 1
	PowerOff
)

var powerNames = [...]string{"", "on", "off"}

func (p Power) String() string { return enumName(powerNames[:], p) }

// MarshalText implements encoding.TextMarshaler.
func (p Power) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Power) UnmarshalText(b []byte) error {
	return enumParse(p, powerNames[:], string(b), "power state")
}

// Lease is one tenant's right to one slot: (slot, slot generation). Nonce is
// unique to it and comes back in the wipe report, so that a report made for
// another lease proves nothing.
type Lease struct {
	Slot       SlotID `json:"slot_id"`
	Index      uint32 `json:"index"` // the slot's position in the host's approved map
	Generation uint32 `json:"generation"`
	Nonce      Digest `json:"nonce"`
}

func (l *Lease) wire(c *coder) {
	idField(c, 1, &l.Slot)
	uintField(c, 2, &l.Index)
	uintField(c, 3, &l.Generation)
	c.digest(4, &l.Nonce)
}

// Digest names the lease in host reports.
func (l *Lease) Digest() Digest { return digestMessage(l) }

// PlacedVM is one VM a host should have. A VM that is not in the placement should
// not exist.
type PlacedVM struct {
	VM         VMID         `json:"vm_id"`
	Allocation AllocationID `json:"allocation_id"`
	Tenant     TenantID     `json:"tenant_id"`
	Hostname   string       `json:"hostname"`
	Power      Power        `json:"power"`
	Boot       uint32       `json:"boot"` // the boot's number: a rise means reboot (or first boot)
	Leases     []Lease      `json:"leases"`
	Image      string       `json:"image"`
	ImageHash  Digest       `json:"image_digest"`
	UserData   Digest       `json:"user_data_digest,omitempty"` // names the vault document with ssh keys and user data; zero: none
	MAC        string       `json:"mac"`
	Private    bool         `json:"private_image,omitempty"` // no copy of the image outlives the host's last VM of it
	Features   Features     `json:"features,omitzero"`
}

func (v *PlacedVM) wire(c *coder) {
	idField(c, 1, &v.VM)
	idField(c, 2, &v.Allocation)
	idField(c, 3, &v.Tenant)
	c.str(4, &v.Hostname)
	uintField(c, 5, &v.Power)
	uintField(c, 6, &v.Boot)
	msgs(c, 7, &v.Leases)
	c.str(8, &v.Image)
	c.digest(9, &v.ImageHash)
	c.digest(10, &v.UserData)
	c.str(11, &v.MAC)
	c.bool(12, &v.Private)
	uintField(c, 13, &v.Features)
}

// PlacedWipe is one slot to erase. The lease is the one that ended; its
// generation 0 is the first wipe, after approval.
type PlacedWipe struct {
	Lease   Lease      `json:"lease"`
	Attempt uint32     `json:"attempt"` // a rise asks for another wipe of the same lease
	Policy  WipePolicy `json:"policy"`
}

func (w *PlacedWipe) wire(c *coder) {
	c.sub(1, &w.Lease)
	uintField(c, 2, &w.Attempt)
	uintField(c, 3, &w.Policy)
}

// Desired is the whole state a host should be in. Same (epoch, generation), same
// bytes: a host that sees another digest for a pair it knows quarantines itself.
type Desired struct {
	Site       string       `json:"site"`
	Epoch      uint32       `json:"epoch"` // the site's epoch
	Host       HostID       `json:"host_id"`
	Generation uint64       `json:"generation"` // per host, rises with every change
	SlotMap    Digest       `json:"slot_map"`   // the approved map; zero: none yet, do nothing but propose
	VMs        []PlacedVM   `json:"vms"`
	Wipes      []PlacedWipe `json:"wipes"`
	// Account: a new epoch. The host changes nothing, and says what it holds: an
	// inventory report with Holdings. What comes after that places it again.
	Account bool `json:"account,omitempty"`
	// Keep are VMs that the log does not know. They are left as they are until an
	// operator has decided.
	Keep []VMID `json:"keep,omitempty"`
}

func (d *Desired) wire(c *coder) {
	c.str(1, &d.Site)
	uintField(c, 2, &d.Epoch)
	idField(c, 3, &d.Host)
	c.uvar(4, &d.Generation)
	c.digest(5, &d.SlotMap)
	msgs(c, 6, &d.VMs)
	msgs(c, 7, &d.Wipes)
	c.bool(8, &d.Account)
	ids(c, 9, &d.Keep)
}

// Digest is the SHA-256 of the desired state's bytes.
func (d *Desired) Digest() Digest { return digestMessage(d) }

// Placement is the message on placement.<site>.<host>: the desired state, the
// place in the log it follows from, and the report up to which the log has
// recorded this host's journal (outside the digest: it changes without the
// desired state changing).
type Placement struct {
	Desired Desired   `json:"desired"`
	From    Head      `json:"from"`
	Journal JournalID `json:"acked_journal"`
	Acked   uint64    `json:"acked_report"`
}

func (p *Placement) wire(c *coder) {
	c.sub(1, &p.Desired)
	c.uvar(2, &p.From.N)
	c.digest(3, &p.From.Hash)
	idField(c, 4, &p.Journal)
	c.uvar(5, &p.Acked)
}

// EncodePlacement and DecodePlacement are a placement's bytes.
func EncodePlacement(p *Placement) []byte { return encodeMessage(p) }

// DecodePlacement reads a placement; the result shares memory with b.
func DecodePlacement(b []byte) (*Placement, error) {
	p := new(Placement)
	return p, decodeMessage(b, p)
}

// ReportKind is the last token of a report's subject.
type ReportKind string

// The report kinds.
const (
	ReportInventory ReportKind = "inventory" // Inventory: the slot map found; or Holdings
	ReportStarted   ReportKind = "started"   // VMReport: the domain runs
	ReportAlive     ReportKind = "alive"     // VMReport: first sign of life (DHCP lease, metadata call); Address set
	ReportReady     ReportKind = "ready"     // VMReport: the guest says so
	ReportStopped   ReportKind = "stopped"   // VMReport: powered off (by us or by the guest)
	ReportFailed    ReportKind = "failed"    // VMReport: could not be brought up; Reason set
	ReportRemoved   ReportKind = "removed"   // VMReport: nothing of the VM runs any more
	ReportWiped     ReportKind = "wiped"     // WipeReport: the evidence, good or bad
	ReportFaulted   ReportKind = "faulted"   // FaultReport: a device of a slot misbehaves
)

// Report is evidence from a host, as it said it. (Host, Journal, Number) names it
// for ever; a repeat changes nothing.
type Report struct {
	Host       HostID
	Journal    JournalID
	Number     uint64 // 1, 2, 3, ... within the journal
	At         Time   // the host's clock: a claim, clamped to the heartbeats that prove it
	Epoch      uint32 // of the desired state it acted on
	Generation uint64
	Kind       ReportKind
	Inventory  *SlotMap
	VM         *VMReport
	Wipe       *WipeReport
	Fault      *FaultReport
	Holdings   *HoldingsReport
}

func (r *Report) wire(c *coder) {
	idField(c, 1, &r.Host)
	idField(c, 2, &r.Journal)
	c.uvar(3, &r.Number)
	c.time(4, &r.At)
	uintField(c, 5, &r.Epoch)
	c.uvar(6, &r.Generation)
	stringField(c, 7, &r.Kind)
	optional(c, 8, &r.Inventory)
	optional(c, 9, &r.VM)
	optional(c, 10, &r.Wipe)
	optional(c, 11, &r.Fault)
	optional(c, 12, &r.Holdings)
}

// SignedReport is what travels: the report's bytes and the host's Ed25519
// signature over them.
type SignedReport struct {
	Report    []byte
	Signature []byte
}

func (s *SignedReport) wire(c *coder) {
	c.bytes(1, &s.Report)
	c.bytes(2, &s.Signature)
}

// EncodeReport is a report's bytes: what the host signs.
func EncodeReport(r *Report) []byte { return encodeMessage(r) }

// DecodeReport reads a report; the result shares memory with b.
func DecodeReport(b []byte) (*Report, error) {
	r := new(Report)
	if err := decodeMessage(b, r); err != nil {
		return nil, err
	}
	bodies := 0
	for _, has := range []bool{r.Inventory != nil, r.VM != nil, r.Wipe != nil, r.Fault != nil, r.Holdings != nil} {
		if has {
			bodies++
		}
	}
	if bodies != 1 {
		return nil, fmt.Errorf("report %q has %d bodies, want 1", clip(string(r.Kind), 32), bodies)
	}
	return r, nil
}

// EncodeSignedReport is the message on report.<site>.<host>.<kind>.
func EncodeSignedReport(s *SignedReport) []byte { return encodeMessage(s) }

// DecodeSignedReport reads the message; it does not verify the signature.
func DecodeSignedReport(b []byte) (*SignedReport, error) {
	s := new(SignedReport)
	return s, decodeMessage(b, s)
}

// VMReport says what became of a VM. At is when it happened, by the host's clock.
type VMReport struct {
	VM      VMID
	Boot    uint32 // which boot it speaks of
	At      Time
	Address string // the guest's address, once known
	Reason  string // why it failed, a stable code: "image.digest_mismatch"; of alive: why a guest that says ready is not believed
	Detail  string // for the operator's log, never shown to the tenant
	Theirs  bool   // failed: the tenant's doing (its own image), not the provider's

	Lost      bool   // stopped: nobody meant it to; the host starts it again. Reason says why it went
	Slot      SlotID // failed: the slot of which a component is to blame
	Component string // "gpu", "nvme", "ib_vf"; "": no component is
	Scope     string // repair scope
}

func (v *VMReport) wire(c *coder) {
	idField(c, 1, &v.VM)
	uintField(c, 2, &v.Boot)
	c.time(3, &v.At)
	c.str(4, &v.Address)
	c.str(5, &v.Reason)
	c.str(6, &v.Detail)
	c.bool(7, &v.Theirs)
	c.bool(8, &v.Lost)
	idField(c, 9, &v.Slot)
	c.str(10, &v.Component)
	c.str(11, &v.Scope)
}

// WipeResult is how a wipe ended. Only WipeVerified ever frees a slot.
type WipeResult uint8

// The results.
const (
	WipeUnknown WipeResult = iota
	WipeVerified
	WipeFailed
	WipeSkipped
	WipePartial
)

var wipeResultNames = [...]string{"unknown", "verified", "failed", "skipped", "partial"}

func (r WipeResult) String() string { return enumName(wipeResultNames[:], r) }

// MarshalText implements encoding.TextMarshaler.
func (r WipeResult) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *WipeResult) UnmarshalText(b []byte) error {
	return enumParse(r, wipeResultNames[:], string(b), "wipe result")
}

// DeviceWipe is the evidence for one device of a slot, or for what the host itself
// kept of a tenant (component "host"). Fields that a method does not produce are
// zero: a GPU has no blocks to read, a stand-in no firmware.
type DeviceWipe struct {
	Component string     `json:"component"` // "gpu", "nvme", "ib_vf", "host"
	Serial    string     `json:"serial"`
	Method    string     `json:"method"` // "sanitize-crypto", "format-ses1", "overwrite", "flr", ...
	Result    WipeResult `json:"result"`
	Detail    string     `json:"detail,omitempty"`
	BytesRead uint64     `json:"bytes_read"` // after the erasure

	Reason    string   `json:"reason,omitempty"`     // of a result that is not verified: a stable code, "wipe.canary_survived"
	Scope     string   `json:"scope,omitempty"`      // what has to be repaired then: "device", "baseboard", "host"
	SizeBytes uint64   `json:"size_bytes,omitempty"` // of the device
	Coverage  string   `json:"coverage,omitempty"`   // "all": every byte was read back; "sampled": BytesRead of them
	Sample    Digest   `json:"sample_digest,omitzero"`
	Planted   uint32   `json:"canaries_planted,omitempty"` // derived from the lease's nonce, proven to have landed before the erasure
	Gone      uint32   `json:"canaries_gone,omitempty"`    // of them, after it
	Firmware  string   `json:"firmware,omitempty"`
	Approved  string   `json:"approved_firmware,omitempty"` // the baseline's
	Baseline  Digest   `json:"baseline_digest,omitzero"`    // of what the host compared the device with
	Fresh     bool     `json:"baseline_fresh,omitempty"`    // the host took the baseline in this lease's wipe: it never saw the device before
	Log       []string `json:"log,omitempty"`               // what the device itself reported, in order
	StartedAt Time     `json:"started_at,omitempty"`
	EndedAt   Time     `json:"ended_at,omitempty"`
}

// How much of a device was read back.
const (
	CoverageAll     = "all"
	CoverageSampled = "sampled"
)

func (d *DeviceWipe) wire(c *coder) {
	c.str(1, &d.Component)
	c.str(2, &d.Serial)
	c.str(3, &d.Method)
	uintField(c, 4, &d.Result)
	c.str(5, &d.Detail)
	c.uvar(6, &d.BytesRead)
	c.str(7, &d.Reason)
	c.str(8, &d.Scope)
	c.uvar(9, &d.SizeBytes)
	c.str(10, &d.Coverage)
	c.digest(11, &d.Sample)
	uintField(c, 12, &d.Planted)
	uintField(c, 13, &d.Gone)
	c.str(14, &d.Firmware)
	c.str(15, &d.Approved)
	c.digest(16, &d.Baseline)
	strs(c, 17, &d.Log)
	c.time(18, &d.StartedAt)
	c.time(19, &d.EndedAt)
	c.bool(20, &d.Fresh)
}

// WipeReport is the evidence for one slot: all its devices, for one ended lease.
type WipeReport struct {
	Slot       SlotID
	Generation uint32
	Nonce      Digest
	Attempt    uint32
	StartedAt  Time
	EndedAt    Time
	Devices    []DeviceWipe
}

func (w *WipeReport) wire(c *coder) {
	idField(c, 1, &w.Slot)
	uintField(c, 2, &w.Generation)
	c.digest(3, &w.Nonce)
	uintField(c, 4, &w.Attempt)
	c.time(5, &w.StartedAt)
	c.time(6, &w.EndedAt)
	msgs(c, 7, &w.Devices)
}

// FaultReport says that a component of a slot misbehaves.
type FaultReport struct {
	Slot      SlotID
	Component string // "gpu", "nvme", "ib_vf", "host"
	Scope     string // repair scope: "device", "baseboard", "host"
	Reason    string // a stable code: "device.gone"
	Detail    string // in words, for the operator's log
}

func (f *FaultReport) wire(c *coder) {
	idField(c, 1, &f.Slot)
	c.str(2, &f.Component)
	c.str(3, &f.Scope)
	c.str(4, &f.Reason)
	c.str(5, &f.Detail)
}

// HoldingsReport is what a host holds when a new epoch asks for it: what the log
// may have forgotten.
type HoldingsReport struct {
	Epoch      uint32 // of the highest desired state it saw before
	Generation uint64
	SlotMap    Digest // in force; zero: none
	VMs        []HeldVM
	Slots      []HeldSlot // of the map in force
}

func (r *HoldingsReport) wire(c *coder) {
	uintField(c, 1, &r.Epoch)
	c.uvar(2, &r.Generation)
	c.digest(3, &r.SlotMap)
	msgs(c, 4, &r.VMs)
	msgs(c, 5, &r.Slots)
}

// HeldVM is a VM that exists on a host, or that it took on and did not report
// removed. Whose it is, is zero where the host does not remember.
type HeldVM struct {
	VM         VMID         `json:"vm_id"`
	Allocation AllocationID `json:"allocation_id,omitzero"`
	Tenant     TenantID     `json:"tenant_id,omitzero"`
	Slots      []uint32     `json:"slots"` // by index
	Boot       uint32       `json:"boot"`
	Running    bool         `json:"running"`
}

func (v *HeldVM) wire(c *coder) {
	idField(c, 1, &v.VM)
	idField(c, 2, &v.Allocation)
	idField(c, 3, &v.Tenant)
	uints(c, 4, &v.Slots)
	uintField(c, 5, &v.Boot)
	c.bool(6, &v.Running)
}

// HeldSlot is what a host remembers of a slot.
type HeldSlot struct {
	Index      uint32
	Slot       SlotID // zero: never placed
	Generation uint32 // the highest placed
	Dirty      bool   // a VM wrote its drive, and no verified wipe followed
}

func (s *HeldSlot) wire(c *coder) {
	uintField(c, 1, &s.Index)
	idField(c, 2, &s.Slot)
	uintField(c, 3, &s.Generation)
	c.bool(4, &s.Dirty)
}

// Heartbeat goes over core NATS every few seconds; it is not kept.
type Heartbeat struct {
	Host       HostID
	Journal    JournalID
	At         Time
	Epoch      uint32 // highest desired state seen
	Generation uint64
	Executed   uint64 // generation fully carried out
	Backlog    uint64 // reports not yet acknowledged
	VMs        uint32 // running
	Version    string
	Drift      string // what is observed and not desired, "" if nothing
	From       Head   // the commit of the desired state that it follows; zero: not known
	Refused    Head   // the commit of another content of the same generation, for which it follows neither any more
	Outrun     Head   // the commit of what it was told and does not follow, since it acknowledges less than was acknowledged before
}

func (h *Heartbeat) wire(c *coder) {
	idField(c, 1, &h.Host)
	idField(c, 2, &h.Journal)
	c.time(3, &h.At)
	uintField(c, 4, &h.Epoch)
	c.uvar(5, &h.Generation)
	c.uvar(6, &h.Executed)
	c.uvar(7, &h.Backlog)
	uintField(c, 8, &h.VMs)
	c.str(9, &h.Version)
	c.str(10, &h.Drift)
	c.uvar(11, &h.From.N)
	c.digest(12, &h.From.Hash)
	c.uvar(13, &h.Refused.N)
	c.digest(14, &h.Refused.Hash)
	c.uvar(15, &h.Outrun.N)
	c.digest(lastHeartbeatField, &h.Outrun.Hash)
}

const lastHeartbeatField = 16

// EncodeHeartbeat is the message on heartbeat.<site>.<host>.
func EncodeHeartbeat(h *Heartbeat) []byte { return encodeMessage(h) }

// DecodeHeartbeat reads a heartbeat. Nothing is folded from one, so what a newer hostd has
// put behind the fields that are known here is skipped.
func DecodeHeartbeat(b []byte) (*Heartbeat, error) {
	h := new(Heartbeat)
	c := reading(b, false)
	h.wire(&c)
	c.skipAbove(lastHeartbeatField)
	return h, c.finish()
}

// optional is a sub-message behind a pointer: present, even if empty, or nil.
func optional[T any, P interface {
	*T
	message
}](c *coder, n protowire.Number, v **T) {
	if c.enc {
		if *v != nil {
			c.tag(n, protowire.BytesType)
			at := len(c.b)
			P(*v).wire(c)
			c.insertLength(at, len(c.b)-at)
		}
	} else if c.at(n, protowire.BytesType) {
		*v = new(T)
		c.consumeSub(P(*v))
	}
}

// enumName is the name of v, or a number in words for a value from the future.
func enumName[T ~uint8](names []string, v T) string {
	if int(v) < len(names) {
		return names[v]
	}
	return fmt.Sprintf("unknown-%d", v)
}

func enumParse[T ~uint8](v *T, names []string, s, what string) error {
	for i, n := range names {
		if n == s {
			*v = T(i)
			return nil
		}
	}
	return fmt.Errorf("%q is not a %s: want one of %v", clip(s, 32), what, names)
}
