package domain

import "strings"

// An allocation is what a tenant launches: count VMs of one SKU, all or none.

// AllocationState is where an allocation, or one of its VMs, is in its life.
type AllocationState uint8

// The states, in the order of "least advanced first" within a life.
const (
	Pending AllocationState = iota + 1
	Provisioning
	Starting
	Running
	Stopping
	Stopped
	Releasing
	Released
	Failed
)

var allocationStateNames = [...]string{"", "pending", "provisioning", "starting", "running", "stopping", "stopped", "releasing", "released", "failed"}

func (s AllocationState) String() string { return enumName(allocationStateNames[:], s) }

// MarshalText implements encoding.TextMarshaler.
func (s AllocationState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *AllocationState) UnmarshalText(b []byte) error {
	return enumParse(s, allocationStateNames[:], string(b), "allocation state")
}

// Allocation is an allocation's state.
type Allocation struct {
	ID        AllocationID
	Project   ProjectID
	Tenant    TenantID
	Name      string
	Image     string
	ImageHash Digest
	// PrivateImage: the image is the project's own; no host keeps it longer than its VMs.
	PrivateImage bool
	Features     Features // what its VMs have beyond the plain
	UserData     Digest
	User         UserID
	Shape        uint32
	State        AllocationState
	Reason       string
	Created      Time
	Expires      Time
	LockedRate   Micros // -1: follows the price book
	Hold         Micros
	parts        []holdPart
	vms          []uint32
	tenant       uint32
	sku          uint32
}

// VMPlaced is one VM's place.
type VMPlaced struct {
	VM    VMID     `json:"vm_id"`
	Host  HostID   `json:"host_id"`
	Slots []SlotID `json:"slot_ids"`
}

func (v *VMPlaced) wire(c *coder) {
	idField(c, 1, &v.VM)
	idField(c, 2, &v.Host)
	ids(c, 3, &v.Slots)
}

// AllocationPlaced is the fact: the slots are reserved, the hosts will act.
type AllocationPlaced struct {
	ID         AllocationID `json:"id"`
	Tenant     TenantID     `json:"tenant_id"`
	Project    ProjectID    `json:"project_id"`
	Name       string       `json:"name"`
	SKU        SKUID        `json:"sku_id"`
	Shape      uint32       `json:"shape"`
	Image      string       `json:"image"`
	ImageHash  Digest       `json:"image_digest,omitzero"`
	UserData   Digest       `json:"user_data_digest,omitzero"`
	User       UserID       `json:"requested_by_user_id"`
	Expires    Time         `json:"expires_at,omitzero"`
	LockedRate Micros       `json:"locked_micros_per_unit_hour"` // -1: not locked
	VMs        []VMPlaced   `json:"vms"`
	Seed       [16]byte     `json:"-"` // of the leases' nonces
	Deadline   Time         `json:"deadline"`
	Private    bool         `json:"private_image,omitempty"` // the image is the project's own
	Features   Features     `json:"features,omitzero"`
}

// EventType implements EventBody.
func (*AllocationPlaced) EventType() string { return "allocation.placed" }

// Owner implements EventBody.
func (e *AllocationPlaced) Owner() string { return e.Tenant.String() }

// Resource implements EventBody.
func (e *AllocationPlaced) Resource() string { return e.ID.String() }

func (e *AllocationPlaced) wire(c *coder) {
	idField(c, 1, &e.ID)
	idField(c, 2, &e.Tenant)
	idField(c, 3, &e.Project)
	c.str(4, &e.Name)
	idField(c, 5, &e.SKU)
	uintField(c, 6, &e.Shape)
	c.str(7, &e.Image)
	c.digest(8, &e.ImageHash)
	c.digest(9, &e.UserData)
	idField(c, 10, &e.User)
	c.time(11, &e.Expires)
	intField(c, 12, &e.LockedRate)
	msgs(c, 13, &e.VMs)
	c.fixedBytes(14, e.Seed[:])
	c.time(15, &e.Deadline)
	c.bool(16, &e.Private)
	uintField(c, 17, &e.Features)
}

// SlotReserved says, on the host's subject, that slots are taken for a VM.
type SlotReserved struct {
	Host       HostID       `json:"host_id"`
	Allocation AllocationID `json:"allocation_id"`
	VM         VMID         `json:"vm_id"`
	Slots      []SlotID     `json:"slot_ids"`
}

// EventType implements EventBody.
func (*SlotReserved) EventType() string { return "slot.reserved" }

// Owner implements EventBody.
func (e *SlotReserved) Owner() string { return e.Host.String() }

// Resource implements EventBody.
func (e *SlotReserved) Resource() string { return firstSlot(e.Slots) }

func (e *SlotReserved) wire(c *coder) {
	idField(c, 1, &e.Host)
	idField(c, 2, &e.Allocation)
	idField(c, 3, &e.VM)
	ids(c, 4, &e.Slots)
}

// How long a VM may take from placing to a started domain, and from there to a
// guest that reports ready: a base and an allowance for each slot (a 1.5 TB guest
// boots for minutes).
const (
	provisionDeadline = 15 * Minute
	bootDeadline      = 20 * Minute
	perSlotAllowance  = 2 * Minute
	stopDeadline      = 10 * Minute
	releaseDeadline   = 30 * Minute
	billAnywayAfter   = 5 * Minute // from the domain's start, if the guest shows no life
)

func (e *AllocationPlaced) apply(w *World, x *Applied) {
	ai, a := w.allocations.add(e.ID)
	t, sku := w.tenants.find(e.Tenant), w.skus.find(e.SKU)
	*a = Allocation{
		ID: e.ID, Project: e.Project, Tenant: e.Tenant, Name: strings.Clone(e.Name), Image: w.word(e.Image), ImageHash: e.ImageHash, UserData: e.UserData,
		User: e.User, Shape: e.Shape, State: Provisioning, Created: x.At, Expires: e.Expires, LockedRate: e.LockedRate, tenant: t, sku: sku,
		vms: make([]uint32, len(e.VMs)), PrivateImage: e.Private, Features: e.Features,
	}
	gpus := uint32(len(e.VMs)) * e.Shape
	tn, prj := w.tenants.row(t), w.projects.get(e.Project)
	tn.GPUs += gpus
	tn.Allocations++
	prj.GPUs += gpus
	prj.Allocations++
	w.allocNames.add(w.allocNameHash(ai), ai, w.allocNameHash)
	w.skus.row(sku).live++
	for i := range e.VMs {
		pv := &e.VMs[i]
		vi, v := w.vms.add(pv.VM)
		hi := w.hosts.find(pv.Host)
		*v = VM{ID: pv.VM, alloc: ai, host: hi, index: uint16(i), n: uint8(len(pv.Slots)), State: Provisioning, Power: PowerOn, Boot: 1, Placed: x.At, Deadline: e.Deadline}
		on := w.slotsOf(pv.Host)
		for k := range pv.Slots {
			row := on.find(pv.Slots[k])
			s := w.slots.row(row)
			s.State, s.vm, s.seed, s.Attempt, s.Dirty = SlotIsReserved, vi, e.Seed, 0, true
			s.Generation++
			v.slots[k] = row
		}
		a.vms[i] = vi
		h := w.hosts.row(hi)
		v.hostAt = uint32(len(h.vms))
		h.vms = append(h.vms, vi)
		w.touch(h)
		w.fleet.refresh(w, hi)
		w.timers.add(e.Deadline, timerVM, vi)
	}
	w.timers.add(e.Expires, timerExpire, ai)
}

func (e *SlotReserved) apply(*World, *Applied) {} // AllocationPlaced did it; this one tells the host's subscribers
