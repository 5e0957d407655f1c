package domain

// What the control plane and a host say to each other: placements down (this file),
// reports up (hostreport.go), heartbeats beside them (heartbeat.go). Both sides import
// it; the bytes are protobuf wire format.

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
