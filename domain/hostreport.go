package domain

import "fmt"

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
